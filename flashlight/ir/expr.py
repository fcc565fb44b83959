"""The expressions of the intermediate representation: one hash-consed DAG over named axes.

An expression denotes a number for every position along its free axes. There are no tensors with a layout and no
views in it: ``k.transpose(-2, -1)[b, h, d, j]`` is simply ``Load(k, (b, h, j, d))``.

Nodes are interned: building the same node twice gives the same object, so equality is identity, sharing is free and
dictionaries keyed by expressions are fast. Build nodes with the functions of `flashlight.ir.build`, which fold
constants and keep integers in a normal form, rather than with the classes themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

ELEMENT = "element"
"""The dtype that a program is generic in: that of its floating-point inputs (bfloat16, float16 or float32)."""

FLOATS = frozenset({ELEMENT, "float16", "bfloat16", "float32", "float64"})
INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8"})
NARROW = {"int8": (-(2**7), 2**7 - 1), "int16": (-(2**15), 2**15 - 1), "uint8": (0, 2**8 - 1)}
"""Integers that wrap at numbers that programs reach: the least and the greatest of each."""
BOOL = "bool"
INT = "int64"
FLOAT = "float32"

if TYPE_CHECKING:
    _Interning = type
else:

    class _Interning(type):
        """Gives every class a table of its live instances, so that equal nodes are one object."""

        def __init__(cls, *args: Any) -> None:
            super().__init__(*args)
            cls._live = weakref.WeakValueDictionary()

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            node = super().__call__(*args, **kwargs)
            key = tuple((type(v), repr(v)) if isinstance(v, float) else v for v in node._fields())
            return cls._live.setdefault(key, node)


@dataclass(frozen=True, eq=False)
class _Node(metaclass=_Interning):
    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)


@dataclass(frozen=True, eq=False)
class Axis(_Node):
    """A named axis; positions run from 0 to ``extent - 1``. The extent is an integer expression without axes."""

    name: str
    extent: Expr

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Tensor(_Node):
    """A tensor that the program reads: its name in the user's code, its sizes and its dtype."""

    name: str
    shape: tuple[Expr, ...]
    dtype: str

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Expr(_Node):
    """Base of all expressions. ``dtype`` is one of the names above; ``children`` are the direct subexpressions."""

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    @property
    def bound(self) -> tuple[Axis, ...]:
        """Axes that this node binds in its children."""
        return ()

    @cached_property
    def axes(self) -> frozenset[Axis]:
        """The free axes: those that the value depends on."""
        free: frozenset[Axis] = frozenset().union(*(child.axes for child in self.children))
        return free.difference(self.bound)

    if TYPE_CHECKING:

        @property
        def dtype(self) -> str: ...

    def __repr__(self) -> str:
        from flashlight.ir.printer import show

        return show(self)


@dataclass(frozen=True, eq=False, repr=False)
class Const(Expr):
    """A literal number."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True, eq=False, repr=False)
class Scalar(Expr):
    """A number known only at run time and the same everywhere: a size, ``scale``, a window length.

    ``positive`` says that it is known to be above zero (sizes are: a program with an empty axis launches no kernel).
    """

    name: str
    dtype: str
    positive: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class Iota(Expr):
    """The position along an axis."""

    axis: Axis

    @property
    def dtype(self) -> str:
        return INT

    @cached_property
    def axes(self) -> frozenset[Axis]:
        return frozenset((self.axis,))


@dataclass(frozen=True, eq=False, repr=False)
class Load(Expr):
    """An element of a tensor; one integer expression per dimension."""

    tensor: Tensor
    index: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.index

    @property
    def dtype(self) -> str:
        return self.tensor.dtype


@dataclass(frozen=True, eq=False, repr=False)
class Map(Expr):
    """A pointwise operator of `flashlight.ir.ops`; its axes are the union of its arguments'."""

    op: str
    args: tuple[Expr, ...]
    dtype: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args


@dataclass(frozen=True, eq=False, repr=False)
class Reduce(Expr):
    """``op`` ("sum", "max", "min", "prod") over all positions of ``axis``."""

    op: str
    arg: Expr
    axis: Axis

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg,)

    @property
    def bound(self) -> tuple[Axis, ...]:
        return (self.axis,)

    @property
    def dtype(self) -> str:
        return self.arg.dtype


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Expr):
    """``op`` over the positions of ``axis`` from 0 up to and including the integer ``at``: a cumulative sum's value.

    ``reverse``: from ``at`` up to the last position instead. Where that is no position at all, the neutral element.
    """

    op: str
    arg: Expr
    axis: Axis
    at: Expr
    reverse: bool = False

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.arg, self.at)

    @property
    def bound(self) -> tuple[Axis, ...]:
        return (self.axis,)

    @cached_property
    def axes(self) -> frozenset[Axis]:
        return (self.arg.axes - {self.axis}) | self.at.axes

    @property
    def dtype(self) -> str:
        return self.arg.dtype


def is_int(expr: Expr) -> bool:
    return expr.dtype in INTEGERS


def is_float(expr: Expr) -> bool:
    return expr.dtype in FLOATS


def unrounded(expr: Expr) -> Expr:
    """The value below casts between floating-point types."""
    while isinstance(expr, Map) and expr.op == "cast" and is_float(expr.args[0]):
        expr = expr.args[0]
    return expr


def above(roots: Iterable[Expr], stop: Callable[[Expr], bool]) -> set[Expr]:
    """What the roots are made of, down to the nodes at which to stop, and without those."""
    seen: set[Expr] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node not in seen and not stop(node):
            seen.add(node)
            waiting.extend(node.children)
    return seen


def walk(*roots: Expr) -> Iterator[Expr]:
    """Every node below the roots once, children before parents, in a deterministic order."""
    seen: set[Expr] = set()
    for root in roots:
        stack: list[tuple[Expr, bool]] = [(root, False)]
        while stack:
            node, expanded = stack.pop()
            if expanded:
                yield node
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(node.children))
