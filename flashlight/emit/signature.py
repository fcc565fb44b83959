"""What a kernel takes: its parameters in groups, and what a launcher has to pass for each."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.emit.host import python
from flashlight.emit.tiles.values import representative
from flashlight.ir.expr import Axis, Expr, Scalar, Tensor, walk
from flashlight.ir.program import Output
from flashlight.schedule.intervals import Matched
from flashlight.schedule.roles import extent_name, is_size

NUMBERS = "numbers"


@dataclass(frozen=True)
class Burden:
    """What a step of the loops holds, by which the launcher has a tile chosen."""

    accumulators: int  # tiles of rows by head dimension that registers hold at once
    scores: int  # tiles of rows by keys that they hold beside them
    blocks: int  # blocks of keys or values that a step reads
    exact: bool  # whether some matrix product is of float32 values whatever the inputs are
    deep: tuple[Axis, ...]  # resident axes of tiles that have rows and keys as well
    deep_exact: tuple[Axis, ...]  # those that are deep only where distances are not expanded
    own: tuple[Axis, ...] = ()  # resident axes of the blocks of keys that each position of a demoted axis has to itself


@dataclass(frozen=True)
class Order:
    """A parameter that tells in which order blocks of rows start."""

    match: Matched  # by whose ranges of keys
    parameter: str
    tile: str  # the variable of the block at hand


@dataclass(frozen=True)
class Kernel:
    """The kernel's source, and what a launcher passes to it in order."""

    name: str
    text: str
    tensors: tuple[Tensor, ...]
    outputs: tuple[Output, ...]
    strides: tuple[tuple[str, int], ...]  # tensor or output, dimension
    numbers: tuple[tuple[str, Expr], ...]  # parameter, what the host computes for it
    sizes: tuple[Scalar, ...]
    widths: tuple[Axis, ...]  # resident axes, passed as extent and padded extent
    matched: tuple[tuple[str, Matched], ...]  # parameter, whose ranges of keys for each block of rows it holds
    order: Order | None
    described: tuple[Tensor, ...]  # read through tensor descriptors where possible
    gathered: tuple[Tensor, ...]  # read as tiles of three axes, in vectors where strides allow
    burden: Burden
    helpers: frozenset[str]
    written: tuple[Output, ...] = ()  # by the copy engine, always


@dataclass(frozen=True)
class Signature:
    """The parameters of a kernel, and in ``groups`` how they are written down: what they are, and their names."""

    tensors: tuple[Tensor, ...]
    strides: tuple[tuple[str, int], ...]
    numbers: tuple[tuple[str, Expr], ...]
    sizes: tuple[Scalar, ...]
    widths: tuple[Axis, ...]
    groups: list[tuple[str, list[str]]]

    def described(self, what: str, items: list[str]) -> list[str]:
        """Parameters as lines under a comment; a number with what the launcher computes for it."""
        if not any(items):
            return []
        if what != NUMBERS:
            return [f"# {what}", *filled(items)]
        made = {name: python(expr).replace("finfo_", "finfo(dtype).") for name, expr in self.numbers}
        return [f"# {what}", *(f"{item},  # {made[item]}" if made[item] != item else f"{item}," for item in items)]


def filled(items: list[str]) -> list[str]:
    """Parameters as lines of up to 110 characters; an empty item ends a line."""
    lines = [""]
    for item in items:
        if not item or len(lines[-1]) + len(item) > 110:
            lines.append("")
        if item:
            lines[-1] += f"{item}, "
    return [line.rstrip() for line in lines if line]


def distinct(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """One axis for each extent: positions along equal extents are one variable."""
    return tuple(dict.fromkeys(representative(axis, axes) for axis in axes))


def parts_of(axes: tuple[Axis, ...]) -> tuple[Scalar, ...]:
    """The sizes that a kernel makes the extents of."""
    made = [axis.extent for axis in axes if isinstance(axis.extent, Scalar) or not is_size(axis.extent)]
    return tuple(dict.fromkeys(node for extent in made for node in walk(extent) if isinstance(node, Scalar)))


def output_labels(output: Output) -> tuple[str, ...]:
    labels = [extent_name(axis)[0].lower() for axis in output.axes]
    return tuple(label if labels.count(label) == 1 else str(n) for n, label in enumerate(labels))
