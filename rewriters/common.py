"""Common: the scale of the scores leaves their sum with a term of positions, whose factor takes it in.

    x * k + y * b  =  (x + y * (b / k)) * k          x * k - y * b  =  (x - y * (b / k)) * k

for k > 0 without axes (`positive_factor`), y made of positions alone and b without the axes of y: a slope times a
distance. The scale can then leave the maximum, too, and join the subtraction before the exponential, which is one
multiplication less for each score; b / k is computed once. What is read for each score stays as it is: a mask of
the lowest numbers would leave float32's range. Distributivity.
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr, Load, Map, Reduce, is_float, walk
from flashlight.ir.program import Program, is_const, rewrite
from rewriters.scale import positive_factor

SMALLEST = 2.0**-20
"""Of a constant k: b / k stays in float32's range where y * b does, up to the length of y."""


def common(program: Program) -> Program:
    return rewrite(program, _taken_out)


def _taken_out(node: Expr) -> Expr:
    if not (isinstance(node, Map) and node.op in ("add", "sub") and is_float(node)):
        return node
    sides = [node.args] if node.op == "sub" else [node.args, node.args[::-1]]
    for scaled, other in sides:
        factored, moved = positive_factor(scaled), slope_of(other)
        if factored is None or moved is None:
            continue
        (value, factor), (positions, slope) = factored, moved
        small = isinstance(factor, Const) and factor.value < SMALLEST
        if small or not any(isinstance(inner, Reduce) for inner in walk(value)):
            continue
        term = build.op("mul", positions, _over(slope, factor), dtype=node.dtype)
        return build.op("mul", build.op(node.op, value, term, dtype=node.dtype), factor, dtype=node.dtype)
    return node


def _over(slope: Expr, factor: Expr) -> Expr:
    """The slope over the factor; the factors of what the host divides by cancel there."""
    inverse = build.op("div", build.const(1.0, factor.dtype), factor, dtype=factor.dtype)
    if isinstance(factor, Map) and factor.op == "div" and is_const(factor.args[0], 1.0):
        inverse = factor.args[1]
    return build.op("mul", slope, build.cast(inverse, slope.dtype), dtype=slope.dtype)


def slope_of(term: Expr) -> tuple[Expr, Expr] | None:
    """``(y, b)`` where the term is ``y * b``: y made of positions, b without the axes of y."""
    if not (isinstance(term, Map) and term.op == "mul"):
        return None
    slope, positions = sorted(term.args, key=lambda factor: len(factor.axes))
    if not positions.axes or positions.axes & slope.axes:
        return None
    if any(isinstance(node, (Load, Reduce)) for node in walk(positions)):
        return None
    return positions, build.cast(slope, term.dtype)
