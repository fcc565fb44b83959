# Written by flashlight 0.1.0 from examples/grouped_query.py (sha256 346985dff2b1e0b4)
# with `flashlight transpile examples/grouped_query.py`; change the source and run that again.
"""Grouped-query and multi-query attention: several query heads share one head of keys and values."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import grouped_query_triton
else:
    import grouped_query_triton


def _grouped_query_view_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
) -> Tensor:
    """The query heads are viewed as groups; keys and values broadcast over the group."""
    batch, heads, length, head_dim = query.shape
    key_heads = key.shape[1]
    grouped = query.view(batch, key_heads, -1, length, head_dim)
    scores = grouped @ key.unsqueeze(2).transpose(-2, -1) / math.sqrt(head_dim)
    attn_weights = F.softmax(scores, dim=-1)
    output = attn_weights @ value.unsqueeze(2)
    return output.reshape(batch, heads, length, head_dim)


def grouped_query_view(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
) -> Tensor:
    """The query heads are viewed as groups; keys and values broadcast over the group."""
    if not grouped_query_triton.runs_kernel(query, key, value):
        return _grouped_query_view_pytorch(query, key, value)
    return grouped_query_triton.grouped_query_view(query, key, value)


def _grouped_query_repeat_interleave_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
) -> Tensor:
    """Keys and values are repeated to the number of query heads."""
    groups = query.size(1) // key.size(1)
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(query.size(-1))
    probs = torch.softmax(scores, dim=-1)
    return torch.matmul(probs, value)


def grouped_query_repeat_interleave(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
) -> Tensor:
    """Keys and values are repeated to the number of query heads."""
    if not grouped_query_triton.runs_kernel(query, key, value):
        return _grouped_query_repeat_interleave_pytorch(query, key, value)
    return grouped_query_triton.grouped_query_repeat_interleave(query, key, value)


def repeat_kv(hidden: Tensor, n_rep: int) -> Tensor:
    """Heads repeated ``n_rep`` times by expanding a new dimension: [B, H_kv, S, D] to [B, H_kv * n_rep, S, D]."""
    batch, heads, length, head_dim = hidden.shape
    hidden = hidden[:, :, None, :, :].expand(batch, heads, n_rep, length, head_dim)
    return hidden.reshape(batch, heads * n_rep, length, head_dim)


def _grouped_query_expand_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
    scaling: float,
) -> Tensor:
    """Keys and values go through a helper that expands and reshapes; softmax in float32."""
    n_rep = query.shape[1] // key.shape[1]
    key_states = repeat_kv(key, n_rep)
    value_states = repeat_kv(value, n_rep)
    attn_weights = torch.matmul(query, key_states.transpose(2, 3)) * scaling
    attn_weights = F.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(attn_weights, value_states)


def grouped_query_expand(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
    scaling: float,
) -> Tensor:
    """Keys and values go through a helper that expands and reshapes; softmax in float32."""
    if not grouped_query_triton.runs_kernel(query, key, value):
        return _grouped_query_expand_pytorch(query, key, value, scaling)
    return grouped_query_triton.grouped_query_expand(query, key, value, scaling)


def _grouped_query_causal_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H_kv, S, D]
    value: Tensor,  # [B, H_kv, S, D]
) -> Tensor:
    """Groups by einsum, with a causal mask."""
    batch, heads, length, head_dim = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, length, head_dim)
    scores = torch.einsum("bkgid,bkjd->bkgij", grouped, key) / math.sqrt(head_dim)
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    probs = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
    return torch.einsum("bkgij,bkjd->bkgid", probs, value).reshape(batch, heads, length, head_dim)


def grouped_query_causal(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H_kv, S, D]
    value: Tensor,  # [B, H_kv, S, D]
) -> Tensor:
    """Groups by einsum, with a causal mask."""
    if not grouped_query_triton.runs_kernel(query, key, value):
        return _grouped_query_causal_pytorch(query, key, value)
    return grouped_query_triton.grouped_query_causal(query, key, value)


def _multi_query_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
) -> Tensor:
    """One head of keys and values, without a head dimension, for all query heads."""
    scores = torch.einsum("bhid,bjd->bhij", query, key) * query.shape[-1] ** -0.5
    attn = scores.softmax(dim=-1)
    return torch.einsum("bhij,bjd->bhid", attn, value)


def multi_query(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
) -> Tensor:
    """One head of keys and values, without a head dimension, for all query heads."""
    if not grouped_query_triton.runs_kernel(query, key, value):
        return _multi_query_pytorch(query, key, value)
    return grouped_query_triton.multi_query(query, key, value)


def _multi_query_broadcast_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, 1, S_k, D]
    value: Tensor,  # [B, 1, S_k, D]
) -> Tensor:
    """One head of keys and values, left to broadcasting."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    return scores.softmax(dim=-1) @ value


def multi_query_broadcast(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, 1, S_k, D]
    value: Tensor,  # [B, 1, S_k, D]
) -> Tensor:
    """One head of keys and values, left to broadcasting."""
    if not grouped_query_triton.runs_kernel(query, key, value):
        return _multi_query_broadcast_pytorch(query, key, value)
    return grouped_query_triton.multi_query_broadcast(query, key, value)
