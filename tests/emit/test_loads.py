"""How tiles with a value for each row and key are read."""

from __future__ import annotations

from pathlib import Path

import pytest

GENERATED = Path(__file__).parents[2] / "generated"


@pytest.mark.aot
def test_biases_are_copied_ahead_in_whole_vectors() -> None:
    """Full blocks test no mask, so that the compiler copies a bias asynchronously while it multiplies."""
    from flashlight import inspect

    one = next(inspect.inspected(GENERATED / "evoformer_triton.py", "sm_90", (64,), "bfloat16"))
    assert one.function == "row_attention"
    assert "cp.async" in one.compiled.copies, one.compiled
