"""The traced program computes what the function computes, on sizes other than those of the trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flashlight.source import contains_attention, read
from flashlight.trace import Traced

ROOT = Path(__file__).parents[2]
FILES = sorted([*(Path(__file__).parent / "programs").glob("*.py"), *(ROOT / "examples").glob("*.py")])
TARGETS = [
    pytest.param(path, target.name, id=f"{path.stem}-{target.name}")
    for path in FILES
    for source in [read(path)]
    for target in source.targets
    if contains_attention(source, target)
]


@pytest.mark.parametrize(("path", "name"), TARGETS)
def test_same_as_eager(agrees: Callable[..., Traced], path: Path, name: str) -> None:
    agrees(read(path), name)
