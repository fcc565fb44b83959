"""Values of whole tensors: what a program needs at some positions, as PyTorch computes it for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Expr, Iota, Load, Reduce, above, walk
from flashlight.ir.halves import both
from flashlight.ir.order import axis_key
from flashlight.ir.program import factors, is_product, rebuilt, substitute, summed
from flashlight.trace.value import base_name

ZERO = build.integer(0)


@dataclass(frozen=True)
class Whole:
    """A value of whole tensors at ``axes``, where the program needs it, and what its parts are called there."""

    axes: tuple[Axis, ...]
    value: Expr
    index: tuple[Expr, ...]
    names: dict[Expr, str]

    def order(self, axis: Axis) -> tuple[int, str]:
        """Where the axis stands among those of the value, behind them if it is summed over."""
        return (self.axes.index(axis) if axis in self.axes else len(self.axes), axis.name)


def as_whole(node: Expr, names: dict[Expr, str], positioned: bool = False) -> Whole | None:
    """The value as one of whole tensors at some index.

    Every position at which a dimension is read becomes an axis; positions that agree become one. None where the value
    depends on what is read at positions that are read themselves, or on a position otherwise: unless ``positioned``,
    which keeps the axes of such positions.
    """
    bound = tuple(dict.fromkeys(axis for inner in walk(node) for axis in inner.bound))
    loads = [inner for inner in walk(node) if isinstance(inner, Load)]
    positions = {inner for inner in above([node], lambda inner: isinstance(inner, Load)) if isinstance(inner, Iota)}
    free = {position.axis for position in positions}.difference(bound)
    if positioned:
        free |= {axis for load in loads for i in load.index if _shift(i) not in (None, ZERO) for axis in i.axes}
    # an axis may be summed over within and be free outside of that (a norm of what it divides)
    free |= node.axes.intersection(bound)
    if free and not positioned:
        return None
    # called by their extents, so that the same product of the same tensors is one wherever it is read
    taken: set[str] = set()
    bound = (*bound, *sorted(free.difference(bound), key=axis_key))
    moved: dict[Expr, Axis] = {Iota(axis): _axis(axis.extent, taken) for axis in bound}
    for load in loads:
        for index, size in zip(load.index, load.tensor.shape, strict=True):
            if any(isinstance(inner, Load) for inner in walk(index)):
                return None
            if index.axes.intersection(bound):
                if index.axes.difference(bound) or (not both(index) and _shift(index) is None):
                    return None
            elif index.axes:
                if index not in moved:
                    moved[index] = _axis(size, taken)
                if moved[index].extent is not size:
                    return None
    places: dict[Expr, Expr] = {old: Iota(new) for old, new in moved.items()}
    done: dict[Expr, Expr] = {}
    for inner in walk(node):
        if isinstance(inner, Load):
            done[inner] = build.load(inner.tensor, tuple(substitute(index, places) for index in inner.index))
        elif isinstance(inner, Reduce):
            done[inner] = build.reduce(inner.op, done[inner.arg], moved[Iota(inner.axis)])
        else:
            done[inner] = places.get(inner) or rebuilt(inner, tuple(done[child] for child in inner.children))
    value = done[node]
    # in the order in which the tensors have them
    order = [places.get(index, index) for load in loads for index in load.index]
    standing = dict.fromkeys(axis for index in order for axis in sorted(substitute(index, places).axes, key=axis_key))
    indices = {axis: index for index, axis in moved.items()}
    own = {axis: indices[axis] for axis in (*standing, *indices) if axis in value.axes}
    called = {new: names[old] for old, new in done.items() if old in names}
    return Whole(tuple(own), value, tuple(own.values()), called)


def gathered(value: Expr) -> tuple[Expr, set[Expr]]:
    """The value with its products of as few factors as broadcasting allows, and these factors.

    Norms and gates join what they multiply.
    """
    operands: set[Expr] = set()
    done: dict[Expr, Expr] = {}
    inner = {node.arg for node in walk(value) if isinstance(node, Reduce)}
    for node in walk(value):
        new = done[node] = rebuilt(node, tuple(done[child] for child in node.children))
        if node in inner or not is_product(new):
            continue
        body, bound = summed(new)
        joined: list[Expr] = []
        for factor in sorted(factors(body), key=lambda factor: -len(factor.axes)):
            place = next((n for n, operand in enumerate(joined) if factor.axes <= operand.axes), None)
            if place is None:
                joined.append(factor)
            else:
                joined[place] = build.op("mul", joined[place], factor, dtype=body.dtype)
        product = reduce(lambda left, right: build.op("mul", left, right, dtype=body.dtype), joined)
        for axis in reversed(bound):
            product = build.reduce("sum", product, axis)
        operands |= set(joined)
        done[node] = product
    return done[value], operands


def _shift(index: Expr) -> Expr | None:
    """How far from an axis's position the index is, if it is that of a slice."""
    if len(index.axes) != 1:
        return None
    (axis,) = index.axes
    rest = integers.sub(index, Iota(axis))
    return None if rest.axes else rest


def _axis(extent: Expr, taken: set[str]) -> Axis:
    axis = Axis(free(base_name(extent), taken), extent)
    taken.add(axis.name)
    return axis


def free(name: str, taken: set[str]) -> str:
    return next(free for free in (name, *(f"{name}_{number}" for number in range(2, 99))) if free not in taken)
