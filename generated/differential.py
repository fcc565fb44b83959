# Written by flashlight 0.1.0 from examples/differential.py (sha256 33347bba358bb960)
# with `flashlight transpile examples/differential.py`; change the source and run that again.
"""Differential attention (Ye et al. 2024): the difference of two softmaxes, so that common noise cancels."""

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import differential_triton
else:
    import differential_triton


def _diff_attn_pytorch(
    q: Tensor,  # [B, 2 * H, S, D]
    k: Tensor,  # [B, 2 * H, S, D]
    v: Tensor,  # [B, H, S, 2 * D]
    lam: float,
) -> Tensor:
    """Two groups of heads by slices; values are twice as wide as queries and keys."""
    H = v.shape[1]
    q1, q2 = q[:, :H], q[:, H:]
    k1, k2 = k[:, :H], k[:, H:]
    scale = q.shape[-1] ** -0.5
    attn1 = torch.softmax(q1 @ k1.transpose(-2, -1) * scale, dim=-1)
    attn2 = torch.softmax(q2 @ k2.transpose(-2, -1) * scale, dim=-1)
    return (attn1 - lam * attn2) @ v


def diff_attn(
    q: Tensor,  # [B, 2 * H, S, D]
    k: Tensor,  # [B, 2 * H, S, D]
    v: Tensor,  # [B, H, S, 2 * D]
    lam: float,
) -> Tensor:
    """Two groups of heads by slices; values are twice as wide as queries and keys."""
    if not differential_triton.runs_kernel(q, k, v):
        return _diff_attn_pytorch(q, k, v, lam)
    return differential_triton.diff_attn(q, k, v, lam)


def _diff_attn_chunk_pytorch(
    q: Tensor,  # [B, 2 * H, S, D]
    k: Tensor,  # [B, 2 * H, S, D]
    v: Tensor,  # [B, H, S, D_v]
    lambda_full: Tensor,  # [H]
) -> Tensor:
    """Two groups by chunk, causal, a learned lambda for each head, softmax in float32."""
    q1, q2 = q.chunk(2, dim=1)
    k1, k2 = k.chunk(2, dim=1)
    length = q.shape[2]
    mask = torch.triu(torch.ones(length, length, dtype=torch.bool, device=q.device), diagonal=1)
    scores1 = (q1 @ k1.mT * q.shape[-1] ** -0.5).masked_fill(mask, float("-inf"))
    scores2 = (q2 @ k2.mT * q.shape[-1] ** -0.5).masked_fill(mask, float("-inf"))
    attn1 = F.softmax(scores1, dim=-1, dtype=torch.float32)
    attn2 = F.softmax(scores2, dim=-1, dtype=torch.float32)
    attn = attn1 - lambda_full[:, None, None] * attn2
    return attn.to(v.dtype) @ v


def diff_attn_chunk(
    q: Tensor,  # [B, 2 * H, S, D]
    k: Tensor,  # [B, 2 * H, S, D]
    v: Tensor,  # [B, H, S, D_v]
    lambda_full: Tensor,  # [H]
) -> Tensor:
    """Two groups by chunk, causal, a learned lambda for each head, softmax in float32."""
    if not differential_triton.runs_kernel(q, k, v, lambda_full):
        return _diff_attn_chunk_pytorch(q, k, v, lambda_full)
    return differential_triton.diff_attn_chunk(q, k, v, lambda_full)


def _diff_attn_norm_pytorch(
    q: Tensor,  # [B, 2 * H, S, D]
    k: Tensor,  # [B, 2 * H, S, D]
    v: Tensor,  # [B, H, S, D_v]
    weight: Tensor,  # [D_v]
    lam: float,
    lambda_init: float = 0.8,
) -> Tensor:
    """With the RMS norm over each head and the factor (1 - lambda_init) that follow in the paper."""
    q1, q2 = q.chunk(2, dim=1)
    k1, k2 = k.chunk(2, dim=1)
    scale = q.shape[-1] ** -0.5
    attn1 = torch.softmax(q1 @ k1.transpose(-2, -1) * scale, dim=-1)
    attn2 = torch.softmax(q2 @ k2.transpose(-2, -1) * scale, dim=-1)
    out = ((attn1 - lam * attn2) @ v).float()
    normed = out * torch.rsqrt(out.pow(2).mean(dim=-1, keepdim=True) + 1e-5)
    return (normed.to(v.dtype) * weight) * (1 - lambda_init)


def diff_attn_norm(
    q: Tensor,  # [B, 2 * H, S, D]
    k: Tensor,  # [B, 2 * H, S, D]
    v: Tensor,  # [B, H, S, D_v]
    weight: Tensor,  # [D_v]
    lam: float,
    lambda_init: float = 0.8,
) -> Tensor:
    """With the RMS norm over each head and the factor (1 - lambda_init) that follow in the paper."""
    if not differential_triton.runs_kernel(q, k, v, weight):
        return _diff_attn_norm_pytorch(q, k, v, weight, lam, lambda_init)
    return differential_triton.diff_attn_norm(q, k, v, weight, lam, lambda_init)


def _multihead_diff_attn_pytorch(
    q: Tensor,  # [B, S, 2 * H, D]
    k: Tensor,  # [B, S, 2 * H, D]
    v: Tensor,  # [B, S, H, D_v]
    lambda_full: Tensor,  # [] float32
    lambda_init: float = 0.8,
) -> Tensor:
    """As the authors write it: the pair is the innermost part of the head, sequences before heads, all merged."""
    batch, length, heads, width = v.shape
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    attn_weights = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
    attn_weights = F.softmax(attn_weights, dim=-1, dtype=torch.float32).type_as(attn_weights)
    attn_weights = attn_weights.view(batch, heads, 2, length, length)
    attn_weights = attn_weights[:, :, 0] - lambda_full * attn_weights[:, :, 1]
    attn = torch.matmul(attn_weights.to(v.dtype), v).float()
    attn = attn * torch.rsqrt(attn.pow(2).mean(-1, keepdim=True) + 1e-5) * (1 - lambda_init)
    return attn.type_as(v).transpose(1, 2).reshape(batch, length, heads * width)


def multihead_diff_attn(
    q: Tensor,  # [B, S, 2 * H, D]
    k: Tensor,  # [B, S, 2 * H, D]
    v: Tensor,  # [B, S, H, D_v]
    lambda_full: Tensor,  # [] float32
    lambda_init: float = 0.8,
) -> Tensor:
    """As the authors write it: the pair is the innermost part of the head, sequences before heads, all merged."""
    if not differential_triton.runs_kernel(q, k, v, lambda_full):
        return _multihead_diff_attn_pytorch(q, k, v, lambda_full, lambda_init)
    return differential_triton.multihead_diff_attn(q, k, v, lambda_full, lambda_init)
