"""The stages in order, for one file: source, trace, region, laws, schedule, emit. All verbs go through here."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flashlight.unit import Unit

if TYPE_CHECKING:
    from flashlight.emit import Files
    from flashlight.source import Source, Target
    from flashlight.trace.traced import Traced

Shapes = Mapping[str, tuple[str, ...]]
"""What `--shape` gave: the names of a parameter's dimensions, by parameter."""


@dataclass
class Phases:
    """Seconds spent in each phase, in the order in which they first began."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.seconds.setdefault(name, 0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


def read(path: Path, targets: Sequence[str], phases: Phases) -> tuple[Source, list[Target]]:
    """The source file and the chosen targets (all of the file's, if none is named).

    Raises `flashlight.diagnostics.Diagnostic` where the file cannot be read or a target is not there.
    """
    with phases("import"):
        import flashlight.source
        from flashlight.diagnostics import Diagnostic
    with phases("source"):
        source = flashlight.source.read(path)
        if targets:
            return source, [source.target(name) for name in targets]
        chosen = flashlight.source.chosen(source)
        if not chosen:
            hint = "name a function: FILE:FUNCTION" if source.targets else "give a file with functions at its top level"
            raise Diagnostic("FL104", "no public function of this file contains attention", hint, path=path)
        return source, chosen


def passed_over(path: Path) -> list[str]:
    """The public functions of a file that state shapes and yet are not chosen unless they are named."""
    import flashlight.source

    source = flashlight.source.read(path)
    chosen = flashlight.source.chosen(source)
    others = [target for target in source.targets if target not in chosen]
    return [target.name for target in others if flashlight.source.states_shapes(source, target)]


def trace(source: Source, target: Target, shapes: Shapes, phases: Phases) -> Traced:
    """The target as a program over named axes."""
    with phases("import"):
        import flashlight.trace
    with phases("trace"):
        return flashlight.trace.trace(source, target, dict(shapes))


def unit(source: Source, target: Target, shapes: Shapes, phases: Phases) -> Unit:
    """One target through all stages but the last."""
    traced = trace(source, target, shapes, phases)
    with phases("import"):
        import flashlight.region
        import flashlight.schedule
        import rewriters.pipeline
        from flashlight.ir import integers
    with _located(source, target), integers.assuming(traced.program.assumptions):
        with phases("schedule"):
            region = flashlight.region.region(traced.program)
        with phases("rewrite"):
            rewritten = rewriters.pipeline.run(region.program)
        with phases("schedule"):
            schedule = flashlight.schedule.schedule(rewritten.program, region.before)
    return Unit(target, traced, region, rewritten, schedule)


@contextmanager
def _located(source: Source, target: Target) -> Iterator[None]:
    """Give diagnostics of stages that know no file the target's place in it."""
    from flashlight.diagnostics import Diagnostic

    try:
        yield
    except Diagnostic as diagnostic:
        end = target.column + len(target.name)
        raise diagnostic.located(source.path, target.line, target.column, end) from None


def emit(source: Source, units: Sequence[Unit], origin: str, command: str, phases: Phases) -> Files:
    """The two files as text; ``origin`` is the source file's path as the header gives it."""
    with phases("import"):
        import flashlight.diagnostics
        import flashlight.emit
    with phases("emit"):
        named = replace(source, path=Path(origin))
        try:
            return flashlight.emit.emit(named, units, command)
        except flashlight.diagnostics.Diagnostic:
            for one in units:
                with _located(source, one.target):
                    flashlight.emit.emit(named, [one], command)
            raise


def command_line(origin: str, targets: Sequence[str], shapes: Shapes) -> str:
    """The command that the header of a generated file records: the same on every machine.

    It leaves out `--out`, which the place of the file itself tells.
    """
    words = ["flashlight", "transpile", ":".join((origin, *targets))]
    for name, dims in shapes.items():
        words += ["--shape", f"{name}={','.join(dims)}"]
    return shlex.join(words)


def recorded(path: Path) -> str:
    """The path as headers record it: relative to the current directory, or the bare name of a file outside of it."""
    relative = Path(os.path.relpath(path))
    return path.name if relative.is_absolute() or relative.parts[:1] == ("..",) else relative.as_posix()
