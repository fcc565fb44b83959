# Written by flashlight 0.1.0 from examples/cosine.py (sha256 02226682e3156fa0)
# with `flashlight transpile examples/cosine.py`; change the source and run that again.
"""Cosine attention of Swin v2 (Liu et al. 2022): normalised queries and keys, a learned temperature."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import cosine_triton
else:
    import cosine_triton


def _cosine_attention_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    logit_scale: Tensor,  # [H, 1, 1]
    relative_bias: Tensor,  # [H, S, S]
) -> Tensor:
    """The temperature is kept below 100; the windows' relative bias is added."""
    attn = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
    attn = attn * torch.clamp(logit_scale, max=math.log(100.0)).exp()
    attn = attn + relative_bias[None]
    attn = attn.softmax(dim=-1)
    return attn @ value


def cosine_attention(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    logit_scale: Tensor,  # [H, 1, 1]
    relative_bias: Tensor,  # [H, S, S]
) -> Tensor:
    """The temperature is kept below 100; the windows' relative bias is added."""
    if not cosine_triton.runs_kernel(query, key, value, logit_scale, relative_bias):
        return _cosine_attention_pytorch(query, key, value, logit_scale, relative_bias)
    return cosine_triton.cosine_attention(query, key, value, logit_scale, relative_bias)


def _query_key_norm_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    scale: float = 10.0,
) -> Tensor:
    """The norms written out, one fixed temperature."""
    query = query / query.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    key = key / key.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    weights = torch.softmax(scale * (query @ key.transpose(-2, -1)), dim=-1)
    return weights @ value


def query_key_norm(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    scale: float = 10.0,
) -> Tensor:
    """The norms written out, one fixed temperature."""
    if not cosine_triton.runs_kernel(query, key, value):
        return _query_key_norm_pytorch(query, key, value, scale)
    return cosine_triton.query_key_norm(query, key, value, scale)
