"""Which part every axis plays: grid, rows, streamed keys, or resident in the tile.

Nothing here knows about attention. The streamed axis is the one whose reductions form the chain: they contain other
reductions, or are no plain contraction. The rows are the output axis over which the streamed tensors can be shared.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.diagnostics import Diagnostic
from flashlight.ir.expr import Axis, Const, Expr, Load, Map, Reduce, Scan, walk
from flashlight.ir.order import axis_key
from flashlight.ir.program import Program


@dataclass(frozen=True)
class Roles:
    """The parts that axes play.

    ``grid``: one program each; ``rows``: tiled, one block a program; ``stream``: visited block by block in a loop;
    ``resident``: wholly in the tile (head dimensions), padded to a power of two.
    """

    grid: tuple[Axis, ...]
    rows: Axis
    stream: Axis
    resident: tuple[Axis, ...]

    @property
    def tile(self) -> tuple[Axis, ...]:
        """The order of axes in every tile."""
        return (self.rows, self.stream, *self.resident)


def assign(program: Program) -> Roles:
    """The roles of the program's axes; a Diagnostic where no axis can be streamed."""
    roots = [output.expr for output in program.outputs]
    nodes = list(walk(*roots))
    reductions = [node for node in nodes if isinstance(node, Reduce)]
    stream = _streamed(program, reductions)
    chain = [node for node in reductions if node.axis is stream]
    loads = [node for root in chain for node in walk(root.arg) if isinstance(node, Load)]
    streamed = [load for load in dict.fromkeys(loads) if stream in load.axes]
    fixed = [load for load in dict.fromkeys(loads) if stream not in load.axes]
    outputs = list(dict.fromkeys(axis for output in program.outputs for axis in output.axes))
    bound = {node.axis for node in reductions} - {stream}
    features = [axis for axis in outputs if _is_feature(axis, streamed, fixed)]
    wide = [load for load in streamed if load.axes & (bound | set(features))] or streamed
    shared = [
        axis
        for axis in outputs
        if axis is not stream and axis not in features and any(axis not in load.axes for load in wide)
    ]
    used = frozenset().union(*(node.arg.axes for node in chain))
    rows = [axis for axis in shared if axis in used] or shared
    if not rows:
        raise Diagnostic(
            "FL302",
            f"no axis of the output shares what is read along {stream.name}, so there are no rows to tile",
            hint="an attention program has a query axis that its keys and values do not have",
        )
    resident = [*sorted(bound & _axes(nodes), key=axis_key), *features]
    grid = [axis for axis in outputs if axis is not rows[-1] and axis not in features and axis is not stream]
    return Roles(tuple(grid), rows[-1], stream, tuple(dict.fromkeys(resident)))


def _axes(nodes: list[Expr]) -> set[Axis]:
    return {axis for node in nodes for axis in (*node.axes, *node.bound)}


def _streamed(program: Program, reductions: list[Reduce]) -> Axis:
    chained = [node for node in reductions if not _is_contraction(node)]
    # the innermost chain: later reductions (a norm of the output, say) only touch the tile
    for node in chained:
        inner = {other.axis for other in walk(node.arg) if isinstance(other, Reduce) and other in chained}
        if inner <= {node.axis}:
            return node.axis
    raise Diagnostic(
        "FL301",
        f"`{program.name}` holds no chain of reductions to fuse",
        hint="flashlight fuses attention: a score for every pair of a query and a key, reduced over the keys",
    )


def _is_contraction(node: Reduce) -> bool:
    """A plain sum of products, with no reduction below it."""
    return node.op == "sum" and not any(isinstance(inner, (Reduce, Scan)) for inner in walk(node.arg))


def _is_feature(axis: Axis, streamed: list[Load], fixed: list[Load]) -> bool:
    if any(axis in load.axes for load in fixed):
        return False
    having = [load for load in streamed if axis in load.axes]
    return bool(having) and len(having) < len(streamed)


def extent_name(axis: Axis) -> str:
    """The extent's own name where it is a plain size, else the axis's name in capitals."""
    extent = axis.extent
    if isinstance(extent, (Const, Map)):
        return axis.name.upper()
    return str(extent)
