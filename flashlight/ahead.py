"""Tiles for chips that this machine lacks, found by compiling: `flashlight tune --ahead ARCHITECTURE`.

Nothing is timed, so that a tile stays as it is unless its kernel spills registers or does not fit shared memory. Then
the nearest one that does neither, and has matrix instructions of the same kind, takes its place in the file's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flashlight import inspect
from flashlight.inspect import Compiled
from flashlight.tune import Job, Key, Prepared, Tile, candidates, key_of, narrowed

LENGTHS = (1024, 1001)
"""One of whole blocks and one that is not: a kernel may be compiled without masks for the first."""


def unspilled(job: Job, architecture: str, limit: int = 48) -> tuple[Key, Tile] | None:
    """The entry that a table lacks for a function to spill nothing on an architecture; None where none is needed.

    Raises:
        RuntimeError: none of the ``limit`` tiles nearest to the one in use compiles without spills.
    """
    prepared = [Prepared(replace(job, sizes={"length": length, **job.sizes}), "meta") for length in LENGTHS]

    def compiled(tile: Tile | None) -> list[Compiled]:
        calls = []
        for one in prepared:
            one.choose(tile)
            calls += inspect.launches(one.module, job.function, one.arguments, architecture)
        return [inspect.compile_call(call, architecture) for call in calls]

    before = compiled(None)
    if _fits(before):
        return None
    start = prepared[0].before
    function, _, width, size = key_of(prepared[0])
    key = (function, architecture, width, size)
    near = candidates(width, size, range(min(2, start[3]), 5), descriptors=start[4:], least_rows=start[0])
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
