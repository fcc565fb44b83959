"""Search tiles for the kernels of a generated file on the GPU of this machine: `flashlight tune`.

Every configuration of rows, keys, warps and pipeline stages that may fit is compiled (in parallel processes, which
leave their work in Triton's cache), run, compared with the others' results and timed; the best few are timed again in
turns. What wins is kept as one entry by function, architecture, padded head width, bytes an element and the number of
keys (4096 unless ``--size length=1024`` or the like asks for another).

The search needs torch and triton only: ``python -m flashlight.tune generated/causal_triton.py --json out.json`` runs on
a machine without flashlight's other dependencies, and ``flashlight tune --apply out.json generated/`` brings the result
home.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import os
import statistics
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from flashlight import arguments
from flashlight.arguments import Launcher

Tile = tuple[int, int, int, int, bool | str]
"""Rows and keys of a tile, warps, pipeline stages, whether descriptors read it; HOPPER there is a Hopper kernel's."""
HOPPER = "sm_90a"
"""The architecture under which the table has the tiles of Hopper kernels."""
Key = tuple[str, str, int, int, int]
"""Function, architecture, padded head width, bytes an element, keys of a row as a power of two."""

SHARED = 227 * 1024
TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 2e-2}
"""How far configurations may be apart, relatively, before one counts as wrong."""
CHOOSING = ("configuration", "batch_configuration")
"""The functions of a kernel file by which launchers choose a tile."""
AHEAD = 3
"""Searches whose tiles are compiled while one is timed."""
GAIN = 1.02
"""How much faster than the tile used so far a new one must be to replace it."""


@dataclass(frozen=True)
class Job:
    """One search: a function of a kernel file at one head dimension and dtype."""

    file: str
    function: str
    head_dim: int
    dtype: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Found:
    """The outcome of a search. Times are medians in milliseconds; a tile that ends in HOPPER is a Hopper kernel's."""

    source: str
    function: str
    architecture: str
    width: int
    size: int
    length: int
    tile: Tile
    time: float
    before: Tile
    time_before: float | None
    tried: int
    failed: int

    @property
    def key(self) -> Key:
        architecture = HOPPER if self.tile[4] == HOPPER else self.architecture
        return (self.function, architecture, self.width, self.size, self.length)


def candidates(
    width: int,
    size: int,
    stages: Iterable[int] = (1, 2, 3, 4),
    descriptors: Iterable[bool | str] = (True, False),
    least_rows: int = 32,
) -> list[Tile]:
    """Tiles worth a try for a padded head width and bytes an element.

    Keys and values of all stages and the query must fit shared memory, the accumulator and the scores the registers
    (at most 232 of 255 a thread); a warp has at least 16 rows. Fewer than 32 rows, where ``least_rows`` asks for them,
    are those of kernels that hold much more for each: there any number of warps may serve.
    """
    found: list[Tile] = []
    for rows in (2, 4, 8, 16, 32, 64, 128, 256):
        for keys in (16, 32, 64, 128, 256):
            for warps in (1, 2, 4, 8, 16):
                registers = rows * (width + keys) / (32 * warps)
                if rows < min(32, least_rows // 2) or registers > 232:
                    continue
                if rows >= 32 and (rows < 16 * warps or registers < 12 or warps == 1):
                    continue
                for count in stages:
                    shared = rows * width * size + 2 * count * keys * width * size
                    if shared <= SHARED:
                        found += [(rows, keys, warps, count, described) for described in descriptors]
    return found


def hopper_candidates(width: int, size: int) -> list[Tile]:
    """Tiles of a Hopper kernel worth a try: 64 rows for every four warps that compute, as much as fits shared memory.

    Rows are held for two tiles, and once more on their way out. One group of warps alone has nobody to wait with.
    """
    found: list[Tile] = []
    for rows in (128, 192):
        for keys in (64, 128):
            for stages in (1, 2, 4, 6):
                if 3 * rows * width * size + 2 * stages * keys * width * size <= SHARED - 1024 and size == 2:
                    found.append((rows, keys, rows // 16, stages, HOPPER))
    return found


def narrowed(tiles: Sequence[Tile], start: Tile, limit: int) -> list[Tile]:
    """At most ``limit`` tiles, those nearest to ``start`` in powers of two, which is among them."""

    def distance(tile: Tile) -> tuple[float, Tile]:
        steps = [abs(a.bit_length() - b.bit_length()) for a, b in zip(tile[:3], start[:3], strict=True)]
        return sum(steps) + 0.5 * abs(tile[3] - start[3]) + 0.5 * (tile[4] != start[4]), tile

    return [start, *[tile for tile in sorted(tiles, key=distance) if tile != start]][:limit]


def jobs(
    paths: Sequence[Path],
    functions: Sequence[str] = (),
    head_dims: Sequence[int] = (64, 128),
    dtypes: Sequence[str] = ("bfloat16",),
    sizes: Mapping[str, int] | None = None,
) -> list[Job]:
    """The searches for kernel files; all their functions where none is named.

    A function without a head dimension of its own to bind is searched once.
    """
    found = []
    for path in map(arguments.kernel_file, paths):
        for launcher in arguments.launchers(path.read_text(encoding="utf-8")):
            if functions and launcher.name not in functions:
                continue
            for dtype in dtypes:
                seen = []
                for head_dim in head_dims:
                    numbers = arguments.bound(launcher, head_dim, sizes)
                    if numbers not in seen:
                        seen.append(numbers)
                        found.append(Job(str(path), launcher.name, head_dim, dtype, dict(sizes or {})))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Running on the GPU


class _Asked(Exception):
    """A launcher has said which tile it would take."""


class Prepared:
    """A job with its module and its tensors; ``run`` launches with a tile, whatever the file's table says."""

    def __init__(self, job: Job, device: str = "cuda") -> None:
        path = Path(job.file)
        self.job = job
        self.module: ModuleType = arguments.load(path)
        launchers = arguments.launchers(path.read_text(encoding="utf-8"))
        self.launcher: Launcher = next(found for found in launchers if found.name == job.function)
        numbers = arguments.bound(self.launcher, job.head_dim, job.sizes)
        types = arguments.annotated(path, job.function)
        self.arguments = arguments.make(self.launcher, numbers, types, job.dtype, device)
        self.own: dict[str, Any] = {name: own for name, own in vars(self.module).items() if name in CHOOSING}
        hopper = getattr(self.module, "hopper_kernels", lambda: None)()
        self.own_hopper = self.module.hopper_tile if hopper is not None else None
        self.asked: tuple[Any, ...] | None = None
        self.before: Tile = (0, 0, 0, 0, False)
        self.chosen: tuple[Tile | None, ...] = ()
        kernel = getattr(self.module, f"{job.function}_kernel", None)
        self.describes = "DESCRIPTORS" in getattr(kernel, "arg_names", ())

    def run(self, tile: Tile | None) -> Any:
        """Launch with a tile; with the file's own where it is None."""
        self.choose(tile)
        try:
            return getattr(self.module, self.job.function)(**self.arguments)
        finally:
            vars(self.module).update(self.own)
            if self.own_hopper is not None:
                self.module.hopper_tile = self.own_hopper  # type: ignore[attr-defined]

    def choose(self, tile: Tile | None) -> None:
        """Have launches take a tile; the file's own where it is None, which is then in ``before``."""
        module: Any = self.module
        if (tile,) != self.chosen:
            module.LAUNCHED.clear()  # what a launcher repeats without a question
            self.chosen = (tile,)
        for name, own in self.own.items():
            recorded = functools.partial(self._recorded, own)
            setattr(module, name, recorded if tile is None else lambda *_, **load: tile)
        if self.own_hopper is None:
            return
        given = (
            {"BLOCK_ROWS": tile[0], "BLOCK_KEYS": tile[1], "STAGES": tile[3]} if tile and tile[4] == HOPPER else None
        )

        def chosen(function: str, widest: int, length: int, *tensors: Any) -> dict[str, int] | None:
            if given is not None and not module.describable(*tensors):
                raise RuntimeError("the Hopper kernel cannot read these tensors")
            return given

        module.hopper_tile = self._recorded_hopper if tile is None else chosen

    def portable(self) -> Tile:
        """The file's own tile of the kernel for all architectures, though a Hopper kernel was launched before."""
        if self.before[4] != HOPPER:
            return self.before
        found: list[Tile] = []

        def asked(own: Callable[..., Tile], *given: Any, **load: int) -> Tile:
            found.append(own(*given, **load))
            raise _Asked

        module: Any = self.module
        module.LAUNCHED.clear()
        vars(module).update({name: functools.partial(asked, own) for name, own in self.own.items()})
        module.hopper_tile = lambda *_: None
        try:
            getattr(module, self.job.function)(**self.arguments)
        except _Asked:
            pass
        finally:
            vars(module).update(self.own)
            module.hopper_tile = self.own_hopper
        return found[0]

    def _recorded(self, own: Callable[..., Tile], *asked: Any, **load: int) -> Tile:
        self.asked = asked
        self.before = own(*asked, **load)
        return self.before

    def _recorded_hopper(self, function: str, widest: int, length: int, *tensors: Any) -> dict[str, int] | None:
        assert self.own_hopper is not None
        found: dict[str, int] | None = self.own_hopper(function, widest, length, *tensors)
        if found is not None:
            self.asked = (function, tensors[0], widest, length)
            self.before = (found["BLOCK_ROWS"], found["BLOCK_KEYS"], found["BLOCK_ROWS"] // 16, found["STAGES"], HOPPER)
        return found


def key_of(prepared: Prepared) -> Key:
    """The entry of the table that a launch with the file's own tile, made before, has asked for."""
    function = prepared.job.function
    assert prepared.asked is not None, f"{function} does not call configuration"
    tensor, widest, length = prepared.asked[1:4]
    module = prepared.module
    sizes = (module.padded(widest), tensor.element_size(), module.padded(length))
    return function, module.architecture(tensor.device), *sizes


class _Warm:
    """Stands in for a kernel in a worker: compiles what it is asked to launch, launches nothing, refuses spills."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.fn = kernel.fn

    def __getitem__(self, grid: object) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        made = self.kernel.warmup(*args, grid=(1,), **kwargs)
        made._init_handles()  # spills are known once the driver has loaded it
        if made.n_spills:
            raise RuntimeError(f"spills {made.n_spills} bytes a thread")


def compiled(job: Job, tile: Tile) -> str | None:
    """Compile one tile in this process (a worker's); what went wrong, if anything did."""
    import torch

    global _prepared
    try:
        if _prepared is None or _prepared.job != job:
            _prepared = None
            _prepared = Prepared(job)
            modules = [_prepared.module]
            if _prepared.own_hopper is not None:
                modules.append(_prepared.module.hopper_kernels())
            for module in modules:
                for name, kernel in list(vars(module).items()):
                    if name.endswith("_kernel") and hasattr(kernel, "warmup"):
                        setattr(module, name, _Warm(kernel))
        with torch.no_grad():
            _prepared.run(tile)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


_prepared: Prepared | None = None


@dataclass
class Begun:
    """A search whose tiles are being compiled by worker processes."""

    prepared: Prepared
    key: Key
    expected: Any
    tiles: list[Tile]
    futures: Mapping[Future[str | None], Tile]


def begin(job: Job, pool: ProcessPoolExecutor | None, limit: int = 48) -> Begun:
    """Choose the tiles of a search and have workers compile them, which leave their work in Triton's cache."""
    import torch

    with torch.no_grad():
        prepared = Prepared(job)
        try:
            expected = prepared.run(None)
            torch.cuda.synchronize()
        except Exception:  # out of shared memory, most likely: that is what the search is for
            expected = None
    key = key_of(prepared)
    start = prepared.portable()
    choices = (True, False) if prepared.describes else start[4:]
    tiles = candidates(key[2], key[3], descriptors=choices, least_rows=start[0])
    tiles = list(dict.fromkeys([prepared.before, *narrowed(tiles, start, limit)]))
    if prepared.own_hopper is not None and key[1] == HOPPER[:5]:
        tiles += [tile for tile in hopper_candidates(key[2], key[3]) if tile != prepared.before]
    futures = {pool.submit(compiled, job, tile): tile for tile in tiles} if pool is not None else {}
    return Begun(prepared, key, expected, tiles, futures)


def search(begun: Begun, progress: Callable[[str, int, int], None] = lambda stage, done, total: None) -> Found:
    """Find the fastest of a search's tiles.

    Raises:
        RuntimeError: not even the tile that the file uses now runs, or no configuration does.
    """
    import torch

    prepared, tiles, expected = begun.prepared, begun.tiles, begun.expected
    job, before = prepared.job, prepared.before
    failed = _compiled_all(begun, progress)
    with torch.no_grad():
        times: dict[Tile, float] = {}
        for number, tile in enumerate(tiles):
            progress("time", number, len(tiles))
            if tile in failed:
                continue
            try:
                actual = prepared.run(tile)
                torch.cuda.synchronize()
            except Exception as error:
                failed[tile] = str(error)[:200]
                continue
            if expected is None:
                expected = actual
            if not agree(actual, expected, TOLERANCE[job.dtype]):
                failed[tile] = "another result"
                continue
            times[tile] = _time(functools.partial(prepared.run, tile), 15)
        progress("time", len(tiles), len(tiles))
        if not times:
            raise RuntimeError(f"{job.function} D={job.head_dim}: no configuration runs; {next(iter(failed.values()))}")
        best = sorted(times, key=lambda tile: times[tile])[:4]
        finalists = list(dict.fromkeys([*best, *([before] if before in times else [])]))
        final = _in_turns(prepared, finalists)
    winner = min(final, key=lambda tile: final[tile])
    if before in final and final[before] < final[winner] * GAIN:
        winner = before
    return Found(
        Path(job.file).stem.removesuffix("_triton") + ".py",
        *begun.key,
        winner,
        final[winner],
        before,
        final.get(before),
        len(tiles),
        len(failed),
    )


def _compiled_all(begun: Begun, progress: Callable[[str, int, int], None]) -> dict[Tile, str]:
    """Wait for the workers; the tiles that failed there, and why."""
    failed: dict[Tile, str] = {}
    for number, future in enumerate(as_completed(begun.futures), 1):
        progress("compile", number, len(begun.tiles))
        try:
            problem = future.result(timeout=120)
        except Exception as error:  # a worker died
            problem = str(error) or type(error).__name__
        if problem is not None:
            failed[begun.futures[future]] = problem
    return failed


def agree(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether two results are the same but for rounding; NaN and infinity must be in the same places."""
    import torch

    if isinstance(actual, (tuple, list)):
        return all(agree(a, b, tolerance) for a, b in zip(actual, expected, strict=True))
    if actual is None or expected is None:
        return actual is expected
    a, b = actual.float(), expected.float()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (a, b))
    return bool((a - b).norm() <= tolerance * b.norm() + 1e-30)


def _time(run: Callable[[], Any], milliseconds: float) -> float:
    from triton.testing import do_bench

    return float(do_bench(run, warmup=5, rep=milliseconds, return_mode="median"))


def _in_turns(prepared: Prepared, tiles: Sequence[Tile], rounds: int = 4) -> dict[Tile, float]:
    """Medians over rounds in which the finalists take turns, so that the chip's clock favours none."""
    samples: dict[Tile, list[float]] = {tile: [] for tile in tiles}
    for _ in range(rounds):
        for tile in tiles:
            samples[tile].append(_time(functools.partial(prepared.run, tile), 30))
    return {tile: statistics.median(times) for tile, times in samples.items()}


def workers(count: int | None = None) -> ProcessPoolExecutor | None:
    """Processes that compile; None where one would do."""
    import multiprocessing

    count = min(12, (os.cpu_count() or 1) - 2) if count is None else count
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) if count > 1 else None


# ---------------------------------------------------------------------------------------------------------------------
# The table in a file


def entries(text: str) -> dict[Key, Tile]:
    """The TILES table of a kernel file's text."""
    node = _table(text)
    return ast.literal_eval(node.value) if node is not None else {}


def lengths(table: Mapping[Key, Tile], function: str, architecture: str) -> list[int]:
    """The numbers of keys that a table has tiles of a function for."""
    return sorted({key[4] for key in table if key[:2] == (function, architecture)})


def replaced(text: str, tiles: Mapping[Key, Tile]) -> str:
    """A kernel file's text with another TILES table, laid out as `flashlight transpile` lays it out."""
    from flashlight.emit.tuning import table

    node = _table(text)
    if node is None:
        raise ValueError("the file has no table TILES")
    lines = text.splitlines(keepends=True)
    assert node.end_lineno is not None
    first = node.lineno - 1
    while first > 0 and lines[first - 1].startswith("#"):
        first -= 1
    return "".join([*lines[:first], table(dict(tiles)) + "\n", *lines[node.end_lineno :]])


def _table(text: str) -> ast.Assign | None:
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "TILES":
            return node
    return None


def carried_over(text: str, replaces: Path) -> str:
    """A kernel file's text with the tuned tiles of the file that it replaces, for the functions that are in both."""
    try:
        old = entries(replaces.read_text(encoding="utf-8"))
        functions = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    except (OSError, SyntaxError, ValueError):
        return text  # there is none, or it is none of flashlight's
    kept = {key: tile for key, tile in old.items() if len(key) == 5 and len(tile) == 5 and key[0] in functions}
    return replaced(text, kept) if kept else text


def applied(path: Path, found: Sequence[Found]) -> int:
    """Write what was found for a file into its table; the number of entries that changed."""
    source = path.stem.removesuffix("_triton") + ".py"
    tiles = {one.key: (*one.tile[:4], bool(one.tile[4])) for one in found if one.source == source}
    return entered(path, tiles)


def entered(path: Path, tiles: Mapping[Key, Tile]) -> int:
    """Write entries into a file's table; the number of those that changed."""
    text = path.read_text(encoding="utf-8")
    before = entries(text)
    after = {**before, **tiles}
    for key in tiles:
        beaten = (key[0], HOPPER, *key[2:])
        if key[1] == HOPPER[:5] and beaten not in tiles:
            after.pop(beaten, None)  # the kernel for all architectures is faster
    changed = sum(before.get(key) != tile for key, tile in after.items()) + len(before.keys() - after.keys())
    if changed:
        path.write_text(replaced(text, after), encoding="utf-8")
    return changed


def report(found: Sequence[Found]) -> str:
    """The JSON that ``--json`` writes."""
    return json.dumps({"found": [asdict(one) for one in found]}, indent=1) + "\n"


def read_report(text: str) -> list[Found]:
    """What ``--json`` wrote."""
    return [
        Found(**{**one, "tile": tuple(one["tile"]), "before": tuple(one["before"])})
        for one in json.loads(text)["found"]
    ]


def summary(found: Found) -> str:
    """A line about an outcome."""
    where = f"{found.source[:-3]}:{found.function} {found.architecture} width {found.width} x {found.size} bytes"
    where += f", {found.length} keys"
    if found.time_before is None:
        return f"{where}: {found.tile} {found.time:.3f} ms; {found.before} does not run"
    gain = "kept" if found.tile == found.before else f"{found.time_before / found.time:.2f}x faster than {found.before}"
    return f"{where}: {found.tile} {found.time:.3f} ms, {gain}"


def main(words: Sequence[str] | None = None) -> int:
    """The search alone, for machines without flashlight's other dependencies."""
    parser = argparse.ArgumentParser(prog="python -m flashlight.tune", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--functions", type=lambda text: text.split(","), default=())
    parser.add_argument("--head-dims", type=lambda text: [int(x) for x in text.split(",")], default=(64, 128))
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=("bfloat16",))
    parser.add_argument("--size", action="append", metavar="NAME=N", default=[], help="a size, or batch, heads, length")
    parser.add_argument("--limit", type=int, default=48, help="configurations a search")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--budget", type=float, default=540, metavar="SECONDS", help="start no search after this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here")
    parser.add_argument("--write", action="store_true", help="write it into the files' tables")
    options = parser.parse_args(words)
    import time

    import torch

    if not torch.cuda.is_available():
        print("tuning needs a GPU", file=sys.stderr)
        return 2
    started, found, failed = time.monotonic(), [], 0
    sizes = {name: int(number) for name, _, number in (text.partition("=") for text in options.size)}
    planned = jobs(options.files, options.functions, options.head_dims, options.dtypes, sizes)
    pool = workers(options.workers)
    ahead: deque[Begun | Exception] = deque()
    waiting = iter(planned)
    try:
        for number, job in enumerate(planned, 1):
            label = f"[{number}/{len(planned)} {time.monotonic() - started:.0f} s] {job.function} D={job.head_dim}"
            if time.monotonic() - started > options.budget:
                print(f"{label}: not searched, the time is up")
                failed += 1
                continue
            for coming in islice(waiting, 1 + AHEAD - len(ahead)):
                try:
                    ahead.append(begin(coming, pool, options.limit))
                except Exception as error:
                    ahead.append(error)
            begun = ahead.popleft()
            try:
                if isinstance(begun, Exception):
                    raise begun
                one = search(begun)
            except Exception as error:
                failed += 1
                print(f"{label}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            found.append(one)
            print(f"{label}: {summary(one)} ({one.tried - one.failed} of {one.tried} ran)", flush=True)
            if options.json:
                options.json.write_text(report(found), encoding="utf-8")
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    if options.write:
        for path in dict.fromkeys(Path(job.file) for job in planned):
            print(f"{path}: {applied(path, found)} entries changed")
    return 1 if failed else 0


if __name__ == "__main__":
    # workers import this module by its name, not as __main__
    from flashlight import tune

    raise SystemExit(tune.main())
