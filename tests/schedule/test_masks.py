"""What a schedule says of each condition of a mask: on which side of the full blocks it can fail."""

from __future__ import annotations

import math

import pytest

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, INT, Axis, Expr, Iota, Load, Scalar, Tensor
from flashlight.ir.program import Output, Program
from flashlight.schedule import Schedule, schedule

N, S, WIDTH = (Scalar(name, INT, True) for name in ("N", "S", "D"))
WINDOW = Scalar("window", INT)
I, J, D, INNER = Axis("i", N), Axis("j", S), Axis("d", WIDTH), Axis("e", WIDTH)  # noqa: E741
Q, K, V = Tensor("q", (N, WIDTH), FLOAT), Tensor("k", (S, WIDTH), FLOAT), Tensor("v", (S, WIDTH), FLOAT)
DOCUMENTS = Tensor("documents", (S,), INT)
SCORES = build.reduce("sum", build.op("mul", Load(Q, (Iota(I), Iota(INNER))), Load(K, (Iota(J), Iota(INNER)))), INNER)
DISTANCE = build.op("sub", Iota(I), Iota(J))
PAST = build.op("ge", DISTANCE, build.integer(0))
NEAR = build.op("lt", DISTANCE, WINDOW)
AROUND = build.op("le", build.op("abs", DISTANCE), WINDOW)
OWN = build.op("eq", Iota(I), Load(DOCUMENTS, (Iota(J),)))
BEFORE, AFTER, BOTH = (True, False), (False, True), (True, True)


def planned(condition: Expr) -> Schedule:
    """A softmax over the keys that the condition keeps."""
    scores = build.where(condition, SCORES, build.const(-math.inf, FLOAT))
    weights = build.op("exp", build.op("sub", scores, build.reduce("max", scores, J)))
    summed = build.reduce("sum", build.op("mul", weights, Load(V, (Iota(J), Iota(D)))), J)
    return schedule(Program("masked", (Q, K, V, DOCUMENTS), (Output("output", (I, D), summed, FLOAT),)))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (PAST, [AFTER]),
        (NEAR, [BEFORE]),
        (build.op("and", PAST, NEAR), [AFTER, BEFORE]),
        (build.op("and", NEAR, PAST), [BEFORE, AFTER]),
        (AROUND, [BOTH]),
        (build.op("and", AROUND, PAST), [BOTH, AFTER]),
        (build.op("or", PAST, build.op("lt", Iota(J), WINDOW)), [AFTER]),
        (build.op("or", NEAR, build.op("ge", Iota(J), WINDOW)), [BEFORE]),
        (build.op("or", build.op("and", PAST, NEAR), build.op("lt", Iota(J), WINDOW)), [BOTH]),
        (build.op("and", OWN, PAST), [BOTH, AFTER]),
    ],
)
def test_each_condition_fails_on_its_side(condition: Expr, expected: list[tuple[bool, bool]]) -> None:
    plan = planned(condition)
    (mask,) = (mask for mask in plan.masks if mask.ranged)
    inside = build.op("lt", Iota(plan.stream), S)
    found = {one.condition: (one.before, one.after) for one in mask.ranged}
    assert found.pop(inside) == AFTER, "blocks that reach past the last key are at the end"
    assert list(found.values()) == expected
    assert not mask.tested


def test_conditions_that_are_not_understood_are_tested_everywhere() -> None:
    plan = planned(build.op("and", PAST, build.op("eq", build.op("mod", DISTANCE, build.integer(3)), build.integer(0))))
    assert [str(one) for mask in plan.masks for one in mask.tested] == ["(i - j) % 3 == 0"]
    assert {(one.before, one.after) for mask in plan.masks for one in mask.ranged} == {AFTER}


def test_explained() -> None:
    text = str(planned(build.op("and", PAST, NEAR)))
    assert "tested    i - j >= 0, after the full keys\n" in text and "i - j < window, before the full keys" in text
