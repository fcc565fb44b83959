"""Which axis leaves the grid for the tile: one that the rows share what they read with, where each lacks the other."""

from __future__ import annotations

import pytest

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, INT, Axis, Expr, Iota, Load, Scalar, Tensor
from flashlight.ir.program import Output, Program
from flashlight.schedule import Schedule, schedule

B, N, H, WIDTH, Z = (Scalar(name, INT, True) for name in ("B", "N", "H", "D", "Z"))
BATCH, ROW, HEAD, KEY = Axis("b", B), Axis("n", N), Axis("h", H), Axis("j", N)
D, E, F = Axis("d", WIDTH), Axis("e", WIDTH), Axis("z", Z)
Q, K, V = (Tensor(name, (B, N, H, WIDTH), FLOAT) for name in "qkv")
SHARED = Tensor("shared", (B, N, WIDTH), FLOAT)
PAIR = Tensor("pair", (B, N, N, Z), FLOAT)


def at(tensor: Tensor, *axes: Axis) -> Load:
    return Load(tensor, tuple(map(Iota, axes)))


QUERY, OWN = at(Q, BATCH, ROW, HEAD, E), at(K, BATCH, KEY, HEAD, E)
VALUE, OF_PAIRS = at(V, BATCH, KEY, HEAD, D), at(PAIR, BATCH, ROW, KEY, F)


def planned(keys: Expr, values: dict[Expr, Axis], mask: Expr | None = None) -> Schedule:
    """A softmax over the products with the keys, and the values that it weighs, by the last axis of each."""
    scores = build.reduce("sum", build.op("mul", QUERY, keys), E)
    if mask is not None:
        scores = build.where(mask, scores, build.const(float("-inf"), FLOAT))
    weights = build.op("exp", build.op("sub", scores, build.reduce("max", scores, KEY)))
    sums = {last: build.reduce("sum", build.op("mul", weights, value), KEY) for value, last in values.items()}
    outputs = tuple(Output(f"o_{last.name}", (BATCH, ROW, HEAD, last), sums[last], FLOAT) for last in sums)
    return schedule(Program("attend", (Q, K, V, SHARED, PAIR), outputs))


def names(*axes: Axis | None) -> list[str]:
    return [axis.name for axis in axes if axis is not None]


def test_heads_that_share_pairs_join_rows_that_share_keys() -> None:
    plan = planned(OWN, {VALUE: D, OF_PAIRS: F})
    roles = plan.roles
    assert roles.demoted is not None and roles.demoted.extent is H and roles.rows.extent is N
    assert names(*roles.grid) == ["b"] and names(*roles.tile[:3]) == ["h", "i", "j"]
    assert "one block of h and i a program" in str(plan)


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        (OWN, {VALUE: D}),  # rows share all that is read
        (at(SHARED, BATCH, KEY, E), {OF_PAIRS: F}),  # nothing is a head's own
    ],
)
def test_nothing_is_demoted_where_it_would_save_no_reading(keys: Expr, values: dict[Expr, Axis]) -> None:
    assert planned(keys, values).roles.demoted is None


def test_nothing_is_demoted_where_rows_see_different_keys() -> None:
    """The ranges of keys are those of one block of rows."""
    past = build.op("ge", Iota(ROW), Iota(KEY))
    assert planned(OWN, {VALUE: D, OF_PAIRS: F}, past).roles.demoted is None
