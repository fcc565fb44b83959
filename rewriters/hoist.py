"""Hoist: a factor that does not depend on the summed axis leaves the sum.

    sum_j a * f(j)  =  a * sum_j f(j)            a without axis j; likewise for division by a and for negation
    sum_j where(c, f(j), 0)  =  where(c, sum_j f(j), 0)      c without axis j

Out of a selection ``where(c(j), f(j) / a, 0)`` a divisor leaves only if no mask of -inf can make it zero: where c fails
for all j the sum is 0, and 0 / a would be NaN; and only if c does not test a itself: no comparison holds with NaN.
(Weights that are zeroed after a softmax over -inf, or compared with a threshold, are then divided one by one.)
The denominator of a softmax leaves the product with V this way. Roundings (casts between floats) commute with a factor
up to one rounding, so a factor leaves through a cast; what the cast applied to keeps it. Distributivity of
multiplication over addition, e.g. Knuth, The Art of Computer Programming 1, section 1.2.3.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir import build
from flashlight.ir.expr import Axis, Const, Expr, Map, Reduce, is_float, walk
from flashlight.ir.program import Name, Program, is_const, rewrite


def hoist(program: Program) -> Program:
    names = dict(program.names)

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Reduce) and node.op == "sum" and is_float(node)):
            return node
        selected = _selection(node.arg, node.axis)
        if selected is not None:
            condition, body = selected
            inner = rule(build.reduce("sum", body, node.axis))
            return build.where(condition, inner, build.const(0.0, inner.dtype))
        inside, factors, divisors = pull(node.arg, node.axis, names)
        if not factors and not divisors:
            return node
        result = build.reduce("sum", inside, node.axis)
        for factor in factors:
            result = build.op("mul", result, factor, dtype=node.dtype)
        for divisor in divisors:
            result = build.op("div", result, divisor, dtype=node.dtype)
        return result

    rewritten = rewrite(program, rule)

    return replace(rewritten, names={**names, **rewritten.names})


def _selection(body: Expr, axis: Axis) -> tuple[Expr, Expr] | None:
    """``(c, f)`` where the body is ``where(c, f, 0)``, perhaps times a factor, and c has no axis ``axis``."""
    if not isinstance(body, Map) or axis not in body.axes:
        return None
    if body.op == "where" and is_const(body.args[2], 0.0) and axis not in body.args[0].axes:
        return body.args[0], body.args[1]
    if body.op == "cast" and is_float(body.args[0]):
        inner = _selection(body.args[0], axis)
        return inner and (inner[0], build.cast(inner[1], body.dtype))
    if body.op in ("mul", "div"):
        for position, factor in enumerate(body.args[: 2 if body.op == "mul" else 1]):
            inner = _selection(factor, axis)
            if inner is not None:
                args = [inner[1] if n == position else arg for n, arg in enumerate(body.args)]
                return inner[0], build.op(body.op, *args, dtype=body.dtype)
    return None


def pull(expr: Expr, axis: Axis, names: dict[Expr, Name]) -> tuple[Expr, list[Expr], list[Expr]]:
    """``expr = inside * product(factors) / product(divisors)`` with everything free of the axis outside.

    A named expression that loses a factor hands its name to what remains, so that ``weights`` keeps meaning the
    weights, now before their normalisation.
    """
    inside, factors, divisors = _pulled(expr, axis, names)
    if inside is not expr and expr in names and isinstance(inside, Map) and inside.axes:
        names.setdefault(inside, names[expr])
    return inside, factors, divisors


def _pulled(expr: Expr, axis: Axis, names: dict[Expr, Name]) -> tuple[Expr, list[Expr], list[Expr]]:
    one = build.const(1.0, expr.dtype)
    if axis not in expr.axes:
        constant = isinstance(expr, Const) and expr.value == 1
        return one, [] if constant else [expr], []
    if not isinstance(expr, Map):
        return expr, [], []
    if expr.op == "mul":
        left, left_factors, left_divisors = pull(expr.args[0], axis, names)
        right, right_factors, right_divisors = pull(expr.args[1], axis, names)
        inside = build.op("mul", left, right, dtype=expr.dtype)
        return inside, left_factors + right_factors, left_divisors + right_divisors
    if expr.op == "div":
        left, factors, divisors = pull(expr.args[0], axis, names)
        if axis not in expr.args[1].axes:
            return left, factors, [*divisors, expr.args[1]]
        return build.op("div", left, expr.args[1], dtype=expr.dtype), factors, divisors
    if expr.op == "neg":
        inside, factors, divisors = pull(expr.args[0], axis, names)
        return inside, [*factors, build.const(-1.0, expr.dtype)], divisors
    if expr.op == "cast" and is_float(expr.args[0]) and is_float(expr):
        inside, factors, divisors = pull(expr.args[0], axis, names)
        return build.cast(inside, expr.dtype), factors, divisors
    if expr.op == "where" and isinstance(expr.args[2], Const) and expr.args[2].value == 0:
        inside, factors, divisors = pull(expr.args[1], axis, names)
        tested = set(walk(expr.args[0]))
        safe = axis not in expr.args[0].axes or not any(_may_be_empty(one) or one in tested for one in divisors)
        if safe and (factors or divisors):
            zero = build.const(0.0, inside.dtype)
            return build.where(expr.args[0], inside, zero), factors, divisors
    return expr, [], []


def _may_be_empty(divisor: Expr) -> bool:
    """Whether it is made of scores that a mask sets to -inf, perhaps all of them."""
    return any(
        isinstance(node, Map) and node.op == "where" and any(is_const(arg, float("-inf")) for arg in node.args[1:])
        for node in walk(divisor)
    )
