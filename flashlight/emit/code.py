"""Pieces of Triton text that know their precedence, the tile axes that they have, and their dtype."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.emit.operators import ATOM
from flashlight.ir.expr import Axis

FLOAT32 = "float32"
ELEMENT = "element"
"""A value as it was loaded, not yet widened to float32."""


@dataclass(frozen=True)
class Code:
    """An expression in Triton: its text, how tightly it binds, its tile axes in order, and its dtype."""

    text: str
    precedence: int
    axes: tuple[Axis, ...]
    dtype: str

    def within(self, precedence: int) -> str:
        """The text, in parentheses where the context binds tighter."""
        return f"({self.text})" if self.precedence < precedence else self.text

    def along(self, axes: tuple[Axis, ...], precedence: int = 0) -> str:
        """The text broadcast to ``axes``, and turned where it has them in another order."""
        if self.axes == axes or not self.axes:
            return self.within(precedence)
        order = tuple(axis for axis in axes if axis in self.axes)
        if order != self.axes:
            places = ", ".join(str(self.axes.index(axis)) for axis in order)
            turned = f"tl.trans({self.text})" if len(order) == 2 else f"tl.permute({self.text}, ({places}))"
            return Code(turned, ATOM, order, self.dtype).along(axes, precedence)
        index = ", ".join(":" if axis in self.axes else "None" for axis in axes)
        return f"{self.within(ATOM)}[{index}]"

    def widened(self) -> Code:
        """The value in float32."""
        if self.dtype != ELEMENT:
            return self
        return Code(f"{self.within(ATOM)}.to(tl.float32)", ATOM, self.axes, FLOAT32)


class Block:
    """Lines of source at one depth of indentation."""

    def __init__(self, depth: int = 1) -> None:
        self.lines: list[str] = []
        self.depth = depth

    def add(self, line: str = "") -> None:
        self.lines.append(f"{'    ' * self.depth}{line}" if line else "")

    def comment(self, text: str) -> None:
        self.add(f"# {text}")

    def nested(self) -> Block:
        """A block one level deeper, whose lines follow this block's once it is closed with `close`."""
        return Block(self.depth + 1)

    def close(self, inner: Block) -> None:
        self.lines.extend(inner.lines)
