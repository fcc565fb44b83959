"""Generated files on disk: their headers, their diffs, and writing them whole or not at all."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_WRITTEN_BY = re.compile(r"Written by flashlight \S+ from (?P<source>.+) \(sha256 (?P<digest>[0-9a-f…]+)\)")
_COMMAND = re.compile(r"flashlight transpile [^`\n]+")
_HEADER_SIZE = 4000


@dataclass(frozen=True)
class GeneratedFile:
    """A file that flashlight writes: where, and its text; None for one that it wrote before and would not today."""

    path: Path
    text: str | None

    @property
    def current(self) -> str | None:
        """What lies at the path now; None where nothing does."""
        try:
            return self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (IsADirectoryError, UnicodeDecodeError):
            return ""

    @property
    def is_stale(self) -> bool:
        return self.current != self.text

    def diff(self) -> str:
        """A unified diff from what lies at the path to the text."""
        before = (self.current or "").splitlines(keepends=True)
        after = (self.text or "").splitlines(keepends=True)
        name = self.path.as_posix()
        return "".join(difflib.unified_diff(before, after, name, f"{name} (regenerated)"))


@dataclass(frozen=True)
class Header:
    """What a generated file says of its origin."""

    source: str
    targets: tuple[str, ...]
    shapes: dict[str, tuple[str, ...]]


def read_header(text: str) -> Header | None:
    """The header of a generated file; None where flashlight did not write the text."""
    start = text[:_HEADER_SIZE]
    written = _WRITTEN_BY.search(start)
    if written is None:
        return None
    command = _COMMAND.search(start)
    words = shlex.split(command.group().rstrip(" .")) if command else ["flashlight", "transpile", written["source"]]
    source, *targets = words[2].split(":")
    shapes = dict(parse_shape(words[i + 1]) for i, word in enumerate(words[:-1]) if word == "--shape")
    return Header(source, tuple(targets), shapes)


def parse_shape(text: str) -> tuple[str, tuple[str, ...]]:
    """``q=B,H,S,D`` as a parameter and the names of its dimensions. Raises ValueError."""
    name, equals, dims = text.partition("=")
    names = tuple(dim.strip() for dim in dims.split(","))
    if not (equals and name.strip().isidentifier() and all(names)):
        raise ValueError(f"{text!r} is not NAME=DIM,DIM,...")
    return name.strip(), names


def write_all(files: Iterable[GeneratedFile]) -> list[Path]:
    """Write the files that differ from what is there, or remove them, all or none; returns their paths.

    Every text goes to a temporary file in the same directory first. Renaming is atomic for each file; where a later
    one fails, those already in place are put back.
    """
    stale = [file for file in files if file.is_stale]
    prepared: list[tuple[str, GeneratedFile]] = []
    replaced: list[tuple[Path, bytes | None]] = []
    try:
        for file in stale:
            if file.text is None:
                continue
            file.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=file.path.parent, prefix=f".{file.path.name}.")
            prepared.append((temporary, file))
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
                stream.write(file.text)
            os.chmod(temporary, _mode(file.path))
        for temporary, file in prepared:
            before = file.path.read_bytes() if file.path.is_file() else None
            os.replace(temporary, file.path)
            replaced.append((file.path, before))
        for file in stale:
            if file.text is None:
                before = file.path.read_bytes()
                file.path.unlink()
                replaced.append((file.path, before))
    except BaseException:
        for path, before in replaced:
            if before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)
        raise
    finally:
        for temporary, _ in prepared:
            Path(temporary).unlink(missing_ok=True)
    return [file.path for file in stale]


def _mode(path: Path) -> int:
    """The permissions of the file at the path, or those that a new file gets: mkstemp's are its owner's alone."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
