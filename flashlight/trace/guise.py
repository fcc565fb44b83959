"""What a program may ask of its arguments that their shapes do not say, and that is another thing in another call.

One kernel serves several dtypes, any strides, and an int where a float is announced. A program may ask all the same
(``scales[q.dtype]``, ``q.is_contiguous()``, ``isinstance(scale, int)``), and the trace must give some answer. It gives
the answers of one guise of the arguments. What was asked is traced in the other guises too, and must be the same there.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace

import torch

from flashlight.ir import build
from flashlight.ir.expr import (
    ELEMENT,
    FLOAT,
    Axis,
    Const,
    Expr,
    Load,
    Map,
    Reduce,
    Scalar,
    Tensor,
    is_float,
    unrounded,
    walk,
)
from flashlight.ir.program import Output, rebuilt
from flashlight.trace.problems import Place, Unsupported
from flashlight.trace.value import Value

ELEMENTS = (torch.bfloat16, torch.float16, torch.float32)
"""The dtypes that a kernel is generic in."""


@dataclass(frozen=True)
class Guise:
    """How the arguments look: their dtype, whether they are contiguous, want gradients, and what is a whole number.

    ``short``: integers that are announced with 64 bits have 32, and the other way round, which launchers take as well.
    """

    element: torch.dtype
    short: bool = False
    dense: bool = True
    differentiable: bool = False
    whole: bool = False


@dataclass(frozen=True)
class Aspect:
    """What calls differ in, and what to do instead of asking for it."""

    what: str
    instead: str


DTYPE = Aspect(
    "the dtype of a tensor",
    "state one beside the parameter, as in # [B, H, S, D] float16, or pass what depends on it as a number; "
    "torch.finfo(q.dtype).min is fine",
)
LAYOUT = Aspect(
    "the strides of a tensor",
    "kernels take any strides: use shapes and indices, and call contiguous() without asking",
)
GRADIENTS = Aspect("whether a tensor wants gradients", "pass what depends on it as an argument")
MEMORY = Aspect("where a tensor lies", "a kernel takes tensors wherever they lie: use their shapes and values")
KIND = Aspect("whether a number is an int or a float", "convert it with float() or int() without asking")


@dataclass(frozen=True)
class Question:
    """The program asks for something at a place."""

    aspect: Aspect
    place: Place | None


class Inquiry:
    """What a trace answers to questions, and the course that it takes: what was asked and computed, in order.

    ``model``: the course of the first guise. A constant tensor that is given the arguments' dtype must not be rounded
    to it, and in float32 one cannot see which are: those that were in the first guise.
    """

    def __init__(self, guise: Guise, model: Inquiry | None = None) -> None:
        self.guise = guise
        self.model = model
        self.begin()

    def begin(self) -> None:
        """Forget what another attempt of the trace did."""
        self.steps: list[Question | Value] = []
        self.kept: list[bool] = []

    def keep(self, generic: bool) -> bool:
        """Whether the next constant tensor is one whose dtype stands for others."""
        if self.model is not None and len(self.kept) < len(self.model.kept):
            generic = self.model.kept[len(self.kept)]
        self.kept.append(generic)
        return generic

    def ask(self, aspect: Aspect, place: Place | None) -> Guise:
        self.steps.append(Question(aspect, place))
        return self.guise

    @property
    def asked(self) -> set[Aspect]:
        return {step.aspect for step in self.steps if isinstance(step, Question)}


def others(guise: Guise, asked: Set[Aspect]) -> Iterator[tuple[Aspect, Guise]]:
    """The guises that give other answers to what was asked."""
    if DTYPE in asked:
        yield from ((DTYPE, replace(guise, element=element)) for element in ELEMENTS if element != guise.element)
        yield DTYPE, replace(guise, short=True)
    if LAYOUT in asked:
        yield LAYOUT, replace(guise, dense=False)
    if GRADIENTS in asked:
        yield GRADIENTS, replace(guise, differentiable=True)
    if KIND in asked:
        yield KIND, replace(guise, whole=True)


def same_outputs(ones: tuple[Output, ...], twos: tuple[Output, ...], element: torch.dtype) -> bool:
    """Whether two programs give the same for arguments of a dtype."""
    return [_output_in(one, element) for one in ones] == [_output_in(two, element) for two in twos]


def depends(aspect: Aspect, first: Inquiry, second: Inquiry) -> Unsupported:
    """The problem that two guises give two programs, at the first value that differs or the question before it."""
    asked: Place | None = None
    steps, element = list(first.steps), second.guise.element
    for position, one in enumerate(steps):
        if isinstance(one, Question):
            asked = one.place if one.aspect == aspect else asked
            continue
        two = second.steps[position] if position < len(second.steps) else None
        if not (isinstance(two, Value) and one.place == two.place):
            break
        if not _same_value(one, two, element):
            asked = one.place
            break
    problem = Unsupported("FL308", f"the program depends on {aspect.what}", aspect.instead)
    problem.place = asked
    return problem


def _same_value(one: Value, two: Value, element: torch.dtype) -> bool:
    if one.shape != two.shape:
        return False
    index = tuple(build.iota(Axis(f"at_{n}", size)) for n, size in enumerate(one.shape))
    try:
        return _expr_in(one.at(index), element) is _expr_in(two.at(index), element)
    except Unsupported:
        return True  # not this one, as far as can be said


def _output_in(output: Output, element: torch.dtype) -> Output:
    dtype = {ELEMENT: _name(element), "int32": "int64"}.get(output.dtype, output.dtype)
    return replace(output, expr=_expr_in(output.expr, element), dtype=dtype)


def _expr_in(root: Expr, element: torch.dtype) -> Expr:
    """What a kernel makes of the expression for a dtype: float32 but for loads and the factors of products."""
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        children = tuple(done[child] for child in node.children)
        if isinstance(node, Scalar) and node.name.startswith("finfo_"):
            done[node] = _number(getattr(torch.finfo(element), node.name.removeprefix("finfo_")))
        elif isinstance(node, Load) and node.dtype == ELEMENT:
            done[node] = build.load(Tensor(node.tensor.name, node.tensor.shape, _name(element)), children)
        elif isinstance(node, Const) and is_float(node):
            done[node] = _number(node.value)
        elif isinstance(node, Map) and is_float(node):
            plain = unrounded(node) is not node
            done[node] = (
                children[0]
                if plain
                else build.cast(children[0], FLOAT) if node.op == "cast" else _float(node, children)
            )
        elif isinstance(node, Reduce) and node.op == "sum" and isinstance(node.arg, Map) and node.arg.op == "mul":
            factors = (build.cast(done[factor], _dtype_in(factor.dtype, element)) for factor in node.arg.args)
            done[node] = build.reduce("sum", build.op("mul", *factors, dtype=FLOAT), node.axis)
        else:
            done[node] = rebuilt(node, children)
    return done[root]


def _float(node: Map, children: tuple[Expr, ...]) -> Expr:
    return build.op(node.op, *children, dtype=FLOAT)


def _number(value: float) -> Expr:
    """A constant as float32 holds it: some were computed by PyTorch, and others here."""
    return build.const(torch.tensor(float(value), dtype=torch.float32).item(), FLOAT)


def _dtype_in(dtype: str, element: torch.dtype) -> str:
    return _name(element) if dtype == ELEMENT else dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
