"""What every launcher does, whatever its kernel computes."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

GENERATED = Path(__file__).parents[2] / "generated"

HELPERS = ("matching_ranges", "heaviest_first")
"""They are called where the kernels are launched, under the same guard."""


@pytest.mark.parametrize("path", sorted(GENERATED.glob("*_triton.py")), ids=lambda path: path.stem)
def test_a_kernel_is_launched_on_the_device_of_its_tensors(path: Path) -> None:
    """Triton launches on the current device, which may be another."""
    guarded = launched = 0
    for function in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(function, ast.FunctionDef) or function.decorator_list or function.name in HELPERS:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                launched += "_kernel" in ast.unparse(node.func)
            if isinstance(node, ast.With) and "device_of" in ast.unparse(node.items[0]):
                guarded += "_kernel[" in ast.unparse(node)
    assert launched == guarded > 0


@pytest.mark.interpret
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_that_is_stated_for_every_tensor(verified: Callable[..., str], dtype: str) -> None:
    text = verified(f"""
        def attend(
            q: Tensor,  # [B, H, S, D] {dtype}
            k: Tensor,  # [B, H, S, D] {dtype}
            v: Tensor,  # [B, H, S, D] {dtype}
        ) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v)
    """)
    assert f'expect("q", q, (B, H, S, D), (torch.{dtype},), q.device)' in text
