"""One schedule to one kernel for Hopper, in Gluon: one group of warps loads, the others compute.

What a tile computes is written by the writer of the portable kernels, down to the same variables. Three things differ.
Blocks of keys come through rings in shared memory, which a group of warps of its own keeps full by the copy engine
(TMA), far ahead of those that compute. Every other group of four warps has 64 rows of the tile, and multiplies them
where they lie. And each program goes on to other tiles, whose rows are on their way while it writes a result.

Not every schedule can be had so: what is multiplied must be what was loaded, or weights of it. `write_hopper_kernel`
says None for the others, which lose nothing but speed.
"""

from __future__ import annotations

from collections.abc import Mapping

from flashlight.diagnostics import Diagnostic
from flashlight.emit.hopper.language import Unsuitable
from flashlight.emit.hopper.writer import HopperWriter, InRegisters
from flashlight.emit.signature import Kernel
from flashlight.ir.program import Name
from flashlight.schedule.model import Schedule

TILING = """\
Programs take turns at each {blocks}; one group of four warps loads, each other one has 64 rows;
{passes}."""


def write_hopper_kernel(
    schedule: Schedule, source_name: str, description: str, labels: Mapping[Name, str]
) -> Kernel | None:
    """The Hopper kernel of a schedule, if it can have one; the arguments are those of `write_kernel`."""
    try:
        try:
            return HopperWriter(schedule, source_name, labels).written(description)
        except InRegisters as found:
            return HopperWriter(schedule, source_name, labels, found.loads).written(description)
    except (Unsuitable, Diagnostic):
        return None
