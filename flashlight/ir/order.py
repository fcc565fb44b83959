"""A total order on expressions that depends only on what they say, so that output is the same on every machine."""

from __future__ import annotations

from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, Scan

Key = tuple[object, ...]


def sort_key(expr: Expr) -> Key:
    """A key by which expressions sort: positions first, then loads and other composites, then sizes."""
    cached = expr.__dict__.get("_sort_key")
    if cached is None:
        cached = _key(expr)
        expr.__dict__["_sort_key"] = cached
    key: Key = cached
    return key


def axis_key(axis: Axis) -> Key:
    return (axis.name, sort_key(axis.extent))


def _key(expr: Expr) -> Key:
    if isinstance(expr, Iota):
        return (0, expr.axis.name)
    if isinstance(expr, Load):
        return (1, expr.tensor.name, *map(sort_key, expr.index))
    if isinstance(expr, Map):
        return (2, expr.op, expr.dtype, *map(sort_key, expr.args))
    if isinstance(expr, Reduce):
        return (3, expr.op, expr.axis.name, sort_key(expr.arg))
    if isinstance(expr, Scan):
        return (4, expr.op, expr.axis.name, sort_key(expr.arg), sort_key(expr.at), expr.reverse)
    if isinstance(expr, Scalar):
        return (5, expr.name)
    assert isinstance(expr, Const)
    return (6, str(expr.value))
