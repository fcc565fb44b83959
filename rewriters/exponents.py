"""Exponents: a logarithm in an exponent is a quotient.

    exp(x - log(s))  =  exp(x) / s          exp(x + log(s))  =  exp(x) * s          for s >= 0
    exp(x - (m + log(s)))  =  exp(x - m) / s

Applied where s contains a reduction and lacks an axis of x, so that what was normalised in logarithms (``log_softmax``,
``logsumexp``) is normalised by a division that `hoist` can take out of a sum. For s = 0 both sides are NaN or infinite
alike. The functional equation of the exponential; the identity behind log-sum-exp.
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import Expr, Map, Reduce, walk
from flashlight.ir.program import Program, rewrite


def exponents(program: Program) -> Program:
    return rewrite(program, _freed)


def _freed(node: Expr) -> Expr:
    if not (isinstance(node, Map) and node.op == "exp"):
        return node
    terms = _terms(node.args[0], positive=True)
    logs = [(term, positive) for term, positive in terms if _is_log(term) and term.axes < node.axes]
    if not logs or len(logs) == len(terms):
        return node
    result = build.op("exp", _sum([t for t in terms if t not in logs], node.args[0].dtype), dtype=node.dtype)
    for term, positive in logs:
        assert isinstance(term, Map)
        result = build.op("mul" if positive else "div", result, term.args[0], dtype=node.dtype)
    return result


def _terms(expr: Expr, positive: bool) -> list[tuple[Expr, bool]]:
    """The terms of a sum with their signs; a sum without a logarithm below it stays whole."""
    if isinstance(expr, Map) and expr.op in ("add", "sub", "neg") and any(_is_log(node) for node in walk(expr)):
        if expr.op == "neg":
            return _terms(expr.args[0], not positive)
        return _terms(expr.args[0], positive) + _terms(expr.args[1], positive == (expr.op == "add"))
    return [(expr, positive)]


def _is_log(expr: Expr) -> bool:
    return (
        isinstance(expr, Map)
        and expr.op == "log"
        and any(isinstance(node, Reduce) and node.op == "sum" for node in walk(expr))
    )


def _sum(terms: list[tuple[Expr, bool]], dtype: str) -> Expr:
    first, positive = next(((t, p) for t, p in terms if p), terms[0])
    total = first if positive else build.op("neg", first, dtype=dtype)
    for term, positive in [t for t in terms if t[0] is not first]:
        total = build.op("add" if positive else "sub", total, term, dtype=dtype)
    return total
