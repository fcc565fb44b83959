"""The last stage: schedules to source files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import flashlight

if TYPE_CHECKING:
    from flashlight.source import Source
    from flashlight.unit import Unit


@dataclass(frozen=True)
class Files:
    """The text of the files written for a source file; Hopper kernels are None where no schedule can have one."""

    wrapper: str
    kernels: str
    hopper: str | None


def emit(source: Source, units: Sequence[Unit], command: str) -> Files:
    """The wrapper and the kernels of a source file's targets; ``command`` is recorded as what wrote them."""
    from flashlight.emit.module import kernel_modules
    from flashlight.emit.wrapper import wrapper_module

    recorded = command.split()[2].split(":")[0]
    digest = hashlib.sha256(source.text.encode()).hexdigest()[:16]
    provenance = (
        f"Written by flashlight {flashlight.__version__} from {recorded} (sha256 {digest})\n"
        f"with `{command}`; change the source and run that again."
    )
    return Files(wrapper_module(source, units, provenance), *kernel_modules(units, provenance, source.path.name))
