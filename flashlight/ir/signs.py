"""What is known of the sign and the size of a number."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import TypeVar

from flashlight.ir.expr import Const, Expr, Map, Reduce, Scalar, is_float, unrounded
from flashlight.ir.program import is_const

Known = TypeVar("Known")


def _remembered(function: Callable[[Expr], Known]) -> Callable[[Expr], Known]:
    """Ask each expression once: values that many others share would be asked once for each way to them."""
    key = f"_{function.__name__}"

    @functools.wraps(function)
    def asked(expr: Expr) -> Known:
        if key not in expr.__dict__:
            expr.__dict__[key] = function(expr)
        known: Known = expr.__dict__[key]
        return known

    return asked


_KEEPS = frozenset({"add", "mul", "div", "sqrt", "rsqrt", "minimum", "cast"})


@_remembered
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
    if expr.op == "maximum":
        return any(map(is_positive, expr.args))
    return expr.op in _KEEPS and all(map(is_positive, expr.args))


@_remembered
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


_BETWEEN = {"tanh": (-1.0, 1.0), "erf": (-1.0, 1.0), "sin": (-1.0, 1.0), "cos": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


@_remembered
def between(expr: Expr) -> tuple[float, float]:
    """Bounds of the value, wherever it is neither NaN nor a constant of minus infinity that was selected."""
    unknown = (-math.inf, math.inf)
    if isinstance(expr, Const):
        return float(expr.value), float(expr.value)
    if not isinstance(expr, Map):
        return unknown
    if expr.op in _BETWEEN:
        return _BETWEEN[expr.op]
    if expr.op == "where":
        ends = [between(arg) for arg in expr.args[1:] if not is_const(arg, -math.inf)]
        return min(low for low, _ in ends), max(high for _, high in ends)
    ends = [between(arg) for arg in expr.args]
    if expr.op == "cast" and is_float(expr) and is_float(expr.args[0]):
        return ends[0]
    if expr.op in ("add", "sub", "mul", "maximum", "minimum") and all(map(math.isfinite, (*ends[0], *ends[1]))):
        corners = [_CORNERS[expr.op](a, b) for a in ends[0] for b in ends[1]]
        return min(corners), max(corners)
    return (-ends[0][1], -ends[0][0]) if expr.op == "neg" else unknown


_CORNERS: dict[str, Callable[[float, float], float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "maximum": max,
    "minimum": min,
}


def difference(power: Expr) -> tuple[Expr, Expr] | None:
    """``(a, b)`` where the exponent is ``a - b``, perhaps rounded and times positive factors."""
    power, _ = _factored(power)
    return (power.args[0], power.args[1]) if isinstance(power, Map) and power.op == "sub" else None


@_remembered
def is_relative(expr: Expr) -> bool:
    """Whether a weight is taken relative to the greatest of its row, which is one: none exceeds it.

    Exponentials of differences from the maximum (with a sink's score in it, perhaps), their powers and roots.
    """
    if not isinstance(expr, Map):
        return False
    if expr.op in ("exp", "exp2"):
        pair = difference(expr.args[0])
        return pair is not None and covers(pair[1], pair[0], ("max",))
    if expr.op == "pow":
        return is_relative(expr.args[0]) and is_positive(expr.args[1])
    return expr.op in ("cast", "sqrt") and is_relative(expr.args[0])


def covers(extreme: Expr, value: Expr, ops: tuple[str, ...] = ("max", "min")) -> bool:
    """Whether ``extreme`` is the greatest or the least of ``value``, perhaps of other numbers too.

    Positive factors of both are taken out, and a value that is selected, else minus infinity, is no greater than it.
    """
    return _covers(extreme, *_factored(value), ops)


def _covers(extreme: Expr, value: Expr, factors: list[Expr], ops: tuple[str, ...]) -> bool:
    extreme, own = _factored(extreme)
    left = list(factors)
    for factor in own:
        if factor not in left:
            return False
        left.remove(factor)
    if isinstance(extreme, Map) and extreme.op in ("maximum", "minimum") and extreme.op[:3] in ops:
        return any(_covers(arg, value, left, (extreme.op[:3],)) for arg in extreme.args)
    if not (isinstance(extreme, Reduce) and extreme.op in ops):
        return False
    inner, within = _factored(extreme.arg)
    if inner is value and sorted(map(id, within)) == sorted(map(id, left)):
        return True
    if not (extreme.op == "max" and isinstance(value, Map) and value.op == "where"):
        return False
    kept, more = _factored(value.args[1])
    return is_const(value.args[2], -math.inf) and _covers(extreme, kept, [*left, *more], ops)


def _factored(expr: Expr) -> tuple[Expr, list[Expr]]:
    """The value without roundings and positive factors, and these."""
    factors: list[Expr] = []
    expr = unrounded(expr)
    while isinstance(expr, Map) and expr.op == "mul" and is_positive(expr.args[1]):
        factors += _atoms(expr.args[1])
        expr = unrounded(expr.args[0])
    return expr, factors


def _atoms(expr: Expr) -> list[Expr]:
    expr = unrounded(expr)
    if isinstance(expr, Map) and expr.op == "mul":
        return [atom for arg in expr.args for atom in _atoms(arg)]
    return [expr]


def _attains_one(expr: Reduce) -> bool:
    """Whether one of the summands is e ** 0, the others being positive: a sum of exponentials less their maximum."""
    power = expr.arg
    pair = difference(power.args[0]) if isinstance(power, Map) and power.op in ("exp", "exp2") else None
    if pair is None:
        return False
    value, highest = pair
    return isinstance(highest, Reduce) and highest.op == "max" and highest.axis is expr.axis and highest.arg is value
