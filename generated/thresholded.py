# Written by flashlight 0.1.0 from examples/thresholded.py (sha256 7e1cb351972d95b4)
# with `flashlight transpile examples/thresholded.py`; change the source and run that again.
"""Chains of dependent reductions that take more than one pass, or return more than one result."""

import torch
from torch import Tensor

if __package__:
    from . import thresholded_triton
else:
    import thresholded_triton


def _thresholded_pytorch(
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


def thresholded(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    threshold: float = 0.01,
) -> Tensor:
    """Weights below the threshold are dropped and the rest renormalised."""
    if not thresholded_triton.runs_kernel(query, key, value):
        return _thresholded_pytorch(query, key, value, threshold)
    return thresholded_triton.thresholded(query, key, value, threshold)


def _with_entropy_pytorch(
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


def with_entropy(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> tuple[Tensor, Tensor]:
    """The entropy of each row of weights is a second output."""
    if not thresholded_triton.runs_kernel(query, key, value):
        return _with_entropy_pytorch(query, key, value)
    return thresholded_triton.with_entropy(query, key, value)


def _sharpened_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """Weights are cubed and renormalised."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    probs = torch.softmax(scores, dim=-1) ** 3
    probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs @ value


def sharpened(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """Weights are cubed and renormalised."""
    if not thresholded_triton.runs_kernel(query, key, value):
        return _sharpened_pytorch(query, key, value)
    return thresholded_triton.sharpened(query, key, value)
