"""Who computes a variant: the generated function and its peers. Each is made ready (compiled) for one problem."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.variants import Problem, generated

Run = Callable[[], Tensor]
EAGER_LIMIT = 60e9
"""Bytes of S x S intermediates above which eager is not tried."""


class Absent(Exception):
    """A contestant cannot express the variant, or is not installed; the message says which."""


def ours(given: Problem) -> Run:
    """The generated function, as a user calls it."""
    function, _ = generated(given.variant)
    return functools.partial(function, *given.arguments)


def block_mask(given: Problem, builder: Callable[..., Any] = create_block_mask) -> Any:
    """FlexAttention's block mask, or None where the variant has no mask."""
    if given.mask is None:
        return None
    length, keys = given.query.shape[2], given.key.shape[2]
    return builder(given.mask, given.mask_batch, None, length, keys, device=given.query.device)


def flex(given: Problem, backend: str | None = None, prebuilt: Any = None) -> Run:
    """FlexAttention, compiled for this very shape; the block mask is built here, before any timing."""
    if backend == "FLASH" and importlib.util.find_spec("flash_attn") is None:
        raise Absent("flash_attn.cute is not installed")
    compiled = torch.compile(flex_attention, dynamic=False)
    mask = prebuilt if prebuilt is not None else block_mask(given)
    options = {"BACKEND": backend} if backend else None
    return functools.partial(
        compiled,
        given.query,
        given.key,
        given.value,
        score_mod=given.score,
        block_mask=mask,
        enable_gqa=given.variant.group > 1,
        kernel_options=options,
    )


def sdpa(given: Problem, backend: SDPBackend) -> Run:
    """scaled_dot_product_attention by one of its back ends; without a mask tensor, which would cost it its speed."""
    if given.variant.sdpa_causal is None:
        raise Absent("needs a mask tensor or a score that SDPA does not have")

    def run() -> Tensor:
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(
                given.query,
                given.key,
                given.value,
                is_causal=bool(given.variant.sdpa_causal),
                enable_gqa=given.variant.group > 1,
            )

    return run


def compiled(given: Problem) -> Run:
    """torch.compile of the user's program."""
    _fits(given)
    _, original = generated(given.variant)
    return functools.partial(torch.compile(original, dynamic=False), *given.arguments)


def eager(given: Problem) -> Run:
    """The user's program as it is."""
    _fits(given)
    _, original = generated(given.variant)
    return functools.partial(original, *given.arguments)


def _fits(given: Problem) -> None:
    batch, heads, length, _ = given.query.shape
    needed = 3 * 4 * batch * heads * length * given.key.shape[2]
    if needed > EAGER_LIMIT:
        raise Absent(f"S x S intermediates would take {needed / 1e9:.0f} GB")


CONTESTANTS: dict[str, Callable[[Problem], Run]] = {
    "ours": ours,
    "flex": flex,
    "flex_fa4": functools.partial(flex, backend="FLASH"),
    "cudnn": functools.partial(sdpa, backend=SDPBackend.CUDNN_ATTENTION),
    "fa2": functools.partial(sdpa, backend=SDPBackend.FLASH_ATTENTION),
    "compile": compiled,
    "eager": eager,
}
SLOW = ("compile", "eager")
"""Contestants that only ``--all`` runs."""
