"""How many bits an integer needs: positions have 32, and PyTorch computes with 64."""

from __future__ import annotations

import math
from collections.abc import Iterator

from flashlight.ir.expr import NARROW, Const, Expr, Iota, Load, Map, Scalar, is_int
from flashlight.schedule.intervals import BLOCK_ROWS, ROW_START

GROWING = frozenset({"add", "sub", "mul", "neg"})
_POSITION, _NUMBER = 2**26, 2**30
"""How large positions and sizes are taken to be, and integer arguments, which launchers check."""


def is_wide(expr: Expr) -> bool:
    """Whether the result of integer arithmetic may need more than 32 bits.

    What is loaded has the bits that PyTorch computes with, unless it meets positions, which have 64 in PyTorch.
    """
    if not (isinstance(expr, Map) and is_int(expr)):
        return False
    leaves = list(_leaves(expr))
    if any(isinstance(leaf, Load) and leaf.tensor.dtype not in NARROW for leaf in leaves):
        return any(isinstance(leaf, Iota) or leaf is ROW_START for leaf in leaves)
    return magnitude(expr) >= 2**31


def _leaves(expr: Expr) -> Iterator[Expr]:
    if isinstance(expr, Map):
        for arg in expr.args:
            yield from _leaves(arg)
    else:
        yield expr


def magnitude(expr: Expr) -> float:
    """What the integer certainly does not exceed; infinity where nothing is known."""
    if isinstance(expr, Const):
        return abs(expr.value)
    if isinstance(expr, Scalar):
        return _POSITION if expr.positive or expr in (ROW_START, BLOCK_ROWS) else _NUMBER
    if isinstance(expr, Iota):
        return min(magnitude(expr.axis.extent), _POSITION)
    if isinstance(expr, Load) and expr.tensor.dtype in NARROW:
        return NARROW[expr.tensor.dtype][1] + 1
    if not isinstance(expr, Map):
        return math.inf
    sizes = [magnitude(arg) if is_int(arg) else math.inf for arg in expr.args]
    match expr.op:
        case "add" | "sub":
            return sum(sizes)
        case "mul":
            return math.prod(sizes)
        case "neg" | "abs" | "floordiv":
            return sizes[0]
        case "mod" | "maximum" | "minimum" | "where":
            return min(sizes) if expr.op == "mod" else max(sizes[expr.op == "where" :])
    return math.inf
