"""What can go wrong inside a trace, before the user's line is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import CodeType

from flashlight.ir.expr import Expr, Scalar


@dataclass(frozen=True)
class Place:
    """An instruction of the user's code: what a frame says of where it is."""

    f_code: CodeType
    f_lasti: int
    f_lineno: int


class Unsupported(Exception):
    """A diagnostic that still lacks its place."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.place: Place | None = None
        """The user's instruction that computed the value in question, where that has been left already."""


class Inconsistent(Unsupported):
    """Sizes that must be equal and are not."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__("FL202", message, hint or "correct the shapes stated at the parameters, or the program")


class Retry(Exception):
    """The trace must start anew: with some sizes equal, with samples that are multiples of others, with the default of
    a number in place of the number, or with a number for a size."""

    def __init__(
        self,
        ties: Mapping[Scalar, Expr] | None = None,
        multiples: Mapping[Expr, Expr] | None = None,
        pinned: Scalar | None = None,
        samples: Mapping[Scalar, int] | None = None,
        size: Scalar | None = None,
    ) -> None:
        super().__init__("the samples do not fit")
        self.ties = dict(ties or {})
        self.multiples = dict(multiples or {})
        self.pinned = pinned
        self.samples = dict(samples or {})
        self.size = size
