"""Hopper kernels on a CPU, where Triton interprets none: `language` is Gluon by PyTorch, `machine` what it runs on.

Beside wrong numbers this finds what is wrong between groups of warps, and on a GPU goes wrong now and then only: blocks
that are replaced while they are read, barriers that nobody arrives at, tiles that leave before they are whole.
"""

from __future__ import annotations

import builtins
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from flashlight.verify.compare import Rejected
from flashlight.verify.hopper.language import NAMESPACES, Kernel, counted

PROGRAMS = 3
"""How many run at a time: few, so that each has several tiles."""


def kernels(path: Path, seed: int) -> ModuleType:
    """The module of a ``_hopper.py`` file, its kernels launched on CPU tensors.

    Args:
        seed: of the order in which groups of warps and copies go on.
    """
    module = ModuleType(path.stem)
    imported = builtins.__import__

    def replaced(name: str, *given: Any, **named: Any) -> Any:
        return NAMESPACES[name] if name in NAMESPACES else imported(name, *given, **named)

    vars(module)["__builtins__"] = {**vars(builtins), "__import__": replaced, "range": counted}
    code = compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
    exec(code, vars(module))
    for kernel in vars(module).values():
        if isinstance(kernel, Kernel):
            kernel.seed = seed
    return module


def kernel_file(wrapper: ModuleType) -> Any:
    """The ``_triton.py`` module that a wrapper imports."""
    assert wrapper.__file__ is not None
    return vars(wrapper)[f"{Path(wrapper.__file__).stem}_triton"]


def has_kernel(wrapper: ModuleType, function: str) -> bool:
    """Whether a function of a generated module has a Hopper kernel."""
    path = Path(kernel_file(wrapper).__file__.replace("_triton.py", "_hopper.py"))
    return path.is_file() and f"\ndef {function}_kernel(" in path.read_text(encoding="utf-8")


def tile(seed: int) -> dict[str, int]:
    """One of the tiles that Hopper kernels may be launched with."""
    rows, keys, stages = random.Random(seed).choice(
        ((128, 64, 2), (128, 128, 2), (128, 128, 1), (192, 64, 4), (64, 64, 2))
    )
    return {"BLOCK_ROWS": rows, "BLOCK_KEYS": keys, "STAGES": stages}


@contextmanager
def launched(wrapper: ModuleType, tile: Mapping[str, int], seed: int) -> Iterator[None]:
    """Have the functions of a generated module launch their Hopper kernels, with this tile, as on an H100.

    What their launchers test of the tensors is tested, and raises `Rejected` where the portable kernels would run.
    """
    module = kernel_file(wrapper)
    emulated = kernels(Path(module.__file__.replace("_triton.py", "_hopper.py")), seed)
    tile_of = module.hopper_tile

    def taken(*given: Any) -> Any:
        found = tile_of(*given)
        if found is None:
            raise Rejected("the copy engine cannot read these tensors")
        return found

    replacements = {
        "architecture": lambda device: "sm_90",
        "multiprocessors": lambda device: PROGRAMS,
        "hopper_kernels": lambda: emulated,
        "tuned_for_hopper": lambda *given: dict(tile),
        "hopper_tile": taken,
    }
    before = {name: getattr(module, name) for name in replacements}
    vars(module).update(replacements)
    try:
        yield
    finally:
        vars(module).update(before)
