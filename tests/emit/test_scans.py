"""Kernels that accumulate along the keys agree with their originals, and accumulate in the order that the sums have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flashlight import api
from flashlight.cli import app
from tests.emit.conftest import SEED

PROGRAMS = Path(__file__).parents[1] / "trace" / "programs" / "scans.py"
KERNELS = {
    "positions": ["tl.cumsum(gates, 1, reverse=True)", "-BLOCK_KEYS)", "running_gates[:, None]"],
    "windowed_positions": ["tl.cumsum(gates, 1, reverse=True)", "part != 1:"],
    "forward_positions": ["for key_start in tl.range(start, stop, BLOCK_KEYS)", "live_stop ="],
    "backward_positions": ["tl.static_range(1 if WHOLE else 0, 2)", "part == 0 or"],
    "from_both_ends": ["2 passes over"],
    "cumulative_weights": ["2 passes over", "tl.cumsum("],
    "products": ["tl.cumprod(", "tl.reduce(", "tl.full([BLOCK_ROWS], 1, tl.float32)"],
    "counts": ["tl.zeros([BLOCK_ROWS], tl.int32)"],
    "gates_of_keys": ["= tl.zeros([], tl.float32)", "tl.cumsum("],
    "reversed_gates": ["cumulative = torch.cumsum(", ").flip(-1)", "one pass over j in blocks."],
}
WHOLE = """
import torch, scans

for length in (64, 128, 100):
    q, k, v = (torch.randn(1, 1, length, 16) for _ in range(3))
    for name in ("backward_positions", "cumulative_weights"):
        actual, wanted = (getattr(scans, f)(q, k, v) for f in (name, f"_{name}_pytorch"))
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
"""


@pytest.mark.interpret
@pytest.mark.parametrize("name", KERNELS)
def test_agrees_with_the_original(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["transpile", f"{PROGRAMS}:{name}", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    text = (tmp_path / "scans_triton.py").read_text()
    for expected in KERNELS[name]:
        assert expected in text
    outcomes = api.verify(PROGRAMS, "cpu", out=tmp_path, examples=5, seed=SEED)
    assert outcomes and not any(outcome.failure for outcome in outcomes), outcomes


@pytest.mark.interpret
def test_whole_blocks_are_walked_from_the_last(tmp_path: Path, interpreted: Callable[[str], None]) -> None:
    """At a length of whole blocks the part that has a mask is compiled away, be it the first or the last."""
    api.write(api.transpile(PROGRAMS, ["backward_positions", "cumulative_weights"], out=tmp_path))
    interpreted(WHOLE)
