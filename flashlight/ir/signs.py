"""What is known of the sign and the size of a number."""

from __future__ import annotations

import math

from flashlight.ir.expr import Const, Expr, Map, Reduce, Scalar, is_float

_KEEPS = frozenset({"add", "mul", "div", "sqrt", "rsqrt", "maximum", "minimum", "cast"})


def is_positive(expr: Expr) -> bool:
    """Whether the number is certainly above zero: a size, a positive constant, an exponential, or built from such."""
    if isinstance(expr, Const):
        return expr.value > 0
    if isinstance(expr, Scalar):
        return expr.positive
    if not isinstance(expr, Map):
        return False
    if expr.op in ("exp", "exp2"):
        return True
    if expr.op == "pow":
        return is_positive(expr.args[0])
    return expr.op in _KEEPS and all(map(is_positive, expr.args))


def at_least(expr: Expr) -> float:
    """A lower bound of the value, wherever it is not NaN; minus infinity where none is known."""
    if isinstance(expr, Const):
        return float(expr.value)
    if isinstance(expr, Scalar):
        return 1.0 if expr.positive else -math.inf
    if isinstance(expr, Reduce):
        if expr.op == "sum" and _attains_one(expr):
            return 1.0
        below = at_least(expr.arg)
        return below if expr.op in ("max", "min") else 0.0 if expr.op == "sum" and below >= 0 else -math.inf
    if not isinstance(expr, Map):
        return -math.inf
    bounds = [at_least(arg) for arg in expr.args]
    if expr.op in ("maximum", "minimum"):
        return max(bounds) if expr.op == "maximum" else min(bounds)
    if expr.op == "add":
        return sum(bounds)
    if expr.op == "sqrt":
        return math.sqrt(max(bounds[0], 0.0))
    if expr.op == "cast" and is_float(expr):
        return bounds[0]
    if expr.op == "mul" and expr.args[0] is expr.args[1]:
        return 0.0
    if expr.op == "mul" and min(bounds) >= 0:
        return math.prod(bounds)
    return 0.0 if expr.op in ("exp", "exp2", "abs", "sigmoid") else -math.inf


def _attains_one(expr: Reduce) -> bool:
    """Whether one of the summands is e ** 0, the others being positive: a sum of exponentials less their maximum."""
    power = expr.arg
    if not (isinstance(power, Map) and power.op in ("exp", "exp2")):
        return False
    exponent = power.args[0]
    while isinstance(exponent, Map) and exponent.op == "mul" and is_positive(exponent.args[1]):
        exponent = exponent.args[0]
    if not (isinstance(exponent, Map) and exponent.op == "sub"):
        return False
    value, highest = exponent.args
    return isinstance(highest, Reduce) and highest.op == "max" and highest.axis is expr.axis and highest.arg is value
