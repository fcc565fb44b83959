# Written by flashlight 0.1.0 from examples/sliding_window.py (sha256 55a2cf0bbe0a7de8)
# with `flashlight transpile examples/sliding_window.py`; change the source and run that again.
"""Sliding windows: a query sees the keys near it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import sliding_window_triton
else:
    import sliding_window_triton


def _sliding_window_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    window: int,
) -> Tensor:
    """The last ``window`` positions, the query's own included."""
    positions = torch.arange(query.size(-2), device=query.device)
    distance = positions[:, None] - positions[None, :]
    visible = (distance >= 0) & (distance < window)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(~visible, float("-inf"))
    attn_weights = F.softmax(scores, dim=-1)
    return attn_weights @ value


def sliding_window(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    window: int,
) -> Tensor:
    """The last ``window`` positions, the query's own included."""
    if not sliding_window_triton.runs_kernel(query, key, value):
        return _sliding_window_pytorch(query, key, value, window)
    return sliding_window_triton.sliding_window(query, key, value, window)


def _sliding_window_symmetric_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    radius: int,
) -> Tensor:
    """``radius`` positions to either side."""
    index = torch.arange(query.shape[2], device=query.device)
    far = (index.unsqueeze(0) - index.unsqueeze(1)).abs() > radius
    scores = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(far, torch.finfo(scores.dtype).min)
    probs = torch.softmax(scores, dim=-1)
    return torch.matmul(probs, value)


def sliding_window_symmetric(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    radius: int,
) -> Tensor:
    """``radius`` positions to either side."""
    if not sliding_window_triton.runs_kernel(query, key, value):
        return _sliding_window_symmetric_pytorch(query, key, value, radius)
    return sliding_window_triton.sliding_window_symmetric(query, key, value, radius)


def _sliding_window_band_pytorch(q, k, v, window: int):
    """The band is cut out of a square of ones by two triangles."""
    T = q.size(-2)
    band = torch.ones(T, T, dtype=torch.bool, device=q.device).tril().triu(1 - window)
    att = (q @ k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    att = torch.where(band, att, float("-inf"))
    return att.softmax(-1) @ v


def sliding_window_band(q, k, v, window: int):
    """The band is cut out of a square of ones by two triangles."""
    if not sliding_window_triton.runs_kernel(q, k, v):
        return _sliding_window_band_pytorch(q, k, v, window)
    return sliding_window_triton.sliding_window_band(q, k, v, window)


def _sliding_window_bottom_right_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """A window of 128 ending at the query's position, where the last query is aligned with the last key."""
    query_length, key_length = query.size(2), key.size(2)
    query_position = torch.arange(query_length, device=query.device) + (key_length - query_length)
    key_position = torch.arange(key_length, device=query.device)
    distance = query_position[:, None] - key_position
    scores = query @ key.transpose(-2, -1) * query.size(-1) ** -0.5
    scores = torch.where((0 <= distance) & (distance < 128), scores, float("-inf"))
    return scores.softmax(dim=-1) @ value


def sliding_window_bottom_right(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """A window of 128 ending at the query's position, where the last query is aligned with the last key."""
    if not sliding_window_triton.runs_kernel(query, key, value):
        return _sliding_window_bottom_right_pytorch(query, key, value)
    return sliding_window_triton.sliding_window_bottom_right(query, key, value)
