"""What the user calls parameters, and what generated files call their own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flashlight.diagnostics import Diagnostic
from tests.emit.conftest import body

Write = Callable[..., str]


@pytest.mark.interpret
@pytest.mark.parametrize("parameter", ["_: Tensor,  # [S_kv]", "_: float"])
def test_a_parameter_without_a_name_is_not_lost(verified: Write, parameter: str) -> None:
    text = f"def attend(\n    q, k, v,\n    {parameter}\n):\n" + body("return (q @ k.mT * _).softmax(-1) @ v")
    verified(text, examples=3)


@pytest.mark.parametrize("name", ["warps", "stages", "number", "block_keys", "expect"])
def test_a_parameter_with_a_name_of_the_launcher_is_refused(kernels: Write, name: str) -> None:
    text = f"def attend(q, k, v, {name}: float):\n" + body(f"return (q @ k.mT * {name}).softmax(-1) @ v")
    with pytest.raises(Diagnostic, match=f"`{name}`") as caught:
        kernels(text)
    assert caught.value.code == "FL205" and caught.value.line is not None


def test_further_arguments_are_refused_where_they_would_count(
    kernels: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels("""
        def attend(q, k, v, *masks, **options):
            s = q @ k.mT * options.get("scale", 1.0)
            for mask in masks:
                s = s + mask
            return s.softmax(-1) @ v

        def indifferent(q, k, v, **options):
            return (q @ k.mT).softmax(-1) @ v
        """)
    monkeypatch.syspath_prepend(str(tmp_path / "out"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module = importlib.import_module("program")
    for name in ("program", "program_triton"):
        sys.modules.pop(name)
    q = k = v = torch.ones(1, 1, 2, 4)
    mask = torch.tensor([0.0, 1.0])
    v = v * torch.tensor([1.0, 3.0])[:, None]
    changed = module.attend(q, k, v, mask, scale=2.0)  # on the CPU: the original
    assert not torch.equal(changed, module.attend(q, k, v))
    module.program_triton.runs_kernel = lambda *tensors: True
    for arguments, options in (((mask,), {}), ((), {"scale": 2.0})):
        with pytest.raises(ValueError, match="further arguments"):
            module.attend(q, k, v, *arguments, **options)
    called = []
    module.program_triton.indifferent = lambda *given: called.append(given)
    module.indifferent(q, k, v, scale=2.0)
    assert len(called) == 1


WINDOWED = """
def attend(
    q: Tensor,  # [B, {axis}, H, S, D]
    k: Tensor,  # [B, {axis}, H, S, D]
    v: Tensor,  # [B, {axis}, H, S, D]
    {given},
):
    i = torch.arange(q.size(3))
    return (q @ k.mT).masked_fill(i[:, None] - i > {number}, -math.inf).softmax(-1) @ v
"""


@pytest.mark.parametrize(
    ("axis", "given", "number"),
    [
        ("W", "window: int", "window"),
        ("W", "batch: int", "batch"),
        ("W", "head: int", "head"),
        ("W", "w_index: int, window: int", "w_index + window"),
        ("batch", "head: int", "head"),
        ("group", "loads: int", "loads"),
        ("W", "attend_rows: int", "attend_rows"),
        ("W", "attend_loads: int", "attend_loads"),
    ],
)
def test_numbers_called_like_positions_in_the_grid(
    axis: str, given: str, number: str, verified: Callable[[str], str]
) -> None:
    """The variable of the position would have taken the number's place."""
    verified(WINDOWED.format(axis=axis, given=given, number=number))


def test_a_tensor_or_a_size_called_like_the_choice_of_a_hopper_kernel(verified: Callable[[str], str]) -> None:
    written = verified("""
        def tensor(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            hopper: Tensor,  # [B, H, S, D]
        ):
            return (q @ k.mT).softmax(-1) @ hopper

        def size(
            q: Tensor,  # [B, H, hopper, D]
            k: Tensor,  # [B, H, hopper, D]
            v: Tensor,  # [B, H, hopper, D]
        ):
            return (q @ k.mT).softmax(-1) @ v
    """)
    assert written.count("hopper_choice = hopper_tile(") == 2
