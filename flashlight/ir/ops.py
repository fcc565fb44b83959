"""The pointwise operators: what each is called, how it prints, and what it means.

Every stage reads this one table: the printer for notation, the evaluator for meaning. How an operator is written in
Triton is the emitter's business (`flashlight.emit.operators`), and which PyTorch operator becomes it the tracer's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Op:
    """A pointwise operator: arity, notation ("infix:PRECEDENCE:SYMBOL" or a function's name) and meaning."""

    arity: int
    symbol: str
    precedence: int  # 0: a function; otherwise higher binds tighter
    meaning: Callable[..., torch.Tensor]


def _where(condition: torch.Tensor, yes: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
    return torch.where(condition, yes, no)


OPS: dict[str, Op] = {
    "or": Op(2, "or", 1, torch.logical_or),
    "and": Op(2, "and", 2, torch.logical_and),
    "not": Op(1, "not ", 3, torch.logical_not),
    "eq": Op(2, "==", 4, torch.eq),
    "ne": Op(2, "!=", 4, torch.ne),
    "lt": Op(2, "<", 4, torch.lt),
    "le": Op(2, "<=", 4, torch.le),
    "gt": Op(2, ">", 4, torch.gt),
    "ge": Op(2, ">=", 4, torch.ge),
    "add": Op(2, "+", 5, torch.add),
    "sub": Op(2, "-", 5, torch.sub),
    "mul": Op(2, "*", 6, torch.mul),
    "div": Op(2, "/", 6, torch.div),
    "floordiv": Op(2, "//", 6, torch.floor_divide),
    "mod": Op(2, "%", 6, torch.remainder),
    "neg": Op(1, "-", 7, torch.neg),
    "pow": Op(2, "**", 8, torch.pow),
    "where": Op(3, "where", 0, _where),
    "maximum": Op(2, "max", 0, torch.maximum),
    "minimum": Op(2, "min", 0, torch.minimum),
    "exp": Op(1, "exp", 0, torch.exp),
    "exp2": Op(1, "exp2", 0, torch.exp2),
    "log": Op(1, "log", 0, torch.log),
    "log2": Op(1, "log2", 0, torch.log2),
    "sqrt": Op(1, "sqrt", 0, torch.sqrt),
    "rsqrt": Op(1, "rsqrt", 0, torch.rsqrt),
    "abs": Op(1, "abs", 0, torch.abs),
    "tanh": Op(1, "tanh", 0, torch.tanh),
    "sigmoid": Op(1, "sigmoid", 0, torch.sigmoid),
    "erf": Op(1, "erf", 0, torch.erf),
    "sin": Op(1, "sin", 0, torch.sin),
    "cos": Op(1, "cos", 0, torch.cos),
    "floor": Op(1, "floor", 0, torch.floor),
    "ceil": Op(1, "ceil", 0, torch.ceil),
    "isnan": Op(1, "isnan", 0, torch.isnan),
}
"""Also "cast", whose target is the dtype of its node."""

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
NEGATED = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}
MIRRORED = {"eq": "eq", "ne": "ne", "lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}

NEUTRAL: dict[str, float] = {
    "sum": 0.0,
    "max": float("-inf"),
    "min": float("inf"),
    "prod": 1.0,
}
"""What a reduction over nothing gives."""
