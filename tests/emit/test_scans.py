"""Kernels that accumulate along the keys agree with their originals, and accumulate in the order that the sums have."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flashlight import api
from flashlight.cli import app

PROGRAMS = Path(__file__).parents[1] / "trace" / "programs" / "scans.py"
KERNELS = {
    "positions": ["tl.cumsum(gates, 1, reverse=True)", "-BLOCK_KEYS)", "running_gates[:, None]"],
    "windowed_positions": ["tl.cumsum(gates, 1, reverse=True)", "part != 1:"],
    "forward_positions": ["for key_start in tl.range(start, stop, BLOCK_KEYS)", "live_stop ="],
    "from_both_ends": ["2 passes over"],
    "cumulative_weights": ["2 passes over", "tl.cumsum("],
    "products": ["tl.cumprod(", "tl.reduce(", "tl.full([BLOCK_ROWS], 1, tl.float32)"],
    "counts": ["tl.zeros([BLOCK_ROWS], tl.int32)"],
    "gates_of_keys": ["= tl.zeros([], tl.float32)", "tl.cumsum("],
    "reversed_gates": ["cumulative = torch.cumsum(", ").flip(-1)", "one pass over j in blocks."],
}


@pytest.mark.interpret
@pytest.mark.parametrize("name", KERNELS)
def test_agrees_with_the_original(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["transpile", f"{PROGRAMS}:{name}", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "scans_triton.py").read_text()
    for expected in KERNELS[name]:
        assert expected in text
    (outcome,) = api.verify(PROGRAMS, "cpu", out=tmp_path, examples=5)
    assert not outcome.failure, outcome.failure
