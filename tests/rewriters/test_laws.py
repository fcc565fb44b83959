"""No law changes what a program computes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Expr, Iota, Load, Map, Reduce, Scalar, Tensor, walk
from flashlight.ir.program import Program
from rewriters.base2 import base2
from rewriters.common import common
from rewriters.factors import factors
from rewriters.flatten import flatten
from rewriters.merge import merge
from rewriters.odd import odd
from rewriters.peel import peel
from rewriters.pipeline import LAWS, run
from rewriters.scale import scale
from rewriters.shift import shift
from rewriters.unroll import unroll
from tests.rewriters.conftest import (
    BIAS,
    FLOAT,
    HEADS,
    KEYS,
    SINK,
    WIDER,
    WIDTH,
    D,
    I,
    J,
    K,
    Q,
    V,
    at,
    attentions,
    masked,
    op,
    over,
    program,
    same,
    values,
)

SEEDS = st.integers(0, 2**16)


@pytest.mark.parametrize(("name", "law"), LAWS, ids=[name for name, _ in LAWS])
def test_each_law(name: str, law: object) -> None:
    @settings(max_examples=25)
    @given(attentions(), SEEDS)
    def check(before: Program, seed: int) -> None:
        same(before, law(before), seed)  # type: ignore[operator]

    check()


@settings(max_examples=50)
@given(attentions(), SEEDS)
def test_all_laws_in_order(before: Program, seed: int) -> None:
    same(before, run(before).program, seed)


@settings(max_examples=30)
@given(st.sampled_from(["add", "sub", "turned"]), st.booleans(), st.sampled_from([0.5, 2.0, 2.0**-30]), SEEDS)
def test_common(how: str, of_rows: bool, number: float, seed: int) -> None:
    product = op("mul", over("sum", op("mul", at(Q, I, D), at(K, J, D)), D), number)
    places = build.cast(Iota(J) if of_rows else integers.sub(Iota(J), Iota(I)), FLOAT)
    term = op("mul", at(SINK, I) if of_rows else 3.0, places)
    before = program(op("add", term, product) if how == "turned" else op(how, product, term), I, J)
    after = common(before)
    same(before, after, seed)
    result = after.outputs[0].expr
    assert isinstance(result, Map) and (result.op == "mul") == (number >= 2.0**-20)


def test_common_leaves_what_is_read() -> None:
    product = op("mul", over("sum", op("mul", at(Q, I, D), at(K, J, D)), D), 0.5)
    before = program(op("add", product, op("mul", at(BIAS, I, J), 3.0)), I, J)
    assert common(before).outputs[0].expr is before.outputs[0].expr


@settings(max_examples=20)
@given(st.sampled_from(["sum", "max", "min"]), st.booleans(), SEEDS)
def test_peel(operation: str, in_front: bool, seed: int) -> None:
    column, first = Iota(WIDER), build.integer(1)
    if in_front:
        moved = integers.sub(column, first)
        body = build.where(build.op("lt", column, first), at(SINK, I), op("exp", Load(BIAS, (Iota(I), moved))))
    else:
        body = build.where(build.op("lt", column, J.extent), op("exp", Load(BIAS, (Iota(I), column))), at(SINK, I))
    before = program(over(operation, body, WIDER), I)
    after = peel(before)
    assert all(node.axis.extent is J.extent for node in walk(after.outputs[0].expr) if isinstance(node, Reduce))
    same(before, after, seed)


@pytest.mark.parametrize("cap", [3.0, -3.0, -0.25])
@pytest.mark.parametrize("within", ["mul", "div"])
def test_odd(cap: float, within: str) -> None:
    """A number that scales an odd function within and without counts as positive."""
    number = Scalar("cap", FLOAT)
    scores = over("sum", op("mul", at(Q, I, D), at(K, J, D)), D)
    factor = build.op("mul", number if within == "mul" else op("div", 1.0, number), build.const(0.5, FLOAT))
    before = program(over("max", op("mul", op("tanh", op("mul", scores, factor)), number)), I)
    after = scale(odd(before))
    assert not isinstance(after.outputs[0].expr, Reduce), "the factor has left the maximum"
    numbers = {"cap": cap}
    torch.testing.assert_close(values(after, 0, numbers), values(before, 0, numbers))


def test_odd_needs_the_number_on_both_sides() -> None:
    number, other = Scalar("cap", FLOAT), Scalar("temperature", FLOAT)
    for inner, outer in ((other, number), (build.op("add", number, other), number), (number, build.op("exp", number))):
        before = program(op("mul", op("tanh", op("mul", at(BIAS, I, J), inner)), outer), I, J)
        assert odd(before).outputs[0].expr is before.outputs[0].expr


def test_peel_needs_few_columns() -> None:
    wide = Axis("j", build.integer(KEYS + 9))
    body = build.where(build.op("lt", Iota(wide), J.extent), Load(BIAS, (Iota(I), Iota(wide))), at(SINK, I))
    before = program(over("sum", body, wide), I)
    assert peel(before).outputs[0].expr is before.outputs[0].expr


@settings(max_examples=20)
@given(SEEDS)
def test_features_that_are_joined_part_where_some_are_normalised(seed: int) -> None:
    joined = Axis("f", build.integer(2 * WIDTH))
    position, width = Iota(joined), D.extent
    second = (Iota(J), integers.sub(position, width))
    norm = over("sum", op("mul", at(K, J, D), at(K, J, D)), D)
    features = build.where(
        build.op("lt", position, width), op("div", Load(K, (Iota(J), position)), norm), Load(V, second)
    )
    before = program(over("sum", over("sum", features, joined)), I)
    after = peel(before)
    assert not any(isinstance(node, Reduce) and node.axis is joined for node in walk(after.outputs[0].expr))
    same(before, after, seed)


@given(SEEDS)
@settings(max_examples=10)
def test_shift_twice_is_once(seed: int) -> None:
    x = at(BIAS, I, J)
    once = op("sub", x, over("max", x))
    before = program(over("sum", op("exp", op("sub", once, over("max", once)))), I)
    after = shift(before)
    assert sum(isinstance(node, Reduce) and node.op == "max" for node in walk(after.outputs[0].expr)) == 1
    same(before, after, seed)


def _mixed(extent: int) -> tuple[Program, Axis]:
    heads = Axis("h", build.integer(extent))
    query, key = (Tensor(name, (heads.extent, axis.extent, D.extent), FLOAT) for name, axis in (("q", I), ("k", J)))
    each = over("sum", op("mul", at(query, heads, I, D), at(key, heads, J, D)), D)
    mixed = over("sum", op("mul", op("tanh", each), build.cast(Iota(heads), FLOAT)), heads)
    return Program("law", (query, key), program(over("max", mixed), I).outputs), heads


@given(SEEDS)
@settings(max_examples=10)
def test_unroll(seed: int) -> None:
    before, heads = _mixed(HEADS)
    after = unroll(before)
    assert not any(isinstance(node, Reduce) and node.axis is heads for node in walk(after.outputs[0].expr))
    same(before, after, seed)


def test_unroll_leaves_keys_alone() -> None:
    before = program(over("max", over("sum", op("mul", at(Q, I, D), at(K, J, D)), D)), I)
    assert unroll(before).outputs[0].expr is before.outputs[0].expr


def test_unroll_needs_few_positions() -> None:
    before, _ = _mixed(64)
    assert unroll(before).outputs[0].expr is before.outputs[0].expr


POINTS, SPACE = Axis("p", build.integer(2)), Axis("x", build.integer(3))
LEFT, RIGHT = (Tensor(name, (axis.extent, POINTS.extent, SPACE.extent), FLOAT) for name, axis in (("a", I), ("b", J)))


def _distance(outer: Axis, inner: Axis) -> Expr:
    difference = op("sub", at(LEFT, I, POINTS, SPACE), at(RIGHT, J, POINTS, SPACE))
    return over("sum", over("sum", op("mul", difference, difference), inner), outer)


@pytest.mark.parametrize("nested", [(POINTS, SPACE), (SPACE, POINTS)])
@given(SEEDS)
@settings(max_examples=5)
def test_merge_of_nested_sums(nested: tuple[Axis, Axis], seed: int) -> None:
    before = Program("law", (LEFT, RIGHT), program(over("max", _distance(*nested)), I).outputs)
    merged = merge(before, POINTS, SPACE)
    assert merged is not None
    same(before, merged[0], seed)


@given(SEEDS)
@settings(max_examples=5)
def test_merge_of_output_axes(seed: int) -> None:
    body = over("sum", op("mul", at(RIGHT, J, POINTS, SPACE), op("exp", at(BIAS, I, J))))
    before = Program("law", (LEFT, RIGHT, BIAS), program(body, I, POINTS, SPACE).outputs)
    merged = merge(before, POINTS, SPACE)
    assert merged is not None
    assert len(merged[0].outputs[0].axes) == 2
    same(before, merged[0], seed)


def test_merge_needs_both_axes_everywhere() -> None:
    weight = Tensor("weight", (POINTS.extent,), FLOAT)
    body = over("sum", op("mul", over("sum", at(RIGHT, J, POINTS, SPACE), SPACE), at(weight, POINTS)), POINTS)
    before = Program("law", (RIGHT, weight), program(over("max", body), I).outputs)
    assert merge(before, POINTS, SPACE) is None


def _norm(floor: float) -> Expr:
    row = over("sum", op("mul", at(Q, I, D), at(Q, I, D)), D)
    return op("maximum", op("sqrt", row), floor) if floor else op("sqrt", row)


@given(SEEDS)
@settings(max_examples=10)
def test_factors_join(seed: int) -> None:
    """Two divisions of a tile become one number and one row of reciprocals."""
    tile = over("sum", op("mul", at(Q, I, D), at(K, J, D)), D)
    before = program(op("mul", op("div", op("div", tile, 3.0), _norm(1e-12)), 2.0), I, J)
    after = factors(before)
    same(before, after, seed)
    products = [node for node in walk(after.outputs[0].expr) if isinstance(node, Map) and node.axes == {I, J}]
    assert [node.op for node in products] == ["mul"]


def test_a_reciprocal_that_may_overflow_is_not_taken() -> None:
    tile = over("sum", op("mul", at(Q, I, D), at(K, J, D)), D)
    before = program(op("div", tile, _norm(0.0)), I, J)
    assert factors(before).outputs[0].expr is before.outputs[0].expr


@given(SEEDS)
@settings(max_examples=10)
def test_a_negative_factor_stays_outside_a_maximum(seed: int) -> None:
    tile = masked(over("sum", op("mul", at(Q, I, D), at(K, J, D)), D), "selection")
    weights = op("exp", op("mul", op("sub", tile, over("max", tile)), -0.5))
    before = program(op("div", weights, op("add", weights, 1.0)), I, J)
    after = base2(before)
    assert any(isinstance(node, Map) and node.op == "exp2" for node in walk(after.outputs[0].expr))
    left, right = values(before, seed), values(after, seed)
    torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9, equal_nan=True)


@given(SEEDS)
@settings(max_examples=5)
def test_flatten_reads_a_view(seed: int) -> None:
    before = Program("law", (LEFT, RIGHT), program(over("max", _distance(POINTS, SPACE)), I).outputs)
    merged = merge(before, POINTS, SPACE)
    assert merged is not None
    after = flatten(merged[0])
    assert [len(tensor.shape) for tensor in after.inputs] == [2, 2]
    same(merged[0], after, seed)  # both draw as many numbers in the same order


def test_equal_numbers_differ_by_zero_when_products_are_fused() -> None:
    """The entropy of one key: log p is zero, on hardware that fuses a product with the addition too."""
    scores = over("sum", op("mul", at(Q, I, D), at(K, J, D)), D)
    scaled = op("mul", scores, 0.1)
    centred = op("sub", scaled, over("max", scaled))
    entropy = over("sum", op("mul", op("exp", centred), centred))
    before = program(entropy, I)
    after = run(before).program
    for one in walk(after.outputs[0].expr):
        power = isinstance(one, Map) and one.op == "exp2"
        assert power or not any(is_fused(child) for child in one.children)
    same(before, after, 0)


def is_fused(expr: Expr) -> bool:
    """Whether it may be computed by a multiply-add that rounds one of two products."""
    return isinstance(expr, Map) and expr.op == "sub" and all(isinstance(x, Map) and x.op == "mul" for x in expr.args)
