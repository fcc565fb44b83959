"""Functional tensors: a shape, a dtype, and a function from an index to the expression found there.

Views, slices, concatenations and products are all functions of the index; nothing is computed until the outputs are
asked for at their axes, and every value remembers what it answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from flashlight.ir import build
from flashlight.ir.expr import BOOL, ELEMENT, INT, Axis, Const, Expr, Map, Reduce, Scalar, Scan, Tensor, walk
from flashlight.ir.program import Name
from flashlight.trace.problems import Place, Unsupported

Index = tuple[Expr, ...]
ZERO = build.integer(0)
ONE = build.integer(1)


@dataclass(eq=False)
class Value:
    """``rule`` gives the element at an index. ``origins`` are the parameters that it has the sizes of, if it is merely
    broadcast to its shape: where all of them are smaller, it is."""

    shape: Index
    dtype: torch.dtype
    rule: Callable[[Index], Expr]
    origins: frozenset[str] = frozenset()
    label: tuple[Name, dict[Expr, Name]] | None = None
    memo: dict[Index, Expr] = field(default_factory=dict)
    place: Place | None = None

    def at(self, index: Index) -> Expr:
        assert len(index) == len(self.shape), (index, self.shape)
        expr = self.memo.get(index)
        if expr is None:
            try:
                expr = self.memo[index] = self.rule(index)
            except Unsupported as problem:
                problem.place = problem.place or self.place
                raise
            if self.label is not None and isinstance(expr, (Map, Reduce, Scan)):
                name, names = self.label
                names.setdefault(expr, name)
        return expr

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class View:
    """Another way to index a value: ``forward`` maps the view's index to the base's.

    ``backward`` maps an index of the base to the condition that the view covers it and the index in the view; None
    for views that cannot be written through.
    """

    shape: Index
    forward: Callable[[Index], Index]
    backward: Callable[[Index], tuple[Expr, Index]] | None = None

    def read(self, base: Value) -> Value:
        return Value(self.shape, base.dtype, lambda index: base.at(self.forward(index)))

    def write(self, base: Value, new: Value) -> Value:
        assert self.backward is not None
        backward = self.backward

        def rule(index: Index) -> Expr:
            covered, inner = backward(index)
            if isinstance(covered, Const) and not covered.value:
                return base.at(index)
            return build.where(covered, new.at(inner), base.at(index))

        return Value(base.shape, base.dtype, rule)


def of_tensor(tensor: Tensor, dtype: torch.dtype) -> Value:
    return Value(tensor.shape, dtype, lambda index: build.load(tensor, index), origins=frozenset({tensor.name}))


def of_expr(expr: Expr, dtype: torch.dtype) -> Value:
    """A value without dimensions."""
    return Value((), dtype, lambda index: expr)


def is_one(size: Expr) -> bool:
    return isinstance(size, Const) and size.value == 1


def spread(value: Value, index: Index) -> Expr:
    """The element that broadcasting puts at an index of equal or higher rank."""
    offset = len(index) - value.rank
    return value.at(tuple(ZERO if is_one(size) else index[offset + i] for i, size in enumerate(value.shape)))


def base_name(extent: Expr) -> str:
    """What an axis of this extent is called: the size's name in lower case."""
    if isinstance(extent, Scalar):
        return extent.name.lower()
    if isinstance(extent, Const):
        return f"n{extent.value}"
    if isinstance(extent, Map) and extent.op == "floordiv" and isinstance(extent.args[1], Scalar):
        return "g"
    parts = [node.name.lower() for node in walk(extent) if isinstance(node, Scalar)]
    return "_".join(dict.fromkeys(parts)) or "n"


def bind(extent: Expr, *taken: Expr) -> Axis:
    """The axis that a reduction over ``extent`` binds: the same one for the same size wherever it is free to be used.

    Softmax's maximum, its sum and the product with the values come to share one axis this way. ``taken`` are the
    expressions under which the reduction stands; an axis that they use gets a suffix.
    """
    return fresh(extent, {axis.name for expr in taken for axis in expr.axes})


def fresh(extent: Expr, names: set[str]) -> Axis:
    base = name = base_name(extent)
    count = 1
    while name in names:
        count += 1
        name = f"{base}_{count}"
    return Axis(name, extent)


def free(axis: Axis) -> Expr:
    return build.iota(axis)


class DTypes:
    """Translates between PyTorch's dtypes and the IR's: one of PyTorch's stands for the element dtype."""

    def __init__(self, element: torch.dtype, short: bool = False) -> None:
        self.element = element
        self.short = short

    def ir(self, dtype: torch.dtype) -> str:
        if dtype == self.element:
            return ELEMENT
        name = str(dtype).removeprefix("torch.")
        if dtype == torch.bool:
            return BOOL
        return name if dtype.is_floating_point else INT

    def stored(self, dtype: torch.dtype) -> str:
        """The dtype of an input or an output, where the width of integers counts."""
        return ELEMENT if dtype == self.element else str(dtype).removeprefix("torch.")

    def given(self, name: str) -> torch.dtype:
        """The dtype in which an input is given."""
        other = {"int64": "int32", "int32": "int64"}.get(name) if self.short else None
        return self.torch(other or name)

    def torch(self, name: str) -> torch.dtype:
        found: torch.dtype = self.element if name == ELEMENT else getattr(torch, name)
        return found
