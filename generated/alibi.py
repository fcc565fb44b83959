# Written by flashlight 0.1.0 from examples/alibi.py (sha256 2336295dee9eb2c8)
# with `flashlight transpile examples/alibi.py`; change the source and run that again.
"""Attention with linear biases (ALiBi): scores fall off with distance, each head at its own rate."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import alibi_triton
else:
    import alibi_triton


def _alibi_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    slopes: Tensor,  # [H] float32
) -> Tensor:
    """The slopes are passed in; the bias is float32 and so is the softmax."""
    positions = torch.arange(query.size(-2), device=query.device)
    distance = positions[None, :] - positions[:, None]
    bias = slopes[:, None, None] * distance
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1)) + bias
    attn_weights = F.softmax(scores, dim=-1).to(value.dtype)
    return attn_weights @ value


def alibi(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    slopes: Tensor,  # [H] float32
) -> Tensor:
    """The slopes are passed in; the bias is float32 and so is the softmax."""
    if not alibi_triton.runs_kernel(query, key, value, slopes):
        return _alibi_pytorch(query, key, value, slopes)
    return alibi_triton.alibi(query, key, value, slopes)


def _alibi_causal_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The slopes are a geometric series over the heads, computed here; causal."""
    heads, length = query.shape[1], query.shape[2]
    slopes = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=query.device) / heads)
    positions = torch.arange(length, device=query.device)
    distance = positions[:, None] - positions[None, :]
    scores = (query @ key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5
    scores = scores - slopes.view(-1, 1, 1) * distance
    scores = scores.masked_fill(distance < 0, float("-inf"))
    probs = scores.softmax(dim=-1).to(query.dtype)
    return probs @ value


def alibi_causal(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The slopes are a geometric series over the heads, computed here; causal."""
    if not alibi_triton.runs_kernel(query, key, value):
        return _alibi_causal_pytorch(query, key, value)
    return alibi_triton.alibi_causal(query, key, value)


def _alibi_symmetric_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    slopes: Tensor,  # [H]
) -> Tensor:
    """The distance counts in both directions, as in encoders."""
    rows = torch.arange(query.shape[2], device=query.device)[:, None]
    columns = torch.arange(key.shape[2], device=query.device)[None, :]
    alibi = -(rows - columns).abs() * slopes.view(1, -1, 1, 1)
    scores = torch.einsum("bhid,bhjd->bhij", query, key) / math.sqrt(query.shape[3])
    weights = torch.softmax(scores + alibi, dim=-1)
    return torch.einsum("bhij,bhjd->bhid", weights, value)


def alibi_symmetric(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    slopes: Tensor,  # [H]
) -> Tensor:
    """The distance counts in both directions, as in encoders."""
    if not alibi_triton.runs_kernel(query, key, value, slopes):
        return _alibi_symmetric_pytorch(query, key, value, slopes)
    return alibi_triton.alibi_symmetric(query, key, value, slopes)
