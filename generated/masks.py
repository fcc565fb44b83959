# Written by flashlight 0.1.0 from examples/masks.py (sha256 cc0a702b3ead7be7)
# with `flashlight transpile examples/masks.py`; change the source and run that again.
"""Masks passed in, boolean and additive, in every shape that broadcasts to [B, H, S_q, S_k]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import masks_triton
else:
    import masks_triton


def _boolean_mask_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, H, S_q, S_k] bool
) -> Tensor:
    """A boolean mask of one's own for every head: true is kept; a row with nothing kept is NaN."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(~mask, float("-inf"))
    attn = F.softmax(scores, dim=-1)
    return attn @ value


def boolean_mask(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, H, S_q, S_k] bool
) -> Tensor:
    """A boolean mask of one's own for every head: true is kept; a row with nothing kept is NaN."""
    if not masks_triton.runs_kernel(query, key, value, mask):
        return _boolean_mask_pytorch(query, key, value, mask)
    return masks_triton.boolean_mask(query, key, value, mask)


def _boolean_mask_per_batch_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, 1, S_q, S_k] bool
) -> Tensor:
    """One mask for all heads; a row with nothing kept is the mean of the values, because the fill is finite."""
    scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(query.size(-1))
    scores = torch.where(mask, scores, torch.finfo(scores.dtype).min)
    attn = torch.softmax(scores, dim=-1)
    return torch.matmul(attn, value)


def boolean_mask_per_batch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, 1, S_q, S_k] bool
) -> Tensor:
    """One mask for all heads; a row with nothing kept is the mean of the values, because the fill is finite."""
    if not masks_triton.runs_kernel(query, key, value, mask):
        return _boolean_mask_per_batch_pytorch(query, key, value, mask)
    return masks_triton.boolean_mask_per_batch(query, key, value, mask)


def _boolean_mask_shared_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    hidden: Tensor,  # [S_q, S_k] bool
) -> Tensor:
    """One mask for the whole batch, true where hidden, filled in place."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    scores.masked_fill_(hidden, float("-inf"))
    return scores.softmax(dim=-1) @ value


def boolean_mask_shared(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    hidden: Tensor,  # [S_q, S_k] bool
) -> Tensor:
    """One mask for the whole batch, true where hidden, filled in place."""
    if not masks_triton.runs_kernel(query, key, value, hidden):
        return _boolean_mask_shared_pytorch(query, key, value, hidden)
    return masks_triton.boolean_mask_shared(query, key, value, hidden)


def _boolean_mask_optional_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor | None = None,  # [B, S_q, S_k] bool
) -> Tensor:
    """A mask that may be left out."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    if mask is not None:
        scores = scores.masked_fill(mask.unsqueeze(1).logical_not(), -1e4)
    p_attn = scores.softmax(dim=-1)
    return p_attn @ value


def boolean_mask_optional(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor | None = None,  # [B, S_q, S_k] bool
) -> Tensor:
    """A mask that may be left out."""
    if not masks_triton.runs_kernel(query, key, value):
        return _boolean_mask_optional_pytorch(query, key, value, mask)
    if mask is None:
        raise ValueError("boolean_mask_optional: the kernel was written for a tensor as mask")
    return masks_triton.boolean_mask_optional(query, key, value, mask)


def _additive_mask_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    attention_mask: Tensor,  # [B, 1, S_q, S_k]
    scaling: float,
) -> Tensor:
    """A mask of numbers in the dtype of the query, added after scaling; softmax in float32."""
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    attn_weights = attn_weights + attention_mask
    attn_weights = F.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(attn_weights, value)


def additive_mask(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    attention_mask: Tensor,  # [B, 1, S_q, S_k]
    scaling: float,
) -> Tensor:
    """A mask of numbers in the dtype of the query, added after scaling; softmax in float32."""
    if not masks_triton.runs_kernel(query, key, value, attention_mask):
        return _additive_mask_pytorch(query, key, value, attention_mask, scaling)
    return masks_triton.additive_mask(query, key, value, attention_mask, scaling)


def _additive_bias_per_head_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    bias: Tensor,  # [H, S_q, S_k]
) -> Tensor:
    """A learned bias for each head, the same for the whole batch, added in place."""
    scores = query @ key.transpose(-2, -1)
    scores *= query.size(-1) ** -0.5
    scores += bias
    return scores.softmax(dim=-1) @ value


def additive_bias_per_head(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    bias: Tensor,  # [H, S_q, S_k]
) -> Tensor:
    """A learned bias for each head, the same for the whole batch, added in place."""
    if not masks_triton.runs_kernel(query, key, value, bias):
        return _additive_bias_per_head_pytorch(query, key, value, bias)
    return masks_triton.additive_bias_per_head(query, key, value, bias)


def _additive_mask_keys_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, 1, 1, S_k]
) -> Tensor:
    """Numbers for keys only, as padding masks are handed around."""
    scores = query @ key.transpose(-1, -2)
    scores = scores / math.sqrt(query.shape[-1]) + mask
    probs = F.softmax(scores, dim=-1)
    return probs @ value


def additive_mask_keys(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, 1, 1, S_k]
) -> Tensor:
    """Numbers for keys only, as padding masks are handed around."""
    if not masks_triton.runs_kernel(query, key, value, mask):
        return _additive_mask_keys_pytorch(query, key, value, mask)
    return masks_triton.additive_mask_keys(query, key, value, mask)


def _additive_pair_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    mask_bias: Tensor,  # [B, 1, 1, S]
    pair_bias: Tensor,  # [1, H, S, S]
) -> Tensor:
    """Two biases of different shapes, in a list, as structure models pass them."""
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * query.shape[-1] ** -0.5
    for bias in [mask_bias, pair_bias]:
        scores = scores + bias
    attn = torch.softmax(scores, dim=-1)
    return torch.einsum("bhij,bhjd->bhid", attn, value)


def additive_pair(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    mask_bias: Tensor,  # [B, 1, 1, S]
    pair_bias: Tensor,  # [1, H, S, S]
) -> Tensor:
    """Two biases of different shapes, in a list, as structure models pass them."""
    if not masks_triton.runs_kernel(query, key, value, mask_bias, pair_bias):
        return _additive_pair_pytorch(query, key, value, mask_bias, pair_bias)
    return masks_triton.additive_pair(query, key, value, mask_bias, pair_bias)
