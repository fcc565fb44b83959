# Written by flashlight 0.1.0 from examples/stick_breaking.py (sha256 aaac9d1ef550c28d)
# with `flashlight transpile examples/stick_breaking.py`; change the source and run that again.
"""Stick-breaking attention (Tan et al. 2024): each key, from the nearest back, takes its share of what is left.

The weight of key j for query i is beta_ij * prod (1 - beta_ik) over the keys k between them, beta being the sigmoid of
the score. There is no softmax: in logarithms the product is a sum, cumulative from the query back.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import stick_breaking_triton
else:
    import stick_breaking_triton


def _stick_breaking_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The cumulative sum from the last key to the first by two flips; strictly causal."""
    logits = (query @ key.transpose(-2, -1)).float() / math.sqrt(query.shape[-1])
    length = query.shape[-2]
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril(-1)
    log_beta = F.logsigmoid(logits)
    log_left = F.logsigmoid(-logits).masked_fill(~mask, 0.0)
    between = log_left.flip(-1).cumsum(-1).flip(-1) - log_left
    weights = torch.exp(log_beta + between).masked_fill(~mask, 0.0).to(value.dtype)
    return weights @ value


def stick_breaking(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The cumulative sum from the last key to the first by two flips; strictly causal."""
    if not stick_breaking_triton.runs_kernel(query, key, value):
        return _stick_breaking_pytorch(query, key, value)
    return stick_breaking_triton.stick_breaking(query, key, value)


def _stickbreaking_pytorch(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
) -> tuple[Tensor, Tensor]:
    """As the authors' reference has it: the sum by a triangular matrix, and what is left of the stick as well."""
    length = q.shape[-2]
    mask = torch.ones(length, length, device=q.device).triu(0).bool()
    cum_weight = torch.ones(length, length, device=q.device).tril(-1)
    logits = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    original_dtype = logits.dtype
    logits = logits.float()
    log_z = F.logsigmoid(logits).masked_fill(mask, -1e5).to(original_dtype)
    log_om_beta = F.logsigmoid(-logits).masked_fill(mask, 0).to(original_dtype)
    re_cum_log_om_beta = torch.einsum("bhij,jk->bhik", log_om_beta, cum_weight.to(log_om_beta))
    log_att = log_z + re_cum_log_om_beta
    att = log_att.exp()
    rem = 1 - att.sum(dim=-1)
    return att @ v, rem


def stickbreaking(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
) -> tuple[Tensor, Tensor]:
    """As the authors' reference has it: the sum by a triangular matrix, and what is left of the stick as well."""
    if not stick_breaking_triton.runs_kernel(q, k, v):
        return _stickbreaking_pytorch(q, k, v)
    return stick_breaking_triton.stickbreaking(q, k, v)


def _stick_breaking_softplus_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """By softplus, of which one suffices: log(beta) is the score less it; the sum is the total without a prefix."""
    scores = torch.matmul(query, key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5
    position = torch.arange(query.shape[-2], device=query.device)
    hidden = position[None, :] >= position[:, None]
    log_left = -F.softplus(scores).masked_fill(hidden, 0.0)
    total = log_left.sum(dim=-1, keepdim=True)
    log_weights = scores + log_left + (total - log_left.cumsum(dim=-1))
    weights = torch.exp(log_weights.masked_fill(hidden, float("-inf")))
    return torch.matmul(weights.to(value.dtype), value)


def stick_breaking_softplus(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """By softplus, of which one suffices: log(beta) is the score less it; the sum is the total without a prefix."""
    if not stick_breaking_triton.runs_kernel(query, key, value):
        return _stick_breaking_softplus_pytorch(query, key, value)
    return stick_breaking_triton.stick_breaking_softplus(query, key, value)
