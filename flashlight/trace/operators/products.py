"""Matrix products in all their spellings, and einsum."""

from __future__ import annotations

from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import Expr
from flashlight.trace.context import Context
from flashlight.trace.operators.pointwise import Rule
from flashlight.trace.problems import Inconsistent, Unsupported
from flashlight.trace.value import ZERO, Index, Value, bind, free, is_one, spread


def rules() -> dict[str, Rule]:
    """By the name of the PyTorch operator, without overload."""
    return {
        "matmul": matmul,
        "mm": matmul,
        "bmm": matmul,
        "mv": matmul,
        "dot": matmul,
        "vdot": matmul,
        "linalg_matmul": matmul,
        "outer": lambda ctx, self, vec2: contracted(ctx, ["i", "j"], "ij", [self, vec2]),
        "inner": lambda ctx, self, other: linear(ctx, self, other),
        "linear": linear,
        "addmm": _added,
        "addmv": _added,
        "baddbmm": _added,
        "einsum": _einsum,
    }


def matmul(ctx: Context, self: Value, other: Value, out_dtype: torch.dtype | None = None) -> Value:
    """The product over the last dimension of ``self`` and the last but one of ``other``, batches broadcast."""
    left, right = self, other
    if left.rank == 0 or right.rank == 0:
        raise Inconsistent("a matrix product needs at least one dimension on both sides")
    size = ctx.sizes.unify(left.shape[-1], right.shape[-2] if right.rank > 1 else right.shape[0], "inner sizes")
    batch = ctx.broadcast(left.shape[:-2], right.shape[:-2])
    rows = left.shape[-2:-1]
    columns = right.shape[-1:] if right.rank > 1 else ()
    shape = (*batch, *rows, *columns)
    dtype = out_dtype or torch.promote_types(left.dtype, right.dtype)
    name = ctx.ir(dtype)

    def rule(index: Index) -> Expr:
        outer = index[: len(batch)]
        row = index[len(batch) : len(batch) + len(rows)]
        column = index[len(batch) + len(rows) :]
        inner: Expr = ZERO
        axis = None
        if not is_one(size):
            axis = bind(size, *index)
            inner = free(axis)
        one = _batched(left, outer, (*row, inner))
        two = _batched(right, outer, (inner, *column))
        product = build.op("mul", ctx.converted(one, dtype), ctx.converted(two, dtype), dtype=name)
        return product if axis is None else build.reduce("sum", product, axis)

    return Value(shape, dtype, rule)


def _batched(value: Value, outer: Index, matrix: Index) -> Expr:
    kept = value.rank - len(matrix)
    return spread(value, (*outer[len(outer) - kept :], *matrix)) if kept else value.at(_trimmed(value, matrix))


def _trimmed(value: Value, index: Index) -> Index:
    return tuple(ZERO if is_one(size) else i for size, i in zip(value.shape, index, strict=True))


def linear(ctx: Context, self: Value, weight: Value, bias: Value | None = None) -> Value:
    """``self @ weight.T + bias``."""
    turned = weight
    if weight.rank == 2:
        turned = Value(weight.shape[::-1], weight.dtype, lambda index: weight.at(index[::-1]))
    product = matmul(ctx, self, turned)
    return product if bias is None else ctx.pointwise("add", product, bias)


def _added(
    ctx: Context, self: Value, left: Value, right: Value, *_: Any, beta: Any = 1, alpha: Any = 1, **__: Any
) -> Value:
    product = matmul(ctx, left, right)
    if not (isinstance(alpha, (int, float)) and alpha == 1):
        product = ctx.pointwise("mul", product, alpha)
    if isinstance(beta, (int, float)) and beta == 0:
        return product
    scaled = self if isinstance(beta, (int, float)) and beta == 1 else ctx.pointwise("mul", self, beta)
    return ctx.expanded(ctx.pointwise("add", scaled, product), product.shape)


def _einsum(ctx: Context, equation: str, tensors: list[Value], *, path: Any = None) -> Value:
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise Inconsistent(f"the equation {equation!r} has {len(terms)} operands, not {len(tensors)}")
    # an ellipsis stands for the same dimensions in every operand, aligned at the right: give them letters of their own
    spare = [chr(code) for code in range(0x3B1, 0x3B1 + 24)]
    longest = 0
    expanded = []
    for term, tensor in zip(terms, tensors, strict=True):
        if "..." in term:
            count = tensor.rank - len(term.replace("...", ""))
            longest = max(longest, count)
            expanded.append((term, count))
        else:
            expanded.append((term, 0))
    dots = "".join(spare[:longest])
    terms = [term.replace("...", dots[longest - count :]) for term, count in expanded]
    if arrow:
        output = right.replace("...", dots)
    else:
        letters = "".join(terms)
        output = dots + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    # as PyTorch does, from the left: what no later operand has is summed over at once
    while len(terms) > 2:
        later = set("".join(terms[2:]) + output)
        pair = "".join(letter for letter in dict.fromkeys(terms[0] + terms[1]) if letter in later)
        tensors = [contracted(ctx, terms[:2], pair, tensors[:2]), *tensors[2:]]
        terms = [pair, *terms[2:]]
    return contracted(ctx, terms, output, tensors)


def contracted(ctx: Context, terms: list[str], output: str, tensors: list[Value]) -> Value:
    """The sum over all letters that the output lacks of the product of the operands."""
    sizes: dict[str, Expr] = {}
    for term, tensor in zip(terms, tensors, strict=True):
        if len(term) != tensor.rank:
            raise Inconsistent(f"the letters {term!r} name {len(term)} dimensions of a tensor that has {tensor.rank}")
        for letter, size in zip(term, tensor.shape, strict=True):
            known = sizes.get(letter)
            if known is None or is_one(known):
                sizes[letter] = size
            elif not is_one(size):
                sizes[letter] = ctx.sizes.unify(known, size, f"sizes of {letter!r}")
    if not set(output) <= set(sizes) or len(set(output)) != len(output):
        raise Unsupported("FL302", f"the output {output!r} of an einsum repeats a letter or names a new one")
    summed = [letter for letter in dict.fromkeys("".join(terms)) if letter not in output]
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    name = ctx.ir(dtype)

    def rule(index: Index) -> Expr:
        place: dict[str, Expr] = dict(zip(output, index, strict=True))
        axes = []
        for letter in summed:
            if is_one(sizes[letter]):
                place[letter] = ZERO
                continue
            axis = bind(sizes[letter], *place.values())
            place[letter] = free(axis)
            axes.append(axis)
        result: Expr | None = None
        for term, tensor in zip(terms, tensors, strict=True):
            element = ctx.converted(tensor.at(_trimmed(tensor, tuple(place[letter] for letter in term))), dtype)
            result = element if result is None else build.op("mul", result, element, dtype=name)
        assert result is not None
        for axis in reversed(axes):
            result = build.reduce("sum", result, axis)
        return result

    return Value(tuple(sizes[letter] for letter in output), dtype, rule)
