# Written by flashlight 0.1.0 from examples/talking_heads.py (sha256 6038721926536cce)
# with `flashlight transpile examples/talking_heads.py`; change the source and run that again.
"""Talking heads (Shazeer et al. 2020, CaiT): heads are mixed before and after the softmax."""

import torch
from torch import Tensor

if __package__:
    from . import talking_heads_triton
else:
    import talking_heads_triton


def _talking_heads_pytorch(
    q: Tensor,  # [B, H=4, S, D]
    k: Tensor,  # [B, H=4, S, D]
    v: Tensor,  # [B, H=4, S, D]
    proj_l: Tensor,  # [4, 4]
    proj_w: Tensor,  # [4, 4]
) -> Tensor:
    """One matrix mixes the scores of the heads, another their weights."""
    scores = torch.einsum("bhid,bhjd->bhij", q * q.shape[-1] ** -0.5, k)
    scores = torch.einsum("bhij,gh->bgij", scores, proj_l)
    attn = torch.softmax(scores, dim=-1)
    attn = torch.einsum("bgij,hg->bhij", attn, proj_w)
    return torch.einsum("bhij,bhjd->bhid", attn, v)


def talking_heads(
    q: Tensor,  # [B, H=4, S, D]
    k: Tensor,  # [B, H=4, S, D]
    v: Tensor,  # [B, H=4, S, D]
    proj_l: Tensor,  # [4, 4]
    proj_w: Tensor,  # [4, 4]
) -> Tensor:
    """One matrix mixes the scores of the heads, another their weights."""
    if not talking_heads_triton.runs_kernel(q, k, v, proj_l, proj_w):
        return _talking_heads_pytorch(q, k, v, proj_l, proj_w)
    return talking_heads_triton.talking_heads(q, k, v, proj_l, proj_w)
