"""What is read off a file without running it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from flashlight.diagnostics import CODES, Diagnostic
from flashlight.source import chosen, contains_attention, parse, read, states_shapes
from flashlight.source.shapes import Shape, stated

TEXT = '''
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor


def helper(x):
    return torch.softmax(x, -1)


def attend(
    q: Float[Tensor, "B H S D"],
    k: Tensor,  # [B, H, 49, D]
    v: Tensor, w: Tensor,  # [B, H, S, 2*D] float32
    *,
    mask: "Bool[torch.Tensor, 'B S']" = None,
    scale: float = 1.0,  # a comment about something else
) -> Tensor:
    """Attends."""
    scores = (
        q @ k.mT
    )
    scores += 1
    a, b = scores, scores
    for x in range(3):
        c: Tensor = x
    return helper(scores) @ v


def _private(q, k):
    return q @ k


class Module:
    def method(self):
        return 1
'''


def test_functions_and_parameters() -> None:
    source = parse(TEXT, "file.py")
    assert [function.name for function in source.functions] == ["helper", "attend", "_private"]
    assert [target.name for target in source.targets] == ["helper", "attend"]
    target = source.target("attend")
    assert target.docstring == "Attends." and (target.line, target.column) == (11, 5)
    described = [(p.name, p.kind, p.default, p.comment) for p in target.parameters]
    assert described == [
        ("q", "positional", None, None),
        ("k", "positional", None, "[B, H, 49, D]"),
        ("v", "positional", None, None),
        ("w", "positional", None, "[B, H, S, 2*D] float32"),
        ("mask", "keyword", "None", None),
        ("scale", "keyword", "1.0", "a comment about something else"),
    ]


def test_statements() -> None:
    source = parse(TEXT, "file.py")
    lines = TEXT.splitlines()
    names = {lines[line - 1].strip(): statement.name for line, statement in source.statements.items()}
    assert names["q @ k.mT"] == "scores" and names["scores += 1"] == "scores" and names["c: Tensor = x"] == "c"
    assert names["a, b = scores, scores"] is None and names["return helper(scores) @ v"] is None
    statement = source.statement(lines.index("        q @ k.mT") + 1)
    assert statement is not None and statement.last_line - statement.first_line == 2


def test_attention_is_found_through_helpers() -> None:
    source = parse(TEXT, "file.py")
    assert [t.name for t in source.functions if contains_attention(source, t)] == ["attend"]


def test_what_other_functions_call_is_a_target_only_with_shapes() -> None:
    text = """
        def scores(query, key):
            return (query @ key.mT).softmax(-1) @ key

        def pooled(query, key):  # of no shape either, but nothing calls it
            return (query @ key.mT).softmax(-1) @ key

        def inner(q: Tensor):  # [B, H, S, D]
            return (q @ q.mT).softmax(-1) @ q

        def attend(q: Tensor):  # [B, H, S, D]
            return scores(q, q) + inner(q)

        def kernel(q: Tensor):  # [B, H, S, D]
            return q / (1 + q)
    """
    source = parse(textwrap.dedent(text), "file.py")
    assert [target.name for target in chosen(source)] == ["pooled", "inner", "attend"]
    assert not states_shapes(source, source.target("pooled")) and states_shapes(source, source.target("kernel"))


def test_shapes() -> None:
    target = parse(TEXT, "file.py").target("attend")
    found = {p.name: stated(p, {"v": ("B", "S", "D")}, Path("file.py")) for p in target.parameters}
    assert found == {
        "q": Shape(("B", "H", "S", "D")),
        "k": Shape(("B", "H", "49", "D")),
        "v": Shape(("B", "S", "D")),
        "w": Shape(("B", "H", "S", "2 * D"), "float32"),
        "mask": Shape(("B", "S"), "bool"),
        "scale": None,
    }


@pytest.mark.parametrize(
    ("comment", "shape"),
    [
        ("[B, H, S, D]", Shape(("B", "H", "S", "D"))),
        ("[B, S] int", Shape(("B", "S"), "int64")),
        ("[H] torch.float32", Shape(("H",), "float32")),
        ("[]", Shape(())),
        ("shape: [B, S] bool, true is kept", Shape(("B", "S"), "bool")),
        ("[[B, 1, 1, S] bool, [H, S, S]]", (Shape(("B", "1", "1", "S"), "bool"), Shape(("H", "S", "S")))),
        ("the keys", None),
    ],
)
def test_shape_comments(comment: str, shape: object) -> None:
    target = parse(f"def f(\n    x: Tensor,  # {comment}\n):\n    pass\n", "file.py").target("f")
    assert stated(target.parameters[0], {}, Path("file.py")) == shape


@pytest.mark.parametrize("comment", ["[B, ..., D]", "[*batch, S, D]", "[B, S + ]"])
def test_shapes_that_are_not_understood(comment: str) -> None:
    target = parse(f"def f(\n    x: Tensor,  # {comment}\n):\n    pass\n", "file.py").target("f")
    with pytest.raises(Diagnostic) as caught:
        stated(target.parameters[0], {}, Path("file.py"))
    assert caught.value.code == "FL203" and caught.value.line == 2 and caught.value.column == 5


def test_bad_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:\n    pass\n")
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    for path, code in ((tmp_path / "none.py", "FL101"), (binary, "FL102"), (broken, "FL103")):
        with pytest.raises(Diagnostic) as caught:
            read(path)
        assert caught.value.code == code
    with pytest.raises(Diagnostic) as caught:
        parse("def f(): pass", "file.py").target("g")
    assert caught.value.code == "FL105" and caught.value.hint == "public functions: f"


def test_diagnostics_print_like_rustc() -> None:
    diagnostic = Diagnostic("FL301", "it depends", "do not", path="a.py", line=2, column=5, end_column=8)
    assert diagnostic.render("x\nabc def ghi\n") == (
        "error[FL301]: it depends\n --> a.py:2:5\n  |\n2 | abc def ghi\n  |     ^^^\n  = help: do not"
    )
    assert all(code.startswith("FL") and len(code) == 5 for code in CODES)


DOCUMENTED = '''
def attend(x, w_q, bias, mask, lengths, heads, eps, table):
    """Attention over x, of which (B, S) rows are read.

    Args:
        x (torch.Tensor): the input, of shape (B, S, E)
        w_q: weights, [E, 2*D] in float32 or so
        bias : Tensor
            what is added, shape (S,)
        mask: boolean tensor of shape `(B, 1, S)`
        lengths: [B], int64, between 1 and S
        heads: how many, one of (4, 8)
        eps (float): within (0, 1]
    :param table: (see [1])

        ... a paragraph on x: [A, B]
    """
'''


def test_docstrings_state_shapes() -> None:
    target = parse(DOCUMENTED, "file.py").target("attend")
    found = {parameter.name: stated(parameter, {}, Path("file.py")) for parameter in target.parameters}
    assert found == {
        "x": Shape(("B", "S", "E")),
        "w_q": Shape(("E", "2 * D")),
        "bias": Shape(("S",)),
        "mask": Shape(("B", "1", "S"), "bool"),
        "lengths": Shape(("B",), "int64"),
        "heads": None,
        "eps": None,
        "table": None,
    }
    line = 'def attend(x, w):\n    """x: [B, S, E]; w: [E, E]"""\n'
    target = parse(line, "file.py").target("attend")
    assert [stated(parameter, {}, Path("file.py")) for parameter in target.parameters] == [
        Shape(("B", "S", "E")),
        Shape(("E", "E")),
    ]
