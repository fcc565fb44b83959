"""Finds the user's statement that is running, and gives values the names that the user gives them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType, TracebackType

from flashlight.diagnostics import Diagnostic
from flashlight.ir.expr import Expr
from flashlight.ir.program import Name
from flashlight.source.model import Source, Statement
from flashlight.trace.guise import Inquiry
from flashlight.trace.problems import Place, Unsupported
from flashlight.trace.value import Value

ANONYMOUS = frozenset({"<lambda>", "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>"})


@dataclass
class _Claim:
    statement: Statement
    value: Value | None


class Names:
    """Names values after the statements that compute them.

    Every operation claims the name for the statement that it runs in, and for the statements that called it; the last
    claim before the statement is left stands. So ``scores = q @ k.mT * scale`` names the scaled product, and
    ``key = repeat_kv(key, n)`` what the helper returned.
    """

    def __init__(self, source: Source, inquiry: Inquiry) -> None:
        self.source = source
        self.inquiry = inquiry
        self.file = str(source.path)
        self.names: dict[Expr, Name] = {}
        self._claims: dict[FrameType, _Claim] = {}

    def claim(self, value: Value) -> None:
        """Say that ``value`` has just been computed."""
        free = value.label is None
        for frame in user_frames(self.file):
            value.place = value.place or place_of(frame)
            statement = self.source.statement(frame.f_lineno)
            if statement is None:
                continue
            known = self._claims.get(frame)
            named = statement.name is not None and frame.f_code.co_name not in ANONYMOUS
            if known is not None and known.statement is statement and known.value is not None:
                if known.value is value:
                    continue
                if known.value.label is not None and known.value.label[0] == _name(statement):
                    known.value.label = None
            self._claims[frame] = _Claim(statement, value if named and free else None)
            if named and free:
                value.label = (_name(statement), self.names)
                free = False
        self.inquiry.steps.append(value)

    def place(self) -> Place | None:
        """Where the user's code is."""
        frame = next(user_frames(self.file), None)
        return None if frame is None else place_of(frame)

    def finish(self) -> None:
        """Forget the frames."""
        self._claims.clear()


def _name(statement: Statement) -> Name:
    assert statement.name is not None
    return Name(statement.name, statement.first_line)


def user_frames(file: str) -> Iterator[FrameType]:
    """The running frames of the user's file, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == file:
            yield frame
        frame = frame.f_back


def place_of(frame: FrameType) -> Place:
    return Place(frame.f_code, frame.f_lasti, frame.f_lineno)


def located(problem: Unsupported, source: Source, frame: FrameType | None = None) -> Diagnostic:
    """The problem as a diagnostic at the user's running statement."""
    frame = frame or next(user_frames(str(source.path)), None)
    if frame is None:
        return Diagnostic(problem.code, problem.message, problem.hint, path=source.path)
    return _placed(problem, source, frame.f_code, frame.f_lasti, frame.f_lineno)


def located_in(problem: Unsupported, source: Source, traceback: TracebackType | None) -> Diagnostic:
    """The problem as a diagnostic at the innermost place of a traceback inside the user's file."""
    found = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(source.path):
            found = traceback
        traceback = traceback.tb_next
    if found is None:
        if problem.place is not None:
            place = problem.place
            return _placed(problem, source, place.f_code, place.f_lasti, place.f_lineno)
        return Diagnostic(problem.code, problem.message, problem.hint, path=source.path)
    return _placed(problem, source, found.tb_frame.f_code, found.tb_lasti, found.tb_lineno)


def _placed(problem: Unsupported, source: Source, code: CodeType, last: int, line: int) -> Diagnostic:
    column = end_column = None
    positions = getattr(code, "co_positions", None)
    if positions is not None:
        place = list(positions())[last // 2] if last >= 0 else (line, line, None, None)
        if place[0] is not None and place[2] is not None:
            line, column = place[0], place[2] + 1
            end_column = place[3] + 1 if place[1] == place[0] and place[3] is not None else None
    return Diagnostic(
        problem.code, problem.message, problem.hint, path=source.path, line=line, column=column, end_column=end_column
    )
