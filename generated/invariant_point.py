# Written by flashlight 0.1.0 from examples/invariant_point.py (sha256 24027c6d587370eb)
# with `flashlight transpile examples/invariant_point.py`; change the source and run that again.
"""Invariant point attention (Jumper et al. 2021, algorithm 22): weights that no rotation or translation changes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import invariant_point_triton
else:
    import invariant_point_triton


def _invariant_point_attention_pytorch(
    q: Tensor,  # [B, N, H, C]
    k: Tensor,  # [B, N, H, C]
    v: Tensor,  # [B, N, H, C]
    q_points: Tensor,  # [B, N, H, P, 3]
    k_points: Tensor,  # [B, N, H, P, 3]
    v_points: Tensor,  # [B, N, H, R, 3]
    pair_bias: Tensor,  # [B, N, N, H]
    pair: Tensor,  # [B, N, N, Z]
    head_weights: Tensor,  # [H]
    mask: Tensor,  # [B, N]
) -> tuple[Tensor, Tensor, Tensor]:
    """Points are in the global frame; returns what scalars, points and pairs contribute."""
    scalar = torch.einsum("bihc,bjhc->bhij", q, k) * math.sqrt(1.0 / (3 * q.shape[-1]))
    distance = (q_points[:, :, None] - k_points[:, None]).pow(2).sum(dim=(-2, -1)).permute(0, 3, 1, 2)
    gamma = F.softplus(head_weights) * math.sqrt(1.0 / (3 * q_points.shape[-2] * 9.0 / 2))
    logits = scalar - 0.5 * gamma[:, None, None] * distance
    logits = logits + math.sqrt(1.0 / 3) * pair_bias.permute(0, 3, 1, 2)
    logits = logits + 1e5 * (mask[:, None, None, :] * mask[:, None, :, None] - 1)
    attn = torch.softmax(logits, dim=-1)
    o_scalar = torch.einsum("bhij,bjhc->bihc", attn, v)
    o_points = torch.einsum("bhij,bjhpx->bihpx", attn, v_points)
    o_pair = torch.einsum("bhij,bijz->bihz", attn, pair)
    return o_scalar, o_points, o_pair


def invariant_point_attention(
    q: Tensor,  # [B, N, H, C]
    k: Tensor,  # [B, N, H, C]
    v: Tensor,  # [B, N, H, C]
    q_points: Tensor,  # [B, N, H, P, 3]
    k_points: Tensor,  # [B, N, H, P, 3]
    v_points: Tensor,  # [B, N, H, R, 3]
    pair_bias: Tensor,  # [B, N, N, H]
    pair: Tensor,  # [B, N, N, Z]
    head_weights: Tensor,  # [H]
    mask: Tensor,  # [B, N]
) -> tuple[Tensor, Tensor, Tensor]:
    """Points are in the global frame; returns what scalars, points and pairs contribute."""
    if not invariant_point_triton.runs_kernel(
        q, k, v, q_points, k_points, v_points, pair_bias, pair, head_weights, mask
    ):
        return _invariant_point_attention_pytorch(
            q, k, v, q_points, k_points, v_points, pair_bias, pair, head_weights, mask
        )
    return invariant_point_triton.invariant_point_attention(
        q, k, v, q_points, k_points, v_points, pair_bias, pair, head_weights, mask
    )


def _point_attention_pytorch(
    q_points: Tensor,  # [B, H, N, C]
    k_points: Tensor,  # [B, H, N, C]
    v: Tensor,  # [B, H, N, D]
    gamma: Tensor,  # [H]
) -> Tensor:
    """Squared distances alone as logits, coordinates flattened."""
    distance = (q_points[:, :, :, None] - k_points[:, :, None]).square().sum(-1)
    attn = torch.softmax(-0.5 * gamma[:, None, None] * distance, dim=-1)
    return attn @ v


def point_attention(
    q_points: Tensor,  # [B, H, N, C]
    k_points: Tensor,  # [B, H, N, C]
    v: Tensor,  # [B, H, N, D]
    gamma: Tensor,  # [H]
) -> Tensor:
    """Squared distances alone as logits, coordinates flattened."""
    if not invariant_point_triton.runs_kernel(q_points, k_points, v, gamma):
        return _point_attention_pytorch(q_points, k_points, v, gamma)
    return invariant_point_triton.point_attention(q_points, k_points, v, gamma)
