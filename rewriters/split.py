"""Split: the sum of a sum is a sum of sums.

    sum_j (f(j) - g(j)) * v(j)  =  sum_j f(j) * v(j)  -  sum_j g(j) * v(j)

Applied only where it frees a statistic: where a term of the sum depends on a reduction over the same axis that cannot
leave the sum otherwise. Two softmaxes subtracted become two accumulators over shared tiles of V.
A maximum that is subtracted keeps what remains small, and so does a mean: what is the same for all of the axis stays
with what it is subtracted from, and another pass finds it first. (Of the sum of (x - m)^2 as sum of x^2 - 2 m x + m^2,
a deviation that is small beside the mean leaves nothing.)
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import Expr, Map, Reduce, is_float, walk
from flashlight.ir.program import Program, rewrite


def split(program: Program) -> Program:
    return rewrite(program, _split)


def _split(node: Expr) -> Expr:
    if not (isinstance(node, Reduce) and node.op == "sum" and is_float(node)):
        return node
    terms = _terms(node.arg, node)
    if terms is None:
        return node
    operator, left, right = terms
    parts = [_split(build.reduce("sum", term, node.axis)) for term in (left, right)]
    return build.op(operator, *parts, dtype=node.dtype)


def _terms(body: Expr, reduction: Reduce) -> tuple[str, Expr, Expr] | None:
    """The body as a sum or difference of two terms, if some term has a statistic that only splitting frees."""
    if not isinstance(body, Map) or reduction.axis not in body.axes:
        return None
    if body.op in ("add", "sub"):
        freed = [arg for arg in body.args if _has_statistic(arg, reduction) and not _is_extreme(arg, reduction)]
        vary = all(reduction.axis in arg.axes for arg in body.args)
        return (body.op, body.args[0], body.args[1]) if freed and vary else None
    if body.op == "cast" and is_float(body.args[0]):
        terms = _terms(body.args[0], reduction)
        return terms and (terms[0], build.cast(terms[1], body.dtype), build.cast(terms[2], body.dtype))
    if body.op == "mul":
        for position, factor in enumerate(body.args):
            terms = _terms(factor, reduction)
            if terms is not None:
                other = body.args[1 - position]
                left, right = (build.op("mul", term, other, dtype=body.dtype) for term in terms[1:])
                return terms[0], left, right
    if body.op == "div":
        terms = _terms(body.args[0], reduction)
        if terms is not None:
            left, right = (build.op("div", term, body.args[1], dtype=body.dtype) for term in terms[1:])
            return terms[0], left, right
    return None


def _has_statistic(term: Expr, reduction: Reduce) -> bool:
    return any(isinstance(node, Reduce) and node.axis is reduction.axis for node in walk(term))


def _is_extreme(term: Expr, reduction: Reduce) -> bool:
    """Whether the term is a maximum or minimum of the axis, perhaps scaled, or what is left when it is subtracted."""
    statistics = [node for node in walk(term) if isinstance(node, Reduce) and node.axis is reduction.axis]
    within = {inner for node in statistics for inner in walk(node.arg)}
    outermost = [node for node in statistics if node not in within]
    return all(node.op in ("max", "min") for node in outermost) and not any(
        isinstance(node, Map) and node.op in ("exp", "pow", "div") and _has_statistic(node, reduction)
        for node in walk(term)
    )
