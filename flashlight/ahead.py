"""Tiles for chips that this machine lacks, found by compiling: `flashlight tune --ahead ARCHITECTURE`.

Nothing is timed, so that a tile stays as it is unless its kernel spills registers or does not fit shared memory. Then
the nearest one that does neither, and has matrix instructions of the same kind, takes its place in the file's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashlight import arguments, inspect
from flashlight.inspect import Compiled
from flashlight.tune import Job, Key, Tile, candidates, narrowed

LENGTHS = (1024, 1001)
"""One of whole blocks and one that is not: a kernel may be compiled without masks for the first."""


def unspilled(job: Job, architecture: str, limit: int = 48) -> tuple[Key, Tile] | None:
    """The entry that a table lacks for a function to spill nothing on an architecture; None where none is needed.

    Raises:
        RuntimeError: none of the ``limit`` tiles nearest to the one in use compiles without spills.
    """
    path = Path(job.file)
    module = arguments.load(path)
    launcher = next(one for one in arguments.launchers(path.read_text(encoding="utf-8")) if one.name == job.function)
    types = arguments.annotated(path, job.function)
    given = []
    for length in LENGTHS:
        numbers = arguments.bound(launcher, job.head_dim, {"length": length, **job.sizes})
        given.append(arguments.make(launcher, numbers, types, job.dtype, "meta"))
    own, asked = module.configuration, []

    def compiled(tile: Tile | None) -> list[Compiled]:
        def configuration(*words: Any, **load: Any) -> Tile:
            asked.append((words, own(*words, **load)))
            return tile or asked[-1][1]

        module.configuration = configuration  # type: ignore[attr-defined]
        calls = [call for one in given for call in inspect.launches(module, job.function, one, architecture)]
        return [inspect.compile_call(call, architecture) for call in calls]

    before = compiled(None)
    if _fits(before):
        return None
    (function, tensor, widest), start = asked[0]
    key = (function, architecture, module.padded(widest), tensor.element_size())
    near = candidates(*key[2:], range(min(2, start[3]), 5), descriptors=start[4:], least_rows=start[0])
    for tile in narrowed(near, start, limit)[1:]:
        try:
            after = compiled(tile)
        except Exception:  # what does not compile is no candidate
            continue
        if _fits(after) and _kinds(before) <= _kinds(after):
            return key, tile
    raise RuntimeError(f"{job.function} at head dimension {job.head_dim} spills on {architecture}, as near tiles do")


def _fits(kernels: Sequence[Compiled]) -> bool:
    return not any(one.spills or one.shared > inspect.SHARED_LIMIT[one.architecture] for one in kernels)


def _kinds(kernels: Sequence[Compiled]) -> set[str]:
    """The matrix instructions by family, e.g. wgmma."""
    return {name.split(".")[0] for one in kernels for name in one.tensor_core}
