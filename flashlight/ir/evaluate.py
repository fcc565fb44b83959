"""The reference evaluator: any program on real tensors, one small rule a node. Every stage is tested against it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from flashlight.ir.expr import BOOL, FLOATS, INT, Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, Scan, walk
from flashlight.ir.ops import OPS
from flashlight.ir.order import axis_key
from flashlight.ir.program import Program

Numbers = Mapping[str, float | int]


def evaluate(
    program: Program, inputs: Mapping[str, torch.Tensor], numbers: Numbers, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """The program's outputs by name.

    All floating-point arithmetic is done in ``dtype``; roundings that the program asks for (casts between floats) are
    not. ``numbers`` gives sizes and other scalars by name. Memory grows with the product of all axes: keep them small.
    """
    results: dict[str, torch.Tensor] = {}
    for output in program.outputs:
        value = evaluate_expr(output.expr, inputs, numbers, output.axes, dtype)
        results[output.name] = value
    return results


def evaluate_expr(
    expr: Expr,
    inputs: Mapping[str, torch.Tensor],
    numbers: Numbers,
    axes: tuple[Axis, ...] = (),
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """One expression as a tensor of shape ``[extent of axis for axis in axes]``."""
    found = {axis for node in walk(expr) for axis in (*node.axes, *node.bound)} | set(axes)
    order = {axis: position for position, axis in enumerate(sorted(found, key=axis_key))}
    device = next((tensor.device for tensor in inputs.values()), torch.device("cpu"))
    sizes = {axis: int(_scalar(axis.extent, numbers)) for axis in order}
    rank = len(order)
    values: dict[Expr, torch.Tensor] = {}
    for node in walk(expr):
        values[node] = _value(node, values, inputs, numbers, order, sizes, rank, dtype, device)
    shape = [sizes[axis] if axis in axes else 1 for axis in order]
    full = values[expr].expand(shape).reshape([sizes[axis] for axis in order if axis in axes])
    kept = [axis for axis in order if axis in axes]
    return full.permute([kept.index(axis) for axis in axes])


def _value(
    node: Expr,
    values: dict[Expr, torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    numbers: Numbers,
    order: dict[Axis, int],
    sizes: dict[Axis, int],
    rank: int,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    def along(axis: Axis) -> torch.Tensor:
        shape = [1] * rank
        shape[order[axis]] = sizes[axis]
        return torch.arange(sizes[axis], device=device).reshape(shape)

    if isinstance(node, (Const, Scalar)):
        number = node.value if isinstance(node, Const) else numbers[node.name]
        return torch.tensor(number, dtype=_torch_dtype(node.dtype, dtype), device=device).reshape([1] * rank)
    if isinstance(node, Iota):
        return along(node.axis)
    if isinstance(node, Load):
        tensor = inputs[node.tensor.name]
        # an index outside the tensor is allowed where a selection discards what it loads
        index = tuple(values[i].clamp(0, max(size - 1, 0)) for i, size in zip(node.index, tensor.shape, strict=True))
        value = tensor[index] if index else tensor.reshape([1] * rank)
        return value.to(_torch_dtype(node.dtype, dtype))
    if isinstance(node, Map):
        args = [values[arg] for arg in node.args]
        if node.op == "cast":
            return args[0].to(_torch_dtype(node.dtype, dtype))
        return OPS[node.op].meaning(*args)
    assert isinstance(node, (Reduce, Scan))
    arg = values[node.arg]
    shape = list(arg.shape)
    shape[order[node.axis]] = sizes[node.axis]
    arg = arg.expand(shape)
    if isinstance(node, Scan):
        return _scanned(node, arg, values[node.at], order[node.axis])
    return _reduced(node.op, arg, order[node.axis])


def _reduced(op: str, arg: torch.Tensor, dim: int) -> torch.Tensor:
    if op == "sum":
        return arg.sum(dim, keepdim=True)
    if op == "prod":
        return arg.prod(dim, keepdim=True)
    if arg.shape[dim] == 0:
        shape = [1 if position == dim else size for position, size in enumerate(arg.shape)]
        return arg.new_full(shape, float("-inf") if op == "max" else float("inf"))
    return arg.amax(dim, keepdim=True) if op == "max" else arg.amin(dim, keepdim=True)


def _scanned(node: Scan, arg: torch.Tensor, at: torch.Tensor, dim: int) -> torch.Tensor:
    length = arg.shape[dim]
    # from the last position down to `at` is from the first up to its mirror image
    arg, at = (arg.flip(dim), length - 1 - at) if node.reverse else (arg, at)
    cumulative = {"sum": torch.cumsum, "prod": torch.cumprod}[node.op](arg, dim)
    others = [1 if position == dim else size for position, size in enumerate(cumulative.shape)]
    shape = [size if other == 1 else other for size, other in zip(at.shape, others, strict=True)]
    source = cumulative.expand([cumulative.shape[dim] if p == dim else s for p, s in enumerate(shape)])
    index = at.expand(shape).clamp(0, length - 1)
    empty = torch.full((), 1 if node.op == "prod" else 0, dtype=arg.dtype, device=arg.device)
    return torch.where(at < 0, empty, source.gather(dim, index))


def _scalar(expr: Expr, numbers: Numbers) -> float:
    if isinstance(expr, Const):
        return expr.value
    if isinstance(expr, Scalar):
        return numbers[expr.name]
    assert isinstance(expr, Map), expr
    args = [torch.tensor(_scalar(arg, numbers)) for arg in expr.args]
    return OPS[expr.op].meaning(*args).item()


def _torch_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    if name in FLOATS:
        return dtype
    return torch.bool if name == BOOL else torch.int64 if name == INT else getattr(torch, name)
