"""The traced program computes what the function computes, on sizes other than those of the trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flashlight.source import Source, contains_attention, read
from flashlight.trace import Traced
from tests.trace.conftest import SIZES, agree

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


@pytest.mark.filterwarnings("ignore:var")
@pytest.mark.parametrize("keys", [1, 2, 3, 5])
def test_a_variance_of_no_more_values_than_it_corrects_for(program: Callable[[str], Source], keys: int) -> None:
    """Eager divides by zero, not by a negative number."""
    source = program("\ndef f(q, k, v):\n    return torch.var(q @ k.mT, dim=-1, correction=3)\n")
    agree(source, "f", {**SIZES, "S_kv": keys})
