"""The search for inputs on which a generated function differs from its original, shrunk to the smallest."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from flashlight import pipeline
from flashlight.verify import worker

if TYPE_CHECKING:
    from flashlight.trace.traced import Traced
    from flashlight.verify.draw import Ranges

REPLY = "flashlight-verify-reply "
"""What the line with the reply begins with in a worker's output."""


@dataclass(frozen=True)
class Outcome:
    """What the search found for one target.

    ``error`` and ``eager_error`` are those of the worst case that passed: the largest share of what was allowed.
    ``failure`` is the smallest failing case and how it fails. ``lowering`` says which of a function's kernels ran.
    """

    target: str
    examples: int
    error: float = 0.0
    eager_error: float = 0.0
    failure: str | None = None
    lowering: str = "Triton"

    def summary(self) -> str:
        """One line."""
        kernel = self.target if self.lowering == "Triton" else f"{self.target}, its {self.lowering} kernel"
        if self.failure is not None:
            return f"{kernel}: DIFFERS"
        return (
            f"{kernel}: agrees on {self.examples} drawn inputs; "
            f"worst error {self.error:.2g} against float64, where eager has {self.eager_error:.2g}"
        )


@dataclass(frozen=True)
class Request:
    """What to verify; plain values, to be handed to another process."""

    path: str
    device: str
    targets: Sequence[str]
    out: str
    examples: int
    seed: int
    journal: str | None = None
    """A file that always holds the case being run: what is left of it where a kernel takes the process down."""


def verify(path: Path, device: str, targets: Sequence[str], out: Path, examples: int, seed: int) -> list[Outcome]:
    """One outcome for each target. On a CPU the kernels run under Triton's interpreter, in a process of their own.

    There a target with a Hopper kernel has an outcome for that too (`flashlight.verify.hopper`).

    Raises `flashlight.diagnostics.Diagnostic` as `flashlight.api.verify` says.
    """
    from flashlight.diagnostics import Diagnostic

    # read here too: a diagnostic for the file is the same in every process, and faster without one
    pipeline.read(path, targets, pipeline.Phases())
    generated = out / f"{path.stem}.py"
    if not generated.is_file():
        hint = f"run `flashlight transpile {path}` first, or say with --out where it is"
        raise Diagnostic("FL101", "there is no generated module to compare with the original", hint, path=generated)
    request = Request(str(path), device, list(targets), str(out), examples, seed)
    if device != "cpu" or os.environ.get("TRITON_INTERPRET") == "1":
        return run(request)
    with tempfile.TemporaryDirectory() as directory:
        return _interpreted(replace(request, journal=str(Path(directory) / "journal")))


def _interpreted(request: Request) -> list[Outcome]:
    from flashlight.diagnostics import Diagnostic

    assert request.journal is not None
    code, lines = worker.ask(asdict(request))
    replies = [line for line in lines if line.startswith(REPLY)]
    journal = Path(request.journal)
    if code < 0 and journal.exists():
        # the interpreter reads and writes memory wherever a pointer says
        name, case = journal.read_text(encoding="utf-8").split("\n", 1)
        message = f"{name}({case})\n  the kernel ended the process (signal {-code}): an access out of bounds?"
        return [Outcome(name, 0, failure=message)]
    if code != 0 or not replies:
        raise RuntimeError(f"the process that runs Triton's interpreter stopped with exit code {code}")
    reply = json.loads(replies[-1][len(REPLY) :])
    if "diagnostic" in reply:
        raise Diagnostic(**reply["diagnostic"])
    return [Outcome(**outcome) for outcome in reply["outcomes"]]


def run(request: Request) -> list[Outcome]:
    """The same in this process."""
    from flashlight.output import read_header
    from flashlight.verify import hopper, interpreter

    if interpreter.interpreting():
        interpreter.repair()
    path, out = Path(request.path), Path(request.out)
    phases = pipeline.Phases()
    wrapper = out / f"{path.stem}.py"
    header = read_header(wrapper.read_text(encoding="utf-8"))
    source, chosen = pipeline.read(path, request.targets or (header.targets if header else ()), phases)
    original = load(path, "original")
    generated = load(wrapper, "generated")
    outcomes = []
    for target in chosen:
        traced = pipeline.trace(source, target, header.shapes if header else {}, phases)
        outcomes.append(search(target.name, traced, original, generated, request))
        if request.device == "cpu" and hopper.has_kernel(generated, target.name):
            outcomes.append(_on_hopper(target.name, traced, original, generated, request))
    return outcomes


def _on_hopper(name: str, traced: Traced, original: ModuleType, generated: ModuleType, request: Request) -> Outcome:
    """The search of a target's Hopper kernel, on a CPU."""
    from flashlight.verify import draw, hopper

    with hopper.launched(generated, hopper.tile(request.seed), request.seed):
        outcome = search(name, traced, original, generated, request, draw.HOPPER)
    return replace(outcome, lowering="Hopper")


def search(
    name: str,
    traced: Traced,
    original: ModuleType,
    generated: ModuleType,
    request: Request,
    ranges: Ranges | None = None,
) -> Outcome:
    """Draw inputs for one target until one fails, and shrink that; or until there were enough.

    Without ``ranges`` the sizes are those that suit the request's device.
    """
    import hypothesis
    from hypothesis import HealthCheck, Phase

    from flashlight.verify import draw
    from flashlight.verify.compare import Measured, Mismatch, Rejected, compare, flatten

    ranges = ranges or (draw.SMALL if request.device == "cpu" else draw.LARGE)
    worst = Measured(0.0, 0.0, 0.0)
    count = filled = 0
    reasons: list[str] = []
    failing: list[tuple[draw.Case, Mismatch]] = []

    # no database: what is drawn depends on the seed alone
    @hypothesis.seed(request.seed)
    @hypothesis.settings(
        max_examples=request.examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(draw.cases(traced, ranges))
    def agrees(case: draw.Case) -> None:
        nonlocal worst, count, filled
        if request.journal is not None:
            Path(request.journal).write_text(f"{name}\n{case}", encoding="utf-8")
        arguments = draw.build(traced, case, request.device)
        try:
            measured = compare(getattr(original, name), getattr(generated, name), arguments)
        except Rejected as rejected:
            reasons.append(str(rejected))
            hypothesis.reject()
        except Mismatch as mismatch:
            failing.append((case, mismatch))
            raise
        count += 1
        filled += all(tensor.numel() for tensor in flatten(list(arguments.values())))
        worst = max(worst, measured, key=lambda one: one.generated / (one.allowed or 1.0))

    try:
        agrees()
    except Mismatch:
        case, mismatch = failing[-1]
        return Outcome(name, count, failure=f"{name}({case})\n  {mismatch}\n  (drawn from --seed {request.seed})")
    except hypothesis.errors.Unsatisfiable:
        return Outcome(name, count, failure=f"{name}: none of the inputs that were drawn is one that it takes")
    if reasons and not filled:
        message = f"{name}: only empty tensors could be compared; of others the original said: {reasons[-1]}"
        return Outcome(name, count, failure=message)
    return Outcome(name, count, worst.generated, worst.eager)


def load(path: Path, prefix: str) -> ModuleType:
    """A module from its file; modules beside it can be imported. Originals and generated ones may share a name."""
    path = path.resolve()
    name = f"flashlight_{prefix}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    for sibling in path.parent.glob("*_triton.py"):
        # a file of the same name in another directory may have been imported before
        known = sys.modules.get(sibling.stem)
        if known is not None and known.__file__ != str(sibling):
            del sys.modules[sibling.stem]
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
