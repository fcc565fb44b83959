# Written by flashlight 0.1.0 from examples/layers.py (sha256 c658a23514aa7606)
# with `flashlight transpile examples/layers.py`; change the source and run that again.
"""Whole attention layers: the projections around the attention are part of the function."""

import torch
import torch.nn.functional as F
from torch import Tensor

if __package__:
    from . import layers_triton
else:
    import layers_triton


def _gpt_layer_pytorch(
    x: Tensor,  # [B, S, E]
    w_qkv: Tensor,  # [3 * E, E]
    b_qkv: Tensor,  # [3 * E]
    w_o: Tensor,  # [E, E]
    b_o: Tensor,  # [E]
    ln_weight: Tensor,  # [E]
    ln_bias: Tensor,  # [E]
    n_head: int,
) -> Tensor:
    """A pre-norm block's attention with its residual connection, as in GPT-2."""
    B, S, E = x.shape
    h = F.layer_norm(x, (E,), ln_weight, ln_bias)
    q, k, v = F.linear(h, w_qkv, b_qkv).chunk(3, dim=-1)
    q = q.view(B, S, n_head, E // n_head).transpose(1, 2)
    k = k.view(B, S, n_head, E // n_head).transpose(1, 2)
    v = v.view(B, S, n_head, E // n_head).transpose(1, 2)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    y = y.transpose(1, 2).contiguous().view(B, S, E)
    return x + F.linear(y, w_o, b_o)


def gpt_layer(
    x: Tensor,  # [B, S, E]
    w_qkv: Tensor,  # [3 * E, E]
    b_qkv: Tensor,  # [3 * E]
    w_o: Tensor,  # [E, E]
    b_o: Tensor,  # [E]
    ln_weight: Tensor,  # [E]
    ln_bias: Tensor,  # [E]
    n_head: int,
) -> Tensor:
    """A pre-norm block's attention with its residual connection, as in GPT-2."""
    if not layers_triton.runs_kernel(x, w_qkv, b_qkv, w_o, b_o, ln_weight, ln_bias):
        return _gpt_layer_pytorch(x, w_qkv, b_qkv, w_o, b_o, ln_weight, ln_bias, n_head)
    return layers_triton.gpt_layer(x, w_qkv, b_qkv, w_o, b_o, ln_weight, ln_bias, n_head)


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((-x2, x1), dim=-1)


def _llama_layer_pytorch(
    hidden_states: Tensor,  # [B, S, E]
    w_q: Tensor,  # [H * D, E]
    w_k: Tensor,  # [H_kv * D, E]
    w_v: Tensor,  # [H_kv * D, E]
    w_o: Tensor,  # [E, H * D]
    cos: Tensor,  # [S, D]
    sin: Tensor,  # [S, D]
    H: int,
    H_kv: int,
) -> Tensor:
    """Grouped queries with rotary embeddings, causal, as in Llama."""
    B, S, _ = hidden_states.shape
    D = cos.shape[-1]
    q = (hidden_states @ w_q.T).view(B, S, H, D).transpose(1, 2)
    k = (hidden_states @ w_k.T).view(B, S, H_kv, D).transpose(1, 2)
    v = (hidden_states @ w_v.T).view(B, S, H_kv, D).transpose(1, 2)
    q = q * cos + rotate_half(q) * sin
    k = k * cos + rotate_half(k) * sin
    k = k.repeat_interleave(H // H_kv, dim=1)
    v = v.repeat_interleave(H // H_kv, dim=1)
    scores = q @ k.transpose(2, 3) / D**0.5
    scores = scores + torch.full((S, S), float("-inf"), device=q.device).triu(1)
    attn_weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    attn_output = (attn_weights @ v).transpose(1, 2).reshape(B, S, H * D)
    return attn_output @ w_o.T


def llama_layer(
    hidden_states: Tensor,  # [B, S, E]
    w_q: Tensor,  # [H * D, E]
    w_k: Tensor,  # [H_kv * D, E]
    w_v: Tensor,  # [H_kv * D, E]
    w_o: Tensor,  # [E, H * D]
    cos: Tensor,  # [S, D]
    sin: Tensor,  # [S, D]
    H: int,
    H_kv: int,
) -> Tensor:
    """Grouped queries with rotary embeddings, causal, as in Llama."""
    if not layers_triton.runs_kernel(hidden_states, w_q, w_k, w_v, w_o, cos, sin):
        return _llama_layer_pytorch(hidden_states, w_q, w_k, w_v, w_o, cos, sin, H, H_kv)
    return layers_triton.llama_layer(hidden_states, w_q, w_k, w_v, w_o, cos, sin, H, H_kv)


def _latent_layer_pytorch(
    x: Tensor,  # [B, S, E]
    w_dq: Tensor,  # [E, C_q]
    q_norm: Tensor,  # [C_q]
    w_uq: Tensor,  # [C_q, H, 192]
    w_dkv: Tensor,  # [E, C + 64]
    kv_norm: Tensor,  # [C]
    w_ukv: Tensor,  # [C, H, 256]
    w_o: Tensor,  # [H, 128, E]
    cos: Tensor,  # [S, 64]
    sin: Tensor,  # [S, 64]
) -> Tensor:
    """Multi-head latent attention with keys and values expanded, as in DeepSeek-V2's training (arXiv 2405.04434)."""
    c_q = F.rms_norm(x @ w_dq, (w_dq.shape[1],), q_norm)
    q = torch.einsum("bsc,chd->bhsd", c_q, w_uq)
    q_nope, q_rope = q.split([128, 64], dim=-1)
    c_kv, k_rope = (x @ w_dkv).split([kv_norm.shape[0], 64], dim=-1)
    c_kv = F.rms_norm(c_kv, (kv_norm.shape[0],), kv_norm)
    k_nope, v = torch.einsum("bsc,chd->bhsd", c_kv, w_ukv).split([128, 128], dim=-1)
    q_rope = q_rope * cos + rotate_half(q_rope) * sin
    k_rope = k_rope * cos + rotate_half(k_rope) * sin
    scores = q_nope @ k_nope.transpose(-2, -1) + q_rope @ k_rope[:, None].transpose(-2, -1)
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
    weights = (scores * 192**-0.5).masked_fill(mask, float("-inf")).softmax(dim=-1)
    return torch.einsum("bhsd,hde->bse", weights @ v, w_o)


def latent_layer(
    x: Tensor,  # [B, S, E]
    w_dq: Tensor,  # [E, C_q]
    q_norm: Tensor,  # [C_q]
    w_uq: Tensor,  # [C_q, H, 192]
    w_dkv: Tensor,  # [E, C + 64]
    kv_norm: Tensor,  # [C]
    w_ukv: Tensor,  # [C, H, 256]
    w_o: Tensor,  # [H, 128, E]
    cos: Tensor,  # [S, 64]
    sin: Tensor,  # [S, 64]
) -> Tensor:
    """Multi-head latent attention with keys and values expanded, as in DeepSeek-V2's training (arXiv 2405.04434)."""
    if not layers_triton.runs_kernel(x, w_dq, q_norm, w_uq, w_dkv, kv_norm, w_ukv, w_o, cos, sin):
        return _latent_layer_pytorch(x, w_dq, q_norm, w_uq, w_dkv, kv_norm, w_ukv, w_o, cos, sin)
    return layers_triton.latent_layer(x, w_dq, q_norm, w_uq, w_dkv, kv_norm, w_ukv, w_o, cos, sin)
