"""Kernels whose tiles have a few positions of two axes of the grid, each with keys of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.interpret
Write = Callable[..., str]


def test_products_are_batches_by_heads_and_by_rows(verified: Write) -> None:
    """Scores of both kinds, which meet in one tile; values of both kinds."""
    text = verified("""
        def relations(
            q: Tensor,  # [B, N, H, C]
            k: Tensor,  # [B, N, H, C]
            v: Tensor,  # [B, N, H, C]
            pair_k: Tensor,  # [B, N, N, C]
            pair_v: Tensor,  # [B, N, N, Z]
        ) -> tuple[Tensor, Tensor]:
            scores = torch.einsum("bihc,bjhc->bhij", q, k) + torch.einsum("bihc,bijc->bhij", q, pair_k)
            attn = torch.softmax(scores / math.sqrt(q.shape[-1]), dim=-1)
            return torch.einsum("bhij,bjhc->bihc", attn, v), torch.einsum("bhij,bijz->bihz", attn, pair_v)
    """)
    assert "head_start" in text and text.count("tl.dot(") == 4
    assert "tl.sum(q" not in text


def test_heads_and_rows_past_the_end(verified: Write) -> None:
    """No batch axis; numbers for each head, each row and each key, and a gate after the sum."""
    text = verified("""
        def gated(
            q: Tensor,  # [N, H, C]
            k: Tensor,  # [N, H, C]
            pair: Tensor,  # [N, N, Z]
            slopes: Tensor,  # [H]
            lengths: Tensor,  # [N]
            gate: Tensor,  # [N, H, Z]
        ) -> Tensor:
            scores = torch.einsum("ihc,jhc->hij", q, k) * slopes[:, None, None] - lengths[:, None] * lengths
            return torch.einsum("hij,ijz->ihz", torch.softmax(scores, dim=-1), pair) * torch.sigmoid(gate)
    """, examples=12)  # fmt: skip
    assert "head_start" in text and "head_blocks" in text


def test_sums_without_statistics(verified: Write) -> None:
    text = verified("""
        def squared(
            q: Tensor,  # [B, N, H, C]
            k: Tensor,  # [B, N, H, C]
            v: Tensor,  # [B, N, H, C]
            pair: Tensor,  # [B, N, N, Z]
        ) -> tuple[Tensor, Tensor]:
            weights = torch.einsum("bihc,bjhc->bhij", q, k).relu().square()
            weights = weights / (weights.sum(-1, keepdim=True) + 1.0)
            return torch.einsum("bhij,bjhc->bihc", weights, v), torch.einsum("bhij,bijz->bihz", weights, pair)
    """)
    assert "head_start" in text


def test_scores_that_are_no_products(verified: Write) -> None:
    """A value for each head, row, key and feature: the fewer rows, the more of those."""
    text = verified("""
        def additive(
            q: Tensor,  # [B, N, H, C]
            k: Tensor,  # [B, N, H, C]
            pair: Tensor,  # [B, N, N, Z]
            weight: Tensor,  # [C]
        ) -> Tensor:
            scores = (torch.tanh(q[:, :, None] + k[:, None]) * weight).sum(-1).permute(0, 3, 1, 2)
            return torch.einsum("bhij,bijz->bihz", torch.softmax(scores, dim=-1), pair)
    """)
    assert "head_start" in text and "depth=padded(C)" in text


def test_a_mask_of_positions_leaves_the_axis_in_the_grid(verified: Write) -> None:
    text = verified("""
        def causal(
            q: Tensor,  # [B, N, H, C]
            k: Tensor,  # [B, N, H, C]
            pair: Tensor,  # [B, N, N, Z]
        ) -> Tensor:
            scores = torch.einsum("bihc,bjhc->bhij", q, k)
            past = torch.ones(q.size(1), q.size(1), dtype=torch.bool, device=q.device).tril()
            attn = torch.softmax(scores.masked_fill(~past, -math.inf), dim=-1)
            return torch.einsum("bhij,bijz->bihz", attn, pair)
    """)
    assert "head_start" not in text


def test_a_batch_along_an_axis_called_rows(verified: Write) -> None:
    """Its width has a variable of its own in the launcher."""
    text = verified("""
        def attend(
            q: Tensor,  # [B, H, Rows, C]
            k: Tensor,  # [B, H, N, C]
            v: Tensor,  # [B, H, N, C]
            pair: Tensor,  # [B, Rows, N, Z]
        ) -> tuple[Tensor, Tensor]:
            attn = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
            return attn @ v, torch.einsum("bhij,bijz->bhiz", attn, pair)
    """)
    assert "batch_of_rows = batch_size(Rows, " in text and "BLOCK_Rows=batch_of_rows" in text
