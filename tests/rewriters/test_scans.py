"""Cumulative sums in one form, what their logarithms and fills allow, and that nothing of it changes a result."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight.ir import build, integers
from flashlight.ir.expr import BOOL, Axis, Expr, Iota, Map, Reduce, Scan, walk
from flashlight.ir.program import Program, substitute
from rewriters.dead import vanishes
from rewriters.pipeline import run
from rewriters.scans import scans
from tests.rewriters.conftest import BIAS, FLOAT, KEYS, SINK, D, I, J, K, V, at, op, over, program, same

SEEDS = st.integers(0, 2**16)
OTHER = Axis("s", build.integer(KEYS))
LAST = build.integer(KEYS - 1)


def along(expr: Expr, position: Expr) -> Expr:
    return substitute(expr, {Iota(J): position})


def flipped(body: Expr) -> Expr:
    """flip, cumsum, flip."""
    mirrored = along(body, integers.sub(LAST, Iota(OTHER)))
    return build.scan("sum", mirrored, OTHER, integers.sub(LAST, Iota(J)))


def remaining(body: Expr) -> Expr:
    """The total without a prefix."""
    total = over("sum", along(body, Iota(OTHER)), OTHER)
    return op("sub", total, build.scan("sum", along(body, Iota(OTHER)), OTHER, Iota(J)))


def triangular(body: Expr) -> Expr:
    """A product with a triangular matrix."""
    below = build.op("gt", Iota(OTHER), Iota(J))
    matrix = build.where(below, build.const(1.0, FLOAT), build.const(0.0, FLOAT))
    return over("sum", op("mul", along(body, Iota(OTHER)), matrix), OTHER)


SPELLINGS = {"flipped": flipped, "remaining": remaining, "triangular": triangular}


def bodies(masked: bool) -> Expr:
    """What is left after each key, in logarithms."""
    x = at(BIAS, I, J)
    tail = op("log", op("add", op("exp", op("neg", op("abs", x))), 1.0))
    left = op("sub", op("minimum", 0.0, op("neg", x)), tail)
    return build.where(build.op("lt", Iota(J), Iota(I)), left, build.const(0.0, FLOAT)) if masked else left


def attention(spelling: str, masked: bool) -> Program:
    body = bodies(masked)
    exponent = op("add", at(BIAS, I, J), SPELLINGS[spelling](body))
    return program(over("sum", op("mul", op("exp", exponent), at(V, J, D))), I, D)


def found(one: Program) -> list[Scan]:
    return [node for node in walk(one.outputs[0].expr) if isinstance(node, Scan)]


@settings(max_examples=10)
@given(st.sampled_from(sorted(SPELLINGS)), st.booleans(), SEEDS)
def test_all_spellings_are_one_scan(spelling: str, masked: bool, seed: int) -> None:
    before = attention(spelling, masked)
    after = scans(before)
    same(before, after, seed)
    (scan,) = found(after)
    assert scan.reverse and scan.at is Iota(J)
    assert not any(isinstance(node, Reduce) and node.axis is OTHER for node in walk(after.outputs[0].expr))
    same(before, run(before).program, seed)


@settings(max_examples=10)
@given(SEEDS)
def test_what_is_added_and_subtracted_cancels(seed: int) -> None:
    body = bodies(masked=True)
    exponent = op("add", op("add", at(BIAS, I, J), body), remaining(body))
    before = program(over("sum", op("mul", op("exp", exponent), at(V, J, D))), I, D)
    after = scans(before)
    same(before, after, seed)
    text = str(after)
    assert "output[i, d] = Σ_j exp(bias[i, j] + (Σ_(s >= j) " in text


def test_a_causal_mask_is_no_scan() -> None:
    """Σ_j where(j <= i, v[j], 0): i is a row of the output, and j is what the loop runs over."""
    visible = build.op("le", Iota(J), Iota(I))
    one = program(over("sum", build.where(visible, at(V, J, D), build.const(0.0, FLOAT))), I, D)
    assert scans(one).outputs[0].expr is one.outputs[0].expr


@settings(max_examples=10)
@given(SEEDS)
def test_logarithms_of_scores_are_computed_in_base_2(seed: int) -> None:
    scores = over("sum", op("mul", at(K, J, D), at(V, J, D)), D)
    scores = op("mul", op("add", scores, at(SINK, I)), 0.5)
    left = op("sub", op("minimum", 0.0, scores), op("log", op("add", op("exp", op("neg", op("abs", scores))), 1.0)))
    before = program(over("sum", op("exp", op("add", scores, build.scan("sum", left, J, Iota(J))))), I)
    after = run(before).program
    same(before, after, seed)
    used = {node.op for node in walk(after.outputs[0].expr) if isinstance(node, Map)}
    assert {"exp2", "log2"} <= used and not {"exp", "log"} & used


@pytest.mark.parametrize(
    ("fill", "sign", "hidden"), [(-1e5, 1.0, True), (-1e5, -1.0, False), (-10.0, 1.0, False)], ids=str
)
def test_a_low_fill_hides_what_is_never_positive(fill: float, sign: float, hidden: bool) -> None:
    visible = build.op("lt", Iota(J), Iota(I))
    masked = build.where(visible, at(BIAS, I, J), build.const(fill, FLOAT))
    body = bodies(masked=True)
    rest = op("sub", build.scan("sum", body, J, Iota(J), True), body)
    weight = op("exp", op("add", masked, op("mul", rest, sign) if sign < 0 else rest))
    reduction = over("sum", op("mul", weight, at(V, J, D)))
    assert isinstance(reduction, Reduce) and masked.args[0].dtype == BOOL  # type: ignore[attr-defined]
    assert vanishes(reduction, masked, fill) == hidden


@settings(max_examples=10)
@given(st.sampled_from(["abs", "minimum", "maximum"]), st.sampled_from([-0.5, 0.5]), SEEDS)
def test_a_negative_factor_stays_outside(function: str, factor: float, seed: int) -> None:
    scores = op("add", over("sum", op("mul", at(K, J, D), at(V, J, D)), D), at(SINK, I))
    bent = op("abs", scores) if function == "abs" else op(function, scores, 0.25)
    before = program(over("sum", op("exp", op("mul", bent, factor))), I)
    same(before, run(before).program, seed)
