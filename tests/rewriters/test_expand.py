"""Distances as matrix products: the same number, and no less exact than the differences where the law is used."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight.ir import build
from flashlight.ir.evaluate import evaluate
from flashlight.ir.expr import ELEMENT, FLOAT, Axis, Expr, Load, Reduce, Tensor, walk
from flashlight.ir.program import Output, Program
from rewriters.expand import Expansion, expansion
from tests.rewriters.conftest import D, I, J, at, op, over, same

POINTS, SPACE = Axis("p", build.integer(2)), Axis("x", build.integer(3))
A, B = (Tensor(name, (axis.extent, D.extent), ELEMENT) for name, axis in (("a", I), ("b", J)))


def distance(left: Expr, right: Expr, power: bool = False) -> Reduce:
    difference = op("sub", left, right)
    square = op("pow", difference, 2.0) if power else op("mul", difference, difference)
    reduced = over("sum", build.cast(square, FLOAT), D)
    assert isinstance(reduced, Reduce)
    return reduced


def program(expr: Expr) -> Program:
    return Program("law", (A, B), (Output("output", (I,), over("min", expr), FLOAT),))


@given(st.booleans(), st.booleans(), st.integers(0, 2**16))
@settings(max_examples=20)
def test_the_number_is_the_same(power: bool, swapped: bool, seed: int) -> None:
    a, b = at(A, I, D), at(B, J, D)
    before = distance(*((b, a) if swapped else (a, b)), power)
    found = expansion(before, I, J)
    assert found is not None
    product = {node.tensor for node in walk(found.product) if isinstance(node, Load)}
    assert product == {A, B} and J not in found.row_term.axes and I not in found.key_term.axes
    same(program(before), program(found.expanded), seed)


REFUSED = {
    "one side has both axes": distance(at(A, I, D), at(Tensor("c", (I.extent, J.extent, D.extent), ELEMENT), I, J, D)),
    "a side is computed": distance(op("mul", at(A, I, D), at(A, I, D)), at(B, J, D)),
    "a side is float32": distance(at(A, I, D), at(Tensor("c", (J.extent, D.extent), FLOAT), J, D)),
    "two of the rows": distance(at(A, I, D), at(Tensor("c", (I.extent, D.extent), ELEMENT), I, D)),
    "a coordinate is missing": distance(at(A, I, D), at(Tensor("c", (J.extent,), ELEMENT), J)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_side_conditions(name: str) -> None:
    assert expansion(REFUSED[name], I, J) is None


def _distances(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Expanded in float32, as the user's program computes them in the dtype given, and in float64."""
    x, y = a.float(), b.float()
    expanded = (x * x).sum(-1)[:, None] + (y * y).sum(-1) - 2 * (x @ y.T)
    eager = (a[:, None] - b).pow(2).sum(-1).double()
    return expanded.clamp_min(0).double(), eager, (a.double()[:, None] - b.double()).pow(2).sum(-1)


@given(st.integers(0, 2**16), st.sampled_from([1.0, 30.0]), st.sampled_from([0.0, 1.0, 100.0, 10000.0]))
@settings(max_examples=40)
def test_no_less_exact_in_bfloat16(seed: int, spread: float, offset: float) -> None:
    """As weights see it: against the weights that the points would have had before bfloat16 rounded them."""
    generator = torch.Generator().manual_seed(seed)
    a, b = ((torch.randn(24, 12, generator=generator) * spread + offset).bfloat16() for _ in range(2))
    b[:4] = a[:4]  # points that coincide
    expanded, eager, exact = _distances(a, b)
    squares = a.double().pow(2).sum(-1)[:, None] + b.double().pow(2).sum(-1)
    # Products are exact. Each of the three sums of n terms rounds by n - 1 units of 2^-24 of what it adds at most,
    # and 2 |a b| is no more than the squares; then two additions, of no more than twice the squares
    assert ((expanded - exact).abs() <= (2 * (a.shape[1] - 1) + 3) * 2.0**-24 * squares).all()
    unit = 2.0**-22 * squares
    # a change of both points by an eighth of their own rounding explains the error, or eager's is greater
    assert (expanded - exact).norm() <= max(float((eager - exact).norm()), float(unit.norm()) / 8)


def test_points_at_infinity() -> None:
    found = expansion(distance(at(A, I, D), at(B, J, D)), I, J)
    assert isinstance(found, Expansion)
    a, b = torch.randn(4, 3), torch.randn(5, 3)
    a[1, 0], b[2, 1], a[2, 2] = math.inf, -math.inf, math.nan
    result = evaluate(program(found.expanded), {"a": a, "b": b}, {})["output"]
    assert torch.isinf(result[1]) and torch.isnan(result[2]) and torch.isfinite(result[[0, 3]]).all()
