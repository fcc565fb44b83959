"""The command line: `flashlight transpile`, `check`, `explain`, `verify`, `tune` and `inspect`.

Exit codes: 0 where all is well; 1 where a file would change (`check`, `--check`), where the input got a diagnostic, or
where a verification failed; 2 where the command itself was misspelled. torch is imported inside the commands alone, so
that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax

from flashlight import __version__
from flashlight.output import GeneratedFile, parse_shape
from flashlight.pipeline import Phases, Shapes

if TYPE_CHECKING:
    from flashlight.tune import Found, Job
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
HeadDims = Annotated[list[int], typer.Option("--head-dim", help="Head dimension; repeat for several.")]
Architectures = Annotated[list[str], typer.Option(help="sm_80, sm_90, sm_100 or gfx942; repeat for several.")]
SizeOption = Annotated[
    list[str] | None,
    typer.Option("--size", metavar="NAME=N", help="A size by its name in the file, or batch, heads, length."),
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
            _say(f"{'wrote' if file.exists() else 'removed'} {file}")
        _say(_summary(len(written), len(files) - len(written), ("written", "left unchanged")))
        for path, targets in _grouped(inputs):
            for name in [] if targets else api.passed_over(path):
                _say(f"passed over {name}, which looks like no attention: {path}:{name} names it")


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
        failed = {outcome.target for outcome in outcomes if outcome.failure is not None}
        _say(_verdict(len(failed), len({outcome.target for outcome in outcomes} - failed)))
        raise typer.Exit(1 if failed else 0)


@app.command()
def tune(
    files: Annotated[list[Path], typer.Argument(help="Generated files; either of a pair.")],
    function: Annotated[list[str] | None, typer.Option(help="Only this function; repeat for several.")] = None,
    head_dim: HeadDims = [64, 128],  # noqa: B006
    dtype: Annotated[list[str], typer.Option(help="Element type; repeat for several.")] = ["bfloat16"],  # noqa: B006
    size: SizeOption = None,
    limit: Annotated[int, typer.Option(help="Configurations tried in a search.", min=1)] = 48,
    json: Annotated[Path | None, typer.Option(help="Write what was found to this file too.")] = None,
    apply: Annotated[Path | None, typer.Option(help="Search nothing: take what --json wrote on a GPU machine.")] = None,
    ahead: Annotated[
        list[str] | None,
        typer.Option(metavar="ARCH", help="Time nothing: for this architecture, replace tiles that spill registers."),
    ] = None,
) -> None:
    """Search tiles on this machine's GPU and write the fastest into the table of FILES."""
    from flashlight import arguments, tune

    paths = list(dict.fromkeys(map(arguments.kernel_file, files)))
    for path in paths:
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {path}")
    failed = 0
    if ahead:
        raise typer.Exit(_compiled_ahead(tune.jobs(paths, function or (), head_dim, dtype, _sizes(size)), ahead, limit))
    if apply is not None:
        found = tune.read_report(apply.read_text(encoding="utf-8"))
    else:
        import torch

        if not torch.cuda.is_available():
            _say("tuning needs a GPU; on another machine: python -m flashlight.tune FILES --json OUT", error=True)
            raise typer.Exit(1)
        found, failed = _searched(tune.jobs(paths, function or (), head_dim, dtype, _sizes(size)), limit)
        if json is not None:
            json.write_text(tune.report(found), encoding="utf-8")
    changed = [tune.applied(path, found) for path in paths]
    for path, count in zip(paths, changed, strict=True):
        if count:
            _say(f"{path}: {_entries(count)} written")
    written = sum(map(bool, changed))
    _say(_summary(written, len(paths) - written, ("written", "left unchanged")))
    raise typer.Exit(1 if failed else 0)


def _compiled_ahead(jobs: Sequence[Job], architectures: Sequence[str], limit: int) -> int:
    """Replace the tiles that spill; 1 where some do and no other was found."""
    from flashlight import tune
    from flashlight.ahead import unspilled

    _known(architectures, "--ahead")
    failed, written = 0, 0
    for job in jobs:
        for architecture in architectures:
            try:
                found = unspilled(job, architecture, limit)
            except RuntimeError as error:
                _say(str(error), error=True)
                failed = 1
                continue
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint="--size") from None
            written += tune.entered(Path(job.file), found)
            for key, tile in found.items():
                _say(f"{job.file}: {key} takes {tile}")
    _say(f"{_entries(written)} written.")
    return failed


def _known(architectures: Sequence[str], option: str) -> None:
    from flashlight import inspect

    if not set(architectures) <= set(inspect.TARGETS):
        raise typer.BadParameter(f"{option} is one of {', '.join(inspect.TARGETS)}")


def _entries(count: int) -> str:
    return f"{count} {'entry' if count == 1 else 'entries'}"


def _searched(jobs: Sequence[Job], limit: int) -> tuple[list[Found], int]:
    """Run searches with a progress bar each; what was found, and how many failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from flashlight import tune

    found: list[Found] = []
    failed = 0
    pool = tune.workers()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        try:
            for job in jobs:
                label = f"{job.function} D={job.head_dim} {job.dtype}"
                bar = bars.add_task(label, total=limit)

                def show(stage: str, done: int, total: int, bar: Any = bar, label: str = label) -> None:
                    bars.update(bar, description=f"{label}: {stage}", completed=done, total=total)

                try:
                    found.append(tune.search(tune.begin(job, pool, limit), show))
                    bars.console.print(tune.summary(found[-1]), markup=False, highlight=False)
                except Exception as error:  # the other searches are still worth having
                    failed += 1
                    bars.console.print(f"{label}: {type(error).__name__}: {error}", markup=False, highlight=False)
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
    return found, failed


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(help="Generated files; either of a pair.")],
    arch: Architectures = ["sm_90"],  # noqa: B006
    head_dim: HeadDims = [64, 128],  # noqa: B006
    dtype: Annotated[str, typer.Option(help="Element type.")] = "bfloat16",
    size: SizeOption = None,
) -> None:
    """Show registers, spills, shared memory and instructions of the kernels in FILES. Needs no GPU."""
    from rich.table import Table

    from flashlight import arguments, inspect

    _known(arch, "--arch")
    console = Console(highlight=False)
    header = "function D arch tile warps registers spills shared blocks products copies".split()
    table = Table(*header, caption="registers and spills a thread; bytes of shared memory; blocks a multiprocessor")
    spilled = 0
    for path in dict.fromkeys(map(arguments.kernel_file, files)):
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {path}")
        try:
            for name in arch:
                for one in inspect.inspected(path, name, tuple(head_dim), dtype, _sizes(size)):
                    found = one.compiled
                    spilled += found.spills > 0
                    main = found.kernel == f"{one.function}_kernel"
                    table.add_row(
                        one.function if main else f"  {found.kernel}",
                        str(one.head_dim),
                        name,
                        "x".join(map(str, one.tile)),
                        str(found.warps),
                        str(found.registers),
                        str(found.spills),
                        str(found.shared),
                        str(found.occupancy),
                        _counted(found.tensor_core),
                        _counted(found.copies),
                    )
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--size") from None
    if not console.is_terminal:
        console.width = 240
    console.print(table)
    if spilled:
        _say(f"{spilled} kernel{'s' * (spilled != 1)} spill{'s' * (spilled == 1)} registers.")


def _counted(instructions: Mapping[str, int]) -> str:
    """``wgmma.mma_async x12``: names shortened to what tells them apart, the most frequent first."""
    short: dict[str, int] = {}
    for name, count in instructions.items():
        stem = ".".join(name.split(".")[:2])
        if name.startswith("cp.async.bulk"):
            stem = "cp.async.bulk"
        short[stem] = short.get(stem, 0) + count
    return ", ".join(f"{name} x{count}" for name, count in sorted(short.items(), key=lambda item: -item[1])) or "none"


def _sizes(options: Sequence[str] | None) -> dict[str, int]:
    sizes = {}
    for option in options or ():
        name, _, number = option.partition("=")
        if not number.isdecimal():
            raise typer.BadParameter(f"{option!r} is not NAME=NUMBER", param_hint="--size")
        sizes[name] = int(number)
    return sizes


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
        _say(f"would {'rewrite' if file.text is not None else 'remove'} {file.path}", error=True)
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
