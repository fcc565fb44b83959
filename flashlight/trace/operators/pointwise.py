"""Pointwise operators: arithmetic, comparisons, selections, activations and casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import BOOL, Expr
from flashlight.trace.context import Context, Operand
from flashlight.trace.problems import Unsupported
from flashlight.trace.value import Index, Value, spread

Rule = Callable[..., Any]
IDENTITIES = (
    "alias", "detach", "clone", "contiguous", "lift_fresh", "lift", "lift_fresh_copy", "resolve_conj", "resolve_neg",
)  # fmt: skip


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload."""
    table: dict[str, Rule] = {
        "add": _add,
        "sub": _sub,
        "subtract": _sub,
        "rsub": lambda ctx, self, other, alpha=1: _sub(ctx, other, self, alpha),
        "mul": lambda ctx, self, other: _mul(ctx, self, other),
        "multiply": lambda ctx, self, other: _mul(ctx, self, other),
        "div": _div,
        "divide": _div,
        "true_divide": _div,
        "floor_divide": lambda ctx, self, other: _div(ctx, self, other, rounding_mode="floor"),
        "remainder": lambda ctx, self, other: ctx.pointwise("mod", self, other),
        "fmod": _fmod,
        "pow": _pow,
        "neg": lambda ctx, self: ctx.pointwise("neg", self),
        "positive": lambda ctx, self: self,
        "square": lambda ctx, self: _mul(ctx, self, self),
        "reciprocal": lambda ctx, self: ctx.pointwise("div", 1.0, self, floating=True),
        "maximum": lambda ctx, self, other: ctx.pointwise("maximum", self, other),
        "minimum": lambda ctx, self, other: ctx.pointwise("minimum", self, other),
        "clamp": _clamp,
        "clip": _clamp,
        "clamp_min": lambda ctx, self, min: _clamp(ctx, self, min, None),
        "clamp_max": lambda ctx, self, max: _clamp(ctx, self, None, max),
        "hardtanh": lambda ctx, self, min_val=-1, max_val=1: _clamp(ctx, self, min_val, max_val),
        "where": where,
        "masked_fill": lambda ctx, self, mask, value: fill_where(ctx, self, mask, value),
        "logical_not": lambda ctx, self: _truth(ctx, "not", self),
        "logical_and": lambda ctx, self, other: _truth(ctx, "and", self, other),
        "logical_or": lambda ctx, self, other: _truth(ctx, "or", self, other),
        "logical_xor": lambda ctx, self, other: _truth(ctx, "ne", self, other),
        "bitwise_not": lambda ctx, self: _bits(ctx, "not", self),
        "relu": lambda ctx, self: _clamp(ctx, self, 0, None),
        "sign": _sign,
        "sgn": _sign,
        "gelu": _gelu,
        "silu": lambda ctx, self: _mul(ctx, self, ctx.pointwise("sigmoid", self, floating=True)),
        "softplus": _softplus,
        "log_sigmoid": _log_sigmoid,
        "leaky_relu": lambda ctx, self, negative_slope=0.01: where(
            ctx, ctx.comparison("gt", self, 0), self, _mul(ctx, self, negative_slope)
        ),
        "elu": _elu,
        "isnan": _isnan,
        "isinf": lambda ctx, self: ctx.comparison("eq", ctx.pointwise("abs", self), math.inf),
        "isfinite": lambda ctx, self: ctx.comparison("lt", ctx.pointwise("abs", self), math.inf),
        "nan_to_num": _nan_to_num,
        "addcmul": lambda ctx, self, a, b, value=1: _add(ctx, self, _mul(ctx, a, b), value),
        "addcdiv": lambda ctx, self, a, b, value=1: _add(ctx, self, _div(ctx, a, b), value),
        "lerp": lambda ctx, self, end, weight: _add(ctx, self, _mul(ctx, _sub(ctx, end, self), weight)),
        "log1p": lambda ctx, self: ctx.pointwise("log", _add(ctx, self, 1.0), floating=True),
        "expm1": lambda ctx, self: _sub(ctx, ctx.pointwise("exp", self, floating=True), 1.0),
        "to": _to,
        "_to_copy": _to,
        "type_as": lambda ctx, self, other: ctx.cast(self, other.dtype),
        "convert_element_type": _to,
        "fill": lambda ctx, self, value: ctx.expanded(ctx.cast(ctx.value(value), self.dtype), self.shape),
        "zero": lambda ctx, self: constant_like(ctx, self, 0),
    }
    for name in ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos"):
        table[name] = _unary(name, floating=True)
    for name in ("abs", "floor", "ceil"):
        table[name] = _unary(name, floating=False)
    table["absolute"] = table["abs"]
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        table[name] = _comparison(name)
    for name, op in (("and", "and"), ("or", "or"), ("xor", "ne")):
        for spelling in (f"bitwise_{name}", f"__{name}__"):
            table[spelling] = _bitwise(op)
    spellings = {"greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "not_equal": "ne"}
    table |= {spelling: table[name] for spelling, name in spellings.items()}
    return table | dict.fromkeys(IDENTITIES, lambda ctx, self, **_: self)


def _unary(op: str, floating: bool) -> Rule:
    return lambda ctx, self: ctx.pointwise(op, self, floating=floating)


def _comparison(op: str) -> Rule:
    return lambda ctx, self, other: ctx.comparison(op, self, other)


def _bitwise(op: str) -> Rule:
    return lambda ctx, self, other: _bits(ctx, op, self, other)


def constant_like(ctx: Context, self: Value, number: float | bool) -> Value:
    name = ctx.ir(self.dtype)
    return Value(self.shape, self.dtype, lambda index: build.const(number, name))


def _scaled(ctx: Context, operand: Operand, alpha: Any) -> Operand:
    return operand if isinstance(alpha, (int, float)) and alpha == 1 else _mul(ctx, operand, alpha)


def _add(ctx: Context, self: Operand, other: Operand, alpha: Any = 1) -> Value:
    other = _scaled(ctx, other, alpha)
    if ctx.promoted(self, other) == torch.bool:
        return _truth(ctx, "or", self, other)
    return ctx.pointwise("add", self, other)


def _sub(ctx: Context, self: Operand, other: Operand, alpha: Any = 1) -> Value:
    return ctx.pointwise("sub", self, _scaled(ctx, other, alpha))


def _mul(ctx: Context, self: Operand, other: Operand) -> Value:
    if ctx.promoted(self, other) == torch.bool:
        return _truth(ctx, "and", self, other)
    return ctx.pointwise("mul", self, other)


def _div(ctx: Context, self: Operand, other: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode is None:
        return ctx.pointwise("div", self, other, floating=True)
    if ctx.promoted(self, other).is_floating_point:
        quotient = ctx.pointwise("div", self, other, floating=True)
        floor = ctx.pointwise("floor", quotient)
        if rounding_mode == "floor":
            return floor
        return where(ctx, ctx.comparison("lt", quotient, 0), ctx.pointwise("ceil", quotient), floor)
    if rounding_mode == "floor":
        return ctx.pointwise("floordiv", self, other)
    # towards zero: the magnitudes are divided, and the sign put back
    size = ctx.pointwise("floordiv", ctx.pointwise("abs", self), ctx.pointwise("abs", other))
    negative = ctx.comparison("ne", ctx.comparison("lt", self, 0), ctx.comparison("lt", other, 0))
    return where(ctx, negative, ctx.pointwise("neg", size), size)


def _fmod(ctx: Context, self: Operand, other: Operand) -> Value:
    """The remainder that has the dividend's sign."""
    size = ctx.pointwise("mod", ctx.pointwise("abs", self), ctx.pointwise("abs", other))
    return where(ctx, ctx.comparison("lt", self, 0), ctx.pointwise("neg", size), size)


def _pow(ctx: Context, self: Operand, exponent: Operand) -> Value:
    if isinstance(exponent, (int, float)) and exponent in (1, 2, 3, 0.5, -0.5, -1):
        floating = isinstance(exponent, float)
        result = ctx.promoted(self, exponent)
        self = ctx.cast(self, result) if isinstance(self, Value) and not self.dtype.is_floating_point else self
        if exponent in (1, 2, 3):
            powered = self
            for _ in range(int(exponent) - 1):
                powered = _mul(ctx, powered, self)
            return ctx.cast(ctx.value(powered), result) if floating else ctx.value(powered)
        if exponent == 0.5:
            return ctx.pointwise("sqrt", self, floating=True)
        if exponent == -0.5:
            return ctx.pointwise("rsqrt", self, floating=True)
        if result.is_floating_point:
            return ctx.pointwise("div", 1.0, self, floating=True)
    return ctx.pointwise("pow", self, exponent)


def _clamp(ctx: Context, self: Value, min: Operand = None, max: Operand = None) -> Value:
    if min is not None:
        self = ctx.pointwise("maximum", self, min)
    return self if max is None else ctx.pointwise("minimum", self, max)


def where(ctx: Context, condition: Operand, self: Operand = None, other: Operand = None) -> Value:
    """``self`` where the condition holds, ``other`` elsewhere, in their common dtype."""
    if self is None or other is None:
        raise Unsupported("FL302", "torch.where with one argument has a result of unknown size", "give all three")
    result = ctx.promoted(self, other)
    values = [ctx.value(operand) for operand in (condition, self, other)]
    shape = ctx.broadcast(*(value.shape for value in values))
    name = ctx.ir(result)

    def rule(index: Index) -> Expr:
        test, yes, no = (spread(value, index) for value in values)
        return build.where(build.cast(test, BOOL), build.cast(yes, name), build.cast(no, name))

    return Value(shape, result, rule)


def fill_where(ctx: Context, self: Value, mask: Value, value: Operand) -> Value:
    """``value`` where the mask holds, ``self`` elsewhere, in the dtype of ``self``."""
    filled = ctx.cast(ctx.value(value), self.dtype)
    return where(ctx, mask, filled, self)


def _truth(ctx: Context, op: str, *operands: Operand) -> Value:
    values = [ctx.value(operand) for operand in operands]
    shape = ctx.broadcast(*(value.shape for value in values))

    def rule(index: Index) -> Expr:
        return build.op(op, *(build.cast(spread(value, index), BOOL) for value in values))

    return Value(shape, torch.bool, rule)


def _bits(ctx: Context, op: str, *operands: Operand) -> Value:
    if ctx.promoted(*operands) != torch.bool:
        raise Unsupported("FL302", "bitwise operators on integers have no rule", "bit n is x // 2**n % 2")
    return _truth(ctx, op, *operands)


def _sign(ctx: Context, self: Value) -> Value:
    below = where(ctx, ctx.comparison("lt", self, 0), -1, 0)
    return ctx.cast(where(ctx, ctx.comparison("gt", self, 0), 1, below), self.dtype)


def _gelu(ctx: Context, self: Value, *, approximate: str = "none") -> Value:
    if approximate == "tanh":
        cubed = _mul(ctx, _mul(ctx, self, self), self)
        inner = _mul(ctx, _add(ctx, self, _mul(ctx, cubed, 0.044715)), math.sqrt(2 / math.pi))
        cdf = _add(ctx, ctx.pointwise("tanh", inner), 1.0)
    else:
        cdf = _add(ctx, ctx.pointwise("erf", _mul(ctx, self, math.sqrt(0.5))), 1.0)
    return _mul(ctx, _mul(ctx, self, 0.5), cdf)


def _log_sigmoid(ctx: Context, self: Value) -> Value:
    # min(x, 0) - log(1 + exp(-|x|)) does not overflow
    tail = ctx.pointwise("exp", ctx.pointwise("neg", ctx.pointwise("abs", self)))
    return _sub(ctx, ctx.pointwise("minimum", 0.0, self), ctx.pointwise("log", _add(ctx, tail, 1.0)))


def _softplus(ctx: Context, self: Value, beta: Any = 1, threshold: Any = 20) -> Value:
    scaled = _scaled(ctx, self, beta)
    # max(x, 0) + log(1 + exp(-|x|)) does not overflow
    tail = ctx.pointwise("exp", ctx.pointwise("neg", ctx.pointwise("abs", scaled)))
    soft = _add(ctx, _clamp(ctx, scaled, 0, None), ctx.pointwise("log", _add(ctx, tail, 1.0)))
    soft = soft if isinstance(beta, (int, float)) and beta == 1 else _div(ctx, soft, beta)
    return where(ctx, ctx.comparison("gt", scaled, threshold), self, soft)


def _elu(ctx: Context, self: Value, alpha: Any = 1, scale: Any = 1, input_scale: Any = 1) -> Value:
    grown = _sub(ctx, ctx.pointwise("exp", _scaled(ctx, self, input_scale)), 1.0)
    chosen = where(ctx, ctx.comparison("gt", self, 0), self, _scaled(ctx, grown, alpha))
    return _mul(ctx, chosen, scale) if scale != 1 else chosen


def _isnan(ctx: Context, self: Value) -> Value:
    if not self.dtype.is_floating_point:
        return Value(self.shape, torch.bool, lambda index: build.false())
    return Value(self.shape, torch.bool, lambda index: build.op("isnan", self.at(index), dtype=BOOL))


def _nan_to_num(
    ctx: Context, self: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Value:
    filled = fill_where(ctx, self, _isnan(ctx, self), nan or 0.0)
    largest = torch.finfo(self.dtype).max
    top = largest if posinf is None else posinf
    bottom = -largest if neginf is None else neginf
    filled = fill_where(ctx, filled, ctx.comparison("eq", filled, math.inf), top)
    return fill_where(ctx, filled, ctx.comparison("eq", filled, -math.inf), bottom)


def _to(ctx: Context, self: Value, *args: Any, **kwargs: Any) -> Value:
    """Any overload of ``Tensor.to``: the first dtype found counts, devices and layouts do not."""
    for arg in (*args, *kwargs.values()):
        if isinstance(arg, torch.dtype):
            return ctx.cast(self, arg)
        if isinstance(arg, Value):
            return ctx.cast(self, arg.dtype)
    return self
