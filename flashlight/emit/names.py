"""Names in a generated kernel: the user's own where there is one, the field's standard terms elsewhere."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping

from flashlight.emit.operators import HELPERS
from flashlight.ir.expr import Axis, Const, Expr, Load, Map, Reduce, Scalar, Tensor, is_float, walk
from flashlight.ir.program import Name
from flashlight.schedule.roles import extent_name

RESERVED = frozenset(HELPERS).union(
    ("tl", "triton", "torch", "math", "range", "float", "load_tile", "part", "start", "stop", "program"),
    ("rows", "keys", "row_start", "key_start", "row_offsets", "key_offsets", "row_blocks"),
    ("live_start", "live_stop", "full_start", "full_stop", "unseen", "partial", "last"),
)
"""What every kernel calls its own: neither a size nor a number of the user's can have these names in it."""
_GRID = {"B": "batch", "N": "batch", "H": "head", "W": "window", "R": "residue"}

_WORDS = {
    "cast": "float",
    "mul": "scaled",
    "sub": "difference",
    "div": "quotient",
    "exp": "exponential",
    "exp2": "exponential",
    "log": "logarithm",
    "log2": "logarithm",
    "sqrt": "root",
    "rsqrt": "inverse_root",
    "maximum": "highest",
    "minimum": "lowest",
}
_BY_CONSTANT = {"maximum": "clamped", "minimum": "clamped"}
"""What a value is called by the operation that made it, where the user did not name it."""


class Names:
    """Hands out unique identifiers; ``labels`` are values' names in the kernel's header, with numbers, as variables."""

    def __init__(self, labels: Mapping[Name, str]) -> None:
        self.taken: set[str] = set(RESERVED)
        self.labels = labels
        self.kept = set(labels.values())
        """Names that no other value gets."""

    def of(self, given: Name) -> str:
        """A variable for a value that the user named."""
        label = self.labels.get(given, given.name)
        self.kept.discard(label)
        return self.fresh(label)

    def fresh(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted).strip("_") or "value"
        if keyword.iskeyword(base) or base[0].isdigit():
            base = f"{base}_" if keyword.iskeyword(base) else f"v{base}"
        name, number = base, 2
        while name in self.taken or name in self.kept:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        return name


def grid_names(axes: tuple[Axis, ...], given: Names) -> dict[Axis, str]:
    """The variables that hold a program's position along its grid axes: words where they are not ambiguous.

    A size or a number may itself be called ``head``: a position along that axis is then ``h_index``.
    """
    names: dict[Axis, str] = {}
    for axis in sorted(axes, key=lambda axis: extent_name(axis) != "B"):
        word = _GRID.get(extent_name(axis), axis.name.lower())
        free = word not in given.taken and word not in names.values()
        names[axis] = word if free else f"{axis.name.lower()}_index"
        while names[axis] in given.taken:
            names[axis] += "_"
    given.taken.update(names.values())
    return names


def block_names(axis: Axis, given: Names) -> tuple[str, str, str]:
    """The variables for a block of positions along an axis: where it starts, offsets from there, the positions."""
    word = _GRID.get(extent_name(axis), axis.name.lower())
    return given.fresh(f"{word}_start"), given.fresh(f"{word}_offsets"), given.fresh(f"{word}s")


def dimension_labels(tensor: Tensor) -> tuple[str, ...]:
    """Short names of the tensor's dimensions, for its strides: b, h, s, d."""
    labels = [str(size)[0].lower() if str(size)[0].isalpha() else str(n) for n, size in enumerate(tensor.shape)]
    return tuple(label if labels.count(label) == 1 else f"{n}" for n, label in enumerate(labels))


def described(expr: Expr, stream: Axis) -> str:
    """A name that says how a value came about, where the user gave none: `sinks_scaled`, `inverse_sum`, `highest`."""
    while isinstance(expr, Map) and expr.op == "cast" and isinstance(expr.args[0], Map):
        expr = expr.args[0]
    op = expr.op if isinstance(expr, Map) else ""
    if op in ("exp", "exp2") and stream in expr.axes:
        return "weights"
    word = _WORDS.get(op, "term")
    if isinstance(expr, Map) and any(isinstance(arg, Const) for arg in expr.args):
        word = {"div": "inverse" if isinstance(expr.args[0], Const) else word, **_BY_CONSTANT}.get(op, word)
    read = {node.tensor.name for node in walk(expr) if isinstance(node, Load)}
    states = {node.op for node in walk(expr) if isinstance(node, Reduce) and node.axis is stream}
    if states:
        return (
            f"{word}_{states.pop()}"
            if len(states) == 1 and word not in ("term", "highest", "lowest", "clamped")
            else word
        )
    if len(read) == 1:
        return f"{read.pop()}_{word}"
    return ("product" if stream in expr.axes else "factor") if word == "scaled" else word


def of_number(number: Expr) -> str:
    """A name for a number that the host computes: `scaled_cap` for a multiple of the parameter `cap`, else `scale`."""
    if not is_float(number):
        return "rounded"
    scalars = [node for node in walk(number) if isinstance(node, Scalar)]
    if len(scalars) != 1 or not is_float(scalars[0]) or "scal" in scalars[0].name:
        return "scale"
    multiple = all(not isinstance(node, Map) or node.op in ("mul", "cast", "abs", "maximum") for node in walk(number))
    return f"scaled_{scalars[0].name}" if multiple else "scale"
