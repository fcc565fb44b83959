"""What cannot be traced is an error at the user's line."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from flashlight.diagnostics import Diagnostic
from flashlight.source import Source
from flashlight.trace import trace

COLUMNS = sys.version_info >= (3, 11)
"""Python 3.10 does not keep the columns of what runs: there the whole line is marked."""
CASES = {
    "control flow": ("s = q @ k.mT\n    if s.max() > 0:\n        s = s * 2", "FL301", "s.max() > 0"),
    "item": ("s = q @ k.mT * k[0, 0, 0, 0].item()", "FL301", "k[0, 0, 0, 0].item()"),
    "neighbours": ("s = (q @ k.mT).topk(4).values", "FL303", "(q @ k.mT).topk(4)"),
    "sort": ("s = torch.sort(q @ k.mT)[0]", "FL303", "torch.sort(q @ k.mT)"),
    "no rule": ("s = torch.linalg.pinv(q @ k.mT)", "FL302", "torch.linalg.pinv(q @ k.mT)"),
    "random": ("s = F.dropout(q @ k.mT, 0.1)", "FL307", "F.dropout(q @ k.mT, 0.1)"),
    "changed argument": ("q *= 2\n    s = q @ k.mT", "FL304", "q *= 2"),
    "shapes": ("s = q @ k", "FL202", "q @ k"),
    "unknown size": ("s = q @ k.mT\n    for i in range(q.shape[2]):\n        s = s + i", "FL204", "range(q.shape[2])"),
    "mask selects": ("s = q[q > 0] @ k.mT", "FL302", "q[q > 0]"),
    "failure": ("s = q @ k.mT\n    raise ValueError('no')", "FL305", "raise ValueError('no')"),
}


@pytest.mark.parametrize("case", CASES)
def test_points_at_the_expression(program: Callable[[str], Source], case: str) -> None:
    body, code, marked = CASES[case]
    shape = "  # [B, H, S, D]"
    head = f"\ndef f(\n    q: Tensor,{shape}\n    k: Tensor,{shape}\n    v: Tensor,{shape}\n):\n"
    source = program(f"{head}    {body}\n    return s.softmax(-1) @ v\n")
    with pytest.raises(Diagnostic) as caught:
        trace(source, source.target("f"))
    assert caught.value.code == code, caught.value
    rendered = caught.value.render(source.text).splitlines()
    line, carets = next(
        (line, rendered[i + 1]) for i, line in enumerate(rendered) if line.startswith(f"{caught.value.line} |")
    )
    underlined = line[carets.index("^") : carets.rindex("^") + 1]
    assert underlined == (marked if COLUMNS else line.split("|")[1].strip())
    assert rendered[-1].strip().startswith("= help:") and caught.value.hint


def test_a_tensor_without_a_shape(program: Callable[[str], Source]) -> None:
    source = program("\ndef f(q, k, v, bias: Tensor):\n    return (q @ k.mT + bias).softmax(-1) @ v\n")
    with pytest.raises(Diagnostic) as caught:
        trace(source, source.target("f"))
    assert caught.value.render(source.text) == (
        "error[FL201]: the shape of `bias` is not stated\n"
        f" --> {source.path}:6:16\n"
        "  |\n"
        "6 | def f(q, k, v, bias: Tensor):\n"
        "  |                ^^^^\n"
        "  = help: write it next to the parameter: `bias: Tensor,  # [B, H, S, D]`, or pass --shape bias=B,H,S,D"
    )


def test_what_is_returned_must_be_tensors(program: Callable[[str], Source]) -> None:
    source = program("\ndef f(q, k, v):\n    return {'out': (q @ k.mT).softmax(-1) @ v}\n")
    with pytest.raises(Diagnostic) as caught:
        trace(source, source.target("f"))
    assert caught.value.code == "FL306"


def test_a_file_that_cannot_be_imported(program: Callable[[str], Source]) -> None:
    source = program("\nimport nowhere_to_be_found\n\ndef f(q, k, v):\n    return q\n")
    with pytest.raises(Diagnostic) as caught:
        trace(source, source.target("f"))
    assert caught.value.code == "FL106"


def test_a_result_without_a_rule_is_refused_where_it_was_computed(program: Callable[[str], Source]) -> None:
    source = program("""
def f(q, k, v):
    scores = q @ k.mT
    best = scores.max(dim=-1).indices
    return v.gather(2, best[..., None].expand(-1, -1, -1, v.shape[-1]))
""")
    with pytest.raises(Diagnostic, match="the position of the maximum has no rule") as raised:
        trace(source, source.target("f"))
    assert source.text.splitlines()[(raised.value.line or 0) - 1].strip() == "best = scores.max(dim=-1).indices"
    assert raised.value.column == (12 if COLUMNS else None)
