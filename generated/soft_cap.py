# Written by flashlight 0.1.0 from examples/soft_cap.py (sha256 87c2ff219cbfc2d8)
# with `flashlight transpile examples/soft_cap.py`; change the source and run that again.
"""Soft-capped scores: a hyperbolic tangent bounds them before the softmax."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import soft_cap_triton
else:
    import soft_cap_triton


def _soft_cap_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    cap: float,
) -> Tensor:
    """The cap is the caller's."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = cap * torch.tanh(scores / cap)
    attn_weights = F.softmax(scores, dim=-1)
    return attn_weights @ value


def soft_cap(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    cap: float,
) -> Tensor:
    """The cap is the caller's."""
    if not soft_cap_triton.runs_kernel(query, key, value):
        return _soft_cap_pytorch(query, key, value, cap)
    return soft_cap_triton.soft_cap(query, key, value, cap)


def _soft_cap_causal_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """A cap of 30, step by step, and a causal mask after it."""
    scores = torch.matmul(query, key.transpose(2, 3)) * query.size(-1) ** -0.5
    scores = scores / 30.0
    scores = torch.tanh(scores)
    scores = scores * 30.0
    positions = torch.arange(query.size(2), device=query.device)
    scores = scores.masked_fill(positions > positions[:, None], float("-inf"))
    probs = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(probs, value)


def soft_cap_causal(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """A cap of 30, step by step, and a causal mask after it."""
    if not soft_cap_triton.runs_kernel(query, key, value):
        return _soft_cap_causal_pytorch(query, key, value)
    return soft_cap_triton.soft_cap_causal(query, key, value)


def _soft_cap_sliding_window_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H_kv, S, D]
    value: Tensor,  # [B, H_kv, S, D]
    scaling: float,
    softcap: float,
    window: int,
) -> Tensor:
    """Grouped heads, a cap and a causal window together, as some decoders have them in every other layer."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    attn_weights = torch.tanh(attn_weights / softcap) * softcap
    index = torch.arange(query.shape[2], device=query.device)
    distance = index[:, None] - index[None, :]
    attn_weights = torch.where((distance >= 0) & (distance < window), attn_weights, float("-inf"))
    attn_weights = attn_weights.softmax(dim=-1, dtype=torch.float32).type_as(query)
    return torch.matmul(attn_weights, value)


def soft_cap_sliding_window(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H_kv, S, D]
    value: Tensor,  # [B, H_kv, S, D]
    scaling: float,
    softcap: float,
    window: int,
) -> Tensor:
    """Grouped heads, a cap and a causal window together, as some decoders have them in every other layer."""
    if not soft_cap_triton.runs_kernel(query, key, value):
        return _soft_cap_sliding_window_pytorch(query, key, value, scaling, softcap, window)
    return soft_cap_triton.soft_cap_sliding_window(query, key, value, scaling, softcap, window)
