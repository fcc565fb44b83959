"""Reshape: dimensions fall into groups with equal products; inside a group positions are flattened and unflattened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashlight.ir import build
from flashlight.ir.expr import Const, Expr
from flashlight.trace.context import Context
from flashlight.trace.numbers import unwrap
from flashlight.trace.value import ONE, ZERO, Index, Value, View, is_one


def reshaped(ctx: Context, self: Value, shape: Sequence[Any]) -> View:
    """The view of ``self`` in another shape of as many elements; one size may be -1."""
    wanted = [ctx.sizes.simplify(s if isinstance(s, Expr) else unwrap(s)) for s in shape]
    old = self.shape
    if any(isinstance(s, Const) and s.value == -1 for s in wanted):
        wanted = _completed(ctx, old, wanted)
    new = tuple(wanted)
    groups = _groups(ctx, old, new)

    def forward(index: Index) -> Index:
        return _through(ctx, index, new, old, [(b, a) for a, b in groups])

    def backward(index: Index) -> tuple[Expr, Index]:
        return build.true(), _through(ctx, index, old, new, groups)

    return View(new, forward, backward)


def _product(sizes: Sequence[Expr]) -> Expr:
    result: Expr = ONE
    for size in sizes:
        result = build.op("mul", result, size)
    return result


def _completed(ctx: Context, old: Index, wanted: list[Expr]) -> list[Expr]:
    """The shape with its -1 worked out: what both shapes have in common is cancelled before dividing."""
    place = next(i for i, s in enumerate(wanted) if isinstance(s, Const) and s.value == -1)
    have = list(old)
    known = [s for i, s in enumerate(wanted) if i != place]
    for size in list(known):
        match = next((i for i, s in enumerate(have) if ctx.sizes.same(s, size)), None)
        if match is not None:
            del have[match]
            known.remove(size)
    whole, divisor = ctx.sizes.simplify(_product(have)), ctx.sizes.simplify(_product(known))
    quotient = build.op("floordiv", whole, divisor)
    if not ctx.sizes.same(build.op("mul", quotient, divisor), whole):
        quotient = ctx.sizes.quotient(whole, divisor)
    return [*wanted[:place], ctx.sizes.simplify(quotient), *wanted[place + 1 :]]


Groups = list[tuple[list[int], list[int]]]


def _groups(ctx: Context, old: Index, new: Index) -> Groups:
    """Runs of old and new dimensions that hold the same elements; sizes of 1 belong to no group."""
    left = [i for i, s in enumerate(old) if not is_one(s)]
    right = [i for i, s in enumerate(new) if not is_one(s)]
    head: Groups = []
    tail: Groups = []
    while left and right and ctx.sizes.same(old[left[0]], new[right[0]]):
        head.append(([left.pop(0)], [right.pop(0)]))
    while left and right and ctx.sizes.same(old[left[-1]], new[right[-1]]):
        tail.insert(0, ([left.pop()], [right.pop()]))
    middle: Groups = []
    while left or right:
        ours, theirs = left[:1], right[:1]
        left, right = left[1:], right[1:]
        while True:
            one = ctx.sizes.simplify(_product([old[i] for i in ours]))
            two = ctx.sizes.simplify(_product([new[i] for i in theirs]))
            if ours and theirs and ctx.sizes.same(one, two):
                break
            small, large = ctx.sizes.sample(one), ctx.sizes.sample(two)
            if small == large and ours and theirs:
                ctx.sizes.unify(one, two, "numbers of elements")
                break
            if small < large and left:
                ours.append(left.pop(0))
            elif small > large and right:
                theirs.append(right.pop(0))
            elif not left and not right:
                ctx.sizes.unify(one, two, "numbers of elements")
                break
            elif left:
                ours.append(left.pop(0))
            else:
                theirs.append(right.pop(0))
        middle.append((ours, theirs))
    return [*head, *middle, *tail]


def _through(ctx: Context, index: Index, source: Index, target: Index, groups: Groups) -> Index:
    """An index into ``source`` as one into ``target``; each group pairs dimensions of source and target."""
    result: list[Expr] = [ZERO] * len(target)
    for ours, theirs in groups:
        if not theirs:
            continue
        flat: Expr = ZERO
        for i in ours:
            flat = build.op("add", build.op("mul", flat, source[i]), index[i])
        flat = ctx.sizes.simplify(flat)
        for position, i in enumerate(theirs):
            below = _product([target[j] for j in theirs[position + 1 :]])
            place = flat if is_one(below) else build.op("floordiv", flat, below)
            # the leading one cannot exceed its size
            result[i] = place if position == 0 else build.op("mod", place, target[i])
    return tuple(result)
