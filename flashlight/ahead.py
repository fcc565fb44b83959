"""Tiles for chips that this machine lacks, found by compiling: `flashlight tune --ahead ARCHITECTURE`.

Nothing is timed, so that a tile stays as it is unless its kernel spills registers or does not fit shared memory. Then
the nearest one that does neither, and has matrix instructions of the same kind, takes its place in the file's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flashlight import inspect
from flashlight.inspect import Compiled
from flashlight.tune import Job, Key, Prepared, Tile, candidates, entries, key_of, lengths, narrowed

LENGTH = 1024
"""The keys of a row where the table has no entry that says for how many it is."""
RAGGED = 23
"""How many fewer keys make a length that is no multiple of a block: a kernel may have no masks where it is one."""


def unspilled(job: Job, architecture: str, limit: int = 48) -> dict[Key, Tile]:
    """The entries that a table lacks for a function to spill nothing on an architecture.

    Raises:
        RuntimeError: none of the ``limit`` tiles nearest to the one in use compiles without spills.
    """
    table = entries(Path(job.file).read_text(encoding="utf-8"))
    counts = lengths(table, job.function, architecture) or [LENGTH]
    found = (_unspilled(job, architecture, length, limit) for length in counts)
    return dict(entry for entry in found if entry is not None)


def _unspilled(job: Job, architecture: str, length: int, limit: int) -> tuple[Key, Tile] | None:
    """The entry for a number of keys; None where none is needed."""
    sizes = ({"length": count, **job.sizes} for count in (length, length - RAGGED))
    prepared = [Prepared(replace(job, sizes=given), "meta") for given in sizes]

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
    function, _, width, size, length = key_of(prepared[0])
    key = (function, architecture, width, size, length)
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
