"""What the rules of operators share: broadcasting, type promotion, and the knowledge of sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from flashlight.ir import build, integers
from flashlight.ir.expr import BOOL, FLOATS, INT, NARROW, Const, Expr
from flashlight.trace.numbers import unwrap
from flashlight.trace.problems import Inconsistent, Unsupported
from flashlight.trace.sizes import Sizes, nonnegative
from flashlight.trace.value import ONE, ZERO, DTypes, Index, Value, is_one, of_expr, spread

Operand = Any
"""A `Value` or a Python number, symbolic or not."""


class Context:
    """The knowledge of one trace."""

    def __init__(self, sizes: Sizes, dtypes: DTypes) -> None:
        self.sizes = sizes
        self.dtypes = dtypes

    # shapes
    def shape(self, sizes: Sequence[Any]) -> Index:
        """Sizes as PyTorch's operators take them, as expressions."""
        return tuple(self.sizes.simplify(unwrap(size)) for size in sizes)

    def broadcast(self, *shapes: Index) -> Index:
        rank = max(map(len, shapes), default=0)
        result = []
        for position in range(rank):
            size: Expr = ONE
            for shape in shapes:
                place = position - rank + len(shape)
                if place >= 0 and not is_one(shape[place]):
                    size = shape[place] if is_one(size) else self.sizes.unify(size, shape[place])
            result.append(size)
        return tuple(result)

    def dimension(self, dim: int, rank: int) -> int:
        if not -max(rank, 1) <= dim < max(rank, 1):
            raise Inconsistent(f"dimension {dim} is out of range for a tensor of {rank} dimensions")
        return dim % max(rank, 1)

    def dimensions(self, dim: Any, rank: int) -> tuple[int, ...]:
        """Dimensions as reductions take them: None or nothing means all."""
        if dim is None or (isinstance(dim, (list, tuple)) and not dim):
            return tuple(range(rank))
        dims = dim if isinstance(dim, (list, tuple)) else [dim]
        return tuple(sorted(self.dimension(d, rank) for d in dims))

    # conditions on indices, folded where they are certain
    def less(self, left: Expr, right: Expr) -> Expr:
        return self.at_least(right, build.op("add", left, ONE))

    def at_least(self, left: Expr, right: Expr) -> Expr:
        difference = build.op("sub", left, right)
        if nonnegative(difference):
            return build.true()
        if nonnegative(build.op("sub", build.op("neg", difference), ONE)):
            return build.false()
        # i >= n + 1 reads better as i > n, and i - 1 >= 0 as i >= 1
        if left.dtype == INT and isinstance(right, Const):
            added = integers.constant(integers.polynomial(left).get((), 0))
            return build.op("ge", integers.sub(left, added), integers.sub(right, added))
        return build.op("lt", build.op("sub", right, ONE), left)

    def wrapped(self, index: Expr, size: Expr) -> Expr:
        """An index that may count from the end, as Python's do."""
        if not_negative(index):
            return index
        if isinstance(index, Const):
            return build.op("add", index, size)
        return build.where(build.op("lt", index, ZERO), build.op("add", index, size), index)

    # dtypes
    def promoted(self, *operands: Operand) -> torch.dtype:
        """The dtype that PyTorch computes a pointwise operator in: dimensions before scalars before numbers."""
        ranked: torch.dtype | None = None
        scalar: torch.dtype | None = None
        number: torch.dtype | None = None
        for operand in operands:
            if isinstance(operand, Value) and operand.rank:
                ranked = _widest(ranked, operand.dtype)
            elif isinstance(operand, Value):
                scalar = _widest(scalar, operand.dtype)
            else:
                number = _widest(number, _number_dtype(operand))
        return _by_category(_by_category(ranked, scalar), number) or torch.float32

    def ir(self, dtype: torch.dtype) -> str:
        return self.dtypes.ir(dtype)

    def value(self, operand: Operand) -> Value:
        """A number as a value without dimensions, and a value as itself."""
        return operand if isinstance(operand, Value) else of_expr(unwrap(operand), _number_dtype(operand))

    def converted(self, expr: Expr, dtype: torch.dtype, *, explicit: bool = False) -> Expr:
        """An operand in the dtype of the result; implicit promotions between floats are left to the operator."""
        name = self.ir(dtype)
        if explicit or isinstance(expr, Const) or expr.dtype == BOOL:
            return build.cast(expr, name)
        if expr.dtype in FLOATS and name in FLOATS:
            return expr
        return build.cast(expr, name)

    def pointwise(self, op: str, *operands: Operand, dtype: torch.dtype | None = None, floating: bool = False) -> Value:
        """``op`` of the IR over broadcast operands; ``dtype`` overrides PyTorch's promotion."""
        values = [self.value(operand) for operand in operands]
        result = dtype or self.promoted(*operands)
        if floating and not result.is_floating_point:
            result = torch.float32
        shape = self.broadcast(*(value.shape for value in values))
        name = self.ir(result)
        integral = floating or op in ("pow", "maximum", "minimum")

        def rule(index: Index) -> Expr:
            args = [spread(value, index) for value in values]
            if integral or name not in FLOATS:
                args = [self.converted(arg, result) for arg in args]
            else:
                # an integer among floats needs no conversion of its own in sums and products
                args = [
                    arg if arg.dtype == INT and not isinstance(arg, Const) else self.converted(arg, result)
                    for arg in args
                ]
            computed = build.op(op, *args, dtype=name)
            return self.held(computed, result) if op in _GROWING else computed

        return Value(shape, result, rule)

    def held(self, expr: Expr, dtype: torch.dtype) -> Expr:
        """An integer as few bits hold it: 127 + 1 is -128."""
        limits = NARROW.get(self.dtypes.stored(dtype))
        if limits is None or isinstance(expr, Const) and limits[0] <= expr.value <= limits[1]:
            return expr
        low, high = map(build.integer, limits)
        count = build.op("add", build.op("sub", high, low), build.integer(1))
        return build.op("add", build.op("mod", build.op("sub", expr, low), count), low)

    def comparison(self, op: str, left: Operand, right: Operand) -> Value:
        values = [self.value(left), self.value(right)]
        common = self.promoted(left, right)
        shape = self.broadcast(*(value.shape for value in values))

        def rule(index: Index) -> Expr:
            args = [spread(value, index) for value in values]
            if any(arg.dtype == BOOL for arg in args) and common != torch.bool:
                args = [build.cast(arg, self.ir(common)) if arg.dtype == BOOL else arg for arg in args]
            if any(isinstance(arg, Const) for arg in args) and common != torch.bool:
                args = [
                    self.held(build.cast(arg, self.ir(common)), common) if isinstance(arg, Const) else arg
                    for arg in args
                ]
            return build.op(op, *args)

        return Value(shape, torch.bool, rule)

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        if value.dtype == dtype:
            return value
        name = self.ir(dtype)
        fits = value.dtype == torch.bool or torch.promote_types(value.dtype, dtype) == dtype

        def rule(index: Index) -> Expr:
            converted = build.cast(value.at(index), name)
            return converted if fits else self.held(converted, dtype)

        return Value(value.shape, dtype, rule)

    def expanded(self, value: Value, shape: Index) -> Value:
        """The value broadcast to exactly ``shape``."""
        full = self.broadcast(value.shape, shape)
        if len(full) != len(shape):
            raise Inconsistent(f"a tensor of {value.rank} dimensions does not fit into {len(shape)}")
        return Value(shape, value.dtype, lambda index: spread(value, index))


def not_negative(expr: Expr) -> bool:
    """Whether an index is certainly >= 0, looking through clamps and selections as well."""
    if expr.dtype == INT and nonnegative(expr):
        return True
    low, _ = _bounds(expr)
    return low is not None and low >= 0


Bounds = tuple[int | None, int | None]
_GROWING = frozenset({"add", "sub", "mul", "neg", "pow", "abs", "floordiv"})


def _bounds(expr: Expr) -> Bounds:
    """Constant bounds of an integer as far as they are known."""
    if isinstance(expr, Const):
        return int(expr.value), int(expr.value)
    args = [_bounds(arg) for arg in getattr(expr, "args", ()) if arg.dtype == INT]
    lows, highs = [low for low, _ in args], [high for _, high in args]
    match getattr(expr, "op", None):
        case "maximum":
            return _most(lows, max, some=True), _most(highs, max)
        case "minimum":
            return _most(lows, min), _most(highs, min, some=True)
        case "where":
            return _most(lows, min), _most(highs, max)
        case "add":
            return _most(lows, sum), _most(highs, sum)
        case "sub":
            (low, high), (below, above) = args
            return (
                None if low is None or above is None else low - above,
                None if high is None or below is None else high - below,
            )
        case "abs":
            return 0, None
        case "mod" if lows[1] is not None and lows[1] > 0:
            return 0, None if highs[1] is None else highs[1] - 1
        case "floordiv" if lows[1] is not None and lows[1] > 0 and lows[0] is not None and lows[0] >= 0:
            return 0, None
    return (0 if nonnegative(expr) else None), None


def _most(bounds: list[int | None], choose: Callable[[list[int]], int], some: bool = False) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return choose(known) if known and (some or len(known) == len(bounds)) else None


def _number_dtype(number: Any) -> torch.dtype:
    if isinstance(number, (bool, torch.SymBool)):
        return torch.bool
    if isinstance(number, (int, torch.SymInt)):
        return torch.int64
    if isinstance(number, (float, torch.SymFloat)):
        return torch.get_default_dtype()
    raise Unsupported("FL302", f"a {type(number).__name__} has no place among tensors here")


def _widest(left: torch.dtype | None, right: torch.dtype) -> torch.dtype:
    return right if left is None else torch.promote_types(left, right)


def _by_category(higher: torch.dtype | None, lower: torch.dtype | None) -> torch.dtype | None:
    if higher is None or lower is None:
        return higher or lower
    if higher.is_floating_point:
        return higher
    if higher == torch.bool or lower.is_floating_point:
        return torch.promote_types(higher, lower)
    return higher
