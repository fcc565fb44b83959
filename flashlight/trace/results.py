"""Reads the outputs of the program off what the user's function returned."""

from __future__ import annotations

import ast
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Expr
from flashlight.ir.halves import halves
from flashlight.ir.program import Output
from flashlight.source.model import Source, Target
from flashlight.trace.capture import TracedTensor
from flashlight.trace.context import Context
from flashlight.trace.problems import Unsupported
from flashlight.trace.traced import Returned
from flashlight.trace.value import Value, fresh


def results(
    source: Source, target: Target, context: Context, result: Any
) -> tuple[tuple[Output, ...], tuple[Returned, ...]]:
    """The outputs, at fresh axes, and how they stand in what is returned. Raises FL306 for anything but tensors."""
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    outputs = []
    returns = []
    for label, part in zip(_labels(source, target, parts), parts, strict=True):
        if part is None:
            returns.append(Returned(None))
            continue
        if not isinstance(part, torch.Tensor):
            raise Diagnostic(
                "FL306",
                f"`{target.name}` returns {_described(part)}{'' if part is result else ' among other things'}",
                "return a tensor, or one tuple of tensors: a kernel has no other outputs",
                path=source.path,
                line=target.line,
                column=target.column,
                end_column=target.column + len(target.name),
            )
        if not isinstance(part, TracedTensor):
            raise Unsupported("FL306", "a constant tensor is returned", "return what is computed from the parameters")
        value = part.value
        axes, expr = _at_axes(context, value)
        outputs.append(Output(label, axes, expr, context.dtypes.stored(value.dtype)))
        returns.append(Returned(label, value.shape))
    return tuple(outputs), tuple(returns)


def _described(part: Any) -> str:
    """What a part of the result is: by the type that it has when the function runs."""
    kinds = {torch.SymInt: "int", torch.SymFloat: "float", torch.SymBool: "bool"}
    kind = kinds.get(type(part), type(part).__name__)
    holds = isinstance(part, (tuple, list, dict)) and any(isinstance(x, torch.Tensor) for x in tree_leaves(part))
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}{' of tensors' if holds else ''}"


def _labels(source: Source, target: Target, parts: list[Any]) -> list[str]:
    """Names for what is returned: the variables' own where the ``return`` names them."""
    names: list[str | None] = [None] * len(parts)
    for node in ast.walk(ast.parse(source.text)):
        if not (isinstance(node, ast.FunctionDef) and node.name == target.name):
            continue
        for statement in ast.walk(node):
            if isinstance(statement, ast.Return) and statement.value is not None:
                value = statement.value
                elements = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value]
                if len(elements) == len(parts):
                    names = [element.id if isinstance(element, ast.Name) else None for element in elements]
    taken = {parameter.name for parameter in target.parameters}
    chosen: list[str] = []
    for position, name in enumerate(names):
        fallback = "output" if position == 0 else f"output_{position}"
        fallback = next(free for free in (fallback, *(f"{fallback}_{n}" for n in range(2, 99))) if free not in taken)
        label = name if name is not None and name not in taken else fallback
        taken.add(label)
        chosen.append(label)
    return chosen


def _at_axes(context: Context, value: Value) -> tuple[tuple[Axis, ...], Expr]:
    """Fresh axes for the dimensions of a value, and its element there.

    A dimension into which the function merged two (heads times features) becomes two axes again: whoever computes one
    of them would otherwise have to know a position in both.
    """
    dims: list[list[Axis]] = []
    for size in value.shape:
        dims.append([fresh(size, _taken(dims))])
    while True:
        expr = value.at(tuple(_flat(axes) for axes in dims))
        found = halves(expr, [axis for axes in dims for axis in axes], partial(_quotient, context))
        if found is None:
            return tuple(axis for axes in dims for axis in axes), expr
        axis, outer, inner = found
        position = next(number for number, axes in enumerate(dims) if axis in axes)
        place = dims[position].index(axis)
        dims[position].pop(place)
        for offset, extent in enumerate((outer, inner)):
            dims[position].insert(place + offset, fresh(extent, _taken(dims)))


def _taken(dims: list[list[Axis]]) -> set[str]:
    return {axis.name for axes in dims for axis in axes}


def _flat(axes: list[Axis]) -> Expr:
    flat: Expr = build.integer(0)
    for axis in axes:
        flat = build.op("add", build.op("mul", flat, axis.extent), build.iota(axis))
    return flat


def _quotient(context: Context, whole: Expr, inner: Expr) -> Expr | None:
    """``whole / inner`` where that is certain to be exact."""
    for dividend, divisor in context.sizes.divisible:
        if dividend is whole and integers.floordiv(dividend, divisor) is inner:
            return divisor
    outer = context.sizes.simplify(integers.floordiv(whole, inner))
    return outer if context.sizes.same(integers.mul(outer, inner), whole) else None
