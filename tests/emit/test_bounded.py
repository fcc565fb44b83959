"""Where a bound of the scores stands in for their maximum, and that it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """
def attend(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    cap: float,
):
    scores = {scores}
    return {result}
"""
CAPPED = "cap * torch.tanh(q @ k.mT / cap)"
SOFTMAX = "scores.softmax(-1) @ v"
BOUNDED = {
    "a cap of the caller": (CAPPED, SOFTMAX),
    "a cap in the program": ("30.0 * torch.tanh(q @ k.mT / 30.0)", SOFTMAX),
    "a sigmoid": ("5.0 * torch.sigmoid(q @ k.mT)", SOFTMAX),
    "a gate behind it": (CAPPED, f"({SOFTMAX}) * v.sigmoid()"),
    "keys that are hidden": (
        f"({CAPPED}).masked_fill(k.new_ones(q.shape[2], q.shape[2]).triu(1) > 0, -math.inf)",
        SOFTMAX,
    ),
}
UNBOUNDED = {
    "no bound": ("q @ k.mT", SOFTMAX),
    "too far apart": ("50.0 * torch.tanh(q @ k.mT / 50.0)", SOFTMAX),
    "a finite mask": (f"({CAPPED}).masked_fill(k.new_ones(q.shape[2], q.shape[2]).triu(1) > 0, -1e9)", SOFTMAX),
    "the maximum is a result": (CAPPED, f"{SOFTMAX}, scores.amax(-1)"),
    "a sum that is not normalised": (CAPPED, "torch.exp(scores - scores.amax(-1, keepdim=True)) @ v"),
    "the sum is a result": (CAPPED, f"{SOFTMAX}, scores.logsumexp(-1)"),
    "the maximum is asked for": (
        f"{CAPPED}",
        f"torch.where(scores.amax(-1, keepdim=True) > 0.5, 1.0, 0.0) * ({SOFTMAX})",
    ),
}


@pytest.mark.parametrize("case", BOUNDED)
def test_a_bound_serves(case: str, kernels: Callable[[str], str]) -> None:
    scores, result = BOUNDED[case]
    assert "running_max if BOUNDED else" in kernels(HEAD.format(scores=scores, result=result))


@pytest.mark.parametrize("case", UNBOUNDED)
def test_a_maximum_is_needed(case: str, kernels: Callable[[str], str]) -> None:
    scores, result = UNBOUNDED[case]
    assert "BOUNDED" not in kernels(HEAD.format(scores=scores, result=result))


@pytest.mark.interpret
@pytest.mark.parametrize("case", BOUNDED)
def test_it_is_the_same(case: str, verified: Callable[[str], str]) -> None:
    scores, result = BOUNDED[case]
    verified(HEAD.format(scores=scores, result=result))


SCRIPT = f"""
import sys
import torch

sys.path.insert(0, {str(Path(__file__).parents[2] / "generated")!r})
import soft_cap as wrapper
import soft_cap_triton as kernels

torch.manual_seed(torch.seed() % 2**32)
print("seed", torch.initial_seed())
seen = []
launch = kernels.soft_cap_kernel.run
kernels.soft_cap_kernel.run = lambda *given, **named: (seen.append(named["BOUNDED"]), launch(*given, **named))[1]
for dtype in (torch.float32, torch.float16):
    for cap, serves in ((5.0, True), (-30.0, True), (33.0, True), (34.0, False), (500.0, False), (float("nan"), False)):
        # towards -3000, 0 or 3000: every score is at one end of what is possible, or they are spread
        for slope in (-3000.0, 0.01, 3000.0):
            query = (torch.rand(1, 2, 19, 16) + 0.5).to(dtype)
            key, value = (torch.rand(1, 2, 37, 16) * slope / 16).to(dtype), torch.randn(1, 2, 37, 16).to(dtype)
            exact = wrapper._soft_cap_pytorch(query.double(), key.double(), value.double(), cap)
            ours = wrapper.soft_cap(query, key, value, cap)
            assert seen.pop() == (serves and dtype != torch.float16), (cap, dtype)
            error = {{torch.float32: 2e-5, torch.float16: 2e-2}}[dtype] * max(1, abs(cap) / 30)  # of the scores
            torch.testing.assert_close(ours.double(), exact, rtol=error, atol=error, equal_nan=True)
    # what is not a number spoils its row
    query[0, 0, 3, 2] = float("nan")
    assert wrapper.soft_cap(query, key, value, 30.0).isnan().any(-1).nonzero().tolist() == [[0, 0, 3]]
"""


@pytest.mark.interpret
def test_scores_at_their_bounds(interpreted: Callable[[str], None]) -> None:
    interpreted(SCRIPT)
