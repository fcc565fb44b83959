"""torch.nn.functional.scaled_dot_product_attention with each of its arguments but dropout."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sdpa(query, key, value):
    """Nothing but query, key and value."""
    return F.scaled_dot_product_attention(query, key, value)


def sdpa_causal(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D_v]
) -> Tensor:
    """Causal, aligned top left where the lengths differ."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def sdpa_boolean_mask(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, 1, S_q, S_k] bool
) -> Tensor:
    """True is kept; a row with nothing kept is zero, not NaN."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def sdpa_additive_mask(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    bias: Tensor,  # [B, H, S_q, S_k]
) -> Tensor:
    """A bias in the dtype of the query."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def sdpa_scale(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    scale: float,
) -> Tensor:
    """The caller's scale."""
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def sdpa_grouped(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H_kv, S, D]
    value: Tensor,  # [B, H_kv, S, D]
) -> Tensor:
    """Grouped heads, causal."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def sdpa_merged_heads(
    query: Tensor,  # [B, S, H, D]
    key: Tensor,  # [B, S, H, D]
    value: Tensor,  # [B, S, H, D]
    key_padding_mask: Tensor,  # [B, S] bool
) -> Tensor:
    """Around the call as in a layer: heads to the front, a padding mask (true is padding), heads merged again."""
    mask = key_padding_mask.logical_not()[:, None, None, :]
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return torch.flatten(output.transpose(1, 2), start_dim=2)
