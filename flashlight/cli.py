"""The command line: `flashlight transpile`, `check`, `explain` and `verify`.

Exit codes: 0 where all is well; 1 where a file would change (`check`, `--check`), where the input got a diagnostic, or
where a verification failed; 2 where the command itself was misspelled. torch is imported inside the commands alone, so
that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.syntax import Syntax

from flashlight import __version__
from flashlight.output import GeneratedFile, parse_shape
from flashlight.pipeline import Phases, Shapes

if TYPE_CHECKING:
    from flashlight.verify import Outcome

app = typer.Typer(
    help="Attention written in plain PyTorch in, a readable fused Triton kernel out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Directory of the generated files.")]
ShapeOption = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=B,H,S,D", help="Dimensions of a parameter; repeat for several."),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print the seconds of each phase.")]
Inputs = Annotated[list[str], typer.Argument(metavar="FILE[:TARGET]...", help="A Python file, and functions of it.")]


def main() -> None:
    """The entry point of the `flashlight` script."""
    app()


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"flashlight {__version__}")
        raise typer.Exit


@app.command()
def transpile(
    inputs: Inputs,
    out: Out = Path("generated"),
    shape: ShapeOption = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file would change.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that flashlight did not write.")] = False,
    verbose: Verbose = False,
) -> None:
    """Write the fused kernels and a drop-in wrapper for the attention in FILE."""
    from flashlight import api

    phases = Phases()
    files: list[GeneratedFile] = []
    with _reported(phases, verbose):
        for path, targets in _grouped(inputs):
            files += api.transpile(path, targets, _shapes(shape), out=out, phases=phases)
        if check or diff:
            stale = _report_stale(files, show_diff=diff)
            raise typer.Exit(stale if check else 0)
        written = api.write(files, force=force)
        for file in written:
            _say(f"wrote {file}")
        _say(_summary(len(written), len(files) - len(written), ("written", "left unchanged")))


@app.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(help="Generated files; all of generated/ by default.")] = None,
    verbose: Verbose = False,
) -> None:
    """Show where generated files differ from what flashlight would write today; exit 1 if any does."""
    from flashlight import api

    phases = Phases()
    with _reported(phases, verbose):
        raise typer.Exit(_report_stale(api.check(files, phases=phases), show_diff=True))


@app.command()
def explain(
    inputs: Inputs,
    shape: ShapeOption = None,
    verbose: Verbose = False,
) -> None:
    """Print the stages: the program as mathematics, the laws that fired, the schedule with its tile ranges."""
    from flashlight import api

    phases = Phases()
    console = Console(highlight=False, soft_wrap=True)
    with _reported(phases, verbose):
        for path, targets in _grouped(inputs):
            for target in targets or (None,):
                for stage in api.explain(path, target, _shapes(shape), phases=phases):
                    console.print(stage.title, style="bold", markup=False)
                    console.print(stage.text + "\n", markup=False)


@app.command()
def verify(
    inputs: Inputs,
    device: Annotated[str, typer.Option(help="cpu (under Triton's interpreter) or cuda.")] = "cpu",
    out: Out = Path("generated"),
    examples: Annotated[int, typer.Option(help="Inputs drawn for each function.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Start of the random draws.")] = 0,
    verbose: Verbose = False,
) -> None:
    """Compare generated functions with their originals in float64, on shapes, dtypes, strides and values drawn."""
    from flashlight import api

    if device not in ("cpu", "cuda"):
        raise typer.BadParameter("device is cpu or cuda")
    phases = Phases()
    outcomes: list[Outcome] = []
    with _reported(phases, verbose):
        for path, targets in _grouped(inputs):
            with phases("verify"):
                outcomes += api.verify(path, device, targets=targets, out=out, examples=examples, seed=seed)
        for outcome in outcomes:
            _say(outcome.summary())
            if outcome.failure:
                _say(outcome.failure, error=True)
        failed = sum(outcome.failure is not None for outcome in outcomes)
        _say(_verdict(failed, len(outcomes) - failed))
        raise typer.Exit(1 if failed else 0)


@contextmanager
def _reported(phases: Phases, verbose: bool) -> Iterator[None]:
    """Print a diagnostic to stderr and exit with 1, and print the phases if they are wanted."""
    from flashlight.diagnostics import Diagnostic

    try:
        yield
    except Diagnostic as diagnostic:
        _say(diagnostic.render(_text(diagnostic.path)), error=True)
        raise typer.Exit(1) from None
    finally:
        if verbose:
            for name, seconds in phases.seconds.items():
                _say(f"{name:>10} {seconds:7.3f} s", error=True)
            _say(f"{'total':>10} {sum(phases.seconds.values()):7.3f} s", error=True)


def _text(path: Path | None) -> str | None:
    """The text that a diagnostic quotes its line from."""
    try:
        return path.read_text(encoding="utf-8") if path is not None else None
    except (OSError, UnicodeDecodeError):
        return None


def _grouped(inputs: Sequence[str]) -> list[tuple[Path, tuple[str, ...]]]:
    """``a.py:f a.py:g b.py`` as files with their targets; ``a.py:f:g`` and ``a.py:f,g`` are accepted too."""
    grouped: dict[Path, list[str]] = {}
    for text in inputs:
        file, _, names = text.partition(".py:")
        path = Path(f"{file}.py" if names else text)
        targets = grouped.setdefault(path, [])
        targets += [name for name in names.replace(",", ":").split(":") if name and name not in targets]
    return [(path, tuple(targets)) for path, targets in grouped.items()]


def _shapes(options: Sequence[str] | None) -> Shapes:
    try:
        return dict(parse_shape(option) for option in options or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shape") from None


def _report_stale(files: Sequence[GeneratedFile], show_diff: bool) -> int:
    """Print what would change; 1 if anything would."""
    stale = [file for file in files if file.is_stale]
    for file in stale:
        if show_diff:
            _show_diff(file.diff())
        _say(f"would rewrite {file.path}", error=True)
    _say(_summary(len(stale), len(files) - len(stale), ("would be rewritten", "would be left unchanged")), error=True)
    return 1 if stale else 0


def _show_diff(text: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if console.is_terminal:
        console.print(Syntax(text, "diff", background_color="default"))
    else:
        typer.echo(text, nl=False)


def _summary(changed: int, unchanged: int, words: tuple[str, str]) -> str:
    """``1 file would be rewritten, 2 files would be left unchanged.``"""
    counts = [(changed, words[0]), (unchanged, words[1])]
    parts = [f"{count} file{'s' * (count != 1)} {word}" for count, word in counts if count]
    return ", ".join(parts or ["0 files"]) + "."


def _verdict(failed: int, agreed: int) -> str:
    """``1 function differs from its original, 2 agree.``"""
    parts = [f"{failed} function{'s differ' if failed != 1 else ' differs'} from the original"] if failed else []
    if agreed or not failed:
        noun = "" if failed else f" function{'s' * (agreed != 1)}"
        parts.append(f"{agreed}{noun} {'agrees' if agreed == 1 else 'agree'}{'' if failed else ' with the original'}")
    return ", ".join(parts) + "."


def _say(text: str, error: bool = False) -> None:
    typer.echo(text, err=error)
