"""A divided program as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.ir.printer import show
from flashlight.ir.program import Program
from flashlight.schedule.prologue import Step


@dataclass(frozen=True)
class Region:
    """The kernel's own program, the tensors that it reads and PyTorch makes, and what PyTorch makes of its outputs.

    ``after`` makes the outputs of the whole that the kernel does not make, under their names.
    """

    program: Program
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()

    def __str__(self) -> str:
        lines = [f"before    {_shown(step)}" for step in self.before]
        lines += [f"kernel    {line}" for line in str(self.program).splitlines()]
        lines += [f"after     {_shown(step)}" for step in self.after]
        return "\n".join(lines)


def _shown(step: Step) -> str:
    return f"{step.tensor.name}[{', '.join(map(str, step.axes))}] = {show(step.value)}"
