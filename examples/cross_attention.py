"""Cross-attention: queries from one sequence, keys and values from another, whose vectors may be of another length."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def cross_attention(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D_v]
) -> Tensor:
    """Values have their own head dimension."""
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.size(-1))
    attention = torch.softmax(scores, dim=-1)
    return torch.matmul(attention, value)


def cross_attention_masked(
    query: Float[Tensor, "B H S_q D"],
    context_key: Float[Tensor, "B H S_k D"],
    context_value: Float[Tensor, "B H S_k D_v"],
    context_mask: Bool[Tensor, "B S_k"],
) -> Float[Tensor, "B H S_q D_v"]:
    """Only the context positions where the mask is true are attended to."""
    scores = query @ context_key.transpose(-1, -2) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~context_mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ context_value


def cross_attention_shared_context(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [H, S_k, D]
    value: Tensor,  # [H, S_k, D]
) -> Tensor:
    """One context for the whole batch."""
    scores = torch.einsum("bhqd,hkd->bhqk", query, key) / math.sqrt(query.size(-1))
    weights = scores.softmax(-1)
    return torch.einsum("bhqk,hkd->bhqd", weights, value)
