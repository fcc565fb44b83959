"""Shift: a term without the axis leaves a maximum.

    max_j (x(j) - m)  =  (max_j x(j)) - m          max(a - m, b - m)  =  max(a, b) - m
    max_j x(j) - max_j x(j)  =  0

for m without axis j; likewise for a minimum. Scores from which the maximum was subtracted once (and again within a
softmax) have maximum zero. Where the maximum is infinite or NaN the difference is NaN rather than zero; what it was
subtracted from is then NaN as well, and so is the row. Addition is monotone.
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import Expr, Map, Reduce, is_float
from flashlight.ir.program import Program, rewrite

_EXTREMES = ("max", "min")


def shift(program: Program) -> Program:
    return rewrite(program, _shifted)


def _shifted(node: Expr) -> Expr:
    if isinstance(node, Reduce) and node.op in _EXTREMES and is_float(node):
        arg = node.arg
        if isinstance(arg, Map) and arg.op == "sub" and node.axis not in arg.args[1].axes:
            return _difference(build.reduce(node.op, arg.args[0], node.axis), arg.args[1], node.dtype)
    if isinstance(node, Map) and node.op in ("maximum", "minimum") and is_float(node):
        left, right = node.args
        if all(isinstance(side, Map) and side.op == "sub" for side in (left, right)):
            assert isinstance(left, Map) and isinstance(right, Map)
            if left.args[1] is right.args[1]:
                extreme = build.op(node.op, left.args[0], right.args[0], dtype=node.dtype)
                return _difference(extreme, left.args[1], node.dtype)
    return node


def _difference(left: Expr, right: Expr, dtype: str) -> Expr:
    if left is right:
        return build.const(0.0, dtype)
    return build.op("sub", left, right, dtype=dtype)
