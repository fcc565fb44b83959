"""The verbs of the command line as functions: transpile, check, explain and verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashlight import output, pipeline, tune
from flashlight.output import GeneratedFile
from flashlight.pipeline import Phases, Shapes

if TYPE_CHECKING:
    from flashlight.verify import Outcome

__all__ = ["GeneratedFile", "Stage", "check", "explain", "transpile", "verify", "write"]

OUT = Path("generated")


@dataclass(frozen=True)
class Stage:
    """What a stage made, as text."""

    title: str
    text: str


def transpile(
    path: str | Path,
    targets: Sequence[str] | None = None,
    shapes: Shapes | None = None,
    *,
    out: str | Path = OUT,
    origin: str | None = None,
    phases: Phases | None = None,
) -> list[GeneratedFile]:
    """The wrapper and the kernels for a file of attention functions. Writes nothing: `write` does.

    A third file holds kernels for Hopper, if any program can have one. Where it was written before, for programs of
    which none can any more, its text is None: it is to be removed.

    Args:
        path: the user's Python file.
        targets: names of functions; every public function that contains attention, if empty.
        shapes: dimension names by parameter, for parameters whose annotations and comments give none.
        out: the directory that the files are for.
        origin: the path that the headers name as the source; by default the path relative to the current directory.
        phases: collects the seconds that each stage took.

    Raises:
        flashlight.diagnostics.Diagnostic: the input cannot be read, traced or fused.
    """
    from flashlight.diagnostics import Diagnostic

    path, out, shapes, phases = Path(path), Path(out), shapes or {}, phases or Phases()
    if (out / path.name).resolve() == path.resolve():
        raise Diagnostic("FL108", "the generated file would overwrite its own source", _OUT_HINT, path=path)
    source, chosen = pipeline.read(path, targets or (), phases)
    units = [pipeline.unit(source, target, shapes, phases) for target in chosen]
    origin = origin or pipeline.recorded(path)
    command = pipeline.command_line(origin, targets or (), shapes)
    files = pipeline.emit(source, units, origin, command, phases)
    made = [
        GeneratedFile(out / f"{path.stem}.py", files.wrapper),
        GeneratedFile(kernels := out / f"{path.stem}_triton.py", tune.carried_over(files.kernels, kernels)),
    ]
    hopper = GeneratedFile(out / f"{path.stem}_hopper.py", files.hopper)
    left = output.read_header(hopper.current or "")
    if hopper.text is not None or (left is not None and left.source == origin):
        made.append(hopper)
    return made


def passed_over(path: str | Path) -> list[str]:
    """The public functions of a file that state shapes and yet are transpiled only if they are named."""
    return pipeline.passed_over(Path(path))


def write(files: Sequence[GeneratedFile], *, force: bool = False) -> list[Path]:
    """Write the files that differ from what is there, all or none; returns the paths written.

    Raises:
        flashlight.diagnostics.Diagnostic: a path holds a file that flashlight did not write, and ``force`` is not set.
    """
    from flashlight.diagnostics import Diagnostic

    for file in files:
        if file.path.is_dir():
            raise Diagnostic("FL108", "there is a directory at the path of a generated file", _OUT_HINT, path=file.path)
        if not force and file.is_stale and file.current is not None and output.read_header(file.current) is None:
            message = "this file was not written by flashlight, and would be overwritten"
            raise Diagnostic("FL107", message, f"{_OUT_HINT}, or overwrite the file with --force", path=file.path)
    try:
        return output.write_all(files)
    except OSError as error:
        message = f"the file cannot be written: {error.strerror or error}"
        raise Diagnostic("FL108", message, _OUT_HINT, path=files[0].path.parent) from error


_OUT_HINT = "choose another directory with --out"


def check(paths: Sequence[str | Path] | None = None, *, phases: Phases | None = None) -> list[GeneratedFile]:
    """What flashlight would write today in place of the generated files; `GeneratedFile.is_stale` tells which differ.

    Args:
        paths: generated files; every file in ``generated/`` that flashlight wrote, if empty.

    Raises:
        flashlight.diagnostics.Diagnostic: a given file is missing or was not written by flashlight, or its source is
            missing or can no longer be transpiled.
    """
    from flashlight.diagnostics import Diagnostic

    chosen = [Path(path) for path in paths] if paths else sorted(OUT.glob("*.py"))
    made: dict[tuple[Path, str], list[GeneratedFile]] = {}
    for path in chosen:
        text = GeneratedFile(path, "").current
        if text is None:
            raise Diagnostic("FL101", f"there is no file {path}", "check the path", path=path)
        header = output.read_header(text)
        if header is None and not paths:
            continue
        if header is None:
            message = "flashlight did not write this file, so there is nothing to check it against"
            raise Diagnostic("FL109", message, "name files that `flashlight transpile` wrote", path=path)
        key = (path.parent, header.source)
        if key not in made:
            source = find_source(path, header.source)
            made[key] = transpile(
                source, header.targets, header.shapes, out=path.parent, origin=header.source, phases=phases
            )
    wanted = {path.resolve() for path in chosen}
    return [
        file for files in made.values() for file in files if file.path.resolve() in wanted or not file.path.exists()
    ]


def find_source(generated: Path, recorded: str) -> Path:
    """The file that a header names: relative to the current directory or to one above the generated file."""
    for directory in (Path(), *generated.resolve().parents):
        source = directory / recorded
        if source.is_file() and source.resolve().parent != generated.resolve().parent:
            return source
    return Path(recorded)


def explain(
    path: str | Path, target: str | None = None, shapes: Shapes | None = None, *, phases: Phases | None = None
) -> list[Stage]:
    """Every stage of a target (of all targets, if none is named), as text that people can read.

    Raises:
        flashlight.diagnostics.Diagnostic: as `transpile`.
    """
    phases = phases or Phases()
    source, chosen = pipeline.read(Path(path), (target,) if target else (), phases)
    stages: list[Stage] = []
    for each in chosen:
        unit = pipeline.unit(source, each, shapes or {}, phases)
        stages.append(Stage(f"{each.name}: the program", str(unit.traced.program)))
        if unit.region.before or unit.region.after:
            stages.append(Stage(f"{each.name}: what PyTorch computes around the kernel", str(unit.region)))
        stages += [Stage(f"{each.name}: after {fired.law}", str(fired.program)) for fired in unit.rewritten.fired]
        stages.append(Stage(f"{each.name}: the schedule", str(unit.schedule)))
    return stages


def verify(
    path: str | Path,
    device: str = "cpu",
    *,
    targets: Sequence[str] | None = None,
    out: str | Path = OUT,
    examples: int = 20,
    seed: int = 0,
) -> list[Outcome]:
    """Compare the generated module of a file with the original in float64, on drawn inputs.

    Args:
        path: the user's file; its generated module is looked for in ``out``.
        device: "cpu" runs the kernels under Triton's interpreter, "cuda" on the GPU.
        examples: inputs drawn for each target.
        seed: the start of the random draws; the same seed draws the same inputs.

    Raises:
        flashlight.diagnostics.Diagnostic: the file cannot be read or traced, or was not transpiled yet.
    """
    import flashlight.verify

    return flashlight.verify.verify(Path(path), device, tuple(targets or ()), Path(out), examples, seed)
