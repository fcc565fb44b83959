"""Every variant is the same attention for FlexAttention, for the reference and for the user's program."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from benchmarks import attention, contestants, variants
from benchmarks.measure import summarised, table


def small(name: str, length: int = 300) -> variants.Problem:
    return variants.problem(variants.VARIANTS[name], 2, length, 16, heads=8, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("name", variants.VARIANTS)
def test_the_generated_function_computes_the_formula(name: str) -> None:
    given = small(name)
    function, original = variants.generated(given.variant)
    expected = variants.reference(given, elements=300 * 70)
    assert variants.relative_error(function(*given.arguments), expected) < 1e-5
    assert variants.relative_error(original(*given.arguments), expected) < 1e-5


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", variants.DEFAULT)
def test_flex_attention_computes_the_formula(name: str) -> None:
    given = small(name)
    mask = contestants.block_mask(given)
    group = given.variant.group > 1
    actual = flex_attention(given.query, given.key, given.value, given.score, mask, enable_gqa=group)
    assert isinstance(actual, torch.Tensor)
    assert variants.relative_error(actual, variants.reference(given)) < 1e-5


@pytest.mark.parametrize("name", variants.DEFAULT)
def test_live_share_is_the_block_masks(name: str) -> None:
    given = small(name, 1024)
    mask = contestants.block_mask(given)
    assert variants.live_share(given) == pytest.approx(1.0 if mask is None else 1 - mask.sparsity() / 100)


def test_documents_are_twelve_and_differ_from_row_to_row() -> None:
    ids = variants.document_ids(2, 1000, 12, torch.device("cpu"), torch.int64)
    assert [len(row.unique()) for row in ids] == [12, 12]
    assert not torch.equal(*ids)
    assert bool((ids.diff() >= 0).all())


def test_a_row_that_failed_is_still_tabulated() -> None:
    time = {"median": 2.0, "low": 1.9, "high": 2.1}
    good = {
        "variant": "vanilla", "batch": 4, "length": 4096, "head_dim": 64, "correct": True, "live": 1.0, "absent": {},
        "error": {"ours": 2e-3}, "ms": {"ours": time, "flex": {**time, "median": 3.0}}, "block_mask_ms": {},
        "tflops": {"ours": 450.0, "flex": 300.0},
    }  # fmt: skip
    bad = {"variant": "causal", "batch": 4, "length": 4096, "head_dim": 64, "failed": "RuntimeError: no"}
    rows = [good, bad]
    assert attention.speedup(good, "flex") == 1.5
    text = attention.tabulated({"rows": rows, "matmul_tflops": 900.0})
    assert [line.split()[0] for line in text.splitlines()] == ["variant", "-------", "vanilla", "causal"]
    assert list(attention.ratios(rows).values()) == [pytest.approx(1.5)]


def test_summaries() -> None:
    timing = summarised([float(n) for n in range(1, 12)])
    assert (timing.median, timing.low, timing.high) == (6.0, 3.0, 9.0)
    assert table(["a", "b"], [["x", "10"]]) == "a   b\n-  --\nx  10"


def test_a_run_from_end_to_end_with_a_stand_in_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(attention, "machine", lambda: {"device": "a CPU", "torch": "2", "triton": "3"})
    monkeypatch.setattr(attention, "matmul_rate", lambda: 800.0)
    monkeypatch.setattr(attention, "problem", functools.partial(variants.problem, device="cpu"))
    monkeypatch.setattr("triton.testing.do_bench", lambda run, **options: [1.0, 2.0, 3.0] if run() is not None else [])
    file = tmp_path / "out.json"
    arguments = ["--variants", "causal,packed_documents", "--shapes", "1x256", "--head-dims", "64"]
    assert attention.main([*arguments, "--contestants", "ours,eager,flex_fa4", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert [row["correct"] for row in report["rows"]] == [True, True]
    assert report["rows"][0]["ms"]["ours"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert "not installed" in report["rows"][0]["absent"]["flex_fa4"]
    assert "causal" in capsys.readouterr().out
    assert attention.main([*arguments, "--contestants", "ours", "--budget", "-1"]) == 1
    assert "Not run: causal" in capsys.readouterr().out
