# Written by flashlight 0.1.0 from examples/relative_position.py (sha256 48ef2ec18dad5130)
# with `flashlight transpile examples/relative_position.py`; change the source and run that again.
"""Relative position biases gathered from learned tables."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import relative_position_triton
else:
    import relative_position_triton

NUM_BUCKETS = 32
MAX_DISTANCE = 128


def position_bucket(relative_position: Tensor) -> Tensor:
    """Buckets for both directions: one per distance while it is small, then logarithmically wider ones."""
    half = NUM_BUCKETS // 2
    exact = half // 2
    distance = relative_position.abs()
    ratio = torch.log(distance.float().clamp(min=1) / exact) / math.log(MAX_DISTANCE / exact)
    wide = (exact + (ratio * (half - exact)).to(torch.int64)).clamp(max=half - 1)
    bucket = torch.where(distance < exact, distance, wide)
    return bucket + torch.where(relative_position > 0, half, 0)


def _bucketed_bias_pytorch(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    bias_table: Tensor,  # [32, H]
) -> Tensor:
    """Buckets of relative distance as in T5, whose scores are not scaled."""
    query_position = torch.arange(query.size(2), device=query.device)[:, None]
    key_position = torch.arange(key.size(2), device=query.device)[None, :]
    bucket = position_bucket(key_position - query_position)
    position_bias = F.embedding(bucket, bias_table).permute(2, 0, 1).unsqueeze(0)
    scores = torch.matmul(query, key.transpose(3, 2))
    scores += position_bias
    attn_weights = F.softmax(scores.float(), dim=-1).type_as(scores)
    return torch.matmul(attn_weights, value)


def bucketed_bias(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H, S_k, D]
    value: Tensor,  # [B, H, S_k, D]
    bias_table: Tensor,  # [32, H]
) -> Tensor:
    """Buckets of relative distance as in T5, whose scores are not scaled."""
    if not relative_position_triton.runs_kernel(query, key, value, bias_table):
        return _bucketed_bias_pytorch(query, key, value, bias_table)
    return relative_position_triton.bucketed_bias(query, key, value, bias_table)


def _window_bias_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    relative_position_bias_table: Tensor,  # [T, H]
    relative_position_index: Tensor,  # [S, S] int64
) -> Tensor:
    """A 2-D window, flattened: each pair of positions has its row of the table, as in Swin."""
    length = query.size(2)
    bias = relative_position_bias_table[relative_position_index.view(-1)].view(length, length, -1)
    bias = bias.permute(2, 0, 1).contiguous()
    attn = (query * query.size(-1) ** -0.5) @ key.transpose(-2, -1)
    attn = attn + bias.unsqueeze(0)
    attn = attn.softmax(dim=-1)
    return attn @ value


def window_bias(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    relative_position_bias_table: Tensor,  # [T, H]
    relative_position_index: Tensor,  # [S, S] int64
) -> Tensor:
    """A 2-D window, flattened: each pair of positions has its row of the table, as in Swin."""
    if not relative_position_triton.runs_kernel(
        query, key, value, relative_position_bias_table, relative_position_index
    ):
        return _window_bias_pytorch(query, key, value, relative_position_bias_table, relative_position_index)
    return relative_position_triton.window_bias(
        query, key, value, relative_position_bias_table, relative_position_index
    )


def _window_bias_by_coordinates_pytorch(
    query: Tensor,  # [B, H, 49, D]
    key: Tensor,  # [B, H, 49, D]
    value: Tensor,  # [B, H, 49, D]
    table: Tensor,  # [13, 13, H]
) -> Tensor:
    """A window of 7 by 7, whose rows and columns are worked out here."""
    index = torch.arange(49, device=query.device)
    row, column = index // 7, index % 7
    row_offset = row[:, None] - row[None, :] + 6
    column_offset = column[:, None] - column[None, :] + 6
    bias = table[row_offset, column_offset].permute(2, 0, 1)
    scores = torch.einsum("bhid,bhjd->bhij", query, key) / math.sqrt(query.size(-1))
    return torch.softmax(scores + bias, dim=-1) @ value


def window_bias_by_coordinates(
    query: Tensor,  # [B, H, 49, D]
    key: Tensor,  # [B, H, 49, D]
    value: Tensor,  # [B, H, 49, D]
    table: Tensor,  # [13, 13, H]
) -> Tensor:
    """A window of 7 by 7, whose rows and columns are worked out here."""
    if not relative_position_triton.runs_kernel(query, key, value, table):
        return _window_bias_by_coordinates_pytorch(query, key, value, table)
    return relative_position_triton.window_bias_by_coordinates(query, key, value, table)


def _clipped_distance_bias_pytorch(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    table: Tensor,  # [H, 65]
) -> Tensor:
    """One learned number for each distance from -32 to 32; farther ones are clipped."""
    positions = torch.arange(query.shape[2], device=query.device)
    distance = (positions[None, :] - positions[:, None]).clamp(-32, 32)
    bias = table[:, distance + 32]
    scores = query @ key.mT * query.shape[-1] ** -0.5 + bias
    return scores.softmax(dim=-1) @ value


def clipped_distance_bias(
    query: Tensor,  # [B, H, S, D]
    key: Tensor,  # [B, H, S, D]
    value: Tensor,  # [B, H, S, D]
    table: Tensor,  # [H, 65]
) -> Tensor:
    """One learned number for each distance from -32 to 32; farther ones are clipped."""
    if not relative_position_triton.runs_kernel(query, key, value, table):
        return _clipped_distance_bias_pytorch(query, key, value, table)
    return relative_position_triton.clipped_distance_bias(query, key, value, table)
