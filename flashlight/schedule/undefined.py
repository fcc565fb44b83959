"""Rows whose scores are all -inf: x - max x is NaN there in PyTorch, and a kernel must not lose that.

While a row has seen nothing but -inf, a kernel takes any finite number for its maximum and its sums stay zero; blocks
that no row sees are not visited at all. A softmax shows NaN by itself in the end, as 0 / 0, and a sum of weights that
is kept away from zero (``/ (total + eps)``) does not. `undefined` decides which of the two a program is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from flashlight.ir.expr import Const, Expr, Map, Reduce, walk
from flashlight.ir.ops import OPS

Known = float | bool | None


def undefined(outputs: Sequence[Expr], total: Reduce) -> tuple[Reduce, ...]:
    """The maxima that a sum is NaN without, where they are -inf and an output would not show it."""
    found = []
    maxima = [node for node in walk(total.arg) if isinstance(node, Reduce) and node.op == "max"]
    for maximum in maxima if total.op == "sum" else ():
        empty: dict[Expr, Known] = {maximum: -math.inf, maximum.arg: -math.inf}
        if maximum.axis is not total.axis or not _is_nan(value(total.arg, empty)):
            continue
        sums = [node for node in walk(*outputs) if isinstance(node, Reduce) and _is_nan(value(node.arg, empty))]
        for output in outputs:
            if total not in walk(output):
                continue
            shown = value(output, {maximum: -math.inf, **dict.fromkeys(sums, 0.0)})
            wanted = value(output, {maximum: -math.inf, **dict.fromkeys(sums, math.nan)})
            if not _is_nan(shown) and _is_nan(wanted):
                found.append(maximum)
                break
    return tuple(found)


def value(expr: Expr, known: Mapping[Expr, Known]) -> Known:
    """The value of an expression as far as that of some subexpressions decides it; None where it does not."""
    done: dict[Expr, Known] = dict(known)
    for node in walk(expr):
        if node not in done:
            done[node] = _value(node, done)
    return done[expr]


def _value(node: Expr, done: Mapping[Expr, Known]) -> Known:
    if isinstance(node, Const):
        return node.value
    if not isinstance(node, Map):
        return None
    args = [done[arg] for arg in node.args]
    if node.op == "where":
        if args[0] is not None:
            return args[1] if args[0] else args[2]
        return math.nan if _is_nan(args[1]) and _is_nan(args[2]) else None
    if node.op == "cast":
        return args[0]
    if node.op in ("add", "sub", "mul", "div", "neg", "exp", "exp2", "log", "maximum", "minimum"):
        if any(map(_is_nan, args)):
            return math.nan
    if node.op == "mul" and None in args:
        # or NaN, which shows as well; infinity of either sign
        return next((arg for arg in args if arg == 0.0 or (arg is not None and math.isinf(arg))), None)
    if any(arg is None for arg in args):
        return None
    result = OPS[node.op].meaning(*(torch.tensor(arg, dtype=_dtype(arg)) for arg in args)).item()
    return bool(result) if isinstance(result, bool) else float(result)


def _dtype(number: Known) -> torch.dtype:
    return torch.bool if isinstance(number, bool) else torch.float64


def _is_nan(number: Known) -> bool:
    return isinstance(number, float) and math.isnan(number)
