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
    "classes": ("s = q @ k.mT + F.one_hot(q[0, 0, :, 0].long())", "FL301", "F.one_hot(q[0, 0, :, 0].long())"),
    "no rule for symbolic sizes": ("s = torch.kron(q, k)", "FL302", "torch.kron(q, k)"),
    "a text": ("s = q @ k.mT * len(str(q))", "FL301", "str(q)"),
    "a formatted text": ("s = q @ k.mT * len(f'{q}')", "FL301", "f'{q}'"),
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


RETURNED = {
    "{'out': out}": "returns a dict of tensors$",
    "(out, (k, v))": "returns a tuple of tensors among other things",
    "[out, q.shape[2]]": "returns an int among other things",
}


@pytest.mark.parametrize("returned", RETURNED)
def test_what_is_returned_must_be_tensors(program: Callable[[str], Source], returned: str) -> None:
    source = program(f"\ndef f(q, k, v):\n    out = (q @ k.mT).softmax(-1) @ v\n    return {returned}\n")
    with pytest.raises(Diagnostic, match=RETURNED[returned]) as caught:
        trace(source, source.target("f"))
    assert caught.value.code == "FL306" and "one tuple of tensors" in (caught.value.hint or "")


ANNOUNCED = {
    "list[Tensor]": "shape of every item",
    "tuple[Tensor, ...]": "shape of every item",
    "dict": "parameters of its own",
    "Tensor": "--shape extra=B,H,S,D",
}


@pytest.mark.parametrize("annotation", ANNOUNCED)
def test_how_a_parameter_is_to_be_stated(program: Callable[[str], Source], annotation: str) -> None:
    source = program(f"\ndef f(q, k, v, extra: {annotation}):\n    return (q @ k.mT).softmax(-1) @ v\n")
    with pytest.raises(Diagnostic, match="the shape of `extra` is not stated") as caught:
        trace(source, source.target("f"))
    assert ANNOUNCED[annotation] in (caught.value.hint or "")


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


GIVEN = "\ndef f(\n    q, k, v, x: float, n: int,\n    ids: Tensor,  # [B, S] int64\n):\n"
DEPENDING = {
    "a table by dtype": "t = {torch.float16: 0.5, torch.bfloat16: 0.25}.get(q.dtype, 1.0)\n    s = q @ k.mT * t",
    "the name of the dtype": "s = q @ k.mT\n    s = s * len(str(q.dtype))",
    "a branch by dtype": "if q.dtype == torch.float16:\n        q = q * 0.5\n    s = q @ k.mT",
    "a branch by float32": "if k.dtype == torch.float32:\n        q = q * 0.5\n    s = q @ k.mT",
    "a class of dtypes": "s = q @ k.mT * (0.5 if q.dtype in (torch.float16, torch.bfloat16) else 0.25)",
    "the size of elements": "s = q @ k.mT * q.element_size()",
    "the digits of the dtype": "s = q @ k.mT * torch.finfo(q.dtype).bits",
    "the bits of integers": "s = q @ k.mT * (0.5 if ids.dtype == torch.int64 else 2.0)",
    "products in another dtype": "p = q * 1000\n    if q.dtype == torch.float16:\n        p = p.float()\n"
    "    s = p @ k.to(p.dtype).mT",
    "bytes": "s = q @ k.mT / q.nbytes",
    "contiguity": "s = q @ k.mT * (1.0 if q.is_contiguous() else 2.0)",
    "a stride": "s = q @ k.mT / q.stride(2)",
    "strides": "s = q @ k.mT / max(q.stride())",
    "an offset": "s = q @ k.mT * (1.0 if k.storage_offset() else 2.0)",
    "an address": "s = q @ k.mT * (1.0 if k.data_ptr() % 16 else 2.0)",
    "an int for a float": "s = q @ k.mT * (0.5 if isinstance(x, int) else 2.0)",
    "the type of a number": "s = q @ k.mT * (0.5 if type(1 + x) is int else 2.0)",
    "gradients": "s = q @ k.mT\n    if q.requires_grad:\n        s = s * 2",
}


@pytest.mark.parametrize("case", DEPENDING)
def test_one_kernel_serves_all_dtypes_and_strides(program: Callable[[str], Source], case: str) -> None:
    source = program(f"{GIVEN}    {DEPENDING[case]}\n    return s.softmax(-1) @ v\n")
    with pytest.raises(Diagnostic, match="the program depends on") as caught:
        trace(source, source.target("f"))
    assert caught.value.code == "FL308" and caught.value.hint
    asked = source.text.splitlines()[(caught.value.line or 0) - 1]
    assert any(word in asked for word in ("q.", "k.", "* t", "len(", "type(", "isinst", "ids.")), asked


SAME = {
    "conversions": "s = (q @ k.mT).float().softmax(-1).to(q.dtype) + q.new_zeros(1).to(dtype=k.dtype)",
    "limits": "s = (q @ k.mT).clamp(min=torch.finfo(q.dtype).min)",
    "what all dtypes have in common": "assert q.dtype.is_floating_point and q.is_floating_point()\n    s = q @ k.mT",
    "equal dtypes": "assert q.dtype == k.dtype\n    s = q @ k.mT",
    "dtypes that are refused": "assert q.dtype in (torch.float16, torch.bfloat16), q.dtype\n    s = q @ k.mT",
    "float32 where it is not": "q = q if q.dtype == torch.float32 else q.float()\n    s = q @ k.float().mT",
    "contiguous where it is not": "if not q.is_contiguous():\n        q = q.contiguous()\n    s = q @ k.mT",
    "dense rows": "if q.stride(-1) != 1:\n        q = q.contiguous()\n    s = q @ k.mT",
    "a float of any kind": "x = float(x) if isinstance(x, int) else x\n    s = q @ k.mT * x",
    "numbers of any kind": "assert isinstance(x, (int, float))\n    s = q @ k.mT * x",
    "integers and sizes": "assert isinstance(n, int) and type(q.shape[2]) is int\n    s = q @ k.mT * n",
    "quotients and conditions": "assert isinstance(n / 2, float) and isinstance(n > 2, bool)\n    s = q @ k.mT * n",
    "tensors": "assert type(q) is torch.Tensor and not isinstance(x, Tensor)\n    s = q @ k.mT",
    "messages": "print(f'{n:>5} {q} {k!r}', q.shape, v)\n    assert n != 1, f'{n} of {k.shape}'\n    s = q @ k.mT",
    "integers": "s = q @ k.mT * (ids[:, None, :, None].to(ids.dtype) == torch.zeros_like(ids)[:, None, :, None])",
    "conversions by type": "s = (q @ k.mT).float().softmax(-1).type(q.dtype)",
    "rounding where it matters": "s = q @ k.mT\n    if s.dtype == torch.float16:\n"
    "        s = s.softmax(-1, dtype=torch.float32).to(torch.float16)\n    else:\n        s = s.softmax(-1)",
    "numbers": "s = q @ k.mT * torch.tensor(0.1, dtype=q.dtype) + torch.tensor([0.1, 0.3]).to(q.dtype).sum()",
    "the device": "assert q.is_cuda and not q.is_cpu\n    s = q @ k.mT",
    "refused strides": "assert q.is_contiguous()\n    s = q @ k.mT",
}


@pytest.mark.parametrize("case", SAME)
def test_asking_is_no_harm_if_the_answer_makes_no_difference(program: Callable[[str], Source], case: str) -> None:
    source = program(f"{GIVEN}    {SAME[case]}\n    return s.to(v.dtype).softmax(-1) @ v\n")
    trace(source, source.target("f"))


def test_a_stated_dtype_may_be_compared(program: Callable[[str], Source]) -> None:
    head = "".join(f"\n    {name}: Tensor,  # [B, H, S, D] float16" for name in "qkv")
    body = "s = q @ k.mT * {torch.float16: 0.5, torch.bfloat16: 0.25}.get(q.dtype, 1.0)"
    source = program(f"\ndef f({head}\n):\n    {body}\n    return s.softmax(-1) @ v\n")
    assert "0.5" in str(trace(source, source.target("f")).program)


KNOWN = {
    "a text of a size": "t = {'64': 2.0}.get(f'{T}', 1.0)",
    "a text of a text": "t = len(str(T))",
    "a text of a shape": "t = len(str(k.shape))",
    "a text in a format": "t = len(f'{T:>5}')",
    "digits": "t = len(repr(T))",
    "digits of a fraction": "t = len(str(T / 3))",
    "a number in a table": "t = {64: 2.0}.get(T, 1.0)",
    "a set of sizes": "t = 2.0 if T in {64, 96} else 1.0",
    "its hash": "t = hash(T)",
    "its bits": "t = T.bit_length()",
    "its bytes": "t = len(T.to_bytes(4, 'big'))",
    "a shift by it": "t = 1 << T",
}


@pytest.mark.parametrize("case", KNOWN)
def test_a_size_is_no_known_number(program: Callable[[str], Source], case: str) -> None:
    text = f"\ndef f(q, k, v):\n    T = k.shape[2]\n    {KNOWN[case]}\n    return (q @ k.mT * t).softmax(-1) @ v\n"
    source = program(text)
    with pytest.raises(Diagnostic, match="must be a known number here") as caught:
        trace(source, source.target("f"))
    assert caught.value.code == "FL204" and caught.value.line == 8


def test_a_failing_check_says_what_the_user_says(program: Callable[[str], Source]) -> None:
    source = program("\ndef f(q, k, v):\n    assert k.shape[2] == 3, f'bad {k.shape[2]}'\n    return q\n")
    with pytest.raises(Diagnostic, match="AssertionError: bad S") as caught:
        trace(source, source.target("f"))
    assert caught.value.code == "FL305" and caught.value.line == 7


def test_numbers_with_a_default_may_be_written_out(program: Callable[[str], Source]) -> None:
    source = program("\ndef f(q, k, v, n: int = 3):\n    return (q @ k.mT * len(f'{n}')).softmax(-1) @ v\n")
    assert [parameter.value for parameter in trace(source, source.target("f")).parameters][3] == "3"
