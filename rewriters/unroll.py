"""Unroll: a sum over a few positions that are known is written out.

    R_(h < n) f(h)  =  f(0)  (+)  f(1)  (+) ... (+)  f(n - 1)          for n of at most 16

for a sum, maximum or minimum R with its operation (+). Applied where each f(h) holds a reduction of its own: mixing
heads then takes one matrix product a head, rather than a tile with an axis for the heads.
"""

from __future__ import annotations

from functools import reduce

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr, Iota, Reduce, walk
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
    if not any(isinstance(inner, Reduce) and axis in inner.axes for inner in walk(node.arg)):
        return node
    terms = [substitute(node.arg, {Iota(axis): build.integer(n)}) for n in range(int(extent.value))]
    return reduce(lambda left, right: build.op(_COMBINED[node.op], left, right, dtype=node.dtype), terms)
