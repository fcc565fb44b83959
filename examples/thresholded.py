"""Chains of dependent reductions that take more than one pass, or return more than one result."""

import torch
from torch import Tensor


def thresholded(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    threshold: float = 0.01,
) -> Tensor:
    """Weights below the threshold are dropped and the rest renormalised."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    probs = torch.softmax(scores, dim=-1)
    kept = torch.where(probs > threshold, probs, 0.0)
    return (kept / (kept.sum(dim=-1, keepdim=True) + 1e-9)) @ value


def with_entropy(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> tuple[Tensor, Tensor]:
    """The entropy of each row of weights is a second output."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    log_probs = torch.log_softmax(scores.float(), dim=-1)
    probs = log_probs.exp()
    entropy = -(probs * log_probs).sum(dim=-1)
    return probs.to(value.dtype) @ value, entropy


def sharpened(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """Weights are cubed and renormalised."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    probs = torch.softmax(scores, dim=-1) ** 3
    probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs @ value
