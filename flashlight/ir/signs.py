"""What is known of the sign of a number."""

from __future__ import annotations

from flashlight.ir.expr import Const, Expr, Map, Scalar

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
