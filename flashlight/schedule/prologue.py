"""Scans outside the streamed axis: cumulative sums of one value a position, computed before the kernel.

    x[b, h, i, j] + scan_(s <= i) g[b, h, s]   reads a tensor  cumulative[b, h, i]  instead

A scan is taken out where what it adds up has no more axes than one of the tensors in it, so that it holds as many
numbers as that tensor does: O(S), never a value for each pair. The launcher computes it by PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashlight.ir import build
from flashlight.ir.expr import Axis, Expr, Iota, Load, Reduce, Scan, Tensor, walk
from flashlight.ir.order import axis_key
from flashlight.ir.program import Program, rewrite


@dataclass(frozen=True)
class Step:
    """``tensor[axes] = value``, computed by PyTorch before the kernel."""

    tensor: Tensor
    axes: tuple[Axis, ...]
    value: Expr


def prologues(program: Program) -> tuple[Program, tuple[Step, ...]]:
    """The program with its outer scans read from tensors, and what these hold."""
    found: dict[tuple[str, Expr, Axis, bool], Step] = {}

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Scan) and isinstance(node.at, Iota) and _is_small(node)):
            return node
        key = node.op, node.arg, node.axis, node.reverse
        if key not in found:
            named = program.names.get(node)
            taken = {tensor.name for tensor in program.inputs} | {one.tensor.name for one in found.values()}
            wanted = named.name if named else "cumulative"
            name = next(n for n in (wanted, *(f"{wanted}_{k}" for k in range(2, 99))) if n not in taken)
            axes = (*sorted(node.arg.axes - {node.axis}, key=axis_key), node.axis)
            tensor = Tensor(name, tuple(axis.extent for axis in axes), node.dtype)
            found[key] = Step(tensor, axes, build.scan(node.op, node.arg, node.axis, Iota(node.axis), node.reverse))
        one = found[key]
        return build.load(one.tensor, (*(Iota(axis) for axis in one.axes[:-1]), node.at))

    program = rewrite(program, rule)
    return replace(program, inputs=(*program.inputs, *(one.tensor for one in found.values()))), tuple(found.values())


def _is_small(scan: Scan) -> bool:
    nodes = list(walk(scan.arg))
    if any(isinstance(node, (Reduce, Scan)) for node in nodes):
        return False
    loads = [node for node in nodes if isinstance(node, Load)]
    plain = all(isinstance(index, Iota) for load in loads for index in load.index)
    return plain and any(load.axes == scan.arg.axes for load in loads)
