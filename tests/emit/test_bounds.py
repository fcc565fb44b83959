"""Bounds of loops over keys are 32-bit: a descriptor takes no 64-bit place, and a loop has the type of its bounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GENERATED = Path(__file__).parents[2] / "generated"
_BOUND = re.compile(r"^    ((?:live|full)_(?:start|stop)) = ((?:.|\n        )+)$", re.MULTILINE)
_NARROWED = re.compile(r"tl\.cast\([^\n]*?, tl\.int32\)")


@pytest.mark.parametrize("path", sorted(GENERATED.glob("*_triton.py")), ids=lambda path: path.stem)
def test_bounds_are_narrow(path: Path) -> None:
    for kernel in path.read_text(encoding="utf-8").split("@triton.jit")[1:]:
        wide = re.findall(r"^    (\w+) = .*\.to\(tl\.int64\)$", kernel, re.MULTILINE)
        for name, bound in _BOUND.findall(kernel):
            found = [word for word in wide if re.search(rf"\b{word}\b", _NARROWED.sub("", bound))]
            assert not found, f"{name} = {bound}"


@pytest.mark.aot
def test_a_causal_row_of_the_grid_compiles_with_descriptors() -> None:
    """Rows are heads here, so that the last live key depends on a place in the grid, which is 64-bit."""
    from flashlight import inspect

    path = GENERATED / "latent_triton.py"
    decode = [one for one in inspect.inspected(path, "sm_90", (64,), "bfloat16") if one.function.endswith("_decode")]
    assert decode
    for one in decode:
        assert any("bulk" in copy for copy in one.compiled.copies), one.compiled.copies
