"""Layouts: five dimensions, packed projections, merged heads, pages."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def evoformer(
    q: Tensor,  # [B, N, H, S, D]
    k: Tensor,  # [B, N, H, S, D]
    v: Tensor,  # [B, N, H, S, D]
    biases: list[Tensor],  # [[B, N, 1, 1, S], [B, 1, H, S, S]]
    g: Tensor,  # [B, N, S, H, D]
):
    q = q * (1 / math.sqrt(q.shape[-1]))
    a = torch.matmul(q, k.transpose(-1, -2))
    for b in biases:
        a += b
    a = a.softmax(-1)
    o = torch.matmul(a, v).transpose(-2, -3)
    o = o * torch.sigmoid(g)
    return o.reshape(o.shape[:-2] + (-1,))


def triangle(
    q: Tensor,  # [B, N, S, H, D]
    k: Tensor,  # [B, N, S, H, D]
    v: Tensor,  # [B, N, S, H, D]
    b: Tensor,  # [B, S, S, H]
    m: Tensor,  # [B, N, S] bool
):
    s = torch.einsum("bnihd,bnjhd->bnhij", q, k) / q.shape[-1] ** 0.5
    s = s + b.permute(0, 3, 1, 2)[:, None]
    s = s.masked_fill(~m[:, :, None, None, :], -1e9)
    return torch.einsum("bnhij,bnjhd->bnihd", s.softmax(-1), v)


def packed_qkv(
    qkv: Tensor,  # [B, S, 3, H, D]
):
    q, k, v = qkv.unbind(2)
    q, k, v = [x.transpose(1, 2) for x in (q, k, v)]
    o = F.scaled_dot_product_attention(q, k, v)
    return o.transpose(1, 2).flatten(2)


def merged_in(
    q: Tensor,  # [B, S, E]
    k: Tensor,  # [B, S_k, E]
    v: Tensor,  # [B, S_k, E]
    heads: int,
):
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    o = F.scaled_dot_product_attention(q, k, v)
    return o.transpose(1, 2).flatten(2), None


def merged_view(
    q: Tensor,  # [B, S, H*D]
    k: Tensor,  # [B, S_k, H*D]
    v: Tensor,  # [B, S_k, H*D]
    bias: Tensor,  # [H, S, S_k]
):
    B, S, _ = q.shape
    H = bias.shape[0]
    q, k, v = (x.view(B, -1, H, x.shape[-1] // H).transpose(1, 2) for x in (q, k, v))
    a = (q @ k.mT + bias).softmax(-1)
    o = torch.einsum("bhij,bhjd->bihd", a, v)
    return o.reshape(B, S, -1).to(q.dtype)


def bh_merged(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S_k, D]
    v: Tensor,  # [B, H, S_k, D]
):
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    return torch.bmm((q @ k.mT).softmax(-1), v)


def assert_shapes(q, k, v):
    assert q.shape == k.shape and k.shape == v.shape
    B, H, T, D = q.size()
    att = (q.reshape(B * H, T, D) @ k.reshape(B * H, T, D).transpose(1, 2)) * D**-0.5
    att = att.view(B, H, T, T).masked_fill(~torch.ones((T, T), dtype=torch.bool).tril(), torch.finfo(att.dtype).min)
    att = att.softmax(-1, dtype=torch.float32).type_as(q)
    att = att.view(B * H, T, T)
    return torch.bmm(att, v.view(B * H, T, D)).view(B, H, T, D)


def paged(
    query: Tensor,  # [B, H, 1, D]
    key_cache: Tensor,  # [P, 16, H_kv, D]
    value_cache: Tensor,  # [P, 16, H_kv, D]
    block_table: Tensor,  # [B, M] int32
    lengths: Tensor,  # [B] int32
):
    B, H, _, D = query.shape
    k = key_cache[block_table].flatten(1, 2).transpose(1, 2)
    v = value_cache[block_table].flatten(1, 2).transpose(1, 2)
    n = H // k.shape[1]
    k = k.repeat_interleave(n, 1)
    v = v.repeat_interleave(n, 1)
    s = query @ k.mT * D**-0.5
    dead = torch.arange(k.shape[2])[None] >= lengths[:, None]
    return s.masked_fill(dead[:, None, None], float("-inf")).softmax(-1) @ v
