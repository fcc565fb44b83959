"""Expand: a sum of squared differences is a matrix product and a term for each side.

    sum_d (a(i, d) - b(j, d))^2  =  sum_d a(i, d)^2  +  sum_d b(j, d)^2  -  2 * sum_d a(i, d) * b(j, d)

for a without the keys' axis j and b without the rows' axis i: distances between points then need no tile that has rows,
keys and coordinates. The binomial formula, as codes for nearest neighbours use it (Garcia, Debreuve and Barlaud, "Fast
k nearest neighbor search using GPU", 2008). In floating point the terms cancel where points are close to each other
and far from the origin. With products that are exact and sums in float32 the result is off by about 2^-22 * (|a|^2 +
|b|^2), however small the distance: as if the points had moved by 2^-11 of their distance from the origin. At most, if
all roundings of n coordinates add up, it is off by (2 n + 1) * 2^-24 of that sum.

- bfloat16 has rounded the points by 2^-9 of their coordinates already, and the user's program rounds differences,
  squares and sums by as much again: the law is used.
- float16 rounds by 2^-11, float32 by 2^-24: the law would lose what the inputs have (with tf32 products, nearly all
  of it). There the differences are formed.

Moving the origin into the middle of the points first would not help: what is left of an element after a subtraction is
no bfloat16 number, and rounding it costs more than the cancellation.

Hence the side conditions: a and b are elements as they are read, so that their products are exact; the kernel decides
by the dtype that it is launched for; what cancels to less than zero is zero, as a square root needs; and a point at
infinity (or beyond 1e19, whose square is no float32) is infinitely far from all others rather than NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from flashlight.ir import build
from flashlight.ir.expr import ELEMENT, FLOAT, Axis, Expr, Load, Map, Reduce, is_float, unrounded, walk
from flashlight.ir.program import Program, is_const


@dataclass(frozen=True)
class Expansion:
    """A sum of squared differences, and what equals it: ``row_term + key_term - 2 * product``, never below zero."""

    distance: Reduce
    row_term: Reduce
    key_term: Reduce
    product: Reduce

    @property
    def squares(self) -> Expr:
        """What both sides add; infinite where a point is."""
        return build.op("add", self.row_term, self.key_term, dtype=FLOAT)

    @property
    def expanded(self) -> Expr:
        squares = self.squares
        twice = build.op("mul", self.product, build.const(2.0, FLOAT), dtype=FLOAT)
        difference = build.op("sub", squares, twice, dtype=FLOAT)
        infinite = build.const(math.inf, FLOAT)
        near = build.op("maximum", difference, build.const(0.0, FLOAT), dtype=FLOAT)
        return build.where(build.op("eq", squares, infinite), infinite, near)


def expansions(program: Program, rows: Axis, keys: Axis) -> tuple[Expansion, ...]:
    """The distances between something of each row and something of each key, as matrix products."""
    nodes = walk(*(output.expr for output in program.outputs))
    found = (expansion(node, rows, keys) for node in nodes if isinstance(node, Reduce))
    return tuple(one for one in found if one is not None)


def expansion(node: Reduce, rows: Axis, keys: Axis) -> Expansion | None:
    """The law at one reduction; None where a side condition fails."""
    if node.op != "sum" or not is_float(node):
        return None
    difference = _squared(node.arg)
    if difference is None:
        return None
    left, right = (_element(side) for side in difference.args)
    if left is None or right is None or node.axis not in left.axes & right.axes:
        return None
    if keys in left.axes:
        left, right = right, left  # (a - b)^2 = (b - a)^2
    if not (rows in left.axes and keys not in left.axes and keys in right.axes and rows not in right.axes):
        return None
    a, b = build.cast(left, FLOAT), build.cast(right, FLOAT)
    terms = (Reduce("sum", build.op("mul", x, y, dtype=FLOAT), node.axis) for x, y in ((a, a), (b, b), (a, b)))
    return Expansion(node, *terms)


def _squared(expr: Expr) -> Map | None:
    """x of ``x * x`` or ``x ** 2``, where it is a difference."""
    expr = unrounded(expr)
    if not isinstance(expr, Map):
        return None
    if expr.op == "mul" and expr.args[0] is expr.args[1] or expr.op == "pow" and is_const(expr.args[1], 2.0):
        inner = unrounded(expr.args[0])
        return inner if isinstance(inner, Map) and inner.op == "sub" else None
    return None


def _element(expr: Expr) -> Load | None:
    expr = unrounded(expr)
    return expr if isinstance(expr, Load) and expr.dtype == ELEMENT else None
