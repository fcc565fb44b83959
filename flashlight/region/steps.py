"""The steps that PyTorch takes before the kernel, in order, and the tensors that they make."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Axis, Expr, Iota, Load, Map, Reduce, Tensor, is_float, unrounded, walk
from flashlight.ir.program import Program, is_product, rebuilt, tensors
from flashlight.region.whole import Whole, as_whole, free, gathered
from flashlight.schedule.prologue import Step
from rewriters.unflatten import unflatten


class Steps:
    """What PyTorch computes before the kernel, in order: products, and what they are made of under names of its own.

    What has been made ``earlier`` is read again; ``taken`` names are not given again.
    """

    def __init__(self, taken: set[str], earlier: Steps | None = None) -> None:
        self.taken = taken
        self.called: dict[Expr, str] = {}
        """Names of values; what is called differently in several places has none of its own."""
        self.found: dict[Expr, Step] = {}
        self.made: dict[Expr, Step] = {} if earlier is None else dict(earlier.made)
        """The steps by the values that they make, of which those in `found` may read what others made."""

    def load(self, whole: Whole) -> Expr:
        """The value as read from a tensor, of which the steps are added."""
        if whole.value not in self.made:
            value = build.cast(self.within(whole), whole.value.dtype)
            name = self.called.get(whole.value) or _described(value)
            self.made[whole.value] = self._step(value, whole.axes, name)
        return build.load(self.made[whole.value].tensor, whole.index)

    def within(self, whole: Whole) -> Expr:
        """The value over tensors, of which the steps are added: factors, and what it uses more than once.

        What it computes at several positions (a residual that is added, and normalised) is used more than once.
        """
        value, operands = gathered(whole.value)
        nodes = list(walk(value))
        wholes = {node: as_whole(node, whole.names) for node in nodes if _is_computed(node)}
        same = {node: node if part is None else part.value for node, part in wholes.items()}
        uses = {(same.get(node, node), same[child]) for node in nodes for child in node.children if child in same}
        users = Counter(child for _, child in uses)
        done: dict[Expr, Expr] = {}
        for node in nodes:
            new = done[node] = rebuilt(node, tuple(done[child] for child in node.children))
            if node is value or node not in wholes:
                continue
            part = wholes[node]
            known = None if part is None else self._known(part)
            if known is None and not (node in operands or users[same[node]] > 1):
                continue
            if known is not None:
                done[node] = self.load(known)
            elif part is not None:
                named = whole.names.get(node)
                if node not in operands and named is None:
                    # PyTorch rounds what is a tensor of its own there, and nothing within its functions
                    part = replace(part, value=build.cast(part.value, FLOAT))
                if named is not None:
                    self.called.setdefault(part.value, named)
                done[node] = self.load(part)
            else:
                axes = tuple(sorted(node.axes, key=whole.order))
                new = new if node in operands else build.cast(new, FLOAT)
                made = self._step(new, axes, whole.names.get(node, "part"))
                done[node] = build.load(made.tensor, tuple(map(Iota, axes)))
        return done[value]

    def _known(self, part: Whole) -> Whole | None:
        """The value, or what it is before PyTorch rounds it, if a step has made that."""
        for value in (part.value, build.cast(part.value, FLOAT)):
            if value in self.made:
                return replace(part, value=value)
        return None

    def viewed(self, program: Program) -> Program:
        """The program with views of what it reads in blocks (`rewriters.unflatten`), and the steps that make them."""
        reread = set(tensors(*(step.value for step in self.found.values())))
        result = unflatten(program, {step.tensor for step in self.found.values()} - reread)
        views = {tensor.name: tensor for tensor in result.inputs}
        self.found = {
            v: replace(step, tensor=views.get(step.tensor.name, step.tensor)) for v, step in self.found.items()
        }
        # what became a view is made for the kernel alone
        self.made = {v: s for v, s in self.made.items() if views.get(s.tensor.name, s.tensor) == s.tensor}
        return result

    def _step(self, value: Expr, axes: tuple[Axis, ...], name: str) -> Step:
        if value not in self.found:
            name = free(name, self.taken)
            self.taken.add(name)
            self.found[value] = Step(Tensor(name, tuple(axis.extent for axis in axes), value.dtype), axes, value)
        return self.found[value]


def _is_computed(node: Expr) -> bool:
    return bool(node.axes) and is_float(node) and isinstance(unrounded(node), (Map, Reduce))


def _described(value: Expr) -> str:
    """``x_w`` for what multiplies x and w, ``x_max`` for the greatest of x."""
    named = list(dict.fromkeys(node.tensor.name for node in walk(value) if isinstance(node, Load)))
    if isinstance(value, Reduce) and not is_product(value):
        return f"{named[0]}_{value.op}"
    return "_".join(named[:2])
