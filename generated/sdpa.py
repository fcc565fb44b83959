# Written by flashlight 0.1.0 from examples/sdpa.py (sha256 114ff251b39bf608)
# with `flashlight transpile examples/sdpa.py`; change the source and run that again.
"""torch.nn.functional.scaled_dot_product_attention with each of its arguments but dropout."""

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import sdpa_triton
else:
    import sdpa_triton


def _sdpa_pytorch(query, key, value):
    """Nothing but query, key and value."""
    return F.scaled_dot_product_attention(query, key, value)


def sdpa(query, key, value):
    """Nothing but query, key and value."""
    if not sdpa_triton.runs_kernel(query, key, value):
        return _sdpa_pytorch(query, key, value)
    return sdpa_triton.sdpa(query, key, value)


def _sdpa_causal_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D_v]
) -> Tensor:
    """Causal, aligned top left where the lengths differ."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def sdpa_causal(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D_v]
) -> Tensor:
    """Causal, aligned top left where the lengths differ."""
    if not sdpa_triton.runs_kernel(query, key, value):
        return _sdpa_causal_pytorch(query, key, value)
    return sdpa_triton.sdpa_causal(query, key, value)


def _sdpa_boolean_mask_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, 1, S_q, S_k] bool
) -> Tensor:
    """True is kept; a row with nothing kept is zero, not NaN."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def sdpa_boolean_mask(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    mask: Tensor,  # [B, 1, S_q, S_k] bool
) -> Tensor:
    """True is kept; a row with nothing kept is zero, not NaN."""
    if not sdpa_triton.runs_kernel(query, key, value, mask):
        return _sdpa_boolean_mask_pytorch(query, key, value, mask)
    return sdpa_triton.sdpa_boolean_mask(query, key, value, mask)


def _sdpa_additive_mask_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    bias: Tensor,  # [B, H, S_q, S_k]
) -> Tensor:
    """A bias in the dtype of the query."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def sdpa_additive_mask(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    bias: Tensor,  # [B, H, S_q, S_k]
) -> Tensor:
    """A bias in the dtype of the query."""
    if not sdpa_triton.runs_kernel(query, key, value, bias):
        return _sdpa_additive_mask_pytorch(query, key, value, bias)
    return sdpa_triton.sdpa_additive_mask(query, key, value, bias)


def _sdpa_scale_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    scale: float,
) -> Tensor:
    """The caller's scale."""
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def sdpa_scale(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    scale: float,
) -> Tensor:
    """The caller's scale."""
    if not sdpa_triton.runs_kernel(query, key, value):
        return _sdpa_scale_pytorch(query, key, value, scale)
    return sdpa_triton.sdpa_scale(query, key, value, scale)


def _sdpa_grouped_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H_kv, S, D]
    value: Tensor,  # [B, H_kv, S, D]
) -> Tensor:
    """Grouped heads, causal."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def sdpa_grouped(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H_kv, S, D]
    value: Tensor,  # [B, H_kv, S, D]
) -> Tensor:
    """Grouped heads, causal."""
    if not sdpa_triton.runs_kernel(query, key, value):
        return _sdpa_grouped_pytorch(query, key, value)
    return sdpa_triton.sdpa_grouped(query, key, value)


def _sdpa_merged_heads_pytorch(
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


def sdpa_merged_heads(
    query: Tensor,  # [B, S, H, D]
    key: Tensor,  # [B, S, H, D]
    value: Tensor,  # [B, S, H, D]
    key_padding_mask: Tensor,  # [B, S] bool
) -> Tensor:
    """Around the call as in a layer: heads to the front, a padding mask (true is padding), heads merged again."""
    if not sdpa_triton.runs_kernel(query, key, value, key_padding_mask):
        return _sdpa_merged_heads_pytorch(query, key, value, key_padding_mask)
    return sdpa_triton.sdpa_merged_heads(query, key, value, key_padding_mask)
