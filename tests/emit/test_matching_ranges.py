"""Blocks of keys whose values match a tile's rows, and the order of those tiles, against brute force."""

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


KEYS = 4
many = [n // 9000 for n in range(18000)]  # more blocks than are looked at in one go
lists = [0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 5], [3] * 8, [0, 4, 0, 4, 4, 4, 4, 4, 0, 0, 0, 0], [7], [2**40, -(2**40)]
all_rows = [-1, 0, 0, 0, 1, 1, 1, 2, 2, 3, 5], [9, 7, 4, 3, 2**40]
# three groups of warps have a number of rows that is no power of two
for of_keys, of_rows, ROWS in itertools.product([*lists, many], all_rows, (2, 3)):
    ranges = kernels.matching_ranges(torch.tensor([of_rows]), torch.tensor([of_keys]), ROWS, KEYS)
    blocks = [of_rows[i : i + ROWS] for i in range(0, len(of_rows), ROWS)]
    parts = [of_keys[i : i + KEYS] for i in range(0, len(of_keys), KEYS)]
    assert ranges.shape == (1, len(blocks), 4)
    for rows, (start, stop, one_start, one_stop) in zip(blocks, ranges[0].tolist()):
        live = [n for n, part in enumerate(parts) if min(part) <= max(rows) and max(part) >= min(rows)]
        one = [n for n, part in enumerate(parts) if set(part) == set(rows) and len(set(rows)) == 1]
        case = (rows, of_keys[:13])
        if live:
            assert (start, stop) == (live[0] * KEYS, min((live[-1] + 1) * KEYS, len(of_keys))), case
        else:
            assert stop <= start and start % KEYS == 0, case
        run = list(range(one_start // KEYS, one_stop // KEYS))
        assert run == one or (not run and one != list(range(one[0], one[-1] + 1))), case

# values that all rows share
ROWS = 2
key_values = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 2, 2, 2, 2]])
ranges = kernels.matching_ranges(torch.full((1, 1), 1).expand(2, -1), key_values, ROWS, KEYS)
assert ranges.tolist() == [[[4, 8, 4, 8]], [[0, 4, 0, 4]]]

# in which order blocks of rows start: the most keys first, of as many the later block; 4096 at a time
torch.manual_seed(torch.seed() % 2**32)
print("seed", torch.initial_seed())
for batch, blocks in ((1, 1), (3, 41), (2, 2100)):
    ranges = torch.randint(0, 9, (batch, blocks, 4), dtype=torch.int32)
    same, order = kernels.heaviest_first(ranges)
    counts = (ranges[..., 1] - ranges[..., 0]).clamp(min=0).flatten().tolist()
    expected = []
    for first in range(0, len(counts), 4096):
        section = range(first, min(first + 4096, len(counts)))
        expected += sorted(section, key=lambda block: (-counts[block], -block))
    assert same is ranges and order.tolist() == [*expected, 0]

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


HEAD = """
def attend(
    q: Tensor,  # [B, H, S_q, D]
    k: Tensor,  # [B, H, S_k, D]
    v: Tensor,  # [B, H, S_k, D]
    {given}
):
    scores = q @ k.mT
    scores = scores.masked_fill(~({seen}), -math.inf)
    return scores.softmax(-1) @ v
"""
SEEN = {
    "a number": ("ids: Tensor,  # [B, S_k] int64", "(ids == 1)[:, None, None]"),
    "a value of the batch": (
        "ids: Tensor,  # [B, S_k] int64\n    wanted: Tensor,  # [B] int64",
        "(ids == wanted[:, None])[:, None, None]",
    ),
    "a value of the head": (
        "ids: Tensor,  # [B, S_k] int64\n    wanted: Tensor,  # [H] int64",
        "ids[:, None, None] == wanted[:, None, None]",
    ),
    "positions": (
        "ids: Tensor,  # [B, S_k] int64",
        "(torch.arange(q.shape[2]) // 3)[:, None] - 1 == ids[:, None, None]",
    ),
    "values of rows and heads": (
        "ids: Tensor,  # [B, S_k] int64\n    own: Tensor,  # [H, S_q] int64",
        "ids[:, None, None] == 2 * own[..., None] - 1",
    ),
}


@pytest.mark.interpret
@pytest.mark.parametrize("case", SEEN)
def test_what_rows_may_compare_with(case: str, verified: Callable[..., str]) -> None:
    given, seen = SEEN[case]
    assert "matching_ranges(" in verified(HEAD.format(given=given, seen=seen)).partition("_kernel,\n")[2]


@pytest.mark.interpret
def test_runs_of_blocks(interpreted: Callable[[str], None]) -> None:
    interpreted(SCRIPT)
