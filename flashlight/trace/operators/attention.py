"""Scaled dot-product attention by its definition in torch.nn.functional."""

from __future__ import annotations

import math
from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Expr
from flashlight.trace.context import Context
from flashlight.trace.operators.pointwise import Rule, fill_where
from flashlight.trace.operators.products import matmul
from flashlight.trace.operators.reductions import safe_softmax
from flashlight.trace.problems import Unsupported
from flashlight.trace.value import Index, Value, is_one


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload."""
    return {"scaled_dot_product_attention": attention}


def attention(
    ctx: Context,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Value:
    """softmax(query @ key.T * scale + mask) @ value; a row with nothing to attend to gives zero."""
    if dropout_p:
        raise Unsupported("FL307", "dropout has no rule yet", "pass dropout_p=0.0")
    if enable_gqa:
        key, value = _grouped(ctx, query, key), _grouped(ctx, query, value)
    turned = Value(
        (*key.shape[:-2], key.shape[-1], key.shape[-2]),
        key.dtype,
        lambda index: key.at((*index[:-2], index[-1], index[-2])),
    )
    scores = matmul(ctx, query, turned)
    if scale is None:
        root = build.op("sqrt", build.cast(query.shape[-1], FLOAT))
        unscaled = scores
        name = ctx.ir(scores.dtype)
        scores = Value(scores.shape, scores.dtype, lambda index: build.op("div", unscaled.at(index), root, dtype=name))
    else:
        scores = ctx.pointwise("mul", scores, scale)
    if is_causal:
        rows, columns = scores.shape[-2:]
        future = Value((rows, columns), torch.bool, lambda index: build.op("gt", index[1], index[0]))
        scores = fill_where(ctx, scores, future, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            mask = attn_mask
            hidden = Value(mask.shape, torch.bool, lambda index: build.op("not", mask.at(index)))
            scores = fill_where(ctx, scores, hidden, -math.inf)
        else:
            scores = ctx.pointwise("add", scores, attn_mask)
    weights = safe_softmax(ctx, scores, -1)
    return ctx.cast(matmul(ctx, weights, value), query.dtype)


def _grouped(ctx: Context, query: Value, other: Value) -> Value:
    """Each head of ``other`` repeated for its group of query heads."""
    heads, own = query.shape[-3], other.shape[-3]
    if ctx.sizes.same(heads, own) or is_one(own):
        return other
    group = ctx.sizes.quotient(heads, own)

    def rule(index: Index) -> Expr:
        return other.at((*index[:-3], build.op("floordiv", index[-3], group), *index[-2:]))

    return Value((*other.shape[:-3], heads, *other.shape[-2:]), other.dtype, rule)
