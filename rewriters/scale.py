"""Scale: a positive factor leaves a maximum and a mask.

    max_j (k * x(j))  =  k * max_j x(j)          where(c, k * x, -inf)  =  k * where(c, x, -inf)
    k * x == -inf  is  x == -inf                 max_j round(x(j))  =  round(max_j x(j))

for k > 0 without axes (a constant, or a power of a size: a run-time ``scale`` may be negative). Scores then stay as
the matrix product left them, and the factor joins the subtraction before the exponential in one multiply-add.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr, Map, Reduce, is_float
from flashlight.ir.program import Program, rewrite
from flashlight.ir.signs import is_positive


def scale(program: Program) -> Program:
    names = dict(program.names)

    def rule(node: Expr) -> Expr:
        if isinstance(node, Reduce) and node.op == "max" and is_float(node):
            if isinstance(node.arg, Map) and node.arg.op == "cast" and is_float(node.arg.args[0]):
                return build.cast(rule(build.reduce("max", node.arg.args[0], node.axis)), node.dtype)
            factored = positive_factor(node.arg)
            if factored is not None:
                value, factor = factored
                return build.op("mul", build.reduce("max", value, node.axis), factor, dtype=node.dtype)
        if isinstance(node, Map) and node.op == "where" and is_float(node):
            condition, yes, no = node.args
            factored = positive_factor(yes)
            if factored is not None and isinstance(no, Const) and no.value == float("-inf"):
                value, factor = factored
                masked = build.where(condition, value, build.const(no.value, value.dtype))
                return build.op("mul", masked, factor, dtype=node.dtype)
        if isinstance(node, Map) and node.op in ("eq", "ne"):
            factored, limit = positive_factor(node.args[0]), node.args[1]
            if factored is not None and isinstance(limit, Const) and abs(limit.value) == float("inf"):
                return build.op(node.op, factored[0], limit)
        return node

    rewritten = rewrite(program, rule)
    # what the user calls the scaled scores names the unscaled ones: they are what the kernel keeps
    for node, name in {**names, **rewritten.names}.items():
        factored = positive_factor(node)
        if factored is not None and isinstance(factored[0], (Map, Reduce)) and factored[0].axes:
            names.setdefault(factored[0], name)
            names.pop(node, None)
        else:
            names[node] = name
    return replace(rewritten, names=names)


def positive_factor(expr: Expr) -> tuple[Expr, Expr] | None:
    """``(x, k)`` where the expression is ``x * k`` or ``x / (1 / k)`` with k > 0 and without axes."""
    if isinstance(expr, Map) and expr.op == "cast" and is_float(expr.args[0]):
        inner = positive_factor(expr.args[0])
        return inner and (build.cast(inner[0], expr.dtype), inner[1])
    if not (isinstance(expr, Map) and expr.axes):
        return None
    if expr.op == "mul":
        for value, factor in (expr.args, expr.args[::-1]):
            if not factor.axes and is_positive(factor):
                return value, factor
    if expr.op == "div" and not expr.args[1].axes and is_positive(expr.args[1]):
        return expr.args[0], build.op("div", build.const(1.0, expr.dtype), expr.args[1], dtype=expr.dtype)
    return None
