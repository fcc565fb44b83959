"""Unflatten: a dimension that is read in blocks is two dimensions of a view.

    T[..., D * n + d, ...]  =  T'[..., n, d, ...]          where T' = T.unflatten(..., (N, D)), 0 <= d < D

in every place where T is read; D is the extent of an axis that counts within the blocks, and divides the dimension. A
projection yields all heads side by side: as a view with a dimension for them, its rows lie a stride apart and are read
as blocks. A position d + s beside it (a rotation reads the other half) stays within the block under the selection that
uses it, d < c or d >= c, by 0 <= s and c + s <= D, or by 0 <= c + s and s <= 0; elsewhere what is read is discarded.
Splitting a dimension never copies. Row-major order, as in `merge`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Map, Tensor, walk
from flashlight.ir.program import Program, rewrite

Guard = tuple[str, Expr]
"""What is known of an axis where a value is used: ("lt" or "ge", c)."""
Use = tuple[Load, dict[Axis, list[Guard]]]


def unflatten(program: Program, among: Collection[Tensor]) -> Program:
    """The program with views of those tensors of ``among`` that are read in blocks."""
    uses: dict[Tensor, list[Use]] = {}
    for load, guards in _uses(program):
        if load.tensor in among:
            uses.setdefault(load.tensor, []).append((load, guards))
    views: dict[Tensor, tuple[Tensor, int]] = {}
    positions: dict[Load, tuple[Expr, Expr]] = {}
    for tensor, own in uses.items():
        for place, size in enumerate(tensor.shape):
            indices = {load.index[place] for load, _ in own}
            extents = {node.axis.extent for index in indices for node in walk(index) if isinstance(node, Iota)} - {size}
            for width in sorted(extents, key=str):
                count = integers.quotient(size, width)
                found = {load: _parts(load.index[place], width, guards) for load, guards in own}
                # a load that two selections use has to be in one and the same block for both
                again = {load: _parts(load.index[place], width, guards) for load, guards in reversed(own)}
                parts = {load: part for load, part in found.items() if part is not None and part == again[load]}
                if count is not None and len(parts) == len(found) and tensor not in views:
                    shape = (*tensor.shape[:place], count, width, *tensor.shape[place + 1 :])
                    views[tensor] = replace(tensor, shape=shape), place
                    positions |= parts

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Load) and node.tensor in views):
            return node
        view, place = views[node.tensor]
        return build.load(view, (*node.index[:place], *positions[node], *node.index[place + 1 :]))

    if not views:
        return program
    inputs = (*(tensor for tensor in program.inputs if tensor not in views), *(view for view, _ in views.values()))
    return replace(rewrite(program, rule), inputs=inputs)


def _uses(program: Program) -> Iterator[Use]:
    """Every load with every set of conditions on single axes under which it is used."""
    waiting: list[tuple[Expr, tuple[tuple[Axis, Guard], ...]]] = [(output.expr, ()) for output in program.outputs]
    seen = set(waiting)
    while waiting:
        node, guards = waiting.pop()
        if isinstance(node, Load):
            known: dict[Axis, list[Guard]] = {}
            for axis, guard in guards:
                known.setdefault(axis, []).append(guard)
            yield node, known
        children = [(child, guards) for child in node.children]
        if isinstance(node, Map) and node.op == "where":
            condition, yes, no = node.args
            found = _bound(condition)
            if found is not None:
                axis, operator, limit = found
                inside = (axis, (operator, limit))
                outside = (axis, ("ge" if operator == "lt" else "lt", limit))
                children = [(condition, guards), (yes, (*guards, inside)), (no, (*guards, outside))]
        for child in children:
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _bound(condition: Expr) -> tuple[Axis, str, Expr] | None:
    """``(d, "lt" or "ge", c)`` where the condition is d < c or d >= c."""
    if not (isinstance(condition, Map) and condition.op in ("lt", "le", "gt", "ge") and len(condition.axes) == 1):
        return None
    (axis,) = condition.axes
    difference = integers.sub(condition.args[1], condition.args[0])  # c - d
    limit = integers.add(difference, Iota(axis))
    if limit.axes:
        return None
    strict = condition.op in ("lt", "ge")
    operator = "lt" if condition.op in ("lt", "le") else "ge"
    return axis, operator, limit if strict else integers.add(limit, build.integer(1))


def _parts(index: Expr, width: Expr, guards: dict[Axis, list[Guard]]) -> tuple[Expr, Expr] | None:
    """``(n, d + s)`` where the index is width * n + d + s, d being an axis of that extent, within its block."""
    axes = [node.axis for node in walk(index) if isinstance(node, Iota) and node.axis.extent is width]
    for axis in dict.fromkeys(axes):
        outer: Expr = build.integer(0)
        offset: Expr = build.integer(0)
        for monomial, coefficient in integers.polynomial(integers.sub(index, Iota(axis))).items():
            count = integers.quotient(integers.expression({monomial: 1}), width)
            term = integers.expression({monomial: coefficient})
            if count is not None:
                outer = integers.add(outer, integers.mul(count, build.integer(coefficient)))
            elif isinstance(width, Const) and coefficient % int(width.value) == 0:
                outer = integers.add(outer, integers.floordiv(term, width))
            else:
                offset = integers.add(offset, term)
        if offset.axes or axis in outer.axes:
            continue
        for more in (0, 1, -1):
            shift = integers.add(offset, integers.mul(width, build.integer(more)))
            if _within(shift, width, guards.get(axis, [])):
                return integers.sub(outer, build.integer(more)), integers.add(Iota(axis), shift)
    return None


def _within(shift: Expr, width: Expr, guards: list[Guard]) -> bool:
    """Whether 0 <= d + shift < width for all d from 0 to width - 1 for which the guards hold."""
    low = any(op == "ge" and _at_least(shift, integers.sub(build.integer(0), limit)) for op, limit in guards)
    high = any(op == "lt" and _at_least(integers.sub(width, limit), shift) for op, limit in guards)
    nothing = build.integer(0)
    return (low or _at_least(shift, nothing)) and (high or _at_least(nothing, shift))


def _at_least(one: Expr, other: Expr) -> bool:
    """Whether the one is as large as the other, also where halves have to be doubled to see that."""
    difference = integers.sub(one, other)
    divisors = {node.args[1] for node in walk(difference) if isinstance(node, Map) and node.op == "floordiv"}
    scales = [build.integer(1), *sorted((d for d in divisors if integers.known_size(d)), key=str)]
    return any(integers.known_nonnegative(integers.mul(difference, scale)) for scale in scales)
