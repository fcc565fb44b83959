"""Merge: two axes that always go together are one.

    sum_a sum_b f(a, b)  =  sum_m f(m // B, m % B)          where m runs over A * B positions and B is the extent of b
    o[..., a, b]  =  o'[..., m]                             stored without moving anything

Side conditions: every tensor that has one of the axes has the other; a reduction over one directly contains the same
reduction over the other; an output has both, side by side, or neither. Coordinates of points (P, 3) become one axis,
so that a product over both is one matrix product. The bijection (a, b) <-> a * B + b is that of row-major order, e.g.
Knuth, The Art of Computer Programming 1, section 2.2.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flashlight.ir import build
from flashlight.ir.expr import Axis, Expr, Iota, Load, Reduce, Scan, walk
from flashlight.ir.program import Program, mapped, rebuilt


def merge(program: Program, outer: Axis, inner: Axis) -> tuple[Program, Axis] | None:
    """The program with one axis for the two, ``outer`` the slower one; None where a side condition fails."""
    nodes = list(walk(*(output.expr for output in program.outputs)))
    pair = {outer, inner}
    if not all(_together(node, outer, inner, nodes) for node in nodes):
        return None
    for output in program.outputs:
        places = [place for place, axis in enumerate(output.axes) if axis in pair]
        if places and output.axes[places[0] : places[0] + 2] != (outer, inner):
            return None
    axis = Axis(f"{outer.name}{inner.name}", build.op("mul", outer.extent, inner.extent))
    values: dict[Expr, Expr] = {
        Iota(outer): build.op("floordiv", Iota(axis), inner.extent),
        Iota(inner): build.op("mod", Iota(axis), inner.extent),
    }
    done: dict[Expr, Expr] = {}
    for node in nodes:
        if node in values:
            done[node] = values[node]
        elif isinstance(node, Reduce) and node.axis in pair:
            below = node.arg
            if isinstance(below, Reduce) and below.axis in pair:
                done[node] = Reduce(node.op, done[below.arg], axis)
            else:
                done[node] = done[below]  # half of a pair: only its other half uses it
        else:
            done[node] = rebuilt(node, tuple(done[child] for child in node.children))
    outputs = tuple(
        replace(output, axes=tuple(axis if old is outer else old for old in output.axes if old is not inner))
        for output in program.outputs
    )
    # `mapped` goes by the old expressions of the outputs
    return replace(mapped(program, done), outputs=tuple(replace(o, expr=done[o.expr]) for o in outputs)), axis


def _together(node: Expr, outer: Axis, inner: Axis, nodes: Sequence[Expr]) -> bool:
    pair = {outer, inner}
    if isinstance(node, Load):
        return node.axes & pair in (frozenset(), pair)
    if isinstance(node, Scan):
        return not pair & {node.axis, *node.axes}
    if not (isinstance(node, Reduce) and node.axis in pair):
        return True
    above = [other for other in nodes if node in other.children]
    if isinstance(node.arg, Reduce) and {node.axis, node.arg.axis} == pair:
        return node.arg.op == node.op
    return all(isinstance(o, Reduce) and o.op == node.op and {o.axis, node.axis} == pair for o in above) and bool(above)
