"""Factors: what multiplies a value and has fewer axes is multiplied together first, numbers on the host.

    x / c  =  x * (1 / c)        (x * a) * b  =  x * (a * b)

in floating point, for a, b and c that together lack an axis of x. A division is several instructions for each element
of a tile, a multiplication one, which the sum that follows often takes in. Both sides differ by roundings of float32
alone as long as 1 / c stays in its range: c is a number that the host knows (a scale, a cap, a temperature), or has a
known lower bound above 2 ** -100, as a norm that was kept away from zero has, and the sum of a softmax, of which the
greatest term is 1.
Associativity and commutativity of multiplication.
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Expr, Map, is_float
from flashlight.ir.program import Program, rewrite
from flashlight.ir.signs import at_least

SMALLEST = 2.0**-100


def factors(program: Program) -> Program:
    return rewrite(program, _gathered)


def _gathered(node: Expr) -> Expr:
    split = _factor(node)
    if split is None:
        return node
    value, factor = split
    inner = _factor(value)
    if inner is not None and (inner[1].axes | factor.axes) < node.axes:
        value, factor = inner[0], build.op("mul", inner[1], factor, dtype=FLOAT)
    return build.op("mul", value, factor, dtype=node.dtype)


def _factor(node: Expr) -> tuple[Expr, Expr] | None:
    """``(x, a)`` where the value is ``x * a`` and a has fewer axes than x."""
    if not (isinstance(node, Map) and node.op in ("mul", "div") and is_float(node)):
        return None
    left, right = node.args
    if node.op == "mul" and left.axes < right.axes:
        left, right = right, left
    if not (right.axes < left.axes):
        return None
    factor = build.cast(right, FLOAT)
    if node.op == "mul":
        return left, factor
    if right.axes and at_least(right) < SMALLEST:
        return None
    return left, build.op("div", build.const(1.0, FLOAT), factor, dtype=FLOAT)
