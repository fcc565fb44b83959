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


def attains_one(expr: Expr) -> bool:
    """Whether no value of a row exceeds one and one of them is one: exponentials of differences from the maximum.

    Powers and roots of such, roundings, and what is selected from such (which may leave out the greatest).
    """
    if not isinstance(expr, Map):
        return False
    if expr.op in ("exp", "exp2"):
        return _below_maximum(expr.args[0])
    if expr.op == "pow":
        return attains_one(expr.args[0]) and is_positive(expr.args[1])
    if expr.op == "mul":
        return all(map(attains_one, expr.args))
    if expr.op == "where":
        return any(attains_one(arg) for arg in expr.args[1:])
    return expr.op in ("cast", "sqrt") and attains_one(expr.args[0])


def _below_maximum(power: Expr) -> bool:
    if not isinstance(power, Map):
        return False
    if power.op in ("cast", "mul"):
        return _below_maximum(power.args[0]) and all(map(is_positive, power.args[1:]))
    if power.op != "sub":
        return False
    value, factors = _factored(power.args[0])
    return _covers(power.args[1], value, factors)


def _covers(highest: Expr, value: Expr, factors: list[Expr]) -> bool:
    """Whether ``highest`` is the maximum of ``value`` times the factors, perhaps of other numbers too."""
    highest, own = _factored(highest)
    left = list(factors)
    for factor in own:
        if factor not in left:
            return False
        left.remove(factor)
    if isinstance(highest, Map) and highest.op == "maximum":
        return any(_covers(arg, value, left) for arg in highest.args)
    if not (isinstance(highest, Reduce) and highest.op == "max"):
        return False
    inner, within = _factored(highest.arg)
    return inner is value and sorted(map(id, within)) == sorted(map(id, left))


def _factored(expr: Expr) -> tuple[Expr, list[Expr]]:
    """The value without roundings and positive factors, and these."""
    factors: list[Expr] = []
    expr = _bare(expr)
    while isinstance(expr, Map) and expr.op == "mul" and is_positive(expr.args[1]):
        factors += _atoms(expr.args[1])
        expr = _bare(expr.args[0])
    return expr, factors


def _atoms(expr: Expr) -> list[Expr]:
    expr = _bare(expr)
    if isinstance(expr, Map) and expr.op == "mul":
        return [atom for arg in expr.args for atom in _atoms(arg)]
    return [expr]


def _bare(expr: Expr) -> Expr:
    return _bare(expr.args[0]) if isinstance(expr, Map) and expr.op == "cast" and is_float(expr.args[0]) else expr


def _attains_one(expr: Reduce) -> bool:
    """Whether one of the summands is e ** 0, the others being positive: a sum of exponentials less their maximum."""
    power, total = expr.arg, expr
    if not (isinstance(power, Map) and power.op in ("exp", "exp2")):
        return False
    exponent = power.args[0]
    while isinstance(exponent, Map) and exponent.op == "mul" and is_positive(exponent.args[1]):
        exponent = exponent.args[0]
    if not (isinstance(exponent, Map) and exponent.op == "sub"):
        return False
    value, highest = exponent.args
    return isinstance(highest, Reduce) and highest.op == "max" and highest.axis is total.axis and highest.arg is value
