"""Axes that are two in truth: heads times features, which a program merges and takes apart again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

from flashlight.ir import integers
from flashlight.ir.expr import Axis, Expr, Iota, Load, Map, walk


def halves(
    expr: Expr, axes: Sequence[Axis], quotient: Callable[[Expr, Expr], Expr | None]
) -> tuple[Axis, Expr, Expr] | None:
    """One of the axes that is two, with the sizes of both, the outer one first; None where there is none.

    Either tensors are read at its quotient in one dimension and at its remainder in another, or at n * (axis // n)
    plus some other position: the beginning of the block that the axis is in. ``quotient`` divides sizes, where that is
    certain to be exact.
    """
    quotients: set[tuple[Axis, Expr]] = set()
    remainders: dict[tuple[Axis, Expr], None] = {}
    blocks: dict[tuple[Axis, Expr], None] = {}
    for node in walk(expr):
        for place in node.index if isinstance(node, Load) else ():
            if isinstance(place, Map) and isinstance(place.args[0], Iota):
                if place.op == "floordiv":
                    quotients.add((place.args[0].axis, place.args[1]))
                elif place.op == "mod":
                    remainders[place.args[0].axis, place.args[1]] = None
            for axis, size in _block_starts(place):
                blocks[axis, size] = None
    for axis in axes:
        for found, inner in (*(pair for pair in remainders if pair in quotients), *blocks):
            outer = quotient(axis.extent, inner) if found is axis else None
            if outer is not None:
                return axis, outer, inner
    return None


def _block_starts(place: Expr) -> Iterator[tuple[Axis, Expr]]:
    """Every axis and n for which n * (axis // n) is a part of the index, and not all of it."""
    poly = integers.polynomial(place)
    for monomial, coefficient in poly.items() if len(poly) > 1 else ():
        for i, atom in enumerate(monomial):
            if isinstance(atom, Map) and atom.op == "floordiv" and isinstance(atom.args[0], Iota):
                rest = integers.expression({monomial[:i] + monomial[i + 1 :]: coefficient})
                if rest is atom.args[1]:
                    yield atom.args[0].axis, rest


def both(index: Expr) -> tuple[Axis, Axis] | None:
    """The two axes of an index that is a position in both of them, the outer one first."""
    if len(index.axes) == 2:
        for outer, inner in permutations(index.axes):
            if integers.add(integers.mul(Iota(outer), inner.extent), Iota(inner)) is index:
                return outer, inner
    return None
