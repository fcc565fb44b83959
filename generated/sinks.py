# Written by flashlight 0.1.0 from examples/sinks.py (sha256 998d7c5f26ebd873)
# with `flashlight transpile examples/sinks.py`; change the source and run that again.
"""Something besides the keys to attend to: learned sinks (gpt-oss), softmax-off-by-one, a null key and value."""

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import sinks_triton
else:
    import sinks_triton


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
    if not sinks_triton.runs_kernel(query, key, value, sinks):
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
    if not sinks_triton.runs_kernel(query, key, value):
        return _softmax_off_by_one_pytorch(query, key, value)
    return sinks_triton.softmax_off_by_one(query, key, value)


def _attention_with_null_key_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    null_key_value: Tensor,  # [2, H, D]
    key_mask: Tensor,  # [B, S_k] bool
) -> Tensor:
    """A learned key and value in front of the others, which no mask hides."""
    null_key, null_value = (x[None, :, None].expand(query.shape[0], -1, -1, -1) for x in null_key_value)
    key, value = torch.cat([null_key, key], dim=2), torch.cat([null_value, value], dim=2)
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * query.shape[-1] ** -0.5
    key_mask = F.pad(key_mask, (1, 0), value=True)
    scores = scores.masked_fill(~key_mask[:, None, None, :], -torch.finfo(scores.dtype).max)
    return scores.softmax(dim=-1) @ value


def attention_with_null_key(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    null_key_value: Tensor,  # [2, H, D]
    key_mask: Tensor,  # [B, S_k] bool
) -> Tensor:
    """A learned key and value in front of the others, which no mask hides."""
    if not sinks_triton.runs_kernel(query, key, value, null_key_value, key_mask):
        return _attention_with_null_key_pytorch(query, key, value, null_key_value, key_mask)
    return sinks_triton.attention_with_null_key(query, key, value, null_key_value, key_mask)
