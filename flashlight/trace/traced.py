"""What tracing a target yields: the program, and how its inputs stand in the user's signature."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.ir.expr import Expr, Scalar, Tensor
from flashlight.ir.program import Program


@dataclass(frozen=True)
class Parameter:
    """A parameter of the user's function.

    Exactly one of these holds: ``tensor`` (a tensor the program may read), ``scalar`` (an int or float that stays a
    run-time number), or neither (a Python value that the trace is specialised to: ``value``, as source text).
    ``broadcast`` marks a tensor that the program uses only where PyTorch broadcasts, so that sizes of 1 and missing
    leading dimensions are allowed at run time; ``whole`` one whose dimensions are counted from the front
    (``mask[:, None]``), so that none may be missing. ``item`` is the position in a list where the parameter is a list
    of tensors.
    """

    name: str
    tensor: Tensor | None = None
    scalar: Scalar | None = None
    value: str | None = None
    broadcast: bool = False
    whole: bool = False
    item: int | None = None


@dataclass(frozen=True)
class Returned:
    """One part of what the user's function returns: an output of the program, or None (``name`` is None).

    ``shape`` is what the user gets. Where the function merges dimensions at the end (heads into features), the output
    of the program keeps them as axes of their own; the sizes of adjacent axes multiply to those of ``shape``.
    """

    name: str | None
    shape: tuple[Expr, ...] = ()


@dataclass(frozen=True)
class Traced:
    """A program with its parameters in the order of the user's signature, and what the function returns.

    ``single`` says that the function returns a tensor rather than a tuple.
    """

    program: Program
    parameters: tuple[Parameter, ...]
    returns: tuple[Returned, ...] = ()
    single: bool = True
