"""Online: an accumulator that depends on a running statistic is corrected when the statistic moves.

For a reduction ``sum_j g(x_j, r)`` over a statistic r of the same axis, find c with

    g(x, r')  =  g(x, r) * c(r, r')

Then the sum over the keys seen so far under r becomes the sum under r' by one multiplication, and both r and the sum
are found in one pass. c is derived from the form of g, not looked up:

    ratio(a * b) = ratio(a) * ratio(b)      ratio(exp a) = exp(change of a)       change(a + b) = change(a) + change(b)
    ratio(a / b) = ratio(a) / ratio(b)       ratio(a ** n) = ratio(a) ** n          change(k * a) = k * change(a)
    ratio(|a|)   = |ratio(a)|                ratio(g without r) = 1                 change(a without r) = 0
    ratio(where(k, a, 0)) = ratio(a)         ratio(w(r)) = w(r') / w(r)             change(w(r)) = w(r') - w(r)

where k has no r, and w has no streamed axis. No rule, no factor: then the schedule takes another pass. This is the
condition under which cascaded reductions fuse in Neptune (PLDI 2026) and RedFuser (ASPLOS 2026); for exp(x - max) it
is Milakov and Gimelshein's online softmax (2018).
"""

from __future__ import annotations

from collections.abc import Mapping

from flashlight.ir import build
from flashlight.ir.expr import Axis, Const, Expr, Map, walk
from flashlight.ir.program import is_const, substitute

ONE = build.const(1.0, "float32")
ZERO = build.const(0.0, "float32")


def correction(body: Expr, axis: Axis, moved: Mapping[Expr, tuple[Expr, Expr]]) -> Expr | None:
    """c such that ``body`` under the new statistics is c times ``body`` under the old ones; None where none exists.

    ``moved`` maps each statistic (a subexpression of the body) to its old and new value. c has no axis ``axis``.
    """
    return _Derivation(axis, moved).ratio(body)


class _Derivation:
    def __init__(self, axis: Axis, moved: Mapping[Expr, tuple[Expr, Expr]]) -> None:
        self.axis = axis
        self.old = {statistic: pair[0] for statistic, pair in moved.items()}
        self.new = {statistic: pair[1] for statistic, pair in moved.items()}

    def depends(self, expr: Expr) -> bool:
        return any(statistic in self.old for statistic in walk(expr))

    def ends(self, expr: Expr) -> tuple[Expr, Expr]:
        return substitute(expr, self.old), substitute(expr, self.new)

    def ratio(self, expr: Expr) -> Expr | None:
        if not self.depends(expr):
            return ONE
        if isinstance(expr, Map):
            args = expr.args
            if expr.op == "mul":
                return _combined("mul", self.ratio(args[0]), self.ratio(args[1]))
            if expr.op == "div":
                return _combined("div", self.ratio(args[0]), self.ratio(args[1]))
            if expr.op in ("exp", "exp2"):
                change = self.change(args[0])
                return None if change is None else build.op(expr.op, change, dtype="float32")
            if expr.op == "pow" and isinstance(args[1], Const):
                return _combined("pow", self.ratio(args[0]), args[1])
            if expr.op in ("sqrt", "rsqrt", "abs"):
                inner = self.ratio(args[0])
                return None if inner is None else build.op(expr.op, inner, dtype="float32")
            if expr.op in ("neg", "cast"):
                return self.ratio(args[0])
            if expr.op == "where" and not self.depends(args[0]):
                if is_const(args[2], 0.0):
                    return self.ratio(args[1])
                if is_const(args[1], 0.0):
                    return self.ratio(args[2])
                yes, no = self.ratio(args[1]), self.ratio(args[2])
                return yes if yes is no else None
        if self.axis not in expr.axes:
            old, new = self.ends(expr)
            return build.op("div", new, old, dtype="float32")
        return None

    def change(self, expr: Expr) -> Expr | None:
        if not self.depends(expr):
            return ZERO
        if isinstance(expr, Map):
            args = expr.args
            if expr.op in ("add", "sub"):
                left, right = self.change(args[0]), self.change(args[1])
                if left is ZERO and right is not None:
                    return right if expr.op == "add" else _negated(right)
                return _combined(expr.op, left, right)
            if expr.op == "neg":
                inner = self.change(args[0])
                return None if inner is None else _negated(inner)
            if expr.op == "cast":
                return self.change(args[0])
            if expr.op == "mul":
                for value, factor in (args, args[::-1]):
                    if self.axis not in factor.axes and not self.depends(factor):
                        return _combined("mul", self.change(value), factor)
            if expr.op == "div" and self.axis not in args[1].axes and not self.depends(args[1]):
                return _combined("div", self.change(args[0]), args[1])
            if expr.op == "where" and not self.depends(args[0]):
                # a constant branch of -inf stays -inf under any change
                for value, other in ((args[1], args[2]), (args[2], args[1])):
                    if is_const(other, float("-inf")):
                        return self.change(value)
        if self.axis not in expr.axes:
            old, new = self.ends(expr)
            return build.op("sub", new, old, dtype="float32")
        return None


def _combined(op: str, left: Expr | None, right: Expr | None) -> Expr | None:
    return None if left is None or right is None else build.op(op, left, right, dtype="float32")


def _negated(expr: Expr) -> Expr:
    if isinstance(expr, Map) and expr.op == "sub":
        return build.op("sub", expr.args[1], expr.args[0], dtype="float32")
    if isinstance(expr, Map) and expr.op == "mul":
        return build.op("mul", _negated(expr.args[0]), expr.args[1], dtype="float32")
    return build.op("neg", expr, dtype="float32")
