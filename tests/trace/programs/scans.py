"""Cumulative sums and products along the keys of each query: forward, reversed, windowed, counted, of weights."""

import torch
import torch.nn.functional as F


def positions(q, k, v):
    """Positions that depend on the context (Golovneva et al. 2024): open gates counted from the query back."""
    logits = (q @ k.mT * q.shape[-1] ** -0.5).float()
    future = torch.ones_like(logits, dtype=torch.bool).triu(1)
    gates = torch.sigmoid(logits).masked_fill(future, 0.0)
    position = gates.flip(-1).cumsum(-1).flip(-1)
    return torch.softmax((logits - 0.1 * position).masked_fill(future, float("-inf")), -1).to(v.dtype) @ v


def windowed_positions(q, k, v, size: int):
    logits = (q @ k.mT * q.shape[-1] ** -0.5).float()
    i = torch.arange(q.shape[-2], device=q.device)
    near = (i[:, None] - i[None, :] < size) & (i[:, None] >= i[None, :])
    gates = torch.sigmoid(logits).masked_fill(~near, 0.0)
    position = gates.flip(-1).cumsum(-1).flip(-1)
    return torch.softmax((logits - 0.1 * position).masked_fill(~near, float("-inf")), -1).to(v.dtype) @ v


def forward_positions(q, k, v):
    """The sum includes keys that the mask hides, as long as they come first."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    future = torch.ones_like(logits, dtype=torch.bool).triu(1)
    position = torch.sigmoid(logits.float()).cumsum(-1)
    return torch.softmax((logits + 0.1 * position).masked_fill(future, float("-inf")), -1).to(v.dtype) @ v


def backward_positions(q, k, v):
    """No mask: what parts a block is the end of the keys alone, where this sum begins."""
    logits = (q @ k.mT * q.shape[-1] ** -0.5).float()
    position = torch.sigmoid(logits).flip(-1).cumsum(-1).flip(-1)
    return torch.softmax(logits - 0.1 * position, -1).to(v.dtype) @ v


def from_both_ends(q, k, v):
    logits = (q @ k.mT * q.shape[-1] ** -0.5).float()
    gates = torch.sigmoid(logits)
    before, after = gates.cumsum(-1), gates.flip(-1).cumsum(-1).flip(-1)
    return torch.sigmoid(logits + 0.01 * before - 0.02 * after).to(v.dtype) @ v


def cumulative_weights(q, k, v):
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return weights.cumsum(-1) @ v / q.shape[-2]


def products(q, k, v):
    """Each key leaves the next ones what it does not take, itself included."""
    taken = torch.sigmoid((q @ k.mT * q.shape[-1] ** -0.5).float())
    return (taken * torch.cumprod(1 - taken, -1)).to(v.dtype) @ v


def counts(q, k, v):
    """A penalty for each key seen so far that has a positive score."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    seen = (logits > 0).long().cumsum(-1)
    return torch.softmax(logits.float() - 0.1 * seen, dim=-1).to(v.dtype) @ v


def reversed_gates(
    q,
    k,
    v,
    f: torch.Tensor,  # [B, H, S]
):
    """Gates of one value a key, accumulated from the end: no scan within the kernel."""
    cumulative = F.logsigmoid(f.float()).flip(-1).cumsum(-1).flip(-1)
    logits = q @ k.mT * q.shape[-1] ** -0.5 + cumulative[..., None, :] - cumulative[..., :, None]
    future = torch.ones_like(logits, dtype=torch.bool).triu(1)
    return torch.softmax(logits.masked_fill(future, float("-inf")), -1).to(v.dtype) @ v


def gates_of_keys(
    q,
    k,
    v,
    w: torch.Tensor,  # [D]
):
    """Gates that the keys themselves give: the same sum for every query."""
    cumulative = F.logsigmoid((k @ w).float()).cumsum(-1)
    logits = q @ k.mT * q.shape[-1] ** -0.5 - 0.1 * cumulative[..., None, :]
    return torch.softmax(logits, -1).to(v.dtype) @ v
