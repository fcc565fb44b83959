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

    Either tensors are read at its quotient and at its remainder, one of them as a dimension and the other at least as
    a part of one; or at n * (axis // n) plus some other position: the beginning of the block that the axis is in.
    (Where both are parts, distances on a grid say, the axis stays one: its positions are the rows of one tile.)
    ``quotient`` divides sizes, where that is certain to be exact.
    """
    whole: set[tuple[str, Axis, Expr]] = set()
    parts: dict[tuple[str, Axis, Expr], None] = {}
    blocks: dict[tuple[Axis, Expr], None] = {}
    for node in walk(expr):
        for place in node.index if isinstance(node, Load) else ():
            for part in dict.fromkeys(atom for monomial in integers.polynomial(place) for atom in monomial):
                if isinstance(part, Map) and part.op in ("floordiv", "mod") and isinstance(part.args[0], Iota):
                    found = (part.op, part.args[0].axis, part.args[1])
                    parts[found] = None
                    if part is place:
                        whole.add(found)
            for axis, size in _block_starts(place):
                blocks[axis, size] = None
    remainders = [(axis, size) for op, axis, size in parts if op == "mod" and ("floordiv", axis, size) in parts]
    pairs = [pair for pair in remainders if ("mod", *pair) in whole or ("floordiv", *pair) in whole]
    for axis in axes:
        for split, inner in (*pairs, *blocks):
            outer = quotient(axis.extent, inner) if split is axis else None
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
