# Written by flashlight 0.1.0 from examples/cross_attention.py (sha256 255b52e66647d23a)
# with `flashlight transpile examples/cross_attention.py`; change the source and run that again.
"""Cross-attention: queries from one sequence, keys and values from another, whose vectors may be of another length."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

if __package__:
    from . import cross_attention_triton
else:
    import cross_attention_triton


def _cross_attention_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D_v]
) -> Tensor:
    """Values have their own head dimension."""
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.size(-1))
    attention = torch.softmax(scores, dim=-1)
    return torch.matmul(attention, value)


def cross_attention(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D_v]
) -> Tensor:
    """Values have their own head dimension."""
    if not cross_attention_triton.runs_kernel(query, key, value):
        return _cross_attention_pytorch(query, key, value)
    return cross_attention_triton.cross_attention(query, key, value)


def _cross_attention_masked_pytorch(
    query: Float[Tensor, "B H S_q D"],
    context_key: Float[Tensor, "B H S_k D"],
    context_value: Float[Tensor, "B H S_k D_v"],
    context_mask: Bool[Tensor, "B S_k"],
) -> Float[Tensor, "B H S_q D_v"]:
    """Only the context positions where the mask is true are attended to."""
    scores = query @ context_key.transpose(-1, -2) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~context_mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ context_value


def cross_attention_masked(
    query: Float[Tensor, "B H S_q D"],
    context_key: Float[Tensor, "B H S_k D"],
    context_value: Float[Tensor, "B H S_k D_v"],
    context_mask: Bool[Tensor, "B S_k"],
) -> Float[Tensor, "B H S_q D_v"]:
    """Only the context positions where the mask is true are attended to."""
    if not cross_attention_triton.runs_kernel(query, context_key, context_value, context_mask):
        return _cross_attention_masked_pytorch(query, context_key, context_value, context_mask)
    return cross_attention_triton.cross_attention_masked(query, context_key, context_value, context_mask)


def _cross_attention_shared_context_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [H, S_k, D]
    value: Tensor,  # [H, S_k, D]
) -> Tensor:
    """One context for the whole batch."""
    scores = torch.einsum("bhqd,hkd->bhqk", query, key) / math.sqrt(query.size(-1))
    weights = scores.softmax(-1)
    return torch.einsum("bhqk,hkd->bhqd", weights, value)


def cross_attention_shared_context(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [H, S_k, D]
    value: Tensor,  # [H, S_k, D]
) -> Tensor:
    """One context for the whole batch."""
    if not cross_attention_triton.runs_kernel(query, key, value):
        return _cross_attention_shared_context_pytorch(query, key, value)
    return cross_attention_triton.cross_attention_shared_context(query, key, value)
