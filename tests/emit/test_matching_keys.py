"""Blocks of keys whose values match a tile's rows, against brute force, where none match too."""

from __future__ import annotations

from collections.abc import Callable
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
def probe(low_ptr, high_ptr, first, last, row_low, row_high, out_ptr, BLOCK_KEYS: tl.constexpr):
    start, stop, one_start, one_stop = kernels.matching_keys(
        low_ptr, high_ptr, first, last, row_low, row_high, BLOCK_KEYS
    )
    tl.store(out_ptr, start)
    tl.store(out_ptr + 1, stop)
    tl.store(out_ptr + 2, one_start)
    tl.store(out_ptr + 3, one_stop)


KEYS = 4
many = [n // 300 for n in range(600)]  # more blocks than are looked at in one go
for ids in ([0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 5], [3] * 8, [0, 4, 0, 4, 4, 4, 4, 4, 0, 0, 0, 0], [7], many):
    values = torch.tensor([ids], dtype=torch.int32)
    low, high = kernels.block_bounds(values, KEYS)
    parts = [ids[i : i + KEYS] for i in range(0, len(ids), KEYS)]
    assert low.tolist() == [[min(part) for part in parts]] and high.tolist() == [[max(part) for part in parts]]
    wholes = ((0, len(ids)), (KEYS, len(ids) // 2), (len(ids) // KEYS * KEYS, 3))
    bounds = itertools.combinations_with_replacement(range(-1, 7), 2)
    for (begin, end), (first, last) in itertools.product(wholes, bounds):
        if ids is many and not -1 <= first <= last < 2:
            continue
        out = torch.empty(4, dtype=torch.int32)
        probe[(1,)](low, high, begin, end, first, last, out, BLOCK_KEYS=KEYS)
        start, stop, one_start, one_stop = out.tolist()
        among = [n for n in range(len(parts)) if begin <= n * KEYS < end]
        live = [n for n in among if min(parts[n]) <= last and max(parts[n]) >= first]
        one = [n for n in among if set(parts[n]) == {{first}} and first == last]
        case = (ids[:13], begin, end, first, last)
        if live:
            assert (start, stop) == (live[0] * KEYS, min((live[-1] + 1) * KEYS, end)), case
        else:
            assert start == stop and start % KEYS == 0, case
        run = list(range(one_start // KEYS, one_stop // KEYS))
        assert run == one or (not run and one != list(range(one[0], one[-1] + 1))), case

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
def test_runs_of_blocks(interpreted: Callable[[str], None]) -> None:
    interpreted(SCRIPT)
