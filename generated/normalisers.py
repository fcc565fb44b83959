# Written by flashlight 0.1.0 from examples/normalisers.py (sha256 b2a072963f67911d)
# with `flashlight transpile examples/normalisers.py`; change the source and run that again.
"""Weights that are normalised in other ways than by a softmax, or not at all."""

import math

import torch
from torch import Tensor

if __package__:
    from . import normalisers_triton
else:
    import normalisers_triton


def _sigmoid_attention_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """Every weight on its own, with a bias of -log(length) (Ramapuram et al. 2024)."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = torch.sigmoid(scores - math.log(key.shape[-2]))
    return weights @ value


def sigmoid_attention(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """Every weight on its own, with a bias of -log(length) (Ramapuram et al. 2024)."""
    if not normalisers_triton.runs_kernel(query, key, value):
        return _sigmoid_attention_pytorch(query, key, value)
    return normalisers_triton.sigmoid_attention(query, key, value)


def _relu_squared_attention_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """Squared ReLU, divided by its sum over the row; causal."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = torch.relu(scores).square().tril()
    return (weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)) @ value


def relu_squared_attention(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """Squared ReLU, divided by its sum over the row; causal."""
    if not normalisers_triton.runs_kernel(query, key, value):
        return _relu_squared_attention_pytorch(query, key, value)
    return normalisers_triton.relu_squared_attention(query, key, value)


def _retention_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D_v]
) -> Tensor:
    """Retention in parallel form (Sun et al. 2023): decay by distance, rows divided by max(|sum|, 1)."""
    heads, length = query.shape[1], query.shape[2]
    log_decay = torch.log(1 - 2.0 ** (-5 - torch.arange(heads, device=query.device)))
    index = torch.arange(length, device=query.device)
    distance = index[:, None] - index[None, :]
    decay = torch.exp(log_decay[:, None, None] * distance).masked_fill(distance < 0, 0.0)
    decay = decay / decay.sum(dim=-1, keepdim=True).sqrt()
    weights = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 * decay
    weights = weights / weights.sum(dim=-1, keepdim=True).abs().clamp(min=1)
    return (weights.to(value.dtype)) @ value


def retention(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D_v]
) -> Tensor:
    """Retention in parallel form (Sun et al. 2023): decay by distance, rows divided by max(|sum|, 1)."""
    if not normalisers_triton.runs_kernel(query, key, value):
        return _retention_pytorch(query, key, value)
    return normalisers_triton.retention(query, key, value)


def _causal_linear_attention_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D_v]
) -> Tensor:
    """Causal linear attention in quadratic form (Katharopoulos et al. 2020), with the feature map elu + 1."""
    query = torch.nn.functional.elu(query) + 1
    key = torch.nn.functional.elu(key) + 1
    weights = torch.tril(query @ key.transpose(-2, -1))
    return (weights @ value) / (weights.sum(dim=-1, keepdim=True) + 1e-6)


def causal_linear_attention(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D_v]
) -> Tensor:
    """Causal linear attention in quadratic form (Katharopoulos et al. 2020), with the feature map elu + 1."""
    if not normalisers_triton.runs_kernel(query, key, value):
        return _causal_linear_attention_pytorch(query, key, value)
    return normalisers_triton.causal_linear_attention(query, key, value)
