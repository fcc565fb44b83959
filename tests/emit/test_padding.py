"""Past the end of a head dimension that is no power of two, and sizes that are sums or products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emit.conftest import body

pytestmark = pytest.mark.interpret
Write = Callable[..., str]

MAPPED = {
    "exponentials": "w = torch.exp(q) @ torch.exp(k).mT; return (w @ v) / w.sum(-1, keepdim=True)",
    "elu plus one": "w = (F.elu(q) + 1) @ (F.elu(k) + 1).mT; return (w @ v) / w.sum(-1, keepdim=True)",
    "inverses": """
        inverse = torch.rsqrt(scale.abs() + 0.1)[:, None]
        return ((q * inverse) @ (k * inverse).mT).softmax(-1) @ v
    """,
    "bare inverses": "s = (q / (1 + scale.abs())[:, None]) @ k.mT; return s.softmax(-1) @ (v + 1)",
    "distances over widths": """
        width = scale.abs()[:, None, None] + 0.5
        return (-((q[:, :, :, None] - k[:, :, None]) ** 2 / width).sum(-1)).softmax(-1) @ v
    """,
    "distances over sums": """
        a, b = q.abs()[:, :, :, None], k.abs()[:, :, None]
        return (-((a - b) ** 2 / (a + b + 1e-3)).sum(-1)).softmax(-1) @ v
    """,
}


@pytest.mark.parametrize("name", MAPPED)
def test_what_lies_past_the_head_adds_nothing(name: str, verified: Write) -> None:
    verified(
        f"""
def attend(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, T, D]
    v: Tensor,  # [B, H, T, E]
    scale: Tensor,  # [H, D]
):
{body(MAPPED[name])}
""",
        examples=10,
    )


def test_lengths_and_heads_that_are_sums_and_products(verified: Write) -> None:
    verified("""
        def without_the_first(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, N + 2, D]
            v: Tensor,  # [B, H, N + 2, D]
        ) -> Tensor:
            k, v = k[:, :, 1:], v[:, :, 1:]
            return (q @ k.mT).softmax(-1) @ v

        def with_one_more(
            q: Tensor,  # [B, H, N + 1, D]
            k: Tensor,  # [B, H, N + 1, D]
            v: Tensor,  # [B, H, N + 1, D]
        ) -> Tensor:
            return (q @ k.mT).softmax(-1) @ v

        def all_heads_but_one(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            q, k, v = q[:, :-1], k[:, :-1], v[:, :-1]
            return (q @ k.mT).softmax(-1) @ v

        def groups_stated(
            q: Tensor,  # [B, G * R, S, D]
            k: Tensor,  # [B, G, S, D]
            v: Tensor,  # [B, G, S, D]
        ) -> Tensor:
            batch, heads, length, width = q.shape
            groups = k.shape[1]
            q = q.view(batch, groups, heads // groups, length, width)
            weights = torch.einsum("bgrid,bgjd->bgrij", q, k).softmax(-1)
            return torch.einsum("bgrij,bgjd->bgrid", weights, v).reshape(batch, heads, length, width)
    """)


def test_weights_that_float16_cannot_hold_before_they_are_normalised(verified: Write) -> None:
    verified(
        """
        def exponential(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
        ) -> Tensor:
            w = torch.exp(12 * torch.tanh((q @ k.mT).float() / 12))
            return (w / w.sum(-1, keepdim=True)).to(v.dtype) @ v

        def squares(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
        ) -> Tensor:
            w = torch.relu((q @ k.mT).float() * 8) ** 2
            return (w / (w.sum(-1, keepdim=True) + 1e-6)).to(v.dtype) @ v
        """,
        examples=16,
    )


def test_a_number_that_a_length_of_one_divides_by_zero(verified: Write) -> None:
    verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
        ) -> Tensor:
            s = q @ k.mT / math.sqrt(q.size(-1))
            s = (s - s.mean(-1, keepdim=True)) / (s.std(-1, keepdim=True) + 1e-2)
            return s.softmax(-1) @ v
    """)


def test_values_that_are_infinite_where_nothing_is_loaded(verified: Write) -> None:
    """Past the last key a load gives zero, of which a logarithm or a quotient is infinite: zero times that is NaN."""
    text = verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            return (q @ k.mT).softmax(-1) @ (1 / (v.abs() + 1).log())

        def unnormalised(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            return (q @ k.mT).sigmoid() @ (v.abs() + 0.1).log()
    """)
    assert text.count("tl.dot(") == 4


def test_the_greatest_number_is_a_score(verified: Write) -> None:
    """Times log2(e) it would be infinite, and infinity less itself is NaN."""
    verified("""
        def greatest(
            q: Tensor,  # [B, H, S_q, D]
            k: Tensor,  # [B, H, S_k, D]
            v: Tensor,  # [B, H, S_k, D]
        ) -> Tensor:
            scores = (q @ k.mT).clamp(max=1.0)
            scores = torch.where(scores > 0.5, torch.finfo(scores.dtype).max, scores)
            return scores.softmax(-1) @ v

        def numbers(
            q: Tensor,  # [B, H, S_q, D]
            k: Tensor,  # [B, H, S_k, D]
            v: Tensor,  # [B, H, S_k, D]
        ) -> Tensor:
            return torch.nan_to_num(q @ k.mT).softmax(-1) @ v

        def loaded(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            strength: Tensor,  # []
        ) -> Tensor:
            hidden = torch.triu(torch.ones(q.size(2), q.size(2), dtype=torch.bool), diagonal=1)
            return torch.where(hidden, torch.finfo(q.dtype).min * strength.abs(), q @ k.mT).softmax(-1) @ v
    """)


def test_a_product_of_two_dtypes(kernels: Write, interpreted: Callable[[str], None], tmp_path: Path) -> None:
    """Keys that are stated to be float32 meet queries of 16 bits: both are multiplied as float32."""
    kernels("""
        def attend(
            q: Tensor,  # [B, H, S_q, D]
            k: Tensor,  # [B, H, S_k, D] float32
            v: Tensor,  # [B, H, S_k, D]
        ) -> Tensor:
            return (q.float() @ k.mT).softmax(-1).to(v.dtype) @ v
    """)
    interpreted(f"""
import sys
sys.path.insert(0, {str(tmp_path / "out")!r})
import torch
import program

print("seed", torch.seed())
for dtype in (torch.float16, torch.float32):
    q, v = (torch.randn(2, 3, 33, 16).to(dtype) for _ in range(2))
    k = torch.randn(2, 3, 33, 16)
    wanted = (q.double() @ k.double().mT).softmax(-1) @ v.double()
    torch.testing.assert_close(program.attend(q, k, v).double(), wanted, rtol=2e-3, atol=2e-3)
""")
