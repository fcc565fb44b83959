# Written by flashlight 0.1.0 from examples/multi_head.py (sha256 bd7098e40124abf7)
# with `flashlight transpile examples/multi_head.py`; change the source and run that again.
"""Multi-head attention without a mask, in the ways that models write it."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

if __package__:
    from . import multi_head_triton
else:
    import multi_head_triton


def _multi_head_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """Scaled dot-product attention, written out."""
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    attn_weights = F.softmax(scores, dim=-1)
    return torch.matmul(attn_weights, value)


def multi_head(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """Scaled dot-product attention, written out."""
    if not multi_head_triton.runs_kernel(query, key, value):
        return _multi_head_pytorch(query, key, value)
    return multi_head_triton.multi_head(query, key, value)


def _multi_head_by_name_pytorch(q, k, v):
    """No annotation at all: q, k and v are [B, H, S, D] by convention."""
    d_k = q.shape[-1]
    attn = (q @ k.transpose(-2, -1)) * d_k**-0.5
    attn = attn.softmax(dim=-1)
    return attn @ v


def multi_head_by_name(q, k, v):
    """No annotation at all: q, k and v are [B, H, S, D] by convention."""
    if not multi_head_triton.runs_kernel(q, k, v):
        return _multi_head_by_name_pytorch(q, k, v)
    return multi_head_triton.multi_head_by_name(q, k, v)


def _multi_head_scaled_pytorch(
    query: Float[Tensor, "B H S_q D"],
    key: Float[Tensor, "B H S_k D"],
    value: Float[Tensor, "B H S_k D"],
    scale: float,
) -> Float[Tensor, "B H S_q D"]:
    """The scale is the caller's, and goes onto the query."""
    query = query * scale
    probs = torch.softmax(query @ key.mT, dim=-1)
    return probs @ value


def multi_head_scaled(
    query: Float[Tensor, "B H S_q D"],
    key: Float[Tensor, "B H S_k D"],
    value: Float[Tensor, "B H S_k D"],
    scale: float,
) -> Float[Tensor, "B H S_q D"]:
    """The scale is the caller's, and goes onto the query."""
    if not multi_head_triton.runs_kernel(query, key, value):
        return _multi_head_scaled_pytorch(query, key, value, scale)
    return multi_head_triton.multi_head_scaled(query, key, value, scale)


def _multi_head_sequence_first_pytorch(
    query: Tensor,  # [B, S_q, H, D]
    key: Tensor,  # [B, S_k, H, D]
    value: Tensor,  # [B, S_k, H, D]
) -> Tensor:
    """Heads after the sequence, as projections leave them; the heads come back merged: [B, S_q, H * D]."""
    batch, length, heads, head_dim = query.shape
    query = query.transpose(1, 2)
    key = key.permute(0, 2, 3, 1)
    value = value.transpose(1, 2)
    scores = query @ key / math.sqrt(head_dim)
    probs = torch.softmax(scores, dim=-1)
    context = (probs @ value).transpose(1, 2)
    return context.reshape(batch, length, heads * head_dim)


def multi_head_sequence_first(
    query: Tensor,  # [B, S_q, H, D]
    key: Tensor,  # [B, S_k, H, D]
    value: Tensor,  # [B, S_k, H, D]
) -> Tensor:
    """Heads after the sequence, as projections leave them; the heads come back merged: [B, S_q, H * D]."""
    if not multi_head_triton.runs_kernel(query, key, value):
        return _multi_head_sequence_first_pytorch(query, key, value)
    return multi_head_triton.multi_head_sequence_first(query, key, value)


def _multi_head_split_scale_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The scale is split evenly between query and key, which keeps float16 products small."""
    scale = query.shape[-1] ** -0.25
    scores = (query * scale) @ (key * scale).transpose(-2, -1)
    weights = torch.softmax(scores, dim=-1)
    return weights @ value


def multi_head_split_scale(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The scale is split evenly between query and key, which keeps float16 products small."""
    if not multi_head_triton.runs_kernel(query, key, value):
        return _multi_head_split_scale_pytorch(query, key, value)
    return multi_head_triton.multi_head_split_scale(query, key, value)
