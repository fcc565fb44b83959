# Written by flashlight 0.1.0 from examples/latent.py (sha256 dd78669f4a7ce6b3)
# with `flashlight transpile examples/latent.py`; change the source and run that again.
"""Multi-head latent attention in absorbed form (DeepSeek-V2): one latent is every head's key and value."""

import torch
from torch import Tensor

if __package__:
    from . import latent_triton
else:
    import latent_triton


def _latent_attention_pytorch(
    q_latent: Tensor,  # [B, H, S_q, C]
    q_rope: Tensor,  # [B, H, S_q, R]
    kv_latent: Tensor,  # [B, S_k, C]
    k_rope: Tensor,  # [B, S_k, R]
    softmax_scale: float,
) -> Tensor:
    """Scores have a latent and a rotary part; the values are the latents themselves."""
    scores = torch.einsum("bhsc,btc->bhst", q_latent, kv_latent) + torch.einsum("bhsr,btr->bhst", q_rope, k_rope)
    scores = (scores * softmax_scale).softmax(dim=-1, dtype=torch.float32).type_as(q_latent)
    return torch.einsum("bhst,btc->bhsc", scores, kv_latent)


def latent_attention(
    q_latent: Tensor,  # [B, H, S_q, C]
    q_rope: Tensor,  # [B, H, S_q, R]
    kv_latent: Tensor,  # [B, S_k, C]
    k_rope: Tensor,  # [B, S_k, R]
    softmax_scale: float,
) -> Tensor:
    """Scores have a latent and a rotary part; the values are the latents themselves."""
    if not latent_triton.runs_kernel(q_latent, q_rope, kv_latent, k_rope):
        return _latent_attention_pytorch(q_latent, q_rope, kv_latent, k_rope, softmax_scale)
    return latent_triton.latent_attention(q_latent, q_rope, kv_latent, k_rope, softmax_scale)


def _latent_attention_decode_pytorch(
    q_nope: Tensor,  # [B, S_q, H, C]
    q_pe: Tensor,  # [B, S_q, H, R]
    kv_cache: Tensor,  # [B, S_k, C]
    pe_cache: Tensor,  # [B, S_k, R]
) -> Tensor:
    """Sequences before heads, causal at the end of the cache."""
    scale = (q_nope.shape[-1] + q_pe.shape[-1]) ** -0.5
    scores = (torch.einsum("bshc,btc->bsht", q_nope, kv_cache) + torch.einsum("bshr,btr->bsht", q_pe, pe_cache)) * scale
    rows = torch.arange(q_nope.shape[1], device=q_nope.device) + kv_cache.shape[1] - q_nope.shape[1]
    hidden = torch.arange(kv_cache.shape[1], device=q_nope.device) > rows[:, None]
    scores = scores.masked_fill(hidden[:, None, :], float("-inf"))
    weights = scores.softmax(dim=-1)
    return torch.einsum("bsht,btc->bshc", weights, kv_cache)


def latent_attention_decode(
    q_nope: Tensor,  # [B, S_q, H, C]
    q_pe: Tensor,  # [B, S_q, H, R]
    kv_cache: Tensor,  # [B, S_k, C]
    pe_cache: Tensor,  # [B, S_k, R]
) -> Tensor:
    """Sequences before heads, causal at the end of the cache."""
    if not latent_triton.runs_kernel(q_nope, q_pe, kv_cache, pe_cache):
        return _latent_attention_decode_pytorch(q_nope, q_pe, kv_cache, pe_cache)
    return latent_triton.latent_attention_decode(q_nope, q_pe, kv_cache, pe_cache)
