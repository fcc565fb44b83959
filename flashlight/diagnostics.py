"""What flashlight says when it cannot do what it is asked: a code, the user's line, a reason and a way out."""

from __future__ import annotations

from pathlib import Path

CODES: dict[str, str] = {
    "FL101": "the file does not exist",
    "FL102": "the file is not readable as Python source",
    "FL103": "the file has a syntax error",
    "FL104": "the file holds no attention",
    "FL105": "the file has no such target",
    "FL106": "the file cannot be imported",
    "FL107": "the output path holds a file that flashlight did not write",
    "FL108": "the output cannot be written",
    "FL109": "flashlight did not write the file that it is to check",
    "FL201": "the shape of a tensor is not stated",
    "FL202": "shapes are inconsistent",
    "FL203": "a shape is not understood",
    "FL204": "a size must be known while tracing",
    "FL205": "a name is taken",
    "FL301": "control flow depends on the values of a tensor",
    "FL302": "an operator has no rule",
    "FL303": "a value depends on neighbouring tiles",
    "FL304": "the program changes an argument in place",
    "FL305": "the program fails when run",
    "FL306": "the program returns something other than tensors",
    "FL307": "the program is random",
    "FL308": "the program depends on what only a call knows",
    "FL401": "a score matrix would have to be materialised",
    "FL402": "the program has no loop over keys to fuse",
    "FL403": "a value cannot be computed within a tile",
    "FL404": "an operation has no form in a kernel",
}
"""Every code with its meaning: 1xx files, 2xx shapes, 3xx operations, 4xx plans. Codes never change their meaning."""


class Diagnostic(Exception):
    """An error in the user's terms.

    Lines and columns count from 1; ``end_column`` is one past the last marked column. A diagnostic without a line
    speaks of the whole file.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str | None = None,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        column: int | None = None,
        end_column: int | None = None,
    ) -> None:
        assert code in CODES, code
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.path = None if path is None else Path(path)
        self.line = line
        self.column = column
        self.end_column = end_column

    def __str__(self) -> str:
        place = "" if self.path is None else f"{self.path}:" + (f"{self.line}:" if self.line is not None else "")
        return f"{place} {self.code} {self.message}".strip()

    def located(
        self, path: Path | str, line: int | None = None, column: int | None = None, end_column: int | None = None
    ) -> Diagnostic:
        """The same diagnostic at a place, unless it has one already."""
        if self.line is not None:
            return self
        return Diagnostic(
            self.code, self.message, self.hint, path=path, line=line, column=column, end_column=end_column
        )

    def render(self, source_text: str | None = None) -> str:
        """The diagnostic as rustc prints them, with the line of ``source_text`` that it is about, if that is given."""
        lines = [f"error[{self.code}]: {self.message}"]
        number = "" if self.line is None else str(self.line)
        margin = " " * len(number)
        if self.path is not None:
            place = ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)
            lines.append(f"{margin}--> {place}" if number else f" --> {place}")
        source = (source_text or "").splitlines()
        if self.line is not None and 1 <= self.line <= len(source):
            code = source[self.line - 1]
            start = self.column or len(code) - len(code.lstrip()) + 1
            stop = max(start + 1, min(self.end_column or len(code) + 1, len(code) + 1))
            lines += [f"{margin} |", f"{number} | {code}", f"{margin} | {' ' * (start - 1)}{'^' * (stop - start)}"]
        if self.hint:
            lines.append(f"{margin} = help: {self.hint}")
        return "\n".join(lines)
