# Written by flashlight 0.1.0 from examples/additive_scores.py (sha256 4fb453f16ea0f2ac)
# with `flashlight transpile examples/additive_scores.py`; change the source and run that again.
"""Scores that are no matrix product: additive attention and graph attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import additive_scores_triton
else:
    import additive_scores_triton


def _bahdanau_pytorch(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D_v]
    w_v: Tensor,  # [D]
) -> Tensor:
    """w_v · tanh(query + key) (Bahdanau et al. 2015); projections come before."""
    features = torch.tanh(query[:, :, None, :] + key[:, None, :, :])
    scores = features @ w_v
    attention_weights = torch.softmax(scores, dim=-1)
    return torch.bmm(attention_weights, value)


def bahdanau(
    query: Tensor,  # [B, S_q, D]
    key: Tensor,  # [B, S_k, D]
    value: Tensor,  # [B, S_k, D_v]
    w_v: Tensor,  # [D]
) -> Tensor:
    """w_v · tanh(query + key) (Bahdanau et al. 2015); projections come before."""
    if not additive_scores_triton.runs_kernel(query, key, value, w_v):
        return _bahdanau_pytorch(query, key, value, w_v)
    return additive_scores_triton.bahdanau(query, key, value, w_v)


def _graph_attention_pytorch(
    h: Tensor,  # [B, N, H, D]
    adjacency: Tensor,  # [B, N, N] bool
    a_source: Tensor,  # [H, D]
    a_target: Tensor,  # [H, D]
) -> Tensor:
    """LeakyReLU(a_i + b_j) between neighbours (Velickovic et al. 2018)."""
    source = (h * a_source).sum(dim=-1)
    target = (h * a_target).sum(dim=-1)
    e = F.leaky_relu(source[:, :, None, :] + target[:, None, :, :], 0.2)
    e = e.masked_fill(~adjacency[:, :, :, None], -1e9)
    attention = torch.softmax(e, dim=2)
    return torch.einsum("bijh,bjhd->bihd", attention, h)


def graph_attention(
    h: Tensor,  # [B, N, H, D]
    adjacency: Tensor,  # [B, N, N] bool
    a_source: Tensor,  # [H, D]
    a_target: Tensor,  # [H, D]
) -> Tensor:
    """LeakyReLU(a_i + b_j) between neighbours (Velickovic et al. 2018)."""
    if not additive_scores_triton.runs_kernel(h, adjacency, a_source, a_target):
        return _graph_attention_pytorch(h, adjacency, a_source, a_target)
    return additive_scores_triton.graph_attention(h, adjacency, a_source, a_target)


def _graph_attention_scores_pytorch(
    source: Tensor,  # [B, H, N]
    target: Tensor,  # [B, H, N]
    features: Tensor,  # [B, H, N, D]
) -> Tensor:
    """The same on a complete graph, both halves of the score computed before."""
    batch, heads, nodes = source.shape
    pairs = source.view(batch, heads, nodes, 1) + target.view(batch, heads, 1, nodes)
    scores = F.leaky_relu(pairs, negative_slope=0.2)
    return scores.softmax(dim=-1) @ features


def graph_attention_scores(
    source: Tensor,  # [B, H, N]
    target: Tensor,  # [B, H, N]
    features: Tensor,  # [B, H, N, D]
) -> Tensor:
    """The same on a complete graph, both halves of the score computed before."""
    if not additive_scores_triton.runs_kernel(source, target, features):
        return _graph_attention_scores_pytorch(source, target, features)
    return additive_scores_triton.graph_attention_scores(source, target, features)
