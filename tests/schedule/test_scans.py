"""Cumulative sums along the keys: which passes have them, in which order of the keys, over which of them."""

from __future__ import annotations

import pytest

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Axis, Expr, Iota, Load, Scalar, Scan, Tensor
from flashlight.ir.program import Output, Program, substitute
from flashlight.schedule import Schedule, schedule

N, S, WIDTH = (Scalar(name, "int64", True) for name in ("N", "S", "D"))
I, J, D = Axis("i", N), Axis("j", S), Axis("d", WIDTH)  # noqa: E741
Q, K, V = Tensor("q", (N, WIDTH), FLOAT), Tensor("k", (S, WIDTH), FLOAT), Tensor("v", (S, WIDTH), FLOAT)
INNER = Axis("e", WIDTH)
SCORES = build.reduce("sum", build.op("mul", Load(Q, (Iota(I), Iota(INNER))), Load(K, (Iota(J), Iota(INNER)))), INNER)
PAST = build.op("le", Iota(J), Iota(I))


def op(name: str, *args: Expr | float) -> Expr:
    return build.op(name, *(build.const(arg, FLOAT) if isinstance(arg, (int, float)) else arg for arg in args))


def scanned(body: Expr, reverse: bool = False) -> Expr:
    """Over an axis of its own, as the tracer has it."""
    other = Axis("s", S)
    return build.scan("sum", substitute(body, {Iota(J): Iota(other)}), other, Iota(J), reverse)


def planned(weights: Expr) -> Schedule:
    summed = build.reduce("sum", op("mul", weights, Load(V, (Iota(J), Iota(D)))), J)
    return schedule(Program("scanned", (Q, K, V), (Output("output", (I, D), summed, FLOAT),)))


def masked(body: Expr, fill: float = 0.0) -> Expr:
    return build.where(PAST, body, build.const(fill, FLOAT))


@pytest.mark.parametrize("reverse", [False, True])
def test_one_pass_in_the_order_of_the_sum(reverse: bool) -> None:
    plan = planned(op("exp", scanned(op("sigmoid", SCORES), reverse)))
    (one,) = plan.passes
    (scan,) = one.scans
    assert isinstance(scan, Scan) and scan.axis is plan.stream and scan.at is Iota(plan.stream)
    assert one.descending == reverse
    assert f"from {'last to first' if reverse else 'first to last'}, carrying sum" in str(plan)


def test_the_maximum_and_the_sums_of_a_softmax_share_the_pass() -> None:
    scores = op("sub", SCORES, scanned(op("sigmoid", SCORES), True))
    weights = op("exp", op("sub", scores, build.reduce("max", scores, J)))
    (one,) = planned(op("div", weights, build.reduce("sum", weights, J))).passes[:1]
    assert len(one.scans) == 1 and one.accumulators[0].reduce.op == "max"


def test_both_directions_take_a_total_before() -> None:
    gates = op("sigmoid", SCORES)
    plan = planned(op("exp", op("sub", scanned(gates), scanned(gates, True))))
    first, second = plan.passes
    assert not first.scans and len(second.scans) == 1 and not second.descending
    assert any("from both ends" in reason for reason in plan.reasons)


def test_sums_of_weights_wait_for_their_statistics() -> None:
    weights = op("exp", op("sub", SCORES, build.reduce("max", SCORES, J)))
    first, second = planned(scanned(weights)).passes
    assert not first.scans and len(second.scans) == 1


def test_dead_keys_are_skipped_where_the_sum_ignores_them() -> None:
    gates = op("sigmoid", SCORES)
    tight = planned(masked(op("exp", scanned(masked(gates), True))))
    assert str(tight.keys.live_stop) == "BLOCK_ROWS + row_start" and tight.keys.live_start is None
    # hidden keys that come first count in the sum, those that come last do not matter
    assert planned(masked(op("exp", scanned(gates, True)))).keys.live_stop is None
    assert str(planned(masked(op("exp", scanned(gates)))).keys.live_stop) == "BLOCK_ROWS + row_start"


def test_past_the_last_key_a_reversed_sum_meets_nothing() -> None:
    plan = planned(op("exp", scanned(op("sigmoid", SCORES), True)))
    (scan,) = plan.passes[0].scans
    assert str(scan.arg).startswith("where(j < S, ")


def test_sums_along_the_rows_are_refused() -> None:
    other = Axis("s", N)
    along_rows = build.scan("sum", substitute(op("sigmoid", SCORES), {Iota(I): Iota(other)}), other, Iota(I))
    with pytest.raises(Diagnostic, match="accumulates, but not along the keys") as caught:
        planned(op("exp", along_rows))
    assert caught.value.code == "FL403"
