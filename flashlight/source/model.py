"""What the source stage knows of a user's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import libcst as cst

from flashlight.diagnostics import Diagnostic


@dataclass(frozen=True)
class Statement:
    """A simple statement, or the header of a compound one: its lines and the single name that it assigns, if any."""

    first_line: int
    last_line: int
    name: str | None


@dataclass(frozen=True)
class ParameterText:
    """A parameter as it is written. Lines and columns count from 1; ``end_column`` is one past the name."""

    name: str
    annotation: str | None
    default: str | None
    comment: str | None
    line: int
    column: int
    end_column: int
    kind: str = "positional"
    """"positional", "keyword", "*" or "**"."""
    documented: str | None = None
    """What the docstring of the function says of it."""


@dataclass(frozen=True)
class Target:
    """A function of the user's file, with what can be said of it without running it."""

    name: str
    line: int
    column: int
    docstring: str | None
    parameters: tuple[ParameterText, ...]
    node: cst.FunctionDef = field(repr=False, compare=False)
    last_line: int = 0

    @property
    def public(self) -> bool:
        return not self.name.startswith("_")

    def parameter(self, name: str) -> ParameterText | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


@dataclass(frozen=True)
class Source:
    """A user's file: its text, its syntax tree, its module-level functions and a table of its statements by line."""

    path: Path
    text: str
    module: cst.Module = field(repr=False, compare=False)
    functions: tuple[Target, ...]
    statements: Mapping[int, Statement] = field(repr=False)

    @property
    def targets(self) -> tuple[Target, ...]:
        """The public functions."""
        return tuple(function for function in self.functions if function.public)

    def target(self, name: str) -> Target:
        """The function called ``name``. Raises FL105 if there is none."""
        for function in self.functions:
            if function.name == name:
                return function
        known = ", ".join(target.name for target in self.targets) or "none"
        raise Diagnostic("FL105", f"there is no function `{name}` here", f"public functions: {known}", path=self.path)

    def statement(self, line: int) -> Statement | None:
        """The innermost statement on a line."""
        return self.statements.get(line)
