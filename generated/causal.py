# Written by flashlight 0.1.0 from examples/causal.py (sha256 04793b2ff9cebf2f)
# with `flashlight transpile examples/causal.py`; change the source and run that again.
"""Causal attention: a query sees its own position and those before it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import causal_triton
else:
    import causal_triton


def _causal_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The upper triangle is replaced by -inf."""
    length = query.size(-2)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    future = torch.triu(torch.ones(length, length, dtype=torch.bool, device=query.device), diagonal=1)
    scores = torch.where(future, float("-inf"), scores)
    attn_weights = F.softmax(scores, dim=-1)
    return attn_weights @ value


def causal(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The upper triangle is replaced by -inf."""
    if not causal_triton.runs_kernel(query, key, value):
        return _causal_pytorch(query, key, value)
    return causal_triton.causal(query, key, value)


def _causal_tril_pytorch(q, k, v):
    """A lower triangle of ones says what is kept."""
    T = q.size(-2)
    bias = torch.tril(torch.ones(T, T, device=q.device)).view(1, 1, T, T)
    att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    att = att.masked_fill(bias == 0, float("-inf"))
    att = F.softmax(att, dim=-1)
    return att @ v


def causal_tril(q, k, v):
    """A lower triangle of ones says what is kept."""
    if not causal_triton.runs_kernel(q, k, v):
        return _causal_tril_pytorch(q, k, v)
    return causal_triton.causal_tril(q, k, v)


def _causal_additive_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """A mask of 0 and -inf is built in the function and added to the scores."""
    length = query.shape[2]
    mask = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device)
    mask = torch.triu(mask, diagonal=1)
    scores = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(query.shape[3])
    scores = scores + mask
    probs = torch.softmax(scores, dim=-1)
    return torch.matmul(probs, value)


def causal_additive(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """A mask of 0 and -inf is built in the function and added to the scores."""
    if not causal_triton.runs_kernel(query, key, value):
        return _causal_additive_pytorch(query, key, value)
    return causal_triton.causal_additive(query, key, value)


def _causal_bottom_right_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """The last query is aligned with the last key, as in decoding with a cache of earlier keys."""
    query_length, key_length = query.size(-2), key.size(-2)
    visible = torch.ones(query_length, key_length, dtype=torch.bool, device=query.device)
    visible = visible.tril(diagonal=key_length - query_length)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(~visible, float("-inf"))
    return scores.softmax(dim=-1) @ value


def causal_bottom_right(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """The last query is aligned with the last key, as in decoding with a cache of earlier keys."""
    if not causal_triton.runs_kernel(query, key, value):
        return _causal_bottom_right_pytorch(query, key, value)
    return causal_triton.causal_bottom_right(query, key, value)


def _causal_positions_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """Positions are compared, and what is hidden gets the least number of the dtype."""
    positions = torch.arange(query.shape[-2], device=query.device)
    hidden = positions[None, :] > positions[:, None]
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
    probs = scores.softmax(dim=-1)
    return torch.einsum("bhij,bhjd->bhid", probs, value)


def causal_positions(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """Positions are compared, and what is hidden gets the least number of the dtype."""
    if not causal_triton.runs_kernel(query, key, value):
        return _causal_positions_pytorch(query, key, value)
    return causal_triton.causal_positions(query, key, value)
