"""Which tile a program computes: its rows, and its place along the axes of the grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import Block
from flashlight.emit.names import RESERVED, Names
from flashlight.emit.signature import Order, distinct
from flashlight.emit.tiles.writer import TileWriter
from flashlight.ir.expr import Axis, Expr, Load, Scalar, walk
from flashlight.ir.program import Name
from flashlight.schedule.intervals import ROW_START, Matched
from flashlight.schedule.model import Schedule
from flashlight.schedule.roles import extent_name


class Place(ABC):
    """The tile of a program, and what has been found out about its kernel so far."""

    choices: tuple[str, ...] = (
        "BLOCK_ROWS",
        "BLOCK_KEYS",
        "WHOLE",
        "DESCRIPTORS",
        "VECTOR",
        "PRECISION",
        "APPROXIMATE",
        "EXPAND",
        "BOUNDED",
    )
    """Parameters that the launcher sets for a tile, a dtype or a length, where a kernel reads them."""
    tile_writer: type[TileWriter] = TileWriter
    together = "of its rows"

    def __init__(self, schedule: Schedule, source_name: str, labels: Mapping[Name, str]) -> None:
        self.schedule = schedule
        self.roles = schedule.roles
        self.names = Names(labels)
        for tensor in schedule.program.inputs:
            self.names.taken.add(f"{tensor.name}_ptr")
        widths = [
            f"BLOCK_{extent_name(axis)}" for axis in (*self.roles.resident, self.roles.demoted) if axis is not None
        ]
        for scalar in _scalars(schedule):
            chosen = scalar.name in self.choices or (f"BLOCK_{scalar.name}" in {*widths} & {*self.choices})
            if scalar.name in RESERVED or chosen:
                hint = "give the dimension or the parameter another name"
                raise Diagnostic("FL205", f"`{scalar.name}` is a name that kernels have for a variable", hint=hint)
            self.names.taken.add(scalar.name)
        for axis in self.roles.resident:
            self.names.taken.add(axis.name)
        self.tiles = self.tile_writer(schedule, self.names, source_name)
        self.tiles.joint = self.joint
        self.ranges: dict[str, str] = {}
        self.mixed: dict[str, str] = {}  # flags of blocks in which not all values are the rows' own
        self.matched: dict[str, Matched] = {}
        self.order: Order | None = None
        self.accumulators = self.scores = 0
        self.read: set[Load] = set()
        self.weighed: set[Expr] = set()  # what masked keys weigh, of which a test has been written

    @property
    def block(self) -> Block:
        return self.tiles.block

    def _locate(self) -> None:
        roles, block = self.roles, self.block
        rows = self.tiles.size(roles.rows.extent)
        order = ": later rows see more keys, and start first" if self._grows() else ""
        block.comment(f"Which tile this program computes{order}")
        block.add("program = tl.program_id(0)")
        number = "program"
        if roles.demoted is not None:
            # neighbours have the rows in common, and so the larger part of what they read
            start, batch_offsets, positions = self.tiles.blocks[roles.demoted]
            width, blocks = self.tiles.width(roles.demoted), self.names.fresh(start.replace("start", "blocks"))
            block.add(f"{blocks} = tl.cdiv({self.tiles.size(roles.demoted.extent)}, {width})")
            block.add(f"{start} = ({number} % {blocks}) * {width}")
            number = f"{number} // {blocks}"
        block.add(f"row_blocks = tl.cdiv({rows}, BLOCK_ROWS)")
        first = f"{number} % row_blocks"
        block.add(f"row_start = ({f'row_blocks - 1 - {first}' if self._grows() else first}) * BLOCK_ROWS")
        self._positions(f"{number} // row_blocks", roles.grid)
        block.add("rows = row_start + tl.arange(0, BLOCK_ROWS)")
        if roles.demoted is not None:
            block.add(f"{positions} = {start} + tl.arange(0, {width})")
        block.comment("Offsets of addresses have 64 bits: neighbours may lie far apart")
        block.add("row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)")
        if roles.demoted is not None:
            block.add(f"{batch_offsets} = tl.arange(0, {width}).to(tl.int64)")
        block.add("key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)")
        for axis in distinct(roles.resident):
            block.add(f"{axis.name} = tl.arange(0, {self.tiles.width(axis)}).to(tl.int64)")

    def _positions(self, number: str, axes: Sequence[Axis]) -> None:
        """The positions along axes of the grid that a number stands for, the last axis the fastest."""
        for position, axis in reversed(list(enumerate(axes))):
            size = self.tiles.size(axis.extent, 9)
            text = number if position == 0 else f"{number} % {size}"
            self.block.add(f"{self.tiles.grid[axis]} = ({text}).to(tl.int64)")
            number = f"{number} // {size}"

    def _grows(self) -> bool:
        """Whether later rows see more keys, so that their tiles should start first."""
        stop = self.schedule.keys.live_stop
        return stop is not None and ROW_START in set(walk(stop)) and self.schedule.keys.live_start is None

    @property
    @abstractmethod
    def joint(self) -> bool:
        """Whether one loop serves full and partial blocks."""


def _scalars(schedule: Schedule) -> set[Scalar]:
    found: set[Scalar] = set()
    for root in (output.expr for output in schedule.program.outputs):
        for node in walk(root):
            if isinstance(node, Scalar):
                found.add(node)
            for axis in (*node.axes, *node.bound):
                found |= {inner for inner in walk(axis.extent) if isinstance(inner, Scalar)}
    return found
