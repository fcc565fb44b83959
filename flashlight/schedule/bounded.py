"""Maxima that a number can stand in for, because no score exceeds it.

A softmax is the same whatever it subtracts from its scores, as long as the weights stay within the range of
floating-point numbers: the factor by which they change cancels. The online law has found that factor already, the one
that corrects what has been accumulated when the maximum moves. Where the scores lie between two numbers, the greater
can be subtracted from the start: then nothing moves, and no maximum is taken.
"""

from __future__ import annotations

from collections.abc import Container

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr, Load, Map, Reduce, is_float, walk
from flashlight.ir.program import Program
from flashlight.ir.signs import between, difference
from flashlight.schedule.model import WIDEST, Accumulator, Bound


def bound_of(program: Program, maximum: Reduce, accumulators: tuple[Accumulator, ...]) -> Bound | None:
    """What stands in for a running maximum; None if nothing can, whatever the numbers of the call are."""
    reading = [item for item in accumulators if any(one.reduce is maximum for one in item.statistics)]
    own = next(item for item in accumulators if item.reduce is maximum)
    if maximum.op != "max" or not reading or any(item.undefined or item.unsettled for item in (own, *reading)):
        return None
    corrections = {item.correction for item in reading}
    least, greatest = between(maximum.arg)
    factor = _factor(reading[0]) if len(corrections) == 1 else None
    if factor is None or not greatest - least <= WIDEST:
        return None
    degree = _Degrees({item.reduce for item in reading}, maximum)
    if any(len(item.statistics) != 1 for item in reading) or any(degree(one.expr) != 0 for one in program.outputs):
        return None
    spread = build.op("mul", factor, build.const(greatest - least, factor.dtype))
    if isinstance(spread, Const) and not spread.value <= WIDEST:
        return None
    return Bound(greatest, spread)


def _factor(item: Accumulator) -> Expr | None:
    """``f`` of a correction ``2 ** ((old - new) * f)`` that the host can compute."""
    correction, statistic = item.correction, item.statistics[0]
    if not (isinstance(correction, Map) and correction.op == "exp2"):
        return None
    power = correction.args[0]
    if not isinstance(power, Map) or difference(power) != (statistic.old, statistic.new):
        return None
    scaled = power.op == "mul" and isinstance(power.args[0], Map) and power.args[0].op == "sub"
    if not scaled and power.op != "sub":
        return None
    factor = power.args[1] if scaled else build.const(1.0, power.dtype)
    if factor.axes or any(isinstance(node, (Load, Reduce)) for node in walk(factor)):
        return None
    return factor


class _Degrees:
    """By which power of a factor of all ``sums`` a value is multiplied; None if by no such power."""

    def __init__(self, sums: Container[Expr], maximum: Expr) -> None:
        self.sums, self.maximum = sums, maximum
        self.known: dict[Expr, int | None] = {}

    def __call__(self, expr: Expr) -> int | None:
        if expr not in self.known:
            self.known[expr] = self._found(expr)
        return self.known[expr]

    def _found(self, expr: Expr) -> int | None:
        if expr in self.sums:
            return 1
        if expr is self.maximum:
            return None
        degrees: list[int] = []
        for child in expr.children:
            degree = self(child)
            if degree is None:
                return None
            degrees.append(degree)
        if not any(degrees):
            return 0
        if isinstance(expr, Reduce):
            return degrees[0] if expr.op in ("sum", "max", "min") else None
        if not isinstance(expr, Map) or not is_float(expr):
            return None
        if expr.op == "mul":
            return sum(degrees)
        if expr.op == "div":
            return degrees[0] - degrees[1]
        if expr.op == "where":
            return degrees[1] if degrees[0] == 0 and degrees[1] == degrees[2] else None
        alike = expr.op in ("cast", "neg", "abs", "add", "sub", "maximum", "minimum") and len(set(degrees)) == 1
        return degrees[0] if alike else None
