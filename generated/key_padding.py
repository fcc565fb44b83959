# Written by flashlight 0.1.0 from examples/key_padding.py (sha256 35ea6d2fddf9356c)
# with `flashlight transpile examples/key_padding.py`; change the source and run that again.
"""Key padding: sequences of different lengths in one batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import key_padding_triton
else:
    import key_padding_triton


def _key_lengths_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    lengths: Tensor,  # [B] int64
) -> Tensor:
    """Keys from ``lengths[b]`` on are padding."""
    positions = torch.arange(key.size(-2), device=query.device)
    padding = positions[None, :] >= lengths[:, None]
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(padding[:, None, None, :], float("-inf"))
    attn_weights = F.softmax(scores, dim=-1)
    return attn_weights @ value


def key_lengths(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    lengths: Tensor,  # [B] int64
) -> Tensor:
    """Keys from ``lengths[b]`` on are padding."""
    if not key_padding_triton.runs_kernel(query, key, value, lengths):
        return _key_lengths_pytorch(query, key, value, lengths)
    return key_padding_triton.key_lengths(query, key, value, lengths)


def _key_padding_mask_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    key_padding_mask: Tensor,  # [B, S_k] bool
) -> Tensor:
    """A boolean per key, true where it is padding; a row that is all padding is the mean of the values."""
    scores = torch.matmul(query, key.transpose(-2, -1)).float() / math.sqrt(query.size(-1))
    scores = scores.masked_fill(key_padding_mask.unsqueeze(1).unsqueeze(2), -1e10)
    probs = torch.softmax(scores, dim=-1).to(query.dtype)
    return torch.matmul(probs, value)


def key_padding_mask(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    key_padding_mask: Tensor,  # [B, S_k] bool
) -> Tensor:
    """A boolean per key, true where it is padding; a row that is all padding is the mean of the values."""
    if not key_padding_triton.runs_kernel(query, key, value, key_padding_mask):
        return _key_padding_mask_pytorch(query, key, value, key_padding_mask)
    return key_padding_triton.key_padding_mask(query, key, value, key_padding_mask)


def _extended_attention_mask_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    attention_mask: Tensor,  # [B, S] int64
) -> Tensor:
    """Ones and zeros from a tokenizer, turned into a large negative bias."""
    extended = attention_mask[:, None, None, :].to(query.dtype)
    extended = (1.0 - extended) * -10000.0
    scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.size(-1))
    scores = scores + extended
    attention_probs = F.softmax(scores, dim=-1)
    return torch.matmul(attention_probs, value)


def extended_attention_mask(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    attention_mask: Tensor,  # [B, S] int64
) -> Tensor:
    """Ones and zeros from a tokenizer, turned into a large negative bias."""
    if not key_padding_triton.runs_kernel(query, key, value, attention_mask):
        return _extended_attention_mask_pytorch(query, key, value, attention_mask)
    return key_padding_triton.extended_attention_mask(query, key, value, attention_mask)


def _causal_key_lengths_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    lengths: Tensor,  # [B] int32
) -> Tensor:
    """Causal, and cut off at the length of each row of the batch."""
    positions = torch.arange(query.size(-2), device=query.device)
    causal = positions[:, None] >= positions[None, :]
    inside = positions < lengths[:, None]
    mask = causal & inside[:, None, None, :]
    scores = query @ key.transpose(-2, -1) * query.size(-1) ** -0.5
    scores = torch.where(mask, scores, -float("inf"))
    return torch.softmax(scores, dim=-1) @ value


def causal_key_lengths(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    lengths: Tensor,  # [B] int32
) -> Tensor:
    """Causal, and cut off at the length of each row of the batch."""
    if not key_padding_triton.runs_kernel(query, key, value, lengths):
        return _causal_key_lengths_pytorch(query, key, value, lengths)
    return key_padding_triton.causal_key_lengths(query, key, value, lengths)
