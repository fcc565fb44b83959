# Written by flashlight 0.1.0 from examples/packed_documents.py (sha256 bcc5a917dd46d524)
# with `flashlight transpile examples/packed_documents.py`; change the source and run that again.
"""Packed documents: several documents in one row, which must not see each other."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import packed_documents_triton
else:
    import packed_documents_triton


def _packed_documents_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    document_id: Tensor,  # [B, S] int64
) -> Tensor:
    """Causal within each document."""
    positions = torch.arange(query.size(-2), device=query.device)
    causal = positions[:, None] >= positions[None, :]
    same_document = document_id[:, :, None] == document_id[:, None, :]
    visible = (causal & same_document).unsqueeze(1)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    scores = scores.masked_fill(~visible, float("-inf"))
    attn_weights = F.softmax(scores, dim=-1)
    return attn_weights @ value


def packed_documents(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    document_id: Tensor,  # [B, S] int64
) -> Tensor:
    """Causal within each document."""
    if not packed_documents_triton.runs_kernel(query, key, value, document_id):
        return _packed_documents_pytorch(query, key, value, document_id)
    return packed_documents_triton.packed_documents(query, key, value, document_id)


def _packed_documents_bidirectional_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    segment_ids: Tensor,  # [B, S] int32
) -> Tensor:
    """Both directions within each document, by a bias of 0 and -inf."""
    different = segment_ids.unsqueeze(-1) != segment_ids.unsqueeze(-2)
    bias = torch.zeros_like(different, dtype=query.dtype).masked_fill(different, float("-inf"))
    scores = torch.einsum("bhid,bhjd->bhij", query, key) * query.size(-1) ** -0.5
    probs = torch.softmax(scores + bias[:, None], dim=-1)
    return torch.einsum("bhij,bhjd->bhid", probs, value)


def packed_documents_bidirectional(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    segment_ids: Tensor,  # [B, S] int32
) -> Tensor:
    """Both directions within each document, by a bias of 0 and -inf."""
    if not packed_documents_triton.runs_kernel(query, key, value, segment_ids):
        return _packed_documents_bidirectional_pytorch(query, key, value, segment_ids)
    return packed_documents_triton.packed_documents_bidirectional(query, key, value, segment_ids)


def _packed_documents_cross_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    query_document: Tensor,  # [B, S_q] int64
    key_document: Tensor,  # [B, S_k] int64
) -> Tensor:
    """Two packed sequences; a query whose document has no keys gets zero."""
    mask = query_document[:, None, :, None] == key_document[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def packed_documents_cross(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    query_document: Tensor,  # [B, S_q] int64
    key_document: Tensor,  # [B, S_k] int64
) -> Tensor:
    """Two packed sequences; a query whose document has no keys gets zero."""
    if not packed_documents_triton.runs_kernel(query, key, value, query_document, key_document):
        return _packed_documents_cross_pytorch(query, key, value, query_document, key_document)
    return packed_documents_triton.packed_documents_cross(query, key, value, query_document, key_document)
