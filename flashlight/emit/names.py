"""Names in a generated kernel: the user's own where there is one, the field's standard terms elsewhere."""

from __future__ import annotations

import keyword
import re

from flashlight.emit.operators import HELPERS
from flashlight.ir.expr import Axis, Scalar, Tensor, walk
from flashlight.schedule.roles import extent_name

RESERVED = frozenset(HELPERS).union(
    ("tl", "triton", "torch", "math", "range", "load_tile", "part", "start", "stop", "program"),
    ("rows", "keys", "row_start", "key_start", "row_offsets", "key_offsets", "row_blocks"),
    ("live_start", "live_stop", "full_start", "full_stop", "unseen", "partial", "last"),
)
"""What every kernel calls its own: neither a size nor a number of the user's can have these names in it."""
_WORDS = {"B": "batch", "N": "batch", "H": "head", "W": "window", "R": "residue"}


class Names:
    """Hands out unique identifiers."""

    def __init__(self) -> None:
        self.taken: set[str] = set(RESERVED)

    def fresh(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted).strip("_") or "value"
        if keyword.iskeyword(base) or base[0].isdigit():
            base = f"{base}_" if keyword.iskeyword(base) else f"v{base}"
        name, number = base, 2
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name


def grid_names(axes: tuple[Axis, ...]) -> dict[Axis, str]:
    """The variables that hold a program's position along its grid axes: words where they are not ambiguous.

    A size may itself be called ``heads``: a position along it is then ``heads_index``.
    """
    names: dict[Axis, str] = {}
    sizes = {node.name for axis in axes for node in walk(axis.extent) if isinstance(node, Scalar)}
    for axis in sorted(axes, key=lambda axis: extent_name(axis) != "B"):
        word = _WORDS.get(extent_name(axis), axis.name.lower())
        names[axis] = word if word not in sizes.union(names.values()) else f"{axis.name.lower()}_index"
    return names


def dimension_labels(tensor: Tensor) -> tuple[str, ...]:
    """Short names of the tensor's dimensions, for its strides: b, h, s, d."""
    labels = [str(size)[0].lower() if str(size)[0].isalpha() else str(n) for n, size in enumerate(tensor.shape)]
    return tuple(label if labels.count(label) == 1 else f"{n}" for n, label in enumerate(labels))
