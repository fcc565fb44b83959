"""Offsets of addresses: rows may lie further apart than 32 bits count, within one tile too."""

from __future__ import annotations

from collections.abc import Callable

SCRIPT = """
import torch
from generated import multi_head

torch.manual_seed(0)
rows, step = 130, 17 * 2**20  # 127 rows further on, within the first tile, 32 bits would have wrapped around
far = torch.empty(rows * step, dtype=torch.float16).as_strided((1, 1, rows, 16), (1, 1, step, 1))
near = torch.randn(1, 1, rows, 16, dtype=torch.float16)
far.copy_(near)
key, value = (torch.randn(1, 1, 5, 16, dtype=torch.float16) for _ in range(2))
with torch.no_grad():
    assert torch.equal(multi_head.multi_head(far, key, value), multi_head.multi_head(near, key, value))
    keys = (near, far)
    a, b = (multi_head.multi_head(key, one, near) for one in keys)
    assert torch.equal(a, b)
"""


def test_rows_that_lie_far_apart(interpreted: Callable[[str], None]) -> None:
    interpreted(SCRIPT)
