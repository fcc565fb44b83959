"""How tiles with a value for each row and key are read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flashlight import inspect, tune

GENERATED = Path(__file__).parents[2] / "generated"
KERNELS = ("evoformer.py", "evoformer_triton.py")


@pytest.mark.aot
def test_biases_are_copied_ahead_in_whole_vectors(tmp_path: Path) -> None:
    """Full blocks test no mask, so that the compiler copies a bias asynchronously while it multiplies."""
    for name in KERNELS:
        shutil.copy(GENERATED / name, tmp_path)
    one = next(inspect.inspected(tmp_path / KERNELS[1], "sm_90", (64,), "bfloat16"))
    assert one.function == "row_attention"
    assert "cp.async" in one.compiled.copies, one.compiled


@pytest.mark.aot
def test_biases_come_to_hopper_kernels_by_the_copy_engine() -> None:
    table = tune.entries((GENERATED / KERNELS[1]).read_text())
    assert any(key[:3] == ("row_attention", tune.HOPPER, 64) for key in table)
    one = next(inspect.inspected(GENERATED / KERNELS[1], "sm_90", (64,), "bfloat16"))
    # q, k, v, the gate, two biases
    assert one.compiled.copies["cp.async.bulk.tensor"] >= 6 and "cp.async" not in one.compiled.copies, one.compiled
