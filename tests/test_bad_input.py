"""What bad input gets: a diagnostic with its code, line and caret, exit code 1, and nothing written."""

import re
from dataclasses import dataclass, field

import pytest
from typer.testing import CliRunner

from flashlight.cli import app

HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import Tensor\n\n\n"


@dataclass(frozen=True)
class Bad:
    """A file's text, what is typed, and what must be said; ``marked`` is the text above the carets."""

    name: str
    text: str | bytes | None
    code: str
    says: str
    marked: str | None = None
    options: tuple[str, ...] = field(default=())
    target: str = ""


CASES = [
    Bad("missing", None, "FL101", "no file"),
    Bad("not_python", b"\xff\xfe\x00\x81", "FL102", "cannot be read"),
    Bad("syntax_error", "def attend(q, k, v:\n    return q\n", "FL103", "not valid Python", "(q, k, v:"),
    Bad("no_attention", "def double(x):\n    return 2 * x\n", "FL104", "contains attention"),
    Bad("no_functions", "x = 1\n", "FL104", "contains attention"),
    Bad("unknown_target", "def attend(q, k, v):\n    return q @ k.mT @ v\n", "FL105", "`nope`", target=":nope"),
    Bad(
        "import_fails",
        "import not_installed_anywhere\n\n\ndef attend(q, k, v):\n    return (q @ k.mT).softmax(-1) @ v\n",
        "FL106",
        "not_installed_anywhere",
    ),
    Bad(
        "shape_missing",
        HEAD + "def attend(q, k, v, bias):\n    return ((q @ k.mT) + bias).softmax(-1) @ v\n",
        "FL201",
        "bias",
        "bias",
    ),
    Bad(
        "shapes_inconsistent",
        HEAD
        + "def attend(\n    query: Tensor,  # [B, H, S, D]\n    key: Tensor,  # [B, H, S, E]\n"
        + "    value: Tensor,  # [B, H, S, 7]\n) -> Tensor:\n"
        + "    return (query @ key).softmax(-1) @ value.view(3, 5)\n",
        "FL202",
        "",
    ),
    Bad(
        "shape_not_understood",
        HEAD
        + "def attend(\n    query: Tensor,  # [B, H, S, D]\n    key: Tensor,  # [B, H, S, D]\n"
        + "    value: Tensor,  # [B, H, S, D]\n    mask: Tensor,  # [B, H, S+?, 3q]\n) -> Tensor:\n"
        + "    return ((query @ key.mT) + mask).softmax(-1) @ value\n",
        "FL203",
        "not a size",
        "mask",
    ),
    Bad(
        "control_flow_on_values",
        HEAD
        + "def attend(q, k, v):\n    scores = q @ k.mT\n    if scores.max() > 10:\n        scores = scores / 10\n"
        + "    return scores.softmax(-1) @ v\n",
        "FL301",
        "",
        "scores.max() > 10",
    ),
    Bad(
        "operator_without_a_rule",
        HEAD
        + "def attend(q, k, v):\n    scores = q @ k.mT\n    scores = torch.linalg.matrix_exp(scores)\n"
        + "    return scores.softmax(-1) @ v\n",
        "FL302",
        "matrix_exp",
        "torch.linalg.matrix_exp(scores)",
    ),
    Bad(
        "dropout",
        HEAD
        + "def attend(q, k, v):\n    attn = (q @ k.mT).softmax(-1)\n    attn = F.dropout(attn, 0.1)\n"
        + "    return attn @ v\n",
        "FL307",
        "dropout",
        "F.dropout(attn, 0.1)",
    ),
    Bad(
        "weights_returned",
        HEAD + "def attend(q, k, v):\n    attn = (q @ k.mT).softmax(-1)\n    return attn @ v, attn\n",
        "FL401",
        "",
    ),
    Bad(
        "scripted",
        HEAD + "@torch.jit.script\ndef attend(q, k, v):\n    return (q @ k.transpose(2, 3)).softmax(-1) @ v\n",
        "FL105",
        "ScriptFunction",
    ),
    Bad(
        "returns_no_tensor",
        HEAD + 'def attend(q, k, v):\n    return {"out": (q @ k.mT).softmax(-1) @ v, "name": "x"}\n',
        "FL306",
        "",
    ),
]


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_bad_input(bad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "attn.py"
    if isinstance(bad.text, bytes):
        path.write_bytes(bad.text)
    elif bad.text is not None:
        path.write_text(bad.text)
    result = CliRunner().invoke(app, ["transpile", f"attn.py{bad.target}", *bad.options])
    assert result.exit_code == 1, (result.output, result.exception)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"error[{bad.code}]: "), result.stderr
    assert bad.says in lines[0]
    assert re.match(r" *--> attn\.py", lines[1]), result.stderr
    if bad.marked is not None:
        assert marked(lines) == bad.marked, result.stderr
        number = int(lines[1].split(":")[1])
        assert bad.marked in path.read_text().splitlines()[number - 1]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == (["attn.py"] if bad.text else [])


def marked(lines: list[str]) -> str | None:
    """The text above the carets."""
    for above, line in zip(lines, lines[1:], strict=False):
        carets = re.search(r"\^+", line)
        if carets:
            return above[carets.start() : carets.end()]
    return None
