"""Tensors that index tensors: gathers, embeddings, advanced indexing and assignment through masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr
from flashlight.trace.context import Context
from flashlight.trace.numbers import unwrap
from flashlight.trace.operators.pointwise import Rule, fill_where
from flashlight.trace.problems import Unsupported
from flashlight.trace.value import Index, Value, spread


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload."""
    return {
        "index": _index,
        "_unsafe_index": _index,
        "index_put": _index_put,
        "index_select": _index_select,
        "gather": _gather,
        "take_along_dim": lambda ctx, self, indices, dim=None: _gather(ctx, self, dim, indices),
        "embedding": lambda ctx, weight, indices, *_, **__: _index_select(ctx, weight, 0, indices),
        "one_hot": _one_hot,
    }


def _index(ctx: Context, self: Value, indices: Sequence[Value | None]) -> Value:
    places = {dim: index for dim, index in enumerate(indices) if index is not None}
    for index in places.values():
        if index.dtype in (torch.bool, torch.uint8):
            raise Unsupported(
                "FL302", "selecting by a boolean mask has a result of unknown size", "use torch.where with the mask"
            )
    shape = ctx.broadcast(*(index.shape for index in places.values()))
    dims = sorted(places)
    together = dims == list(range(dims[0], dims[-1] + 1))
    start = dims[0] if together else 0
    rest = [d for d in range(self.rank) if d not in places]
    before = [d for d in rest if d < dims[0]] if together else []
    after = [d for d in rest if d not in before]
    result = (*(self.shape[d] for d in before), *shape, *(self.shape[d] for d in after))

    def rule(index: Index) -> Expr:
        picked = index[start : start + len(shape)]
        plain = iter((*index[:start], *index[start + len(shape) :]))
        place = [
            ctx.wrapped(spread(places[d], picked), self.shape[d]) if d in places else next(plain)
            for d in range(self.rank)
        ]
        return self.at(tuple(place))

    return Value(result, self.dtype, rule)


def _index_put(
    ctx: Context, self: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False
) -> Value:
    masks = [index for index in indices if index is not None]
    if len(masks) == 1 and masks[0].dtype == torch.bool and values.rank == 0 and not accumulate:
        dim = next(d for d, index in enumerate(indices) if index is not None)
        mask = masks[0]
        whole = Value(self.shape, torch.bool, lambda index: mask.at(index[dim : dim + mask.rank]))
        return fill_where(ctx, self, whole, values)
    raise Unsupported("FL302", "assigning to scattered positions has no rule", "use torch.where with a mask")


def _index_select(ctx: Context, self: Value, dim: int, index: Value) -> Value:
    dim = ctx.dimension(dim, self.rank)
    shape = (*self.shape[:dim], *index.shape, *self.shape[dim + 1 :])

    def rule(at: Index) -> Expr:
        picked = index.at(at[dim : dim + index.rank])
        return self.at((*at[:dim], picked, *at[dim + index.rank :]))

    return Value(shape, self.dtype, rule)


def _gather(ctx: Context, self: Value, dim: int | None, index: Value, *, sparse_grad: bool = False) -> Value:
    if dim is None:
        raise Unsupported("FL302", "gathering from a flattened tensor has no rule", "give the dimension")
    dim = ctx.dimension(dim, self.rank)

    def rule(at: Index) -> Expr:
        return self.at((*at[:dim], index.at(at), *at[dim + 1 :]))

    return Value(index.shape, self.dtype, rule)


def _one_hot(ctx: Context, self: Value, num_classes: Any = -1) -> Value:
    count = unwrap(num_classes)
    if isinstance(count, Const) and count.value < 0:
        reason = "how many classes there are is known from the values only"
        raise Unsupported("FL301", reason, "say it: one_hot(ids, num_classes)")

    def rule(at: Index) -> Expr:
        return build.cast(build.op("eq", self.at(at[:-1]), at[-1]), "int64")

    return Value((*self.shape, count), torch.int64, rule)
