"""Lower bounds hold for whatever the inputs are."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight.ir.expr import Expr
from flashlight.ir.signs import at_least, between, is_positive
from tests.rewriters.conftest import BIAS, SINK, I, J, at, op, over, program, values

LEAVES = st.sampled_from([at(BIAS, I, J), at(SINK, I)]) | st.floats(-2, 2, width=32).map(lambda x: op("add", x, 0.0))


def grown(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    one = st.sampled_from(["exp", "abs", "neg", "sigmoid", "tanh"])
    two = st.sampled_from(["add", "sub", "mul", "maximum", "minimum"])
    return (
        st.builds(op, one, children)
        | st.builds(op, two, children, children)
        | children.map(lambda x: op("mul", x, x))
        | children.map(lambda x: op("sqrt", op("abs", x)))
        | st.builds(over, st.sampled_from(["max", "sum", "min"]), children)
    )


@settings(max_examples=200)
@given(st.recursive(LEAVES, grown, max_leaves=6), st.integers(0, 2**16))
def test_bounds_hold(expr: Expr, seed: int) -> None:
    smallest = values(program(expr, I, J), seed).min()
    if torch.isfinite(smallest):
        assert smallest >= at_least(expr) - 1e-6 * abs(smallest)
        assert smallest >= 0 or not is_positive(expr)


def spread(children: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    one = st.sampled_from(["tanh", "sigmoid", "erf", "sin", "cos", "neg"])
    two = st.sampled_from(["add", "sub", "mul", "maximum", "minimum"])
    return st.builds(op, one, children) | st.builds(op, two, children, children)


@settings(max_examples=200)
@given(st.recursive(LEAVES, spread, max_leaves=8), st.integers(0, 2**16))
def test_values_lie_between_their_bounds(expr: Expr, seed: int) -> None:
    low, high = between(expr)
    found = values(program(expr, I, J), seed)
    found = found[torch.isfinite(found)]
    assert ((found >= low - 1e-5) & (found <= high + 1e-5)).all()


def test_a_norm_kept_from_zero_has_a_bound() -> None:
    norm = op("sqrt", over("sum", op("mul", at(BIAS, I, J), at(BIAS, I, J))))
    assert at_least(norm) == 0
    assert at_least(op("maximum", norm, 1e-12)) == 1e-12
    assert at_least(op("add", norm, 1e-6)) == 1e-6


@settings(max_examples=50)
@given(st.recursive(LEAVES, grown, max_leaves=4), st.integers(0, 2**16))
def test_the_sum_of_a_softmax_is_at_least_one(scores: Expr, seed: int) -> None:
    scores = op("add", scores, at(BIAS, I, J))
    total = over("sum", op("exp", op("sub", scores, over("max", scores))))
    assert at_least(total) == 1
    smallest = values(program(total, I), seed).min()
    assert smallest >= 1 or not torch.isfinite(smallest)
    assert at_least(over("sum", op("exp", op("sub", scores, over("min", scores))))) == 0
