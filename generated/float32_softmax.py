# Written by flashlight 0.1.0 from examples/float32_softmax.py (sha256 9feeccaa7fe33aa9)
# with `flashlight transpile examples/float32_softmax.py`; change the source and run that again.
"""The softmax in float32 while all else stays in the dtype of the inputs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if __package__:
    from . import float32_softmax_triton
else:
    import float32_softmax_triton


def _softmax_dtype_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """By the dtype argument of the softmax."""
    attn_weights = torch.matmul(query, key.transpose(2, 3)) / math.sqrt(query.size(-1))
    attn_weights = F.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(attn_weights, value)


def softmax_dtype(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """By the dtype argument of the softmax."""
    if not float32_softmax_triton.runs_kernel(query, key, value):
        return _softmax_dtype_pytorch(query, key, value)
    return float32_softmax_triton.softmax_dtype(query, key, value)


def _scores_float_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """By a cast of the scores, under a causal mask."""
    length = query.size(-2)
    scores = (query @ key.transpose(-2, -1)).float() / math.sqrt(query.size(-1))
    mask = torch.full((length, length), float("-inf"), device=query.device).triu(1)
    probs = F.softmax(scores + mask, dim=-1).type_as(query)
    return probs @ value


def scores_float(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """By a cast of the scores, under a causal mask."""
    if not float32_softmax_triton.runs_kernel(query, key, value):
        return _scores_float_pytorch(query, key, value)
    return float32_softmax_triton.scores_float(query, key, value)


def _inputs_float_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """By a cast of everything, and of the result back."""
    dtype = query.dtype
    query, key, value = (tensor.to(torch.float32) for tensor in (query, key, value))
    attention = nn.Softmax(dim=-1)(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5)
    return (attention @ value).to(dtype)


def inputs_float(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """By a cast of everything, and of the result back."""
    if not float32_softmax_triton.runs_kernel(query, key, value):
        return _inputs_float_pytorch(query, key, value)
    return float32_softmax_triton.inputs_float(query, key, value)
