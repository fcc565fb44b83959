"""Scans: what the evaluator makes of them, how they print, and that renaming keeps their direction."""

from __future__ import annotations

import pytest
import torch

from flashlight.ir import build
from flashlight.ir.evaluate import evaluate_expr
from flashlight.ir.expr import FLOAT, Axis, Iota, Load, Scan, Tensor
from flashlight.ir.program import renamed, substitute

I, J = Axis("i", build.integer(3)), Axis("j", build.integer(5))  # noqa: E741
X = Tensor("x", (I.extent, J.extent), FLOAT)
BODY = Load(X, (Iota(I), Iota(J)))


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("op", ["sum", "prod"])
def test_reversed_is_flipped(op: str, shift: int) -> None:
    x = torch.randn(3, 5, dtype=torch.float64)
    at = build.op("add", Iota(J), build.integer(shift))
    value = evaluate_expr(build.scan(op, BODY, J, at, True), {"x": x}, {}, (I, J))
    cumulative = {"sum": torch.cumsum, "prod": torch.cumprod}[op]
    neutral = torch.full((3, 1), 0.0 if op == "sum" else 1.0, dtype=torch.float64)
    whole = torch.cat([cumulative(x.flip(-1), -1).flip(-1), neutral], -1)  # [3, 6], by the first position
    expected = torch.stack([whole[:, min(max(j + shift, 0), 5)] for j in range(5)], -1)
    torch.testing.assert_close(value, expected)


def test_prints_with_a_bound_name_of_its_own() -> None:
    assert str(build.scan("sum", BODY, J, Iota(J))) == "Σ_(j' <= j) x[i, j']"
    assert str(build.scan("sum", BODY, J, Iota(J), True)) == "Σ_(j' >= j) x[i, j']"


def test_renaming_keeps_the_direction() -> None:
    other = Axis("k", J.extent)
    scan = build.scan("sum", BODY, J, Iota(J), True)
    assert renamed(scan, J, other) is Scan("sum", Load(X, (Iota(I), Iota(other))), other, Iota(other), True)
    assert substitute(scan, {Iota(J): Iota(other)}) is Scan("sum", BODY, J, Iota(other), True)
