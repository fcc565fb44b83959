# Written by flashlight 0.1.0 from examples/disentangled.py (sha256 300574da0e394160)
# with `flashlight transpile examples/disentangled.py`; change the source and run that again.
"""Disentangled attention (DeBERTa, He et al. 2021): content and relative position, each against the other."""

import math

import torch
from torch import Tensor

if __package__:
    from . import disentangled_triton
else:
    import disentangled_triton


def _disentangled_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    pos_key: Tensor,  # [H, R, D]
    pos_query: Tensor,  # [H, R, D]
) -> Tensor:
    """Content-to-position and position-to-content scores are gathered by clamped distance."""
    length, span = query.shape[2], pos_key.shape[1] // 2
    position = torch.arange(length, device=query.device)
    relative = position[:, None] - position[None, :]
    index = torch.clamp(relative + span, 0, span * 2 - 1).expand(*query.shape[:2], length, length)
    score = query @ key.transpose(-1, -2)
    c2p_att = torch.gather(query @ pos_key.transpose(-1, -2), dim=-1, index=index)
    p2c_att = torch.gather(key @ pos_query.transpose(-1, -2), dim=-1, index=index.transpose(-1, -2))
    score = (score + c2p_att + p2c_att.transpose(-1, -2)) / math.sqrt(3 * query.shape[-1])
    probs = torch.softmax(score, dim=-1)
    return probs @ value


def disentangled(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    pos_key: Tensor,  # [H, R, D]
    pos_query: Tensor,  # [H, R, D]
) -> Tensor:
    """Content-to-position and position-to-content scores are gathered by clamped distance."""
    if not disentangled_triton.runs_kernel(query, key, value, pos_key, pos_query):
        return _disentangled_pytorch(query, key, value, pos_key, pos_query)
    return disentangled_triton.disentangled(query, key, value, pos_key, pos_query)


def _disentangled_scores_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    c2p: Tensor,  # [B, H, S, R]
    p2c: Tensor,  # [B, H, S, R]
) -> Tensor:
    """Both products with the table of positions are computed before; the kernel gathers from them."""
    length, span = query.shape[2], c2p.shape[-1] // 2
    position = torch.arange(length, device=query.device)
    relative = position[:, None] - position[None, :]
    c2p_pos = torch.clamp(relative + span, 0, span * 2 - 1).expand(*query.shape[:2], length, length)
    p2c_pos = torch.clamp(span - relative, 0, span * 2 - 1).expand(*query.shape[:2], length, length)
    scale = 1 / math.sqrt(3 * query.shape[-1])
    score = query @ key.transpose(-1, -2) * scale
    score = score + torch.gather(c2p, -1, c2p_pos) * scale
    score = score + torch.gather(p2c, -1, p2c_pos).transpose(-1, -2) * scale
    probs = torch.softmax(score, dim=-1)
    return probs @ value


def disentangled_scores(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    c2p: Tensor,  # [B, H, S, R]
    p2c: Tensor,  # [B, H, S, R]
) -> Tensor:
    """Both products with the table of positions are computed before; the kernel gathers from them."""
    if not disentangled_triton.runs_kernel(query, key, value, c2p, p2c):
        return _disentangled_scores_pytorch(query, key, value, c2p, p2c)
    return disentangled_triton.disentangled_scores(query, key, value, c2p, p2c)
