"""What tracing a target yields: the program, and how its inputs stand in the user's signature."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.ir.expr import Scalar, Tensor
from flashlight.ir.program import Program


@dataclass(frozen=True)
class Parameter:
    """A parameter of the user's function.

    Exactly one of these holds: ``tensor`` (a tensor the program may read), ``scalar`` (an int or float that stays a
    run-time number), or neither (a Python value that the trace is specialised to: ``value``, as source text).
    ``broadcast`` marks a tensor that the program uses only where PyTorch broadcasts, so that sizes of 1 and missing
    leading dimensions are allowed at run time. ``item`` is the
    position in a list where the parameter is a list of tensors.
    """

    name: str
    tensor: Tensor | None = None
    scalar: Scalar | None = None
    value: str | None = None
    broadcast: bool = False
    item: int | None = None


@dataclass(frozen=True)
class Traced:
    """A program with its parameters in the order of the user's signature."""

    program: Program
    parameters: tuple[Parameter, ...]
