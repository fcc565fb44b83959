"""Slices, chunks, concatenations, assignments into slices, relative shifts."""

import math
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def diff_chunk(
    q: Tensor,  # [B, H, S, 2*D]
    k: Tensor,  # [B, H, S, 2*D]
    v: Tensor,  # [B, H, S, D_v]
    lam: float,
) -> Tensor:
    q1, q2 = q.chunk(2, dim=-1)
    k1, k2 = k.chunk(2, dim=-1)
    a1 = F.softmax(q1 @ k1.transpose(-1, -2) / sqrt(q1.shape[-1]), dim=-1)
    a2 = F.softmax(q2 @ k2.transpose(-1, -2) / sqrt(q1.shape[-1]), dim=-1)
    attn = a1 - lam * a2
    return attn @ v


def diff_slices(q, k, v, lam: float):
    d = q.shape[-1] // 2
    a1 = torch.softmax(q[..., :d] @ k[..., :d].mT * d**-0.5, -1)
    a2 = torch.softmax(q[..., d:] @ k[..., d:].mT * d**-0.5, -1)
    return (a1 - lam * a2) @ v


def diff_heads(
    q: Tensor,  # [B, 2*H, S, D]
    k: Tensor,  # [B, 2*H, S, D]
    v: Tensor,  # [B, H, S, D_v]
    lam: float,
):
    b, h2, s, d = q.shape
    attn = torch.softmax(q @ k.mT / d**0.5, dim=-1).view(b, h2 // 2, 2, s, s)
    attn = attn[:, :, 0] - lam * attn[:, :, 1]
    return attn @ v


def sinks_cat(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
    sinks: Tensor,  # [H]
    attention_mask: Tensor | None = None,  # [B, 1, S_q, S_k]
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
):
    g = query.shape[1] // key.shape[1]
    key = key[:, :, None].expand(-1, -1, g, -1, -1).flatten(1, 2)
    value = value[:, :, None].expand(-1, -1, g, -1, -1).reshape(value.shape[0], -1, value.shape[2], value.shape[3])
    if scaling is None:
        scaling = query.size(-1) ** -0.5
    attn_weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        causal_mask = attention_mask[:, :, :, : key.shape[-2]]
        attn_weights = attn_weights + causal_mask
    sinks = sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[-2], -1)
    combined_logits = torch.cat([attn_weights, sinks], dim=-1)
    combined_logits = combined_logits - combined_logits.max(dim=-1, keepdim=True).values
    probs = F.softmax(combined_logits, dim=-1, dtype=combined_logits.dtype)
    scores = probs[..., :-1]
    attn_weights = nn.functional.dropout(scores, p=0.0, training=False).to(value.dtype)
    attn_output = torch.matmul(attn_weights, value)
    attn_output = attn_output.transpose(1, 2).contiguous()
    return attn_output, attn_weights


def slice_assign(q, k, v, n: int):
    s = q @ k.mT * q.shape[-1] ** -0.5
    s[:, :, :, :2] = float("-inf")
    s[:, :, 3:, 4] += 1.5
    s[..., 5] = s[..., 6] * 2
    s.masked_fill_(torch.ones_like(s, dtype=torch.bool).triu(4), -5.0)
    return s.softmax(-1) @ v


def mask_assign(q, k, v):
    T = q.shape[2]
    mask = torch.zeros(T, T, device=q.device)
    i = torch.arange(T)
    mask[i[:, None] < i[None, :]] = float("-inf")
    s = q @ k.mT * q.shape[-1] ** -0.5 + mask
    return s.softmax(-1) @ v


def masked_multi(q, k, v, window: int = 5):
    ctx = q.shape[-2]
    bias = torch.zeros(ctx, k.shape[-2], dtype=q.dtype)
    m = torch.ones(ctx, k.shape[-2], dtype=torch.bool).tril(diagonal=0)
    bias.masked_fill_(m.logical_not(), float("-inf"))
    return torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.size(-1)) + bias, -1) @ v


def rel_shift(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    r: Tensor,  # [H, S, D]
):
    ac = torch.einsum("bhid,bhjd->bhij", q, k)
    bd = torch.einsum("bhid,hjd->bhij", q, r)
    b, h, i, j = bd.shape
    bd = F.pad(bd, (1, 0))
    bd = bd.view(b, h, j + 1, i)[:, :, 1:].view(b, h, i, j)
    return (ac + bd).softmax(-1) @ v


def block_local(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
):
    b, h, s, d = q.shape
    q = q.view(b, h, s // 4, 4, d)
    k = k.view(b, h, s // 4, 4, d)
    v = v.view(b, h, s // 4, 4, d)
    return ((q @ k.mT).softmax(-1) @ v).view(b, h, s, d)


def rope(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    cos: Tensor,  # [S, D]
    sin: Tensor,  # [S, D]
):
    def rot(x):
        x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return torch.cat((-x2, x1), dim=-1)

    q = q * cos + rot(q) * sin
    k = k * cos + rot(k) * sin
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def einsum_forms(
    q,
    k,
    v,
    w: Tensor,  # [H, D, D]
):
    q = torch.einsum("bhid, hde -> bhie", q, w)
    s = torch.einsum("b h i d, b h j d", q, k) if False else torch.einsum("...id,...jd->...ij", q, k)
    total = torch.einsum("bhij->bhi", s)
    mixed = torch.einsum("bhij,bhjd,bhi->bhid", s.softmax(-1), v, total.tanh())
    return mixed + torch.einsum("bhii->bhi", s)[..., None]


def products(
    q: Tensor,  # [S_q, D]
    k: Tensor,  # [S_k, D]
    v: Tensor,  # [S_k, D_v]
    w: Tensor,  # [D_v, D_v]
    b: Tensor,  # [D_v]
):
    s = torch.mm(q, k.t()) + torch.outer(q.sum(-1), k.mean(-1)) + torch.mv(k, q[0])
    s = torch.addmm(s, q, k.T, beta=0.5, alpha=2.0)
    return F.linear(s.softmax(-1) @ v, w, b) + torch.dot(q[0], q[1])


def rearranged(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
):
    s = (q @ k.mT).roll(2, -1).flip(-1).movedim(1, 0).swapaxes(0, 1)
    s = torch.stack([s, s * 2], dim=2).sum(2)
    s = torch.cat([s[..., :3], s[..., 3:]], -1) + s.diagonal(dim1=-2, dim2=-1)[..., None].contiguous()
    s = s + torch.arange(2).repeat(k.shape[2] // 2) + torch.arange(2).repeat_interleave(k.shape[2] // 2)
    a, b = s.softmax(-1).split(k.shape[2] // 2, dim=-1)
    return a @ v.narrow(2, 0, k.shape[2] // 2) + b @ v.tensor_split(2, dim=2)[1]


def gathers(
    q,
    k,
    v,
    table: Tensor,  # [5, H]
    index: Tensor,  # [S, S_kv] int64
    rows: Tensor,  # [S_kv] int64
):
    s = q @ k.index_select(2, rows).mT
    s = s + table[index].permute(2, 0, 1) + F.embedding(index, table).movedim(-1, 0) + table[1][:, None, None]
    s = s + table.t()[:, index] + F.one_hot(index, 5).sum(-1) + table[index, 2] + table[-1][:, None, None]
    return s.softmax(-1).gather(-1, index.expand_as(s)) @ v


def aliases(q, k, v):
    s = q @ k.mT
    first = s[:, :, :, 0]
    s.mul_(2).add_(1)
    first += 3
    s.view(-1).sub_(1)
    s[..., 1:3] *= 0.5
    s[:, :, torch.arange(s.shape[2])[:, None] < torch.arange(s.shape[3])] = -4.0
    return (s + first[..., None]).softmax(-1) @ v


def unfolded(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
):
    k = F.pad(k, (0, 0, 2, 2)).unfold(2, 5, 1)
    v = F.pad(v, (0, 0, 2, 2)).unfold(2, 5, 1)
    s = torch.einsum("bhid,bhidw->bhiw", q, k).softmax(-1)
    return torch.einsum("bhiw,bhidw->bhid", s, v)
