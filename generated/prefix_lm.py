# Written by flashlight 0.1.0 from examples/prefix_lm.py (sha256 228e166d137b308e)
# with `flashlight transpile examples/prefix_lm.py`; change the source and run that again.
"""Prefix language models: everyone sees the prefix, and what follows it is causal."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import prefix_lm_triton
else:
    import prefix_lm_triton


def _prefix_lm_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    prefix_length: Tensor,  # [B] int64
) -> Tensor:
    """A prefix of its own length for each row of the batch."""
    positions = torch.arange(query.size(-2), device=query.device)
    causal = positions[:, None] >= positions[None, :]
    in_prefix = positions[None, :] < prefix_length[:, None]
    visible = causal | in_prefix[:, None, None, :]
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(~visible, float("-inf"))
    attn_weights = F.softmax(scores, dim=-1)
    return attn_weights @ value


def prefix_lm(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    prefix_length: Tensor,  # [B] int64
) -> Tensor:
    """A prefix of its own length for each row of the batch."""
    if not prefix_lm_triton.runs_kernel(query, key, value, prefix_length):
        return _prefix_lm_pytorch(query, key, value, prefix_length)
    return prefix_lm_triton.prefix_lm(query, key, value, prefix_length)


def _prefix_lm_shared_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    prefix: int,
) -> Tensor:
    """One prefix length for the whole batch."""
    row = torch.arange(query.shape[2], device=query.device).view(-1, 1)
    column = torch.arange(key.shape[2], device=query.device).view(1, -1)
    hidden = torch.logical_and(column > row, column >= prefix)
    scores = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
    scores = scores + torch.where(hidden, float("-inf"), 0.0).to(scores.dtype)
    probs = torch.softmax(scores, dim=-1)
    return torch.matmul(probs, value)


def prefix_lm_shared(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    prefix: int,
) -> Tensor:
    """One prefix length for the whole batch."""
    if not prefix_lm_triton.runs_kernel(query, key, value):
        return _prefix_lm_shared_pytorch(query, key, value, prefix)
    return prefix_lm_triton.prefix_lm_shared(query, key, value, prefix)
