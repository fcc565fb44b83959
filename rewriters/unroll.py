"""Unroll: a sum over a few positions that are known is written out.

    R_(h < n) f(h)  =  f(0)  (+)  f(1)  (+) ... (+)  f(n - 1)          for n of at most 16

for a sum, maximum or minimum R with its operation (+). Applied where each f(h) holds a matrix product of its own (all
of its factors have h) or statistics of its own: mixing heads then takes one product a head, rather than a tile with an
axis for the heads. Keys, which queries do not have, stay an axis however few they are.
"""

from __future__ import annotations

from functools import reduce

from flashlight.ir import build
from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Map, Reduce, walk
from flashlight.ir.program import Program, rewrite, substitute

MOST = 16
_COMBINED = {"sum": "add", "max": "maximum", "min": "minimum"}


def unroll(program: Program) -> Program:
    return rewrite(program, _unrolled)


def _unrolled(node: Expr) -> Expr:
    if not (isinstance(node, Reduce) and node.op in _COMBINED):
        return node
    extent, axis = node.axis.extent, node.axis
    if not (isinstance(extent, Const) and 1 < extent.value <= MOST):
        return node
    if not any(isinstance(inner, Reduce) and _of_its_own(inner, axis) for inner in walk(node.arg)):
        return node
    terms = [substitute(node.arg, {Iota(axis): build.integer(n)}) for n in range(int(extent.value))]
    return reduce(lambda left, right: build.op(_COMBINED[node.op], left, right, dtype=node.dtype), terms)


def _of_its_own(inner: Reduce, axis: Axis) -> bool:
    """Whether every position of the axis has a product or a statistic of its own."""
    if axis not in inner.axes:
        return False
    if inner.op in ("max", "min"):
        return True
    return _is_product(inner) and all(axis in load.axes for load in walk(inner) if isinstance(load, Load))


def _is_product(node: Expr) -> bool:
    """A sum of sums of products of what is loaded."""
    if isinstance(node, Reduce):
        return node.op == "sum" and _is_product(node.arg)
    if isinstance(node, Map) and node.axes:
        return node.op in ("mul", "add", "sub", "neg", "cast", "div") and all(map(_is_product, node.args))
    return True
