"""The attention variants that are measured: what each takes, and the same formula as FlexAttention writes it.

A variant's ``score`` and ``mask`` serve twice: they are given to FlexAttention, and evaluated on whole blocks of scores
they are the reference that every contestant is checked against. The generated function comes from the user's program,
which neither of them knows.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""score, batch, head, query position, key position -> score; positions broadcast."""
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""batch, head, query position, key position -> whether the query sees the key."""

BLOCK = 128
"""FlexAttention's block: live work is counted in these."""


@dataclass(frozen=True)
class Variant:
    """One attention program: where its generated function is, its arguments beyond q, k, v, and its formula."""

    name: str
    module: str
    function: str
    extras: Callable[[int, int, int, torch.device], tuple[Any, ...]] = lambda batch, heads, length, device: ()
    score: Callable[..., Score] | None = None
    mask: Callable[..., Mask] | None = None
    mask_per_batch: bool = False
    group: int = 1
    sdpa_causal: bool | None = None
    """What SDPA's ``is_causal`` has to be; None where SDPA cannot express the variant without a mask tensor."""


@dataclass(frozen=True)
class Problem:
    """A variant with tensors: ``scores`` and ``visible`` close over the extra arguments."""

    variant: Variant
    query: Tensor
    key: Tensor
    value: Tensor
    extras: tuple[Any, ...]
    score: Score | None
    mask: Mask | None

    @property
    def arguments(self) -> tuple[Any, ...]:
        return (self.query, self.key, self.value, *self.extras)

    @property
    def mask_batch(self) -> int | None:
        """The batch size that FlexAttention's block mask needs: None where all rows of the batch share it."""
        return self.query.shape[0] if self.variant.mask_per_batch else None


def problem(
    variant: Variant,
    batch: int,
    length: int,
    head_dim: int,
    heads: int = 16,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
    seed: int = 0,
) -> Problem:
    """The variant on tensors drawn from a normal distribution."""
    device = torch.device(device)
    generator = torch.Generator(device).manual_seed(seed)

    def tensor(heads: int) -> Tensor:
        return torch.randn(batch, heads, length, head_dim, generator=generator, device=device).to(dtype)

    query, key, value = tensor(heads), tensor(heads // variant.group), tensor(heads // variant.group)
    extras = variant.extras(batch, heads, length, device)
    score = variant.score(*extras) if variant.score else None
    mask = variant.mask(*extras) if variant.mask else None
    return Problem(variant, query, key, value, extras, score, mask)


def generated(variant: Variant) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The generated function, and the user's program that it came from."""
    module = _import(f"generated.{variant.module}")
    return getattr(module, variant.function), getattr(module, f"_{variant.function}_pytorch")


def _import(name: str) -> types.ModuleType:
    if importlib.util.find_spec("jaxtyping") is None and "jaxtyping" not in sys.modules:
        # only annotations use it
        stand_in = types.ModuleType("jaxtyping")
        annotation = type("Annotation", (), {"__class_getitem__": classmethod(lambda cls, item: cls)})
        stand_in.__getattr__ = lambda attribute: annotation  # type: ignore[method-assign]
        sys.modules["jaxtyping"] = stand_in
    return importlib.import_module(name)


def live_share(given: Problem) -> float:
    """The share of 128 x 128 blocks of scores in which some query sees some key."""
    if given.mask is None:
        return 1.0
    length = given.query.shape[2]
    device = given.query.device
    keys = torch.arange(length, device=device)
    head = torch.zeros((), dtype=torch.int64, device=device)
    blocks = -(-length // BLOCK)
    live = total = 0
    for batch in range(given.mask_batch or 1):
        for start in range(0, length, BLOCK):
            rows = torch.arange(start, min(start + BLOCK, length), device=device)
            seen = given.mask(torch.tensor(batch, device=device), head, rows[:, None], keys[None, :]).any(0)
            seen = torch.nn.functional.pad(seen, (0, blocks * BLOCK - length))
            live = live + seen.view(blocks, BLOCK).any(1).sum()
            total += blocks
    return float(live) / total


def reference(given: Problem, elements: int = 2**28) -> Tensor:
    """The formula in float32 (no TF32), a few heads and rows at a time so that no S x S tensor of all heads exists."""
    query, key, value = given.query, given.key, given.value
    batches, heads, length, head_dim = query.shape
    device = query.device
    output = torch.empty(query.shape, dtype=torch.float32, device=device)
    keys = torch.arange(key.shape[2], device=device)[None, :]
    rows_at_once = max(1, min(length, elements // key.shape[2]))
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        for batch in range(batches):
            for head in range(heads):
                k, v = (x[batch, head // given.variant.group].float() for x in (key, value))
                b, h = torch.tensor(batch, device=device), torch.tensor(head, device=device)
                for start in range(0, length, rows_at_once):
                    q = query[batch, head, start : start + rows_at_once].float()
                    rows = torch.arange(start, start + q.shape[0], device=device)[:, None]
                    scores = q @ k.T / math.sqrt(head_dim)
                    if given.score is not None:
                        scores = given.score(scores, b, h, rows, keys)
                    if given.mask is not None:
                        scores = scores.masked_fill(~given.mask(b, h, rows, keys), -math.inf)
                    output[batch, head, start : start + q.shape[0]] = scores.softmax(-1) @ v
    finally:
        torch.set_float32_matmul_precision(precision)
    return output


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference over norm of what is expected; NaN where anything is NaN."""
    if actual.shape != expected.shape:
        return math.nan
    return float((actual.float() - expected).norm() / expected.norm())


# ---------------------------------------------------------------------------------------------------------------------
# Formulas


def _causal(*extras: Any) -> Mask:
    return lambda b, h, i, j: j <= i


def _window(window: int) -> Mask:
    return lambda b, h, i, j: (j <= i) & (i - j < window)


def _radius(radius: int) -> Mask:
    return lambda b, h, i, j: (i - j).abs() <= radius


def _prefix(prefix: int) -> Mask:
    return lambda b, h, i, j: (j <= i) | (j < prefix)


def _prefix_lengths(lengths: Tensor) -> Mask:
    return lambda b, h, i, j: (j <= i) | (j < lengths[b])


def _documents(ids: Tensor) -> Mask:
    return lambda b, h, i, j: (j <= i) & (ids[b, i] == ids[b, j])


def _documents_bidirectional(ids: Tensor) -> Mask:
    return lambda b, h, i, j: ids[b, i] == ids[b, j]


def _alibi(slopes: Tensor) -> Score:
    return lambda score, b, h, i, j: score + slopes[h] * (j - i)


def _soft_cap(cap: float) -> Score:
    return lambda score, b, h, i, j: cap * torch.tanh(score / cap)


def _slopes(batch: int, heads: int, length: int, device: torch.device) -> tuple[Tensor]:
    """ALiBi's geometric series."""
    return (2.0 ** (-8.0 * torch.arange(1, heads + 1, device=device, dtype=torch.float32) / heads),)


def document_ids(batch: int, length: int, documents: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[batch, length]: documents of unequal lengths, other ones in each row of the batch; always the same draw."""
    generator = torch.Generator().manual_seed(12)
    rows = []
    for _ in range(batch):
        cuts = torch.randperm(length - 1, generator=generator)[: documents - 1].sort().values + 1
        rows.append(torch.bucketize(torch.arange(length), cuts, right=True))
    return torch.stack(rows).to(device=device, dtype=dtype)


def _fixed(*values: Any) -> Callable[..., tuple[Any, ...]]:
    return lambda batch, heads, length, device: values


def _packed(dtype: torch.dtype) -> Callable[..., tuple[Any, ...]]:
    return lambda batch, heads, length, device: (document_ids(batch, length, 12, device, dtype),)


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("vanilla", "multi_head", "multi_head", sdpa_causal=False),
        Variant("causal", "causal", "causal", mask=_causal, sdpa_causal=True),
        Variant("alibi", "alibi", "alibi", _slopes, score=_alibi),
        Variant("soft_cap", "soft_cap", "soft_cap", _fixed(30.0), score=_soft_cap),
        Variant("sliding_window", "sliding_window", "sliding_window", _fixed(256), mask=_window),
        Variant("prefix_lm", "prefix_lm", "prefix_lm_shared", _fixed(256), mask=_prefix),
        Variant(
            "packed_documents",
            "packed_documents",
            "packed_documents",
            _packed(torch.int64),
            mask=_documents,
            mask_per_batch=True,
        ),
        Variant("grouped_query", "grouped_query", "grouped_query_view", group=8, sdpa_causal=False),
        # not among the default ones
        Variant("grouped_query_expand", "grouped_query", "grouped_query_repeat_interleave", group=8, sdpa_causal=False),
        Variant(
            "grouped_query_causal", "grouped_query", "grouped_query_causal", mask=_causal, group=8, sdpa_causal=True
        ),
        Variant("soft_cap_causal", "soft_cap", "soft_cap_causal", score=lambda: _soft_cap(30.0), mask=_causal),
        Variant("sliding_window_symmetric", "sliding_window", "sliding_window_symmetric", _fixed(128), mask=_radius),
        Variant(
            "prefix_lm_lengths",
            "prefix_lm",
            "prefix_lm",
            lambda batch, heads, length, device: (torch.full((batch,), min(256, length), device=device),),
            mask=_prefix_lengths,
            mask_per_batch=True,
        ),
        Variant(
            "packed_documents_bidirectional",
            "packed_documents",
            "packed_documents_bidirectional",
            _packed(torch.int32),
            mask=_documents_bidirectional,
            mask_per_batch=True,
        ),
        Variant("sdpa", "sdpa", "sdpa", sdpa_causal=False),
        Variant("sdpa_causal", "sdpa", "sdpa_causal", mask=_causal, sdpa_causal=True),
        Variant("float32_softmax", "float32_softmax", "softmax_dtype", sdpa_causal=False),
    )
}
DEFAULT = (
    "vanilla",
    "causal",
    "alibi",
    "soft_cap",
    "sliding_window",
    "prefix_lm",
    "packed_documents",
    "grouped_query",
)
