# Written by flashlight 0.1.0 from examples/sinks.py (sha256 12abd4e871ebde61)
# with `flashlight transpile examples/sinks.py`; change the source and run that again.
"""A constant in the denominator of the softmax: learned sinks (gpt-oss) and softmax-off-by-one."""

import torch
from torch import Tensor
import os

if __package__:
    from . import sinks_triton
else:
    import sinks_triton


def _runs_kernel(*tensors):
    """Whether a kernel takes these tensors: all on a GPU (or under Triton's interpreter) and none of them empty."""
    for tensor in tensors:
        if not (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") or tensor.numel() == 0:
            return False
    return True


def _attention_with_sinks_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    sinks: Tensor,  # [H]
) -> Tensor:
    """Each head's sink is one more column of the scores, dropped after the softmax; causal."""
    batch, heads, length, width = query.shape
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * width**-0.5
    positions = torch.arange(length, device=query.device)
    attn_weights = attn_weights.masked_fill(positions[None, :] > positions[:, None], float("-inf"))
    sinks = sinks.reshape(1, -1, 1, 1).expand(batch, -1, length, -1)
    combined_logits = torch.cat([attn_weights, sinks], dim=-1)
    combined_logits = combined_logits - combined_logits.max(dim=-1, keepdim=True).values
    probs = torch.softmax(combined_logits, dim=-1, dtype=combined_logits.dtype)
    scores = probs[..., :-1]
    return torch.matmul(scores, value)


def attention_with_sinks(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    sinks: Tensor,  # [H]
) -> Tensor:
    """Each head's sink is one more column of the scores, dropped after the softmax; causal."""
    if not _runs_kernel(query, key, value, sinks):
        return _attention_with_sinks_pytorch(query, key, value, sinks)
    return sinks_triton.attention_with_sinks(query, key, value, sinks)


def _softmax_off_by_one_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """exp(x) / (1 + sum of exp(x)): a head may attend to nothing."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    highest = scores.amax(dim=-1, keepdim=True).clamp(min=0)
    weights = torch.exp(scores - highest)
    weights = weights / (torch.exp(-highest) + weights.sum(dim=-1, keepdim=True))
    return weights @ value


def softmax_off_by_one(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
) -> Tensor:
    """exp(x) / (1 + sum of exp(x)): a head may attend to nothing."""
    if not _runs_kernel(query, key, value):
        return _softmax_off_by_one_pytorch(query, key, value)
    return sinks_triton.softmax_off_by_one(query, key, value)
