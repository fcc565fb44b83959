"""Values put together or repeated: cat, stack, pad, roll, flip, repeat, triangles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr
from flashlight.trace.context import Context
from flashlight.trace.numbers import unwrap
from flashlight.trace.operators.pointwise import Rule
from flashlight.trace.operators.reshape import reshaped
from flashlight.trace.operators.views import unsqueezed
from flashlight.trace.problems import Unsupported
from flashlight.trace.value import ONE, ZERO, Index, Value, is_one


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload."""
    return {
        "cat": _cat,
        "concat": _cat,
        "concatenate": _cat,
        "stack": _stack,
        "pad": _pad,
        "constant_pad_nd": lambda ctx, self, pad, value=0: _pad(ctx, self, pad, "constant", value),
        "roll": _roll,
        "flip": _flip,
        "repeat": _repeat,
        "tile": _tile,
        "repeat_interleave": _repeat_interleave,
        "fill_diagonal": _fill_diagonal,
        "tril": lambda ctx, self, diagonal=0: _triangle(ctx, self, diagonal, lower=True),
        "triu": lambda ctx, self, diagonal=0: _triangle(ctx, self, diagonal, lower=False),
    }


def _cat(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    # an empty one-dimensional tensor is what loops start from
    tensors = [t for t in tensors if not (t.rank == 1 and t.shape[0] is ZERO)] or list(tensors)
    rank = tensors[0].rank
    dim = ctx.dimension(dim, rank)
    dtype = tensors[0].dtype
    shape = list(tensors[0].shape)
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
        for i in range(rank):
            if i != dim:
                shape[i] = ctx.sizes.unify(shape[i], tensor.shape[i])
    starts: list[Expr] = [ZERO]
    for tensor in tensors:
        starts.append(ctx.sizes.simplify(build.op("add", starts[-1], tensor.shape[dim])))
    shape[dim] = starts[-1]

    def rule(index: Index) -> Expr:
        at = index[dim]
        result: Expr | None = None
        for tensor, start in reversed(list(zip(tensors, starts, strict=False))):
            inside = ctx.less(at, build.op("add", start, tensor.shape[dim]))
            after = ctx.at_least(at, start)
            if isinstance(after, Const) and not after.value:
                continue
            if result is not None and isinstance(inside, Const) and not inside.value:
                continue
            place = ZERO if is_one(tensor.shape[dim]) else build.op("sub", at, start)
            element = build.cast(tensor.at((*index[:dim], place, *index[dim + 1 :])), ctx.ir(dtype))
            result = element if result is None else build.where(inside, element, result)
        assert result is not None
        return result

    return Value(tuple(shape), dtype, rule)


def _stack(ctx: Context, tensors: Sequence[Value], dim: int = 0) -> Value:
    place = ctx.dimension(dim, tensors[0].rank + 1)
    return _cat(ctx, [unsqueezed(tensor, place).read(tensor) for tensor in tensors], place)


def _pad(ctx: Context, self: Value, pad: Sequence[Any], mode: str = "constant", value: Any = None) -> Value:
    if mode != "constant":
        raise Unsupported("FL302", f"padding by {mode!r} has no rule", "pad with a constant")
    name = ctx.ir(self.dtype)
    fill = build.cast(unwrap(0 if value is None else value), name)
    margins: dict[int, tuple[Expr, Expr]] = {}
    for i in range(len(pad) // 2):
        margins[self.rank - 1 - i] = (unwrap(pad[2 * i]), unwrap(pad[2 * i + 1]))
    shape = list(self.shape)
    for dim, (before, after) in margins.items():
        shape[dim] = ctx.sizes.simplify(build.op("add", build.op("add", shape[dim], before), after))

    def rule(index: Index) -> Expr:
        place = list(index)
        inside: Expr = build.true()
        for dim, (before, _) in margins.items():
            place[dim] = build.op("sub", index[dim], before)
            inside = build.op("and", inside, ctx.at_least(place[dim], ZERO))
            inside = build.op("and", inside, ctx.less(place[dim], self.shape[dim]))
        return build.where(inside, self.at(tuple(place)), fill)

    return Value(tuple(shape), self.dtype, rule)


def _roll(ctx: Context, self: Value, shifts: Any, dims: Any = ()) -> Value:
    dims = list(dims) if isinstance(dims, (list, tuple)) else [dims]
    shifts = list(shifts) if isinstance(shifts, (list, tuple)) else [shifts]
    if not dims:
        raise Unsupported("FL302", "torch.roll without dims has no rule", "give the dimensions to roll")
    moves = {ctx.dimension(d, self.rank): unwrap(shift) for d, shift in zip(dims, shifts, strict=True)}

    def rule(index: Index) -> Expr:
        place = list(index)
        for dim, shift in moves.items():
            place[dim] = build.op("mod", build.op("sub", index[dim], shift), self.shape[dim])
        return self.at(tuple(place))

    return Value(self.shape, self.dtype, rule)


def _flip(ctx: Context, self: Value, dims: Sequence[int]) -> Value:
    turned = ctx.dimensions(list(dims), self.rank)

    def rule(index: Index) -> Expr:
        place = list(index)
        for dim in turned:
            place[dim] = build.op("sub", build.op("sub", self.shape[dim], ONE), index[dim])
        return self.at(tuple(place))

    return Value(self.shape, self.dtype, rule)


def _repeat(ctx: Context, self: Value, repeats: Sequence[Any]) -> Value:
    counts = ctx.shape(repeats)
    own = (ONE,) * (len(counts) - self.rank) + self.shape
    shape = tuple(ctx.sizes.simplify(build.op("mul", count, size)) for count, size in zip(counts, own, strict=True))

    def rule(index: Index) -> Expr:
        place = [
            ZERO if is_one(size) else at if is_one(count) else build.op("mod", at, size)
            for at, size, count in zip(index, own, counts, strict=True)
        ]
        return self.at(tuple(place[len(own) - self.rank :]))

    return Value(shape, self.dtype, rule)


def _tile(ctx: Context, self: Value, dims: Sequence[Any]) -> Value:
    return _repeat(ctx, self, [1] * (self.rank - len(dims)) + list(dims))


def _repeat_interleave(
    ctx: Context, self: Value, repeats: Any = None, dim: int | None = None, *, output_size: Any = None
) -> Value:
    if isinstance(repeats, Value) or repeats is None:
        raise Unsupported("FL302", "repeat_interleave by a tensor has a result of unknown size", "repeat by a number")
    if dim is None:
        self, dim = reshaped(ctx, self, [-1]).read(self), 0
    dim = ctx.dimension(dim, self.rank)
    count = unwrap(repeats)
    size = ctx.sizes.simplify(build.op("mul", self.shape[dim], count))

    def rule(index: Index) -> Expr:
        place = ZERO if is_one(self.shape[dim]) else build.op("floordiv", index[dim], count)
        return self.at((*index[:dim], place, *index[dim + 1 :]))

    return Value((*self.shape[:dim], size, *self.shape[dim + 1 :]), self.dtype, rule)


def _fill_diagonal(ctx: Context, self: Value, fill_value: Any, wrap: bool = False) -> Value:
    if self.rank != 2 or wrap:
        raise Unsupported("FL302", "fill_diagonal_ has a rule for matrices without wrap only", "use torch.where")
    filled = ctx.converted(unwrap(fill_value), self.dtype, explicit=True)
    return Value(self.shape, self.dtype, lambda index: build.where(build.op("eq", *index), filled, self.at(index)))


def _triangle(ctx: Context, self: Value, diagonal: Any, lower: bool) -> Value:
    shift = unwrap(diagonal)
    name = ctx.ir(self.dtype)

    def rule(index: Index) -> Expr:
        bound = build.op("add", index[-2], shift)
        # j > i reads better than j >= i + 1, and j < i than j <= i - 1
        if isinstance(shift, Const) and (shift.value < 0 if lower else shift.value > 0):
            nearer = build.op("add" if lower else "sub", bound, ONE)
            kept = build.op("lt" if lower else "gt", index[-1], nearer)
        else:
            kept = build.op("le" if lower else "ge", index[-1], bound)
        return build.where(kept, self.at(index), build.const(0, name))

    return Value(self.shape, self.dtype, rule)
