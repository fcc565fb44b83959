"""Absorb: minus infinity plus anything is minus infinity, so an additive mask is a selection.

    x + where(c, a, -inf)   =  where(c, x + a, -inf)
    where(c, x, F) * k      =  where(c, x * k, F * k)      for constants F and k; also division
    -where(c, x, 0)         =  where(c, -x, 0)
    where(c, F, x)          =  where(not c, x, F)          for a constant F and x that is none

Side condition: x is neither +inf nor NaN where c fails (what a mask hides is not read: docs/semantics.md). Only with
the selection on the outside can the mask bound the keys that are visited.
A statistic that is subtracted (scores - max) stays where it is: that is not a mask.
"""

from __future__ import annotations

from typing import TypeGuard

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr, Map, Reduce, walk
from flashlight.ir.program import Program, is_const, rewrite


def absorb(program: Program) -> Program:
    return rewrite(program, _absorbed)


def _absorbed(node: Expr) -> Expr:
    if not isinstance(node, Map):
        return node
    if node.op == "where" and _is_fill(node.args[1]) and (_is_hidden(node.args[1]) or not _is_fill(node.args[2])):
        return build.where(build.op("not", node.args[0]), node.args[2], node.args[1])
    if node.op in ("add", "sub"):
        left, right = node.args
        chosen = [(right, False), (left, True)] if node.op == "add" else [(left, True)]
        for selection, is_left in chosen:
            if not (isinstance(selection, Map) and selection.op == "where"):
                continue
            condition, yes, no = selection.args
            other = right if is_left else left
            if not _is_hidden(no) or _has_statistic(other, node):
                continue
            inner = build.op(node.op, *((yes, other) if is_left else (other, yes)), dtype=node.dtype)
            return build.where(condition, _absorbed(inner), build.const(no.value, node.dtype))
    if node.op == "neg" and isinstance(node.args[0], Map) and node.args[0].op == "where":
        condition, yes, no = node.args[0].args
        if is_const(no, 0.0):
            return build.where(condition, build.op("neg", yes, dtype=node.dtype), no)
    if node.op in ("mul", "div") and isinstance(node.args[0], Map) and node.args[0].op == "where":
        condition, yes, no = node.args[0].args
        factor = node.args[1]
        if isinstance(no, Const) and not factor.axes and _positive(factor):
            inner = build.op(node.op, yes, factor, dtype=node.dtype)
            fill = no if abs(float(no.value)) == float("inf") else build.op(node.op, no, factor, dtype=node.dtype)
            return build.where(condition, inner, build.cast(fill, inner.dtype))
    if node.op == "cast" and isinstance(node.args[0], Map) and node.args[0].op == "where":
        condition, yes, no = node.args[0].args
        if isinstance(no, Const):
            return build.where(condition, build.cast(yes, node.dtype), build.cast(no, node.dtype))
    return node


def _has_statistic(expr: Expr, within: Expr) -> bool:
    """Whether a reduction over an axis of the whole stands in it: what is subtracted then is no mask but a maximum."""
    return any(isinstance(inner, Reduce) and inner.axis in within.axes for inner in walk(expr))


def _is_hidden(expr: Expr) -> TypeGuard[Const]:
    return isinstance(expr, Const) and expr.value == float("-inf")


def _is_fill(expr: Expr) -> bool:
    return isinstance(expr, Const) or not expr.axes


def _positive(expr: Expr) -> bool:
    return isinstance(expr, Const) and expr.value > 0
