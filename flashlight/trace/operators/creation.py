"""Tensors made from nothing: constants, ranges, identity matrices; and small tensors that the program holds as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, INT, Const, Expr
from flashlight.trace.context import Context
from flashlight.trace.numbers import unwrap
from flashlight.trace.operators.pointwise import Rule
from flashlight.trace.problems import Unsupported
from flashlight.trace.value import ONE, ZERO, Index, Value

RANDOM = ("rand", "randn", "randint", "rand_like", "randn_like", "bernoulli", "multinomial", "normal", "uniform")
DROPOUT = ("dropout", "native_dropout", "feature_dropout", "alpha_dropout")
LARGEST_TABLE = 64
"""Elements of a constant tensor that may be written out as selections."""


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload."""
    table: dict[str, Rule] = {
        "arange": _arange,
        "linspace": _linspace,
        "full": lambda ctx, size, fill_value, **kw: _filled(ctx, size, fill_value, kw.get("dtype")),
        "new_full": lambda ctx, self, size, fill_value, **kw: _filled(
            ctx, size, fill_value, kw.get("dtype") or self.dtype
        ),
        "full_like": lambda ctx, self, fill_value, **kw: _filled(
            ctx, self.shape, fill_value, kw.get("dtype") or self.dtype
        ),
        "scalar_tensor": lambda ctx, s, **kw: _filled(ctx, (), s, kw.get("dtype") or torch.get_default_dtype()),
        "eye": _eye,
    }
    # what is left uninitialised may hold anything, zero too
    for name, number in (("zeros", 0.0), ("ones", 1.0), ("empty", 0.0)):
        table[name] = _like(number)
        table[f"new_{name}"] = _new(number)
        table[f"{name}_like"] = _like_tensor(number)
    table |= dict.fromkeys(RANDOM, _random) | dict.fromkeys(DROPOUT, _dropout)
    return table


def _random(ctx: Context, *_: Any, **__: Any) -> Value:
    raise Unsupported("FL307", "random numbers have no rule yet", "draw them outside and pass them in")


def _dropout(ctx: Context, input: Value, p: float, train: bool, *_: Any) -> Value:
    if train and p > 0:
        raise Unsupported("FL307", "dropout has no rule yet", "pass training=False, or p=0")
    return input


def _like(number: float) -> Rule:
    return lambda ctx, size, **kw: _filled(ctx, size, number, kw.get("dtype") or torch.get_default_dtype())


def _new(number: float) -> Rule:
    return lambda ctx, self, size, **kw: _filled(ctx, size, number, kw.get("dtype") or self.dtype)


def _like_tensor(number: float) -> Rule:
    return lambda ctx, self, **kw: _filled(ctx, self.shape, number, kw.get("dtype") or self.dtype)


def _filled(ctx: Context, size: Sequence[Any], number: Any, dtype: torch.dtype | None) -> Value:
    shape = tuple(s if isinstance(s, Expr) else ctx.sizes.simplify(unwrap(s)) for s in size)
    if isinstance(number, Value):
        scalar = ctx.cast(number, dtype or number.dtype)
        return Value(shape, scalar.dtype, lambda index: scalar.at(()))
    expr = unwrap(number)
    if dtype is None:
        dtype = {INT: torch.int64, "bool": torch.bool}.get(expr.dtype, torch.get_default_dtype())
    converted = build.cast(expr, ctx.ir(dtype))
    return Value(shape, dtype, lambda index: converted)


def _arange(ctx: Context, *args: Any, **kwargs: Any) -> Value:
    names = ("end",) if len(args) == 1 else ("start", "end", "step")
    given = dict(zip(names, args, strict=False)) | kwargs
    start, end, step = (unwrap(given.get(name, default)) for name, default in (("start", 0), ("end", 0), ("step", 1)))
    whole = all(number.dtype == INT for number in (start, end, step))
    dtype = kwargs.get("dtype") or (torch.int64 if whole else torch.get_default_dtype())
    name = ctx.ir(dtype)
    if not whole:
        numbers = [number for number in (start, end, step)]
        rounded = [_whole(number) for number in numbers]
        if any(number is None for number in rounded):
            raise Unsupported("FL302", "a range of fractions has no rule", "scale a range of integers")
        start, end, step = (number for number in rounded if number is not None)
    if not isinstance(step, Const):
        raise Unsupported("FL204", "the step of a range must be known", "give a number")
    pace = int(step.value)
    span = build.op("sub", end, start) if pace > 0 else build.op("sub", start, end)
    count = (
        span
        if abs(pace) == 1
        else build.op("floordiv", build.op("add", span, build.integer(abs(pace) - 1)), build.integer(abs(pace)))
    )
    if not ctx.sizes.holds(build.op("ge", count, ZERO), record=True):
        count = ZERO

    def rule(index: Index) -> Expr:
        return build.cast(build.op("add", build.op("mul", index[0], step), start), name)

    return Value((ctx.sizes.simplify(count),), dtype, rule)


def _whole(number: Expr) -> Expr | None:
    if number.dtype == INT:
        return number
    if isinstance(number, Const) and float(number.value).is_integer():
        return build.integer(int(number.value))
    if getattr(number, "op", None) == "cast" and number.children[0].dtype == INT:
        return number.children[0]
    return None


def _linspace(ctx: Context, start: Any, end: Any, steps: Any, **kwargs: Any) -> Value:
    first, last, count = unwrap(start), unwrap(end), unwrap(steps)
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    name = ctx.ir(dtype)

    def rule(index: Index) -> Expr:
        span = build.op("sub", build.cast(last, FLOAT), build.cast(first, FLOAT))
        parts = build.cast(build.op("sub", count, ONE), FLOAT)
        share = build.op("div", build.op("mul", build.cast(index[0], FLOAT), span), parts)
        return build.cast(build.op("add", share, build.cast(first, FLOAT)), name)

    return Value((count,), dtype, rule)


def _eye(ctx: Context, n: Any, m: Any = None, **kwargs: Any) -> Value:
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    name = ctx.ir(dtype)
    shape = ctx.shape((n, n if m is None else m))
    return Value(shape, dtype, lambda index: build.cast(build.op("eq", index[0], index[1]), name))


def of_data(ctx: Context, data: torch.Tensor) -> Value:
    """A real tensor of the user's program as a constant."""
    name = ctx.ir(data.dtype)
    shape = tuple(build.integer(size) for size in data.shape)
    numbers = data.detach().cpu()
    if data.numel() == 1:
        number = build.const(numbers.reshape(()).item(), name)
        return Value(shape, data.dtype, lambda index: number)

    def rule(index: Index) -> Expr:
        if numbers.numel() > LARGEST_TABLE:
            raise Unsupported(
                "FL302",
                f"a constant tensor of {numbers.numel()} elements cannot be written into a kernel",
                "make it a parameter",
            )
        return _looked_up(numbers, index, name)

    return Value(shape, data.dtype, rule)


def _looked_up(numbers: torch.Tensor, index: Index, name: str) -> Expr:
    if not index:
        return build.const(numbers.item(), name)
    at = index[0]
    if isinstance(at, Const):
        return _looked_up(numbers[int(at.value)], index[1:], name)
    result = _looked_up(numbers[-1], index[1:], name)
    for i in reversed(range(numbers.shape[0] - 1)):
        result = build.where(build.op("eq", at, build.integer(i)), _looked_up(numbers[i], index[1:], name), result)
    return result
