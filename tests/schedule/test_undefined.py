"""Where a row of -inf alone shows as NaN by itself, and where it has to be said."""

from __future__ import annotations

import math

import pytest

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Axis, Expr, Iota, Load, Tensor
from flashlight.schedule.undefined import undefined

I, J = Axis("i", build.integer(4)), Axis("j", build.integer(5))  # noqa: E741
SCORES = Load(Tensor("scores", (I.extent, J.extent), FLOAT), (Iota(I), Iota(J)))
HIGHEST = build.reduce("max", SCORES, J)
WEIGHTS = build.op("exp", build.op("sub", SCORES, HIGHEST))
TOTAL = build.reduce("sum", WEIGHTS, J)
ENTROPY = build.reduce("sum", build.op("mul", WEIGHTS, SCORES), J)


def const(value: float) -> Expr:
    return build.const(value, FLOAT)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (build.op("div", ENTROPY, TOTAL), ()),
        (build.op("div", build.op("mul", ENTROPY, const(0.3)), TOTAL), ()),
        (build.op("log", TOTAL), (HIGHEST,)),  # log 0 would be -inf
        (build.op("div", TOTAL, build.op("add", TOTAL, const(1e-6))), (HIGHEST,)),
        (build.where(build.op("eq", HIGHEST, const(-math.inf)), const(0.0), TOTAL), ()),
    ],
)
def test_what_hides_it(output: Expr, expected: tuple[Expr, ...]) -> None:
    assert undefined([output], TOTAL) == expected


def test_sums_without_a_maximum_are_defined() -> None:
    plain = build.reduce("sum", build.op("exp", SCORES), J)
    assert undefined([plain], plain) == ()
