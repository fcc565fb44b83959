"""Dead: what a mask makes exactly neutral for every reduction need not be visited.

    where(c, x, -inf) under max, and exp(where(c, x, -inf) - r) under a sum: neutral wherever c fails
    exp(where(c, x, -1e5) + y) under a sum, for y that is never positive: it underflows to zero

`vanishes` decides it by running the body with the masked value replaced by its fill. Weights that are exactly zero
hide what they would multiply: a non-finite value of V behind a mask is not spread (docs/semantics.md).
"""

from __future__ import annotations

import functools
import math

import torch

from flashlight.ir.expr import Const, Expr, Map, Reduce, Scan
from flashlight.ir.ops import NEUTRAL, OPS
from flashlight.ir.signs import is_positive

Known = float | None
_FOLDED = frozenset("add sub mul div neg exp exp2 log log2 sqrt rsqrt abs tanh sigmoid maximum minimum pow".split())
UNDERFLOW = -1100.0
"""Below this neither exp nor exp2 leaves anything, not even in float64."""


def vanishes(reduction: Reduce | Scan, masked: Expr, fill: float) -> bool:
    """Whether the reduction ignores every position at which ``masked`` equals ``fill``."""
    return known_value(reduction.arg, masked, fill) == NEUTRAL[reduction.op]


def known_value(expr: Expr, masked: Expr, fill: float) -> Known:
    """The value of ``expr`` where ``masked`` equals ``fill``; None where it is unknown. All else is taken as finite."""
    known: dict[Expr, Known] = {masked: fill}

    def value(one: Expr) -> Known:
        if one not in known:
            if isinstance(one, Map):
                known[one] = _applied(one, [value(arg) for arg in one.args], masked, fill)
            else:
                known[one] = float(one.value) if isinstance(one, Const) else None
        return known[one]

    return value(expr)


def _applied(expr: Map, args: list[Known], masked: Expr, fill: float) -> Known:
    first = args[0]
    if expr.op == "cast":
        return first
    if expr.op in _FOLDED and None not in args:
        value = float(OPS[expr.op].meaning(*(torch.tensor(arg, dtype=torch.float64) for arg in args)))
        return None if math.isnan(value) else value
    if expr.op == "where":
        return args[1] if args[1] == args[2] else None
    if expr.op in ("mul", "div") and 0.0 in args[: 2 if expr.op == "mul" else 1]:
        # zero times what the masked value may have made infinite is not known
        other = expr.args[1 if first == 0.0 else 0]
        return None if _has(other, masked) else 0.0
    if expr.op in ("add", "sub") and first is not None and math.isinf(first):
        second = args[1]
        return None if second is not None and math.isinf(second) else first
    if expr.op == "add" and args[1] is not None and math.isinf(args[1]):
        return args[1]
    if first == float("-inf"):
        if expr.op in ("exp", "exp2", "sigmoid"):
            return 0.0
        if expr.op in ("mul", "div") and is_positive(expr.args[1]):
            return first
        if expr.op == "maximum":
            return args[1]
        if expr.op == "minimum":
            return first
    if expr.op in ("exp", "exp2") and first is None and _most(expr.args[0], masked, fill) < UNDERFLOW:
        return 0.0
    if expr.op == "maximum" and args[1] == float("-inf"):
        return first
    if expr.op == "pow" and first == 0.0 and args[1] is not None and args[1] > 0:
        return 0.0
    return None


@functools.lru_cache(maxsize=4096)
def _has(expr: Expr, masked: Expr) -> bool:
    """Whether the value is made of the masked one at the same position."""
    return expr is masked or (isinstance(expr, Map) and any(_has(arg, masked) for arg in expr.args))


@functools.lru_cache(maxsize=4096)
def _most(expr: Expr, masked: Expr | None, fill: float) -> float:
    """A number that ``expr`` certainly does not exceed where ``masked`` equals ``fill`` (nowhere, if it is None)."""
    if expr is masked:
        return fill
    if isinstance(expr, Const):
        return float(expr.value)
    if isinstance(expr, (Reduce, Scan)):
        return 0.0 if expr.op == "sum" and _most(expr.arg, None, fill) <= 0.0 else math.inf
    if not isinstance(expr, Map):
        return math.inf
    if expr.op == "sub":
        left, right = expr.args
        if isinstance(left, Scan) and left.axis in left.at.axes and left.arg is right:
            return _most(left, masked, fill)  # the sum without its last term
        return _total([_most(left, masked, fill), -_least(right)])
    if expr.op in ("cast", "add", "minimum", "maximum", "where"):
        ends = [_most(arg, masked, fill) for arg in expr.args[expr.op == "where" :]]
        return _total(ends) if expr.op == "add" else min(ends) if expr.op == "minimum" else max(ends)
    return -_least(expr.args[0]) if expr.op == "neg" else math.inf


@functools.lru_cache(maxsize=4096)
def _least(expr: Expr) -> float:
    """A number that ``expr`` is certainly not below."""
    if isinstance(expr, Const):
        return float(expr.value)
    if not isinstance(expr, Map):
        return -math.inf
    if expr.op in ("log", "log2"):
        return 0.0 if _least(expr.args[0]) >= 1.0 else -math.inf
    if expr.op in ("cast", "add", "minimum", "maximum", "where"):
        ends = [_least(arg) for arg in expr.args[expr.op == "where" :]]
        return -_total([-end for end in ends]) if expr.op == "add" else max(ends) if expr.op == "maximum" else min(ends)
    return 0.0 if expr.op in ("abs", "exp", "exp2", "sigmoid", "sqrt") else -math.inf


def _total(ends: list[float]) -> float:
    """The sum of upper bounds, of which some may be unknown."""
    return math.inf if math.inf in ends else sum(ends)
