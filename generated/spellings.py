# Written by flashlight 0.1.0 from examples/spellings.py (sha256 fa40909f73152972)
# with `flashlight transpile examples/spellings.py`; change the source and run that again.
"""The same attention, spelled in the ways that PyTorch allows."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, einsum

if __package__:
    from . import spellings_triton
else:
    import spellings_triton


def _with_einsum_pytorch(
    query: Tensor,  # [B, S_q, H, D]
    key: Tensor,  # [B, S_k, H, D]
    value: Tensor,  # [B, S_k, H, D]
) -> Tensor:
    """Einsum does the transposing: sequences first in, sequences first out."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.size(-1))
    probs = torch.softmax(scores, dim=-1)
    return torch.einsum("bhqk,bkhd->bqhd", probs, value)


def with_einsum(
    query: Tensor,  # [B, S_q, H, D]
    key: Tensor,  # [B, S_k, H, D]
    value: Tensor,  # [B, S_k, H, D]
) -> Tensor:
    """Einsum does the transposing: sequences first in, sequences first out."""
    if not spellings_triton.runs_kernel(query, key, value):
        return _with_einsum_pytorch(query, key, value)
    return spellings_triton.with_einsum(query, key, value)


def _with_einsum_dots_pytorch(q, k, v):
    """An ellipsis stands for batch and heads."""
    sim = einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    attn = sim.softmax(dim=-1)
    return einsum("...ij,...jd->...id", attn, v)


def with_einsum_dots(q, k, v):
    """An ellipsis stands for batch and heads."""
    if not spellings_triton.runs_kernel(q, k, v):
        return _with_einsum_dots_pytorch(q, k, v)
    return spellings_triton.with_einsum_dots(q, k, v)


def _with_at_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """The operator, and the scores computed transposed: softmax over a dimension that is not last."""
    scores = key @ query.transpose(-2, -1) / math.sqrt(query.size(-1))
    probs = scores.softmax(dim=-2)
    return probs.transpose(-2, -1) @ value


def with_at(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """The operator, and the scores computed transposed: softmax over a dimension that is not last."""
    if not spellings_triton.runs_kernel(query, key, value):
        return _with_at_pytorch(query, key, value)
    return spellings_triton.with_at(query, key, value)


def _with_matmul_pytorch(
    query: Tensor,  # [S_q, B, H, D]
    key: Tensor,  # [S_k, B, H, D]
    value: Tensor,  # [S_k, B, H, D]
) -> Tensor:
    """Methods, and sequences as the very first dimension."""
    scores = query.permute(1, 2, 0, 3).matmul(key.permute(1, 2, 3, 0))
    probs = scores.div(query.shape[-1] ** 0.5).softmax(-1)
    context = probs.matmul(value.permute(1, 2, 0, 3))
    return context.permute(2, 0, 1, 3).contiguous()


def with_matmul(
    query: Tensor,  # [S_q, B, H, D]
    key: Tensor,  # [S_k, B, H, D]
    value: Tensor,  # [S_k, B, H, D]
) -> Tensor:
    """Methods, and sequences as the very first dimension."""
    if not spellings_triton.runs_kernel(query, key, value):
        return _with_matmul_pytorch(query, key, value)
    return spellings_triton.with_matmul(query, key, value)


def _with_bmm_pytorch(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
) -> Tensor:
    """Three dimensions: batch and heads are one."""
    attn_weights = torch.bmm(query, key.transpose(1, 2)) / math.sqrt(query.size(-1))
    attn_weights = F.softmax(attn_weights, dim=-1)
    return torch.bmm(attn_weights, value)


def with_bmm(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
) -> Tensor:
    """Three dimensions: batch and heads are one."""
    if not spellings_triton.runs_kernel(query, key, value):
        return _with_bmm_pytorch(query, key, value)
    return spellings_triton.with_bmm(query, key, value)


def _with_bmm_reshaped_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    attention_mask: Tensor,  # [B, 1, S_q, S_k]
) -> Tensor:
    """Batch and heads are folded for the products, and unfolded for the mask."""
    batch, heads, length, head_dim = query.shape
    query = query.reshape(batch * heads, length, head_dim) * head_dim**-0.5
    key = key.reshape(batch * heads, -1, head_dim)
    value = value.reshape(batch * heads, -1, head_dim)
    attn_weights = torch.bmm(query, key.transpose(1, 2))
    attn_weights = attn_weights.view(batch, heads, length, -1) + attention_mask
    attn_weights = attn_weights.view(batch * heads, length, -1)
    attn_probs = F.softmax(attn_weights, dim=-1)
    return torch.bmm(attn_probs, value).view(batch, heads, length, head_dim)


def with_bmm_reshaped(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    attention_mask: Tensor,  # [B, 1, S_q, S_k]
) -> Tensor:
    """Batch and heads are folded for the products, and unfolded for the mask."""
    if not spellings_triton.runs_kernel(query, key, value, attention_mask):
        return _with_bmm_reshaped_pytorch(query, key, value, attention_mask)
    return spellings_triton.with_bmm_reshaped(query, key, value, attention_mask)


def _with_baddbmm_pytorch(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
    scale: float,
) -> Tensor:
    """An empty buffer whose weight is zero: only the product and its factor count."""
    buffer = torch.empty(query.shape[0], query.shape[1], key.shape[1], dtype=query.dtype, device=query.device)
    scores = torch.baddbmm(buffer, query, key.transpose(-1, -2), beta=0, alpha=scale)
    probs = scores.softmax(dim=-1)
    return torch.bmm(probs, value)


def with_baddbmm(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
    scale: float,
) -> Tensor:
    """An empty buffer whose weight is zero: only the product and its factor count."""
    if not spellings_triton.runs_kernel(query, key, value):
        return _with_baddbmm_pytorch(query, key, value, scale)
    return spellings_triton.with_baddbmm(query, key, value, scale)


def _with_baddbmm_bias_pytorch(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
    alibi: Tensor,  # [B, 1, S_k]
) -> Tensor:
    """The bias goes in through baddbmm."""
    inv_norm_factor = 1.0 / math.sqrt(query.size(-1))
    scores = torch.baddbmm(alibi, query, key.transpose(1, 2), beta=1.0, alpha=inv_norm_factor)
    weights = F.softmax(scores, dim=-1)
    return weights.bmm(value)


def with_baddbmm_bias(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D]
    alibi: Tensor,  # [B, 1, S_k]
) -> Tensor:
    """The bias goes in through baddbmm."""
    if not spellings_triton.runs_kernel(query, key, value, alibi):
        return _with_baddbmm_bias_pytorch(query, key, value, alibi)
    return spellings_triton.with_baddbmm_bias(query, key, value, alibi)


def _with_softmax_written_out_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """The softmax by hand, divided after the product with the values."""
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
    return (weights @ value) / weights.sum(dim=-1, keepdim=True)


def with_softmax_written_out(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
) -> Tensor:
    """The softmax by hand, divided after the product with the values."""
    if not spellings_triton.runs_kernel(query, key, value):
        return _with_softmax_written_out_pytorch(query, key, value)
    return spellings_triton.with_softmax_written_out(query, key, value)
