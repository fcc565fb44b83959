"""Factors: numbers that multiply one value are multiplied together once, on the host.

    x / c  =  x * (1 / c)        (x * a) * b  =  x * (a * b)

for a, b and c without axes, floating point. A division by a number is several instructions for each element, a
multiplication one, which the sum that follows often takes in. Both sides differ by roundings of float32 alone, and
where 1 / c leaves its range (0 < c < 2 ** -127), which no scale, cap or temperature does.
Associativity and commutativity of multiplication.
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Expr, Map, is_float
from flashlight.ir.program import Program, rewrite


def factors(program: Program) -> Program:
    return rewrite(program, _gathered)


def _gathered(node: Expr) -> Expr:
    split = _factor(node)
    if split is None:
        return node
    value, number = split
    inner = _factor(value)
    if inner is not None:
        value, number = inner[0], build.op("mul", inner[1], number, dtype=FLOAT)
    return build.op("mul", value, number, dtype=node.dtype)


def _factor(node: Expr) -> tuple[Expr, Expr] | None:
    """``(x, number)`` where the value is ``x * number`` and x has axes."""
    if not (isinstance(node, Map) and node.op in ("mul", "div") and is_float(node)):
        return None
    left, right = node.args
    if left.axes and not right.axes:
        number = build.cast(right, FLOAT)
        return left, build.op("div", build.const(1.0, FLOAT), number, dtype=FLOAT) if node.op == "div" else number
    if node.op == "mul" and right.axes and not left.axes:
        return right, build.cast(left, FLOAT)
    return None
