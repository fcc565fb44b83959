"""Operators whose value at one position depends on an order or a neighbourhood of others: they cannot be fused."""

from __future__ import annotations

from typing import Any

from flashlight.trace.context import Context
from flashlight.trace.operators.pointwise import Rule
from flashlight.trace.problems import Unsupported

ORDERED = (
    "topk", "sort", "argsort", "kthvalue", "median", "nanmedian", "quantile", "unique", "nonzero", "mode", "cummax",
    "cummin",
)  # fmt: skip
LOCAL = (
    "conv1d", "conv2d", "conv3d", "convolution", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "interpolate",
    "conv_transpose1d", "conv_transpose2d",
)  # fmt: skip


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload; all of them refuse."""
    refused = {name: _refuse(f"{name} needs all scores of a row in order") for name in ORDERED}
    return refused | {name: _refuse(f"{name} needs the scores of neighbouring tiles") for name in LOCAL}


def _refuse(reason: str) -> Rule:
    def rule(ctx: Context, *_: Any, **__: Any) -> Any:
        raise Unsupported("FL303", reason, "do this outside the function, or express it by a threshold passed in")

    return rule
