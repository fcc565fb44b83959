"""Scores that more than one reduction reads: what masks them for one must not reach the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.emit.conftest import body

pytestmark = pytest.mark.interpret
Write = Callable[..., str]
HEAD = """
def attend(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
):
    s = q @ k.mT / math.sqrt(q.size(-1))
    i = torch.arange(s.size(-1), device=s.device)
    distance = i[:, None] - i
"""
BODIES = {
    "two masks": """
        near = s.masked_fill(distance.abs() > 5, -math.inf).softmax(-1) @ v
        return 0.3 * s.masked_fill(distance < 0, -math.inf).softmax(-1) @ v + 0.7 * near
    """,
    "masked and not": "return s.masked_fill(distance < 0, -math.inf).softmax(-1) @ v + torch.relu(s) @ v",
    "weights times scores": "return (s.masked_fill(distance < 0, -math.inf).softmax(-1) * s) @ v",
    "masked by zero and not": "return s.tril() @ v + s @ v, s.tril().sum(-1), s.amax(-1)",
    "less their mean": "return (s - s.mean(-1, keepdim=True)).softmax(-1) @ v",
    "their mean, too": "return s.softmax(-1) @ v, s.mean(-1)",
    "their least and greatest": "return s.softmax(-1) @ v, s.amin(-1), s.amax(-1)",
    "between least and greatest": """
        low, high = s.amin(-1, keepdim=True), s.amax(-1, keepdim=True)
        return ((s - low) / (high - low + 1e-6)) @ v
    """,
    "sigmoids": "w = torch.sigmoid(s); return w @ v, w.amax(-1), w.amin(-1), w.sum(-1)",
    "greatest weight": "w = s.softmax(-1); return w @ v, w.amax(-1), -(w * torch.log(w + 1e-9)).sum(-1)",
    "sharpened": "w = s.softmax(-1) ** 2; return F.normalize(w, p=1, dim=-1) @ v, w.amax(-1)",
    "standardised": """
        d = s + 1000.0 - (s + 1000.0).mean(-1, keepdim=True)
        return (d / (d.pow(2).mean(-1, keepdim=True).sqrt() + 1e-3)).softmax(-1) @ v
    """,
}

OTHERS = {
    "the greatest of some": """
        m = (s * 0.1).masked_fill(i < 5, -math.inf).amax(-1, keepdim=True)
        e = torch.exp(s * 0.1 - torch.where(m == -math.inf, 0.0, m))
        return e @ v / e.sum(-1, keepdim=True)
    """,
    "the greatest of the largest": """
        m = s.masked_fill(distance > 2, -math.inf).amax(-1, keepdim=True)
        return torch.exp(s - m) @ v
    """,
    "the greatest of others": "return torch.exp(s - (q.flip(-1) @ k.mT).amax(-1, keepdim=True)) @ v",
    "the least of some": """
        m = s.masked_fill(i < 5, math.inf).amin(-1, keepdim=True)
        return torch.exp(0.1 * (s - m)).clamp(max=1e4) @ v
    """,
}
"""Exponents relative to a statistic of other scores, which the keys so far may exceed by any amount."""


@pytest.mark.parametrize("name", OTHERS)
def test_a_statistic_of_other_scores_takes_a_pass_of_its_own(name: str, verified: Write) -> None:
    written = verified(HEAD + body(OTHERS[name]), examples=10)
    assert "; 2 passes over" in written


@pytest.mark.parametrize("name", BODIES)
def test_each_reduction_sees_its_own(name: str, verified: Write) -> None:
    verified(HEAD + body(BODIES[name]), examples=10)
