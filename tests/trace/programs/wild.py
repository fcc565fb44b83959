"""Idioms as they stand in well-known packages."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa_


def sdpa_all(q, k, v, m: Tensor, scale: float = 0.5):  # [B, H, S, S_kv]
    return sdpa_(q, k, v, attn_mask=m, dropout_p=0.0, is_causal=False, scale=scale)


def sdpa_mask_rank2(q, k, v, m: Tensor):  # [S, S_kv] bool
    return F.scaled_dot_product_attention(q, k, v, m)


def repeat_kv(hidden_states: torch.Tensor, n_rep: int) -> torch.Tensor:
    batch, num_key_value_heads, slen, head_dim = hidden_states.shape
    if n_rep == 1:
        return hidden_states
    hidden_states = hidden_states[:, :, None, :, :].expand(batch, num_key_value_heads, n_rep, slen, head_dim)
    return hidden_states.reshape(batch, num_key_value_heads * n_rep, slen, head_dim)


def hf_style(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
    attention_mask: Tensor | None,  # [B, 1, S_q, S_max]
    scaling: float,
    softcap: float | None = None,
    sliding_window: int | None = None,
    training: bool = False,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    g = query.shape[1] // key.shape[1]
    key_states = repeat_kv(key, g)
    value_states = repeat_kv(value, g)
    attn_weights = torch.matmul(query, key_states.transpose(2, 3)) * scaling
    if softcap is not None:
        attn_weights = torch.tanh(attn_weights / softcap) * softcap
    if attention_mask is not None:
        causal_mask = attention_mask[:, :, :, : key_states.shape[-2]]
        attn_weights = attn_weights + causal_mask
    attn_weights = nn.functional.softmax(attn_weights, dim=-1, dtype=torch.float32).to(query.dtype)
    attn_weights = nn.functional.dropout(attn_weights, p=0.1, training=training)
    attn_output = torch.matmul(attn_weights, value_states)
    attn_output = attn_output.transpose(1, 2).contiguous()
    return attn_output, attn_weights


def n_rep_param(
    query: Tensor,  # [B, H, S_q, D]
    key: Tensor,  # [B, H_kv, S_k, D]
    value: Tensor,  # [B, H_kv, S_k, D]
    n_rep: int,
):
    k = repeat_kv(key, n_rep)
    v = repeat_kv(value, n_rep)
    return (query @ k.mT).softmax(-1) @ v


def swin(
    q: Tensor,  # [B*W, H, N, D]
    k: Tensor,  # [B*W, H, N, D]
    v: Tensor,  # [B*W, H, N, D]
    bias: Tensor,  # [H, N, N]
    mask: Tensor,  # [W, N, N]
):
    B_, H, N, D = q.shape
    nW = mask.shape[0]
    attn = q @ k.transpose(-2, -1)
    attn = attn + bias.unsqueeze(0)
    attn = attn.view(B_ // nW, nW, H, N, N) + mask.unsqueeze(1).unsqueeze(0)
    attn = attn.view(-1, H, N, N)
    attn = attn.softmax(-1)
    return (attn @ v).transpose(1, 2).reshape(B_, N, H * D)


def swin2(
    q: Tensor,  # [BW, H, N, D]
    k: Tensor,  # [BW, H, N, D]
    v: Tensor,  # [BW, H, N, D]
    mask: Tensor,  # [W, N, N]
):
    B_, H, N, D = q.shape
    nW = mask.shape[0]
    attn = q @ k.transpose(-2, -1)
    attn = attn.view(B_ // nW, nW, H, N, N) + mask.unsqueeze(1).unsqueeze(0)
    attn = attn.view(-1, H, N, N)
    attn = attn.softmax(-1)
    return (attn @ v).transpose(1, 2).reshape(B_, N, H * D)


def qkv_linear(
    x: Tensor,  # [B, S, E]
    w: Tensor,  # [3*E, E]
    heads: int = 3,
):
    B, N, C = x.shape
    qkv = F.linear(x, w).reshape(B, N, 3, heads, C // heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    a = (q @ k.transpose(-2, -1) * (C // heads) ** -0.5).softmax(-1)
    return (a @ v).transpose(1, 2).reshape(B, N, C)


def additive_attention(q, k, v, w: Tensor):  # [D]
    s = torch.tanh(q[:, :, :, None] + k[:, :, None]) @ w
    return s.softmax(-1) @ v


def tied_rows(
    q: Tensor,  # [B, R, S, H, D]
    k: Tensor,  # [B, R, S, H, D]
    v: Tensor,  # [B, R, S, H, D]
):
    s = torch.einsum("brihd,brjhd->bhij", q, k) / math.sqrt(q.shape[-1] * q.shape[1])
    return torch.einsum("bhij,brjhd->brihd", s.softmax(-1), v)


def lambda_map(q, k, v):
    q, k, v = map(lambda t: t.transpose(1, 2), (q, k, v))
    dots = torch.einsum("b i h d, b j h d -> b h i j", q, k)
    attn = (lambda t: t.softmax(dim=-1))(dots)
    out = torch.einsum("b h i j, b j h d -> b h i d", attn, v)
    return out


def local_block(q, k, v):
    b, h, s, d = q.shape
    w = 4
    q, k, v = (t.reshape(b, h, -1, w, d) for t in (q, k, v))
    kk = torch.cat([F.pad(k, (0, 0, 0, 0, 1, 0))[:, :, :-1], k], dim=3)
    vv = torch.cat([F.pad(v, (0, 0, 0, 0, 1, 0))[:, :, :-1], v], dim=3)
    sim = torch.einsum("bhwie,bhwje->bhwij", q, kk)
    return torch.einsum("bhwij,bhwje->bhwie", sim.softmax(-1), vv).reshape(b, h, s, d)


def np_ops(q, k, v):
    s = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)).unflatten(0, (q.size(0), -1))
    s = torch.softmax(input=s, dim=-1)
    return torch.matmul(input=s, other=v)


def min_clamp_size(q, k, v):
    n = min(q.shape[2], 4)
    s = q[:, :, :n] @ k.mT
    return s.softmax(-1) @ v


def sz(q, k, v):
    L, S = q.size(-2), k.size(-2)
    scale_factor = 1 / math.sqrt(q.size(-1))
    attn_bias = torch.zeros(L, S, dtype=q.dtype, device=q.device)
    temp_mask = torch.ones(L, S, dtype=torch.bool).tril(diagonal=0)
    attn_bias.masked_fill_(temp_mask.logical_not(), float("-inf"))
    attn_bias.to(q.dtype)
    attn_weight = q @ k.transpose(-2, -1) * scale_factor
    attn_weight += attn_bias
    attn_weight = torch.softmax(attn_weight, dim=-1)
    attn_weight = torch.dropout(attn_weight, 0.0, train=True)
    return attn_weight @ v


def finfo_uses(q, k, v, m: Tensor):  # [B, S_kv] bool
    s = q @ k.mT
    neg = torch.finfo(s.dtype).min
    inv = (1.0 - m[:, None, None].to(s.dtype)) * torch.finfo(s.dtype).min
    t = torch.tensor(neg, dtype=s.dtype)
    s = torch.where(m[:, None, None], s, t) + inv / 2
    s = torch.max(s, torch.tensor(torch.finfo(s.dtype).min, device=s.device))
    s = s.masked_fill(~m[:, None, None], float(torch.finfo(s.dtype).min))
    s = s.clamp(min=torch.finfo(s.dtype).min)
    return s.softmax(-1) @ v


def sizes_as_int(
    q: Tensor,  # [B, D, S]
    k: Tensor,  # [B, D, S]
    v: Tensor,  # [B, D, S]
):
    """A convolutional network's attention: sizes go through int and float, which are also dtypes."""
    channels = q.shape[1]
    assert isinstance(int("3"), int) and torch.zeros(1, dtype=float).dtype == torch.float64
    weights = torch.bmm(q.permute(0, 2, 1), k) * (int(channels) ** -0.5)
    weights = F.softmax(weights / float(channels), dim=2).permute(0, 2, 1)
    return torch.bmm(v, weights)


def signed_remainder(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
):
    """Strided attention as sparse transformers write it."""
    x = torch.arange(q.shape[-2], device=q.device)
    near = torch.fmod(x[:, None] - x[None, :], 5)
    return (q @ k.mT).masked_fill(near < -2, -1e9).softmax(-1) @ v


def nan_is_seen(q, k, v):
    s = (q @ k.mT).log()
    return torch.where(s.isnan(), -1.0, s).softmax(-1) @ v
