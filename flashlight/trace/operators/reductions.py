"""Reductions, softmax and its kin, and cumulative sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Const, Expr
from flashlight.trace.context import Context
from flashlight.trace.operators.pointwise import Rule
from flashlight.trace.problems import Unsupported
from flashlight.trace.value import Index, Value, bind, free, is_one


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload."""
    return {
        "sum": _sum,
        "mean": _mean,
        "prod": _prod,
        "amax": lambda ctx, self, dim=(), keepdim=False: reduced(ctx, "max", self, dim, keepdim),
        "amin": lambda ctx, self, dim=(), keepdim=False: reduced(ctx, "min", self, dim, keepdim),
        "max": lambda ctx, self, *args, **kwargs: _extremum(ctx, "max", self, *args, **kwargs),
        "min": lambda ctx, self, *args, **kwargs: _extremum(ctx, "min", self, *args, **kwargs),
        "any": lambda ctx, self, dim=None, keepdim=False: _truth(ctx, "max", self, dim, keepdim),
        "all": lambda ctx, self, dim=None, keepdim=False: _truth(ctx, "min", self, dim, keepdim),
        "softmax": softmax,
        "_softmax": lambda ctx, self, dim, half_to_float: softmax(ctx, self, dim),
        "_safe_softmax": safe_softmax,
        "log_softmax": _log_softmax,
        "_log_softmax": lambda ctx, self, dim, half_to_float: _log_softmax(ctx, self, dim),
        "logsumexp": _logsumexp,
        "var": _var,
        "std": lambda ctx, self, *args, **kwargs: ctx.pointwise("sqrt", _var(ctx, self, *args, **kwargs)),
        "linalg_vector_norm": _norm,
        "norm": lambda ctx, self, p=2, dim=None, keepdim=False, dtype=None: _norm(
            ctx, self, 2 if p is None else p, dim, keepdim, dtype=dtype
        ),
        "layer_norm": _layer_norm,
        "rms_norm": _rms_norm,
        "cumsum": lambda ctx, self, dim, dtype=None: _scan(ctx, "sum", self, dim, dtype),
        "cumprod": lambda ctx, self, dim, dtype=None: _scan(ctx, "prod", self, dim, dtype),
    }


def reduced(ctx: Context, op: str, self: Value, dim: Any, keepdim: bool) -> Value:
    """``op`` over some dimensions, all of them by default."""
    dims = ctx.dimensions(dim, self.rank)
    shape = tuple(
        build.integer(1) if i in dims else size for i, size in enumerate(self.shape) if keepdim or i not in dims
    )

    def rule(index: Index) -> Expr:
        kept = list(index) if keepdim else []
        if not keepdim:
            rest = iter(index)
            kept = [build.integer(0) if i in dims else next(rest) for i in range(self.rank)]
        return over(self.at, tuple(kept), dims, self.shape, op)

    return Value(shape, self.dtype, rule)


def _truth(ctx: Context, op: str, self: Value, dim: Any, keepdim: bool) -> Value:
    """Whether any holds, that is, whether the greatest of ones and zeros is a one; or all, by the least."""
    ones = ctx.cast(ctx.cast(self, torch.bool), torch.float32)
    return ctx.comparison("gt", reduced(ctx, op, ones, dim, keepdim), 0)


def over(at: Callable[[Index], Expr], index: Index, dims: tuple[int, ...], shape: Index, op: str) -> Expr:
    """``op`` over the positions of ``dims``, the other dimensions standing at ``index``."""
    place = list(index)
    axes = []
    for dim in dims:
        place[dim] = build.integer(0)
    for dim in dims:
        if is_one(shape[dim]):
            continue
        axis = bind(shape[dim], *place)
        place[dim] = free(axis)
        axes.append(axis)
    result = at(tuple(place))
    for axis in reversed(axes):
        result = build.reduce(op, result, axis)
    return result


def _integers(ctx: Context, self: Value, dtype: torch.dtype | None) -> Value:
    if dtype is not None:
        return ctx.cast(self, dtype)
    return self if self.dtype.is_floating_point else ctx.cast(self, torch.int64)


def _sum(
    ctx: Context, self: Value, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    return reduced(ctx, "sum", _integers(ctx, self, dtype), dim, keepdim)


def _prod(
    ctx: Context, self: Value, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    return reduced(ctx, "prod", _integers(ctx, self, dtype), dim, keepdim)


def _count(ctx: Context, self: Value, dim: Any) -> Expr:
    count: Expr = build.integer(1)
    for i in ctx.dimensions(dim, self.rank):
        count = build.op("mul", count, self.shape[i])
    return build.cast(count, FLOAT)


def _divided(ctx: Context, self: Value, divisor: Expr) -> Value:
    name = ctx.ir(self.dtype)
    return Value(self.shape, self.dtype, lambda index: build.op("div", self.at(index), divisor, dtype=name))


def _mean(
    ctx: Context, self: Value, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    self = self if dtype is None else ctx.cast(self, dtype)
    return _divided(ctx, reduced(ctx, "sum", self, dim, keepdim), _count(ctx, self, dim))


def _var(
    ctx: Context,
    self: Value,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Value:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    less = correction if correction is not None else int(unbiased) if unbiased is not None else 1
    centred = ctx.pointwise("sub", self, _mean(ctx, self, dim, True))
    total = reduced(ctx, "sum", ctx.pointwise("mul", centred, centred), dim, keepdim)
    left = build.op("sub", _count(ctx, self, dim), build.const(less, FLOAT))
    if less > 1:  # and there may be fewer
        left = build.op("maximum", left, build.const(0, FLOAT))
    return _divided(ctx, total, left)


def _norm(
    ctx: Context, self: Value, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    self = self if dtype is None else ctx.cast(self, dtype)
    size = ctx.pointwise("abs", self)
    if ord == 2:
        return ctx.pointwise("sqrt", reduced(ctx, "sum", ctx.pointwise("mul", self, self), dim, keepdim))
    if ord == 1:
        return reduced(ctx, "sum", size, dim, keepdim)
    if abs(ord) == math.inf:
        return reduced(ctx, "max" if ord > 0 else "min", size, dim, keepdim)
    if ord == 0:
        return reduced(ctx, "sum", ctx.cast(ctx.comparison("ne", self, 0), self.dtype), dim, keepdim)
    powered = reduced(ctx, "sum", ctx.pointwise("pow", size, ord), dim, keepdim)
    return ctx.pointwise("pow", powered, 1.0 / ord)


def _last(ctx: Context, self: Value, count: int) -> list[int]:
    return list(range(self.rank - count, self.rank))


def _layer_norm(
    ctx: Context,
    input: Value,
    normalized_shape: Any,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    dims = _last(ctx, input, len(normalized_shape))
    centred = ctx.pointwise("sub", input, _mean(ctx, input, dims, True))
    variance = _mean(ctx, ctx.pointwise("mul", centred, centred), dims, True)
    result = ctx.pointwise("mul", centred, ctx.pointwise("rsqrt", ctx.pointwise("add", variance, eps)))
    result = result if weight is None else ctx.pointwise("mul", result, weight)
    return result if bias is None else ctx.pointwise("add", result, bias)


def _rms_norm(
    ctx: Context, input: Value, normalized_shape: Any, weight: Value | None = None, eps: float | None = None
) -> Value:
    dims = _last(ctx, input, len(normalized_shape))
    square = _mean(ctx, ctx.pointwise("mul", input, input), dims, True)
    slack = torch.finfo(torch.float32).eps if eps is None else eps
    result = ctx.pointwise("mul", input, ctx.pointwise("rsqrt", ctx.pointwise("add", square, slack)))
    return result if weight is None else ctx.pointwise("mul", result, weight)


def _extremum(ctx: Context, op: str, self: Value, *args: Any, **kwargs: Any) -> Any:
    other = kwargs.pop("other", args[0] if args and isinstance(args[0], Value) else None)
    if other is not None:
        return ctx.pointwise(f"{op}imum", self, other)
    if not args and "dim" not in kwargs:
        return reduced(ctx, op, self, None, False)
    names = dict(zip(("dim", "keepdim"), args, strict=False)) | kwargs
    values = reduced(ctx, op, self, names["dim"], bool(names.get("keepdim", False)))

    def unsupported(index: Index) -> Expr:
        raise Unsupported("FL302", f"the position of the {op}imum has no rule", "use only the values")

    return values, Value(values.shape, torch.int64, unsupported)


def softmax(ctx: Context, self: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    """exp(x - max x) / sum exp(x - max x) along ``dim``."""
    return _softmax(ctx, self, dim, dtype, safe=False)


def safe_softmax(ctx: Context, self: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    """The same, but zero where every score is -inf."""
    return _softmax(ctx, self, dim, dtype, safe=True)


def _parts(ctx: Context, self: Value, dim: int, index: Index) -> tuple[Expr, Expr]:
    """The maximum and the sum of the exponentials below it, along ``dim``."""
    name = ctx.ir(self.dtype)
    largest = over(self.at, index, (dim,), self.shape, "max")

    def term(place: Index) -> Expr:
        return build.op("exp", build.op("sub", self.at(place), largest, dtype=name), dtype=name)

    return largest, over(term, index, (dim,), self.shape, "sum")


def _floating(ctx: Context, self: Value, dtype: torch.dtype | None) -> Value:
    if dtype is None and not self.dtype.is_floating_point:
        dtype = torch.float32
    return self if dtype is None else ctx.cast(self, dtype)


def _softmax(ctx: Context, self: Value, dim: int, dtype: torch.dtype | None, safe: bool) -> Value:
    self = _floating(ctx, self, dtype)
    dim = ctx.dimension(dim, self.rank)
    name = ctx.ir(self.dtype)

    def rule(index: Index) -> Expr:
        largest, total = _parts(ctx, self, dim, index)
        top = build.op("exp", build.op("sub", self.at(index), largest, dtype=name), dtype=name)
        share = build.op("div", top, total, dtype=name)
        if not safe:
            return share
        empty = build.op("eq", largest, build.const(-math.inf, name))
        return build.where(empty, build.const(0.0, name), share)

    return Value(self.shape, self.dtype, rule)


def _log_softmax(ctx: Context, self: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    self = _floating(ctx, self, dtype)
    dim = ctx.dimension(dim, self.rank)
    name = ctx.ir(self.dtype)

    def rule(index: Index) -> Expr:
        largest, total = _parts(ctx, self, dim, index)
        shifted = build.op("sub", self.at(index), largest, dtype=name)
        return build.op("sub", shifted, build.op("log", total, dtype=name), dtype=name)

    return Value(self.shape, self.dtype, rule)


def _logsumexp(ctx: Context, self: Value, dim: Any, keepdim: bool = False) -> Value:
    self = _floating(ctx, self, None)
    dims = ctx.dimensions(dim, self.rank)
    largest = reduced(ctx, "max", self, dims, True)
    total = reduced(ctx, "sum", ctx.pointwise("exp", ctx.pointwise("sub", self, largest)), dims, True)
    finite = ctx.pointwise("add", ctx.pointwise("log", total), largest)
    size, name = ctx.pointwise("abs", largest), ctx.ir(self.dtype)

    def rule(index: Index) -> Expr:
        # a row of -inf alone has the logarithm -inf, not NaN
        infinite = build.op("eq", size.at(index), build.const(math.inf, name))
        return build.where(infinite, largest.at(index), finite.at(index))

    result = Value(largest.shape, self.dtype, rule)
    return result if keepdim else reduced(ctx, "max", result, dims, False)


def _scan(ctx: Context, op: str, self: Value, dim: int, dtype: torch.dtype | None) -> Value:
    self = _integers(ctx, self, dtype)
    dim = ctx.dimension(dim, self.rank)

    def rule(index: Index) -> Expr:
        at = index[dim]
        if isinstance(at, Const) and at.value == 0:
            return self.at(index)
        place = list(index)
        place[dim] = build.integer(0)
        axis = bind(self.shape[dim], *place)
        place[dim] = free(axis)
        return build.scan(op, self.at(tuple(place)), axis, at)

    return Value(self.shape, self.dtype, rule)
