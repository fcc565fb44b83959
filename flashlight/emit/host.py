"""Expressions as Python on the host: sizes, scales and other numbers that a launcher computes once a call."""

from __future__ import annotations

from flashlight.ir.expr import Const, Expr, Map, Scalar, is_int
from flashlight.ir.signs import is_positive
from rewriters.base2 import LOG2_E

_INFIX = {
    "or": ("or", 1),
    "and": ("and", 2),
    "eq": ("==", 4),
    "ne": ("!=", 4),
    "lt": ("<", 4),
    "le": ("<=", 4),
    "gt": (">", 4),
    "ge": (">=", 4),
    "add": ("+", 5),
    "sub": ("-", 5),
    "mul": ("*", 6),
    "div": ("/", 6),
    "floordiv": ("//", 6),
    "mod": ("%", 6),
    "pow": ("**", 8),
}
_CALLS = {
    "sqrt": "math.sqrt({})",
    "rsqrt": "1.0 / math.sqrt({})",
    "exp": "math.exp({})",
    "exp2": "2.0 ** ({})",
    "log": "math.log({})",
    "log2": "math.log2({})",
    "tanh": "math.tanh({})",
    "sigmoid": "1.0 / (1.0 + math.exp(-({})))",
    "sin": "math.sin({})",
    "cos": "math.cos({})",
    "floor": "math.floor({})",
    "ceil": "math.ceil({})",
    "abs": "abs({})",
    "maximum": "max({}, {})",
    "minimum": "min({}, {})",
}


def python(expr: Expr, outer: int = 0) -> str:
    """The expression as Python source over the names of its scalars."""
    if isinstance(expr, Const):
        text = "math.log2(math.e)" if expr.value == LOG2_E else repr(expr.value)
        text = f'float("{expr.value}")' if text in ("inf", "-inf", "nan") else text
        return f"({text})" if text.startswith("-") and outer > 5 else text
    if isinstance(expr, Scalar):
        return expr.name
    assert isinstance(expr, Map), expr
    if expr.op == "cast":
        inner = python(expr.args[0], outer)
        return f"int({python(expr.args[0])})" if is_int(expr) else inner
    if expr.op == "where":
        condition, yes, no = (python(arg, 1) for arg in expr.args)
        return f"({yes} if {condition} else {no})"
    if expr.op == "neg":
        return _wrapped(f"-{python(expr.args[0], 7)}", outer > 6)
    if expr.op == "not":
        return _wrapped(f"not {python(expr.args[0], 3)}", outer > 2)
    if expr.op == "div" and not is_positive(expr.args[1]) and not isinstance(expr.args[1], Const):
        return f"quotient({python(expr.args[0])}, {python(expr.args[1])})"
    if expr.op in _INFIX:
        symbol, level = _INFIX[expr.op]
        left = level + 1 if expr.op in ("pow", "eq", "ne", "lt", "le", "gt", "ge") else level
        text = f"{python(expr.args[0], left)} {symbol} {python(expr.args[1], level + 1)}"
        return _wrapped(text, outer > level)
    text = _CALLS[expr.op].format(*(python(arg) for arg in expr.args))
    return _wrapped(text, outer > 5 and not text[0].isalpha())


def _wrapped(text: str, needed: bool) -> str:
    return f"({text})" if needed else text
