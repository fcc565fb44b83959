"""Exact: a factor that two sides of a difference share multiplies the difference.

    k * x - k * y  =  k * (x - y)

Where x is y the right side is zero, as the user's own difference of products is. The left side need not be: hardware
that fuses a product with the addition rounds one of the two products and not the other. The power of an exponential is
left as it is, since it takes the fused form in one instruction and bears that rounding: its result is then within one
of 1.
Distributivity.
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import Expr, Map, above, is_float, unrounded
from flashlight.ir.program import Program, rebuilt, rewrite


def exact(program: Program) -> Program:
    outside = above((output.expr for output in program.outputs), _is_power)

    def rule(node: Expr) -> Expr:
        if node not in outside:
            return node
        children = tuple(map(_difference, node.children))
        return node if children == node.children else rebuilt(node, children)

    return rewrite(program, rule)


def _is_power(node: Expr) -> bool:
    return isinstance(node, Map) and node.op in ("exp", "exp2")


def _difference(node: Expr) -> Expr:
    if not (isinstance(node, Map) and node.op == "sub" and is_float(node)):
        return node
    left, right = map(unrounded, node.args)
    if not all(isinstance(side, Map) and side.op == "mul" for side in (left, right)):
        return node
    assert isinstance(left, Map) and isinstance(right, Map)
    for x, factor in (left.args, left.args[::-1]):
        for y, other in (right.args, right.args[::-1]):
            if factor is other and not factor.axes:
                return build.op("mul", build.op("sub", x, y), build.cast(factor, node.dtype), dtype=node.dtype)
    return node
