"""Stick-breaking attention (Tan et al. 2024): each key, nearest first, takes its share of what is left."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def stick_breaking(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """The log of what is left is a sum over the keys between; strictly causal."""
    logits = (query @ key.transpose(-2, -1)).float() / math.sqrt(query.shape[-1])
    length = query.shape[-2]
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril(-1)
    log_beta = F.logsigmoid(logits)
    log_left = F.logsigmoid(-logits).masked_fill(~mask, 0.0)
    between = log_left.flip(-1).cumsum(-1).flip(-1) - log_left
    weights = torch.exp(log_beta + between).masked_fill(~mask, 0.0)
    return weights.to(value.dtype) @ value
