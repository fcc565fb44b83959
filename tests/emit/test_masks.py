"""Masks in kernels: which blocks test which condition, with as little arithmetic for each score as it takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = """
def attend(
    q: Tensor,  # [B, H, S_q, D]
    k: Tensor,  # [B, H, S_k, D]
    v: Tensor,  # [B, H, S_k, D]
    window: int,
):
    S_q, S_k = q.size(2), k.size(2)
    i, j = torch.arange(S_q)[:, None], torch.arange(S_k)
    distance = i - j
    scores = q @ k.mT{bias}
    scores = scores.masked_fill(~({kept}), {fill})
    return {weights} @ v
"""


def program(kept: str, fill: str = "-math.inf", bias: str = "", weights: str = "scores.softmax(-1)") -> str:
    return HEAD.format(kept=kept, fill=fill, bias=bias, weights=weights)


def by_blocks(kernel: str) -> dict[str, str]:
    """What the loop over the keys tests, by the blocks that do."""
    found = re.findall(r"if (.*):\n(?: +distance = .*\n)? +scores = [tg]l\.where\(\s*((?:.|\n)*?),\s+scores,", kernel)
    return {blocks: " ".join(condition.split()) for blocks, condition in found}


EARLY, LATE = "key_start < full_start", "key_start >= full_stop"
WINDOW = "(distance >= 0) & (distance < window)"


def test_each_condition_is_tested_where_it_can_fail(kernels: Callable[[str], str], tmp_path: Path) -> None:
    """In Hopper kernels; portable ones test both sides at once, by one difference."""
    portable = kernels(program(WINDOW))
    assert by_blocks(portable) == {"partial": f"(keys < S_k)[None, :] & {WINDOW}"}
    written = (tmp_path / "out" / "program_hopper.py").read_text()
    assert by_blocks(written) == {
        LATE: "(keys < S_k)[None, :] & (keys[None, :] <= rows[:, None])",
        EARLY: "keys[None, :] > (rows - window)[:, None]",
    }
    assert "distance" not in written.split('"""')[-1]
    assert re.search(rf"if partial:\n +if {EARLY}:\n", written), "full blocks make one test"


def test_tests_that_follow_each_other_stand_within_one(kernels: Callable[[str], str], tmp_path: Path) -> None:
    ids = "(documents[:, None, :, None] == documents[:, None, None, :]) & (j <= i)"
    text = program(ids).replace("window: int,", "documents: Tensor,  # [B, S_q] int64").replace("S_k", "S_q")
    kernels(text)
    written = (tmp_path / "out" / "program_hopper.py").read_text()
    assert re.search(r"if documents_mixed \| partial:\n +if documents_mixed:\n(?:.|\n)*?\n +if partial:\n", written)


def test_a_condition_that_fails_on_both_sides_has_one_test_with_the_others(kernels: Callable[[str], str]) -> None:
    written = kernels(program("(distance.abs() <= window) & (distance >= 0)"))
    assert f"partial = ({EARLY}) | ({LATE})" in written
    assert f"if {EARLY}" not in written and f"if {LATE}" not in written


def test_one_side_alone_needs_no_other_test(kernels: Callable[[str], str]) -> None:
    written = kernels(program("distance >= 0"))
    assert "partial = key_start >= full_stop" in written and "full_start" not in written


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("distance > 3", "keys[None, :] < (rows - 3)[:, None]"),
        ("j - i >= -window", "keys[None, :] >= (rows - window)[:, None]"),
        ("distance + (S_k - S_q) < window", "keys[None, :] > (rows + S_k - S_q - window)[:, None]"),
        # the two sides might not fit 32 bits apart, or the key has a factor
        ("distance < 3 * window", "distance < tl.cast(window, tl.int64) * 3"),
        ("i - 2 * j < window", "rows[:, None] - (keys * 2)[None, :] < window"),
    ],
)
def test_the_key_stands_alone(condition: str, expected: str, kernels: Callable[[str], str]) -> None:
    assert expected in " ".join(by_blocks(kernels(program(condition))).values())


def test_a_difference_with_a_variable_is_compared(kernels: Callable[[str], str]) -> None:
    """A bias has it computed for every score anyway."""
    written = kernels(program(WINDOW, bias=" - 0.1 * distance.abs()"))
    assert "tl.where((keys < S_k)[None, :]" not in written
    assert re.search(r"distance = rows\[:, None\] - keys\[None, :\]", written)
    assert "(distance >= 0) & (distance < window)" in written


KEPT = {
    "window": program(WINDOW),
    "window_of_sums": program("(j <= i + window) & (j > i - 2)"),
    "window_aligned": program("(distance + S_k - S_q >= 0) & (distance + S_k - S_q < window)"),
    "window_filled": program(WINDOW, fill="-1e9"),
    "window_ahead_filled": program("(distance >= window) & (distance < 9)", fill="-1e9"),
    "window_and_prefix": program("((distance >= 0) | (j < 7)) & (distance < window)"),
    "window_and_steps": program(f"{WINDOW} & (distance % 3 == 0)"),
    "window_and_decay": program(WINDOW, weights="(scores.softmax(-1) * distance)"),
    "around": program("(distance.abs() <= window) & (distance >= -1)"),
    "chunks": program("(i // 24 == j // 24) & (distance < window)"),
}
SCRIPT = """
import itertools, math, torch
import program, program_triton

torch.manual_seed(0)
for name in {names}:
    for rows, keys in ((16, 32), (32, 16)):
        program_triton.configuration = lambda *_, **__: (rows, keys, 4, 1, False)
        for (S_q, S_k), window in itertools.product(((47, 47), (33, 50), (40, 17)), (-3, 1, 15, 33, 100)):
            q, k, v = (torch.randn(1, 1, length, 16, dtype=torch.float64) for length in (S_q, S_k, S_k))
            wanted = getattr(program, name)(q, k, v, window)
            actual = getattr(program_triton, name)(q.float(), k.float(), v.float(), window)
            torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-4, equal_nan=True)
"""


@pytest.mark.interpret
def test_agrees_at_every_width_of_the_window(
    tmp_path: Path, kernels: Callable[[str], str], interpreted: Callable[[str], None]
) -> None:
    """Narrower than a block, which is cut on both sides, and wider than all keys; some rows see none."""
    kernels("\n".join(text.replace("def attend", f"def {name}") for name, text in KEPT.items()))
    (tmp_path / "out" / "program_triton.py").rename(tmp_path / "program_triton.py")
    interpreted(SCRIPT.format(names=list(KEPT)))
