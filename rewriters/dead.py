"""Dead: what a mask makes exactly neutral for every reduction need not be visited.

    where(c, x, -inf) under max, and exp(where(c, x, -inf) - r) under a sum: neutral wherever c fails

`vanishes` decides it by running the body with the masked value replaced by its fill. Weights that are exactly zero
hide what they would multiply: a non-finite value of V behind a mask is not spread (docs/semantics.md).
"""

from __future__ import annotations

import math

from flashlight.ir.expr import Const, Expr, Map, Reduce, Scan
from flashlight.ir.ops import NEUTRAL
from flashlight.ir.signs import is_positive

Known = float | None


def vanishes(reduction: Reduce | Scan, masked: Expr, fill: float) -> bool:
    """Whether the reduction ignores every position at which ``masked`` equals ``fill``."""
    return known_value(reduction.arg, masked, fill) == NEUTRAL[reduction.op]


def known_value(expr: Expr, masked: Expr, fill: float) -> Known:
    """The value of ``expr`` where ``masked`` equals ``fill``, taking all else as unknown but finite."""
    if expr is masked:
        return fill
    if isinstance(expr, Const):
        return float(expr.value)
    if not isinstance(expr, Map):
        return None
    args = [known_value(arg, masked, fill) for arg in expr.args]
    return _applied(expr, args)


def _applied(expr: Map, args: list[Known]) -> Known:
    first = args[0]
    if expr.op == "cast":
        return first
    if expr.op == "where":
        return args[1] if args[1] == args[2] else None
    if expr.op in ("mul", "div") and first == 0.0:
        return None if expr.op == "mul" and _infinite(args[1]) else 0.0
    if expr.op == "mul" and args[1] == 0.0:
        return None if _infinite(first) else 0.0
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
    if expr.op == "maximum" and args[1] == float("-inf"):
        return first
    if expr.op == "pow" and first == 0.0 and args[1] is not None and args[1] > 0:
        return 0.0
    if expr.op in ("neg", "abs", "sqrt") and first == 0.0:
        return 0.0
    return None


def _infinite(value: Known) -> bool:
    return value is not None and math.isinf(value)
