"""Views: other ways to index a value. Each gives the forward map, and the backward one for writing through it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr
from flashlight.trace.context import Context
from flashlight.trace.numbers import unwrap
from flashlight.trace.operators.pointwise import Rule
from flashlight.trace.operators.reshape import reshaped
from flashlight.trace.problems import Inconsistent, Unsupported
from flashlight.trace.value import ONE, ZERO, Index, Value, View, is_one

LAST = 2**62
"""An end this large means "to the end"."""


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload; every rule gives a `View` or a list of them."""
    return {
        "view": _view,
        "reshape": reshaped,
        "_unsafe_view": reshaped,
        "_reshape_alias": lambda ctx, self, size, stride: reshaped(ctx, self, size),
        "view_as": lambda ctx, self, other: reshaped(ctx, self, other.shape),
        "reshape_as": lambda ctx, self, other: reshaped(ctx, self, other.shape),
        "flatten": _flatten,
        "unflatten": _unflatten,
        "transpose": _transpose,
        "swapaxes": _transpose,
        "swapdims": _transpose,
        "t": lambda ctx, self: permuted(self, tuple(reversed(range(self.rank)))),
        "mT": lambda ctx, self: _transpose(ctx, self, -2, -1),
        "adjoint": lambda ctx, self: _transpose(ctx, self, -2, -1),
        "numpy_T": lambda ctx, self: permuted(self, tuple(reversed(range(self.rank)))),
        "permute": lambda ctx, self, dims: permuted(self, tuple(ctx.dimension(d, self.rank) for d in dims)),
        "movedim": _movedim,
        "moveaxis": _movedim,
        "unsqueeze": lambda ctx, self, dim: unsqueezed(self, ctx.dimension(dim, self.rank + 1)),
        "squeeze": _squeeze,
        "expand": lambda ctx, self, size, implicit=False: _expand(ctx, self, size),
        "expand_as": lambda ctx, self, other: _expand(ctx, self, other.shape),
        "broadcast_to": lambda ctx, self, size: _expand(ctx, self, size),
        "slice": _slice,
        "select": _select,
        "narrow": _narrow,
        "split": _split,
        "split_with_sizes": _split,
        "chunk": _chunk,
        "tensor_split": _chunk,
        "unbind": _unbind,
        "diagonal": _diagonal,
        "unfold": _unfold,
    }


def permuted(self: Value, dims: tuple[int, ...]) -> View:
    def forward(index: Index) -> Index:
        return tuple(index[dims.index(i)] for i in range(len(dims)))

    def backward(index: Index) -> tuple[Expr, Index]:
        return build.true(), tuple(index[d] for d in dims)

    return View(tuple(self.shape[d] for d in dims), forward, backward)


def _view(ctx: Context, self: Value, *args: Any, **kwargs: Any) -> View:
    size = kwargs.get("size", args[0] if args else None)
    if not isinstance(size, (list, tuple)):
        raise Unsupported("FL302", "a view in another dtype has no rule", "convert with .to(dtype)")
    return reshaped(ctx, self, size)


def _flatten(ctx: Context, self: Value, start_dim: int = 0, end_dim: int = -1) -> View:
    first, last = ctx.dimension(start_dim, self.rank), ctx.dimension(end_dim, self.rank)
    size: Expr = ONE
    for extent in self.shape[first : last + 1]:
        size = build.op("mul", size, extent)
    return reshaped(ctx, self, (*self.shape[:first], size, *self.shape[last + 1 :]))


def _unflatten(ctx: Context, self: Value, dim: int, sizes: Sequence[Any]) -> View:
    dim = ctx.dimension(dim, self.rank)
    inner = list(ctx.shape(sizes))
    for i, size in enumerate(inner):
        if isinstance(size, Const) and size.value == -1:
            known: Expr = ONE
            for j, other in enumerate(inner):
                known = known if i == j else build.op("mul", known, other)
            inner[i] = ctx.sizes.quotient(self.shape[dim], known)
    return reshaped(ctx, self, (*self.shape[:dim], *inner, *self.shape[dim + 1 :]))


def _transpose(ctx: Context, self: Value, dim0: int, dim1: int) -> View:
    dims = list(range(self.rank))
    first, second = ctx.dimension(dim0, self.rank), ctx.dimension(dim1, self.rank)
    if dims:
        dims[first], dims[second] = dims[second], dims[first]
    return permuted(self, tuple(dims))


def _movedim(ctx: Context, self: Value, source: Any, destination: Any) -> View:
    sources, places = (
        [ctx.dimension(d, self.rank) for d in (dims if isinstance(dims, (list, tuple)) else [dims])]
        for dims in (source, destination)
    )
    order: list[int | None] = [None] * self.rank
    for origin, place in zip(sources, places, strict=True):
        order[place] = origin
    rest = iter(d for d in range(self.rank) if d not in sources)
    return permuted(self, tuple(next(rest) if d is None else d for d in order))


def unsqueezed(self: Value, dim: int) -> View:
    return View(
        (*self.shape[:dim], ONE, *self.shape[dim:]),
        lambda index: (*index[:dim], *index[dim + 1 :]),
        lambda index: (build.true(), (*index[:dim], ZERO, *index[dim:])),
    )


def _squeeze(ctx: Context, self: Value, dim: Any = None) -> View:
    dims = [d for d in ctx.dimensions(dim, self.rank) if is_one(self.shape[d])]
    kept = [d for d in range(self.rank) if d not in dims]

    def forward(index: Index) -> Index:
        return tuple(index[kept.index(d)] if d in kept else ZERO for d in range(self.rank))

    return View(
        tuple(self.shape[d] for d in kept), forward, lambda index: (build.true(), tuple(index[d] for d in kept))
    )


def _expand(ctx: Context, self: Value, size: Sequence[Any]) -> View:
    wanted = [unwrap(s) if not isinstance(s, Expr) else s for s in size]
    offset = len(wanted) - self.rank
    shape = []
    for i, target in enumerate(wanted):
        own = self.shape[i - offset] if i >= offset else ONE
        if isinstance(target, Const) and target.value == -1:
            shape.append(own)
        else:
            shape.append(ctx.sizes.simplify(target) if is_one(own) else ctx.sizes.unify(own, target))

    def forward(index: Index) -> Index:
        return tuple(ZERO if is_one(own) else index[offset + i] for i, own in enumerate(self.shape))

    return View(tuple(shape), forward)


def _bound(ctx: Context, number: Any, size: Expr, default: Expr) -> Expr:
    """A slice's end as an index between 0 and the size."""
    if number is None or (isinstance(number, int) and number >= LAST):
        return default
    expr = ctx.sizes.simplify(number if isinstance(number, Expr) else unwrap(number))
    if ctx.sizes.holds(build.op("lt", expr, ZERO), record=True):
        expr = build.op("add", expr, size)
        if ctx.sizes.holds(build.op("lt", expr, ZERO), record=True):
            return ZERO
    return ctx.sizes.minimum(expr, size)


def _slice(ctx: Context, self: Value, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> View:
    dim = ctx.dimension(dim, self.rank)
    size = self.shape[dim]
    first = _bound(ctx, start, size, ZERO)
    last = _bound(ctx, end, size, size)
    pace = unwrap(step)
    span = build.op("sub", last, first)
    if not ctx.sizes.holds(build.op("ge", span, ZERO), record=True):
        span = ZERO
    length = span if is_one(pace) else build.op("floordiv", build.op("add", span, build.op("sub", pace, ONE)), pace)
    shape = (*self.shape[:dim], ctx.sizes.simplify(length), *self.shape[dim + 1 :])

    def forward(index: Index) -> Index:
        place = ctx.sizes.simplify(build.op("add", build.op("mul", index[dim], pace), first))
        return (*index[:dim], place, *index[dim + 1 :])

    def backward(index: Index) -> tuple[Expr, Index]:
        at = index[dim]
        covered = build.op("and", ctx.at_least(at, first), ctx.less(at, last))
        offset = build.op("sub", at, first)
        if not is_one(pace):
            covered = build.op("and", covered, build.op("eq", build.op("mod", offset, pace), ZERO))
        return covered, (*index[:dim], build.op("floordiv", offset, pace), *index[dim + 1 :])

    return View(shape, forward, backward)


def _select(ctx: Context, self: Value, dim: int, index: Any) -> View:
    dim = ctx.dimension(dim, self.rank)
    place = unwrap(index)
    if ctx.sizes.holds(build.op("lt", place, ZERO), record=True):
        place = build.op("add", place, self.shape[dim])
    if not ctx.sizes.holds(build.op("lt", place, self.shape[dim]), record=True):
        raise Inconsistent(f"the index {place} is out of range for a dimension of size {self.shape[dim]}")
    if not ctx.sizes.holds(build.op("ge", place, ZERO), record=True):
        raise Inconsistent(f"the index {place} is out of range for a dimension of size {self.shape[dim]}")
    return View(
        (*self.shape[:dim], *self.shape[dim + 1 :]),
        lambda at: (*at[:dim], place, *at[dim:]),
        lambda at: (build.op("eq", at[dim], place), (*at[:dim], *at[dim + 1 :])),
    )


def _narrow(ctx: Context, self: Value, dim: int, start: Any, length: Any) -> View:
    first = unwrap(start)
    return _slice(ctx, self, dim, first, build.op("add", first, unwrap(length)))


def _split(ctx: Context, self: Value, split_size: Any, dim: int = 0) -> list[View]:
    dim = ctx.dimension(dim, self.rank)
    size = self.shape[dim]
    if isinstance(split_size, (list, tuple)):
        sizes = list(ctx.shape(split_size))
        total: Expr = ZERO
        for part in sizes:
            total = build.op("add", total, part)
        ctx.sizes.unify(total, size, "the sum of the parts and the size")
    else:
        part = unwrap(split_size)
        count = ctx.sizes.simplify(build.op("floordiv", size, part))
        if not isinstance(count, Const):
            count = _pieces(ctx, size, part)
        sizes = [part] * int(count.value)
        rest = build.op("sub", size, build.op("mul", part, count))
        if not (isinstance(rest, Const) and rest.value == 0) and not ctx.sizes.same(rest, ZERO):
            sizes.append(rest)
    views = []
    start: Expr = ZERO
    for part in sizes:
        stop = build.op("add", start, part)
        views.append(_slice(ctx, self, dim, start, stop))
        start = stop
    return views


def _pieces(ctx: Context, size: Expr, part: Expr) -> Const:
    """How many parts there are, where the part is a fraction of the size: D in parts of D // 2."""
    for count in range(1, 9):
        if ctx.sizes.same(build.op("mul", part, build.integer(count)), size):
            return build.integer(count)
        if getattr(part, "op", None) == "floordiv" and part.args == (size, build.integer(count)):  # type: ignore[attr-defined]
            ctx.sizes.assume_divides(size, build.integer(count))
            return build.integer(count)
    raise Unsupported(
        "FL204", f"the number of parts of {part} in {size} must be known", "state the size as a number, or use chunk"
    )


def _chunk(ctx: Context, self: Value, chunks: Any, dim: int = 0) -> list[View]:
    dim = ctx.dimension(dim, self.rank)
    size = self.shape[dim]
    if not isinstance(chunks, int):
        raise Unsupported("FL204", "the number of chunks must be known", "give a number")
    if isinstance(size, Const):
        part = -(-int(size.value) // chunks)
        return _split(ctx, self, part, dim)
    part_size = ctx.sizes.quotient(size, build.integer(chunks))
    starts = [build.op("mul", part_size, build.integer(i)) for i in range(chunks + 1)]
    return [_slice(ctx, self, dim, start, end) for start, end in zip(starts, starts[1:], strict=False)]


def _unbind(ctx: Context, self: Value, dim: int = 0) -> list[View]:
    dim = ctx.dimension(dim, self.rank)
    size = self.shape[dim]
    if not isinstance(size, Const):
        raise Unsupported(
            "FL204", f"the size {size} must be a known number to take it apart", "state it, as in # [3, B, S, D]"
        )
    return [_select(ctx, self, dim, i) for i in range(int(size.value))]


def _diagonal(ctx: Context, self: Value, offset: Any = 0, dim1: int = 0, dim2: int = 1) -> View:
    first, second = ctx.dimension(dim1, self.rank), ctx.dimension(dim2, self.rank)
    shift = unwrap(offset)
    down = ctx.sizes.holds(build.op("lt", shift, ZERO), record=True)
    row_start = build.op("neg", shift) if down else ZERO
    column_start = ZERO if down else shift
    rows = build.op("sub", self.shape[first], row_start)
    columns = build.op("sub", self.shape[second], column_start)
    kept = [d for d in range(self.rank) if d not in (first, second)]

    def forward(index: Index) -> Index:
        place = dict(zip(kept, index[:-1], strict=True))
        place[first] = build.op("add", index[-1], row_start)
        place[second] = build.op("add", index[-1], column_start)
        return tuple(place[d] for d in range(self.rank))

    def backward(index: Index) -> tuple[Expr, Index]:
        row = build.op("sub", index[first], row_start)
        on = build.op("eq", build.op("sub", index[second], index[first]), shift)
        return build.op("and", on, ctx.at_least(row, ZERO)), (*(index[d] for d in kept), row)

    return View((*(self.shape[d] for d in kept), ctx.sizes.minimum(rows, columns)), forward, backward)


def _unfold(ctx: Context, self: Value, dimension: int, size: Any, step: Any) -> View:
    dim = ctx.dimension(dimension, self.rank)
    width, pace = unwrap(size), unwrap(step)
    if not ctx.sizes.holds(build.op("le", width, self.shape[dim]), record=True):
        raise Inconsistent("the window is longer than the dimension")
    spare = build.op("sub", self.shape[dim], width)
    count = build.op("add", build.op("floordiv", spare, pace), ONE)

    def forward(index: Index) -> Index:
        place = build.op("add", build.op("mul", index[dim], pace), index[-1])
        return (*index[:dim], place, *index[dim + 1 : -1])

    return View((*self.shape[:dim], count, *self.shape[dim + 1 :], width), forward)
