"""Tile ranges against brute force: nothing live outside the live range, nothing masked inside the full one."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight.ir import build
from flashlight.ir.evaluate import evaluate_expr
from flashlight.ir.expr import BOOL, INT, Axis, Expr, Iota, Scalar
from flashlight.ir.program import substitute
from flashlight.schedule import intervals

ROWS, KEYS = 29, 37
I = Axis("i", build.integer(ROWS))  # noqa: E741
J = Axis("j", build.integer(KEYS))
WINDOW = Scalar("window", INT)


def sides(draw: st.DrawFn) -> tuple[Expr, Expr]:
    """An expression in keys and one in rows."""
    step, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 4, 5]))
    shift = draw(st.integers(-9, 9))
    key = build.op("floordiv", build.op("mul", Iota(J), build.integer(step)), build.integer(group))
    row = build.op(
        "add", build.op("floordiv", Iota(I), build.integer(draw(st.sampled_from([1, 4])))), build.integer(shift)
    )
    return key, build.op("add", row, WINDOW) if draw(st.booleans()) else row


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> Expr:
    kind = draw(st.sampled_from(["compare", "abs", "and", "or"] if depth else ["compare", "abs"]))
    if kind in ("and", "or"):
        return build.op(kind, draw(conditions(depth - 1)), draw(conditions(depth - 1)))
    if kind == "abs":
        distance = build.op("abs", build.op("sub", Iota(J), Iota(I)))
        return build.op("le", distance, build.integer(draw(st.integers(0, 12))))
    key, row = sides(draw)
    pair = (key, row) if draw(st.booleans()) else (row, key)
    return build.op(draw(st.sampled_from(["le", "lt", "ge", "gt", "eq"])), *pair)


@settings(max_examples=300)
@given(conditions(), st.integers(0, ROWS - 1), st.integers(1, 16), st.integers(0, 7))
def test_ranges_are_right(condition: Expr, first: int, rows: int, window: int) -> None:
    found = intervals.keys(condition, I, J)
    if found is None or condition.dtype != BOOL:
        return
    numbers = {"row_start": first, "BLOCK_ROWS": rows, "window": window}
    holds = evaluate_expr(condition, {}, numbers, (I, J)).expand(ROWS, KEYS)[first : first + rows]

    def bound(expr: Expr | None, default: int) -> int:
        return default if expr is None else int(evaluate_expr(expr, {}, numbers))

    key = torch.arange(KEYS)
    live = (key >= bound(found.live_start, 0)) & (key < bound(found.live_stop, KEYS))
    full = (key >= bound(found.full_start, 0)) & (key < bound(found.full_stop, KEYS))
    assert not holds[:, ~live].any(), "a key outside the live range is seen"
    assert holds[:, full].all(), "a key inside the full range is not seen by every row"


@settings(max_examples=300)
@given(conditions(depth=0), st.integers(0, 7))
def test_what_keeps_rows_within_the_keys(condition: Expr, window: int) -> None:
    if not intervals.within(condition, J):
        return
    beyond = substitute(condition, {Iota(J): build.op("add", Iota(J), build.integer(KEYS))})
    assert not evaluate_expr(beyond, {}, {"window": window}, (I, J)).any(), "a row sees a key past the last"


def test_the_diagonal_keeps_rows_within_the_keys() -> None:
    short, long = Axis("i", Scalar("S", INT, True)), Axis("j", Scalar("T", INT, True))
    aligned = build.op("add", Iota(short), build.op("sub", long.extent, short.extent))
    assert intervals.within(build.op("le", Iota(long), aligned), long)
    assert intervals.within(build.op("gt", aligned, Iota(long)), long)
    assert not intervals.within(build.op("le", Iota(long), Iota(short)), long)
    assert not intervals.within(build.op("ge", Iota(long), Iota(short)), long)
    assert not intervals.within(build.op("le", Iota(long), build.op("add", Iota(short), WINDOW)), long)


def test_causal_ranges_are_tight() -> None:
    found = intervals.keys(build.op("le", Iota(J), Iota(I)), I, J)
    assert found is not None
    assert str(found.live_stop) == "BLOCK_ROWS + row_start"
    assert str(found.full_stop) == "row_start + 1"
    assert found.live_start is None and found.full_start is None
