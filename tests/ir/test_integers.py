"""The normal form of integers: it cancels what views leave behind, and never changes a value."""

from __future__ import annotations

import operator

from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight.ir import build
from flashlight.ir.evaluate import evaluate_expr
from flashlight.ir.expr import BOOL, INT, Axis, Expr, Iota, Map, Scalar
from flashlight.ir.integers import isolated, simplified

H, KV = Scalar("H", INT, True), Scalar("H_kv", INT, True)
TWO = build.integer(2)
GROUP = build.op("floordiv", H, KV)
HEAD, BATCH = Axis("h", H), Axis("b", Scalar("B", INT, True))


def test_a_split_dimension_is_merged_again() -> None:
    head = Iota(HEAD)
    quotient, remainder = build.op("floordiv", head, GROUP), build.op("mod", head, GROUP)
    assert build.op("add", build.op("mul", quotient, GROUP), remainder) is head


def test_a_merged_dimension_is_split_again() -> None:
    merged = build.op("add", build.op("mul", Iota(BATCH), H), Iota(HEAD))
    assert build.op("floordiv", merged, H) is Iota(BATCH)
    assert build.op("mod", merged, H) is Iota(HEAD)


def test_what_counts_in_steps_is_divided_in_steps() -> None:
    """(b * 8 + r) // (B * 8) and % (B * 8), for r below 8: rows of a view that regroups heads."""
    merged = Iota(Axis("m", build.op("mul", Scalar("B", INT, True), Scalar("L", INT, True))))
    within, eight = Iota(Axis("r", build.integer(8))), build.integer(8)
    size = Scalar("B", INT, True)
    index = build.op("add", build.op("mul", merged, eight), within)
    batches = build.op("mul", size, eight)
    assert build.op("floordiv", index, batches) is build.op("floordiv", merged, size)
    steps = build.op("mul", build.op("mod", merged, size), eight)
    assert build.op("mod", index, batches) is build.op("add", steps, within)
    reaching = build.op("add", index, build.integer(1))  # r + 1 may be 8
    assert build.op("floordiv", reaching, batches) is not build.op("floordiv", merged, size)


@st.composite
def integers(draw: st.DrawFn, depth: int = 3) -> tuple[Expr, int]:
    """An expression over the position along ``h`` at 5, H = 12 and H_kv = 4, and its value by Python."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        leaf = draw(st.sampled_from(["position", "size", "constant"]))
        if leaf == "position":
            return Iota(HEAD), 5
        if leaf == "size":
            return draw(st.sampled_from([(H, 12), (KV, 4)]))
        number = draw(st.integers(-4, 9))
        return build.integer(number), number
    (left, a), (right, b) = draw(integers(depth - 1)), draw(integers(depth - 1))
    name = draw(st.sampled_from(["add", "sub", "mul", "floordiv", "mod"]))
    if name in ("floordiv", "mod"):
        right, b = draw(st.sampled_from([(build.integer(3), 3), (KV, 4), (GROUP, 3), (build.op("mul", KV, TWO), 8)]))
    apply = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv}
    return build.op(name, left, right), apply.get(name, operator.mod)(a, b)


@settings(max_examples=400)
@given(integers())
def test_folding_keeps_the_value(drawn: tuple[Expr, int]) -> None:
    expr, expected = drawn
    numbers = {"H": 12, "H_kv": 4, "B": 2}
    values = evaluate_expr(expr, {}, numbers, (HEAD,))
    assert int(values.expand(12)[5]) == expected


@settings(max_examples=400)
@given(st.sampled_from(["lt", "le", "gt", "ge"]), integers(), integers())
def test_simplified_comparisons_keep_their_truth(name: str, one: tuple[Expr, int], other: tuple[Expr, int]) -> None:
    (left, a), (right, b) = one, other
    after = simplified(build.op(name, left, right))
    truth = bool(evaluate_expr(after, {}, {"H": 12, "H_kv": 4, "B": 2}, (HEAD,)).expand(12)[5])
    assert truth == getattr(operator, name)(a, b)


def test_comparisons_that_the_extents_decide() -> None:
    position = Iota(HEAD)
    assert simplified(build.op("lt", position, build.integer(0))) is build.false()
    assert simplified(build.op("ge", build.op("add", position, build.integer(1)), build.integer(1))) is build.true()
    both = [build.op("add", one, build.integer(4)) for one in (position, Iota(BATCH))]
    assert simplified(build.op("le", *both)) is build.op("le", position, Iota(BATCH))


@settings(max_examples=400)
@given(st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]), integers(), integers())
def test_comparisons_hold_for_the_same_positions_once_isolated(
    name: str, one: tuple[Expr, int], other: tuple[Expr, int]
) -> None:
    (left, a), (right, b) = one, other
    after = isolated(Map(name, (left, right), BOOL), Iota(HEAD))
    if after is None:
        return
    assert after.args[0] is Iota(HEAD) and HEAD not in after.args[1].axes
    truth = bool(evaluate_expr(after, {}, {"H": 12, "H_kv": 4, "B": 2}, (HEAD,)).expand(12)[5])
    assert truth == getattr(operator, name)(a, b)


def test_what_has_the_position_once_is_isolated() -> None:
    position, row, two = Iota(HEAD), Iota(BATCH), build.integer(2)
    distance = build.op("sub", row, position)
    window = Map("lt", (distance, two), BOOL)
    assert isolated(window, position) is Map("gt", (position, build.op("sub", row, two)), BOOL)
    assert isolated(window, row) is Map("lt", (row, build.op("add", position, two)), BOOL)
    for left in (build.op("mul", distance, two), build.op("mod", distance, two), build.op("abs", distance), row):
        assert isolated(Map("lt", (left, two), BOOL), position) is None
