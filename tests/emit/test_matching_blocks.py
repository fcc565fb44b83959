"""Blocks of keys whose values match a tile's rows, against brute force, where none match too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GENERATED = Path(__file__).parents[2] / "generated"
SCRIPT = f"""
import itertools
import sys
import torch
import triton
import triton.language as tl

sys.path.insert(0, {str(GENERATED)!r})
import packed_documents as wrapper
import packed_documents_triton as kernels


@triton.jit
def probe(low_ptr, high_ptr, blocks, row_low, row_high, out_ptr):
    start, stop, full_start, full_stop = kernels.matching_blocks(low_ptr, high_ptr, blocks, row_low, row_high)
    tl.store(out_ptr, start)
    tl.store(out_ptr + 1, stop)
    tl.store(out_ptr + 2, full_start)
    tl.store(out_ptr + 3, full_stop)


KEYS = 4
for ids in ([0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 5], [3] * 8, [0, 4, 0, 4, 4, 4, 4, 4, 0, 0, 0, 0], [7]):
    values = torch.tensor([ids], dtype=torch.int32)
    low, high = kernels.block_bounds(values, KEYS)
    parts = [ids[i : i + KEYS] for i in range(0, len(ids), KEYS)]
    assert low.tolist() == [[min(part) for part in parts]] and high.tolist() == [[max(part) for part in parts]]
    for first, last in itertools.combinations_with_replacement(range(-1, 9), 2):
        out = torch.empty(4, dtype=torch.int32)
        probe[(1,)](low, high, len(parts), first, last, out)
        start, stop, full_start, full_stop = out.tolist()
        live = [n for n, part in enumerate(parts) if min(part) <= last and max(part) >= first]
        full = [n for n, part in enumerate(parts) if set(part) == {{first}} and first == last]
        assert list(range(start, stop)) == (list(range(live[0], live[-1] + 1)) if live else []), (ids, first, last)
        run = list(range(full_start, full_stop))
        assert run == full or (not run and full != list(range(full[0], full[-1] + 1))), (ids, first, last)

# a whole kernel: a tile of rows between two documents, before and after all of them
torch.manual_seed(0)
query, key, value = (torch.randn(1, 1, size, 16) for size in (40, 100, 100))
documents = torch.tensor([[0] * 50 + [2] * 50])
for own in (-1, 0, 1, 2, 3):
    rows = torch.full((1, 40), own)
    ours = wrapper.packed_documents_cross(query, key, value, rows, documents)
    mask = rows[:, None, :, None] == documents[:, None, None, :]
    eager = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.interpret
def test_runs_of_blocks(tmp_path: Path) -> None:
    script = tmp_path / "probe.py"  # Triton reads a kernel's source from its file
    script.write_text(SCRIPT)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
