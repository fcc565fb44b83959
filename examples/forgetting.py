"""Forgetting attention (Lin et al. 2025): the logs of forget gates add up between a key and its query."""

import torch
import torch.nn.functional as F
from torch import Tensor


def forgetting_attention(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    forget_logit: Tensor,  # [B, H, S]
) -> Tensor:
    """The bias is the difference of cumulative sums of log gates; causal."""
    log_fgate = F.logsigmoid(forget_logit.float())
    cumulative = torch.cumsum(log_fgate, dim=-1)
    bias = cumulative[..., :, None] - cumulative[..., None, :]
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + bias
    length = query.shape[-2]
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    scores = scores.masked_fill(~mask, float("-inf"))
    probs = torch.softmax(scores, dim=-1).to(value.dtype)
    return probs @ value
