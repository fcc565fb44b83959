"""Key padding: sequences of different lengths in one batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def key_lengths(
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


def key_padding_mask(
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


def extended_attention_mask(
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


def causal_key_lengths(
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
