"""What no kernel of this kind can compute is refused, with the line, a reason and what to write instead."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flashlight.cli import app

HEAD = """import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    weight: Tensor,  # [H, 1, 3, 3]
) -> Tensor:
    scores = q @ k.mT
"""
TAIL = "    return scores.softmax(-1) @ v\n"
PROGRAMS = {
    "multi_token": (
        "    scores = F.conv2d(scores, weight, padding=1, groups=q.shape[1])\n" + TAIL,
        "FL303",
        "conv2d needs the scores of neighbouring tiles",
        "F.conv2d(scores, weight, padding=1, groups=q.shape[1])",
    ),
    "top_k": (
        "    kept = scores.topk(8, dim=-1).values[..., -1:]\n"
        '    scores = scores.masked_fill(scores < kept, float("-inf"))\n' + TAIL,
        "FL303",
        "topk needs all scores of a row in order",
        "scores.topk(8, dim=-1)",
    ),
    "sparsemax": (
        "    ordered, _ = scores.sort(dim=-1, descending=True)\n"
        "    count = torch.arange(1, scores.shape[-1] + 1, device=q.device)\n"
        "    support = 1 + count * ordered > ordered.cumsum(-1)\n"
        "    size = support.sum(-1, keepdim=True)\n"
        "    threshold = (ordered.cumsum(-1).gather(-1, size - 1) - 1) / size\n"
        "    return (scores - threshold).clamp(min=0) @ v\n",
        "FL303",
        "sort needs all scores of a row in order",
        "scores.sort(dim=-1, descending=True)",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_refused_at_the_line(name: str, tmp_path: Path) -> None:
    body, code, reason, marked = PROGRAMS[name]
    path = tmp_path / f"{name}.py"
    path.write_text(HEAD + body)
    result = CliRunner().invoke(app, ["transpile", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert f"error[{code}]: {reason}" in result.output
    lines = result.output.splitlines()
    carets = next(number for number, line in enumerate(lines) if "^" in line)
    column = lines[carets].index("^")
    assert lines[carets - 1][column : lines[carets].rindex("^") + 1] == marked
    assert "help:" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "body",
    ["scores = scores.sigmoid().cumsum(-2)", "scores = F.pad(scores.sigmoid().cumsum(-1)[..., :-1], (1, 0))"],
    ids=["along_the_queries", "cut_off"],
)
def test_other_sums_than_along_the_keys_are_refused(body: str, tmp_path: Path) -> None:
    """Sums along the queries would need other tiles; a sum that ends before its key is written as a difference."""
    path = tmp_path / "sums.py"
    path.write_text(f"{HEAD}    {body}\n{TAIL}")
    result = CliRunner().invoke(app, ["transpile", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "error[FL403]" in result.output
    assert "accumulates, but not along the keys" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("query", ["[B, H, D]", "[B, H, 1, D]"])
def test_one_query_by_its_shape(query: str, tmp_path: Path) -> None:
    """A kernel has rows; their number may be 1 when it runs."""
    path = tmp_path / "decoding.py"
    text = HEAD.replace("[B, H, S, D]", query, 1).replace(
        "scores = q @ k.mT", "q = q.view(-1, k.shape[1], 1, k.shape[3])\n    scores = q @ k.mT"
    )
    path.write_text(text + TAIL)
    result = CliRunner().invoke(app, ["transpile", str(path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "error[FL402]: `attend` compares every key along S with one query" in result.output
