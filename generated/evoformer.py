# Written by flashlight 0.1.0 from examples/evoformer.py (sha256 48ca79e9eabb27c6)
# with `flashlight transpile examples/evoformer.py`; change the source and run that again.
"""Gated attention of the Evoformer (Jumper et al. 2021): many short rows, biases that broadcast over different axes."""

import math

import torch
from torch import Tensor

if __package__:
    from . import evoformer_triton
else:
    import evoformer_triton


def _gated(q, k, v, gate, biases):
    """Attention over the third dimension from the end, in the layout [*, S, H, D]."""
    logits = torch.einsum("...qhd,...khd->...hqk", q / math.sqrt(q.shape[-1]), k)
    for bias in biases:
        logits = logits + bias
    weights = torch.softmax(logits, dim=-1)
    weighted_avg = torch.einsum("...hqk,...khd->...qhd", weights, v)
    return torch.sigmoid(gate) * weighted_avg


def _row_attention_pytorch(
    q: Tensor,  # [B, N, S, H, D]
    k: Tensor,  # [B, N, S, H, D]
    v: Tensor,  # [B, N, S, H, D]
    gate: Tensor,  # [B, N, S, H, D]
    mask_bias: Tensor,  # [B, N, 1, 1, S]
    pair_bias: Tensor,  # [B, 1, H, S, S]
) -> Tensor:
    """Along each sequence of the alignment: a bias from the mask, one from the pairs of residues."""
    return _gated(q, k, v, gate, [mask_bias, pair_bias])


def row_attention(
    q: Tensor,  # [B, N, S, H, D]
    k: Tensor,  # [B, N, S, H, D]
    v: Tensor,  # [B, N, S, H, D]
    gate: Tensor,  # [B, N, S, H, D]
    mask_bias: Tensor,  # [B, N, 1, 1, S]
    pair_bias: Tensor,  # [B, 1, H, S, S]
) -> Tensor:
    """Along each sequence of the alignment: a bias from the mask, one from the pairs of residues."""
    if not evoformer_triton.runs_kernel(q, k, v, gate, mask_bias, pair_bias):
        return _row_attention_pytorch(q, k, v, gate, mask_bias, pair_bias)
    return evoformer_triton.row_attention(q, k, v, gate, mask_bias, pair_bias)


def _row_attention_with_mask_pytorch(
    q: Tensor,  # [B, N, S, H, D]
    k: Tensor,  # [B, N, S, H, D]
    v: Tensor,  # [B, N, S, H, D]
    gate: Tensor,  # [B, N, S, H, D]
    msa_mask: Tensor,  # [B, N, S]
    pair_bias: Tensor,  # [B, 1, H, S, S]
) -> Tensor:
    """The mask becomes the bias here: 1e9 * (mask - 1)."""
    mask_bias = (1e9 * (msa_mask.float() - 1))[:, :, None, None, :]
    return _gated(q, k, v, gate, [mask_bias, pair_bias.float()]).to(v.dtype)


def row_attention_with_mask(
    q: Tensor,  # [B, N, S, H, D]
    k: Tensor,  # [B, N, S, H, D]
    v: Tensor,  # [B, N, S, H, D]
    gate: Tensor,  # [B, N, S, H, D]
    msa_mask: Tensor,  # [B, N, S]
    pair_bias: Tensor,  # [B, 1, H, S, S]
) -> Tensor:
    """The mask becomes the bias here: 1e9 * (mask - 1)."""
    if not evoformer_triton.runs_kernel(q, k, v, gate, msa_mask, pair_bias):
        return _row_attention_with_mask_pytorch(q, k, v, gate, msa_mask, pair_bias)
    return evoformer_triton.row_attention_with_mask(q, k, v, gate, msa_mask, pair_bias)


def _column_attention_pytorch(
    q: Tensor,  # [B, N, S, H, D]
    k: Tensor,  # [B, N, S, H, D]
    v: Tensor,  # [B, N, S, H, D]
    gate: Tensor,  # [B, N, S, H, D]
    mask_bias: Tensor,  # [B, S, 1, 1, N]
) -> Tensor:
    """Along each column of the alignment: the same, with sequences and residues exchanged."""
    q, k, v, gate = (x.transpose(1, 2) for x in (q, k, v, gate))
    return _gated(q, k, v, gate, [mask_bias]).transpose(1, 2)


def column_attention(
    q: Tensor,  # [B, N, S, H, D]
    k: Tensor,  # [B, N, S, H, D]
    v: Tensor,  # [B, N, S, H, D]
    gate: Tensor,  # [B, N, S, H, D]
    mask_bias: Tensor,  # [B, S, 1, 1, N]
) -> Tensor:
    """Along each column of the alignment: the same, with sequences and residues exchanged."""
    if not evoformer_triton.runs_kernel(q, k, v, gate, mask_bias):
        return _column_attention_pytorch(q, k, v, gate, mask_bias)
    return evoformer_triton.column_attention(q, k, v, gate, mask_bias)


def _triangle_attention_starting_node_pytorch(
    q: Tensor,  # [B, S, S, H, D]
    k: Tensor,  # [B, S, S, H, D]
    v: Tensor,  # [B, S, S, H, D]
    gate: Tensor,  # [B, S, S, H, D]
    mask: Tensor,  # [B, S, S] bool
    triangle_bias: Tensor,  # [B, S, S, H]
) -> Tensor:
    """Edges that start at one residue attend to each other, biased by the third edge of their triangle."""
    logits = torch.einsum("bijhd,bikhd->bhijk", q, k) * q.shape[-1] ** -0.5
    logits = logits + triangle_bias.permute(0, 3, 1, 2)[:, :, None]
    logits = logits.masked_fill(~mask[:, None, :, None, :], -1e9)
    weights = torch.softmax(logits, dim=-1)
    return torch.sigmoid(gate) * torch.einsum("bhijk,bikhd->bijhd", weights, v)


def triangle_attention_starting_node(
    q: Tensor,  # [B, S, S, H, D]
    k: Tensor,  # [B, S, S, H, D]
    v: Tensor,  # [B, S, S, H, D]
    gate: Tensor,  # [B, S, S, H, D]
    mask: Tensor,  # [B, S, S] bool
    triangle_bias: Tensor,  # [B, S, S, H]
) -> Tensor:
    """Edges that start at one residue attend to each other, biased by the third edge of their triangle."""
    if not evoformer_triton.runs_kernel(q, k, v, gate, mask, triangle_bias):
        return _triangle_attention_starting_node_pytorch(q, k, v, gate, mask, triangle_bias)
    return evoformer_triton.triangle_attention_starting_node(q, k, v, gate, mask, triangle_bias)


def _triangle_attention_ending_node_pytorch(
    q: Tensor,  # [B, S, S, H, D]
    k: Tensor,  # [B, S, S, H, D]
    v: Tensor,  # [B, S, S, H, D]
    gate: Tensor,  # [B, S, S, H, D]
    mask: Tensor,  # [B, S, S] bool
    triangle_bias: Tensor,  # [B, S, S, H]
) -> Tensor:
    """Edges that end at one residue: the same on the transposed pair representation."""
    logits = torch.einsum("bijhd,bkjhd->bhijk", q, k) * q.shape[-1] ** -0.5
    logits = logits + triangle_bias.permute(0, 3, 2, 1)[:, :, :, None, :]
    logits = logits.masked_fill(~mask.transpose(1, 2)[:, None, None, :, :], -1e9)
    weights = torch.softmax(logits, dim=-1)
    return torch.sigmoid(gate) * torch.einsum("bhijk,bkjhd->bijhd", weights, v)


def triangle_attention_ending_node(
    q: Tensor,  # [B, S, S, H, D]
    k: Tensor,  # [B, S, S, H, D]
    v: Tensor,  # [B, S, S, H, D]
    gate: Tensor,  # [B, S, S, H, D]
    mask: Tensor,  # [B, S, S] bool
    triangle_bias: Tensor,  # [B, S, S, H]
) -> Tensor:
    """Edges that end at one residue: the same on the transposed pair representation."""
    if not evoformer_triton.runs_kernel(q, k, v, gate, mask, triangle_bias):
        return _triangle_attention_ending_node_pytorch(q, k, v, gate, mask, triangle_bias)
    return evoformer_triton.triangle_attention_ending_node(q, k, v, gate, mask, triangle_bias)
