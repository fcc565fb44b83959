"""Runs a target both ways: eagerly, and as the traced program under the reference evaluator."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from flashlight.ir.evaluate import evaluate
from flashlight.ir.expr import INT, Const, Expr, Scalar, walk
from flashlight.ir.ops import OPS
from flashlight.source import Source, parse
from flashlight.trace import Traced, trace
from flashlight.trace.load import load

# all different, none a sample size, and divisible where programs ask for it
SIZES = {
    "B": 2, "H": 6, "H_kv": 3, "S": 12, "S_q": 7, "S_k": 11, "S_kv": 11, "S_max": 13, "D": 8, "D_v": 6, "E": 12,
    "N": 3, "M": 3, "P": 7, "R": 3, "T": 324, "W": 2, "BW": 4,
}  # fmt: skip
NUMBERS: dict[str, float] = {"heads": 3, "window": 3, "n_rep": 2}


def value(expr: Expr, numbers: Mapping[str, float]) -> float:
    if isinstance(expr, Const):
        return expr.value
    if isinstance(expr, Scalar):
        return numbers[expr.name]
    args = [torch.tensor(value(child, numbers)) for child in expr.children]
    return OPS[expr.op].meaning(*args).item()  # type: ignore[attr-defined]


def agree(source: Source, name: str, sizes: Mapping[str, int] = SIZES, **shapes: tuple[str, ...]) -> Traced:
    """Trace, evaluate in float64, and compare with the function itself run in float64."""
    traced = trace(source, source.target(name), shapes)
    torch.manual_seed(0)
    numbers: dict[str, float] = {}
    for tensor in traced.program.inputs:
        found = [node for size in tensor.shape for node in walk(size) if isinstance(node, Scalar)]
        numbers |= {scalar.name: sizes.get(scalar.name, 4) for scalar in found}
    tensors: dict[str, torch.Tensor] = {}
    arguments: dict[str, Any] = {}
    for parameter in traced.parameters:
        if parameter.scalar is not None:
            number = NUMBERS.get(parameter.name, 3 if parameter.scalar.dtype == INT else 0.7)
            numbers.setdefault(parameter.name, number)
            arguments[parameter.name] = numbers[parameter.name]
        if parameter.tensor is None:
            continue
        tensor = parameter.tensor
        shape = [int(value(size, numbers)) for size in tensor.shape]
        if tensor.dtype == "bool":
            drawn = torch.rand(shape) > 0.4
        elif tensor.dtype.startswith("int"):
            drawn = torch.randint(0, 5, shape, dtype=getattr(torch, tensor.dtype))
        else:
            drawn = torch.randn(shape, dtype=torch.float64)
        tensors[tensor.name] = drawn
        if parameter.item is None:
            arguments[parameter.name] = drawn
        else:
            arguments.setdefault(parameter.name, []).append(drawn)
    info = torch.finfo(torch.float64)
    numbers |= {"finfo_min": info.min, "finfo_max": info.max, "finfo_eps": info.eps, "finfo_tiny": info.tiny}
    assert all(value(condition, numbers) for condition in traced.program.assumptions)
    got = evaluate(traced.program, tensors, numbers)
    function = getattr(load(source), name)
    expected = inspect.signature(function).parameters
    positional = [
        arguments.pop(name) for name, parameter in expected.items() if parameter.kind is parameter.POSITIONAL_ONLY
        and name in arguments
    ]  # fmt: skip
    want = function(*positional, **arguments)
    assert isinstance(want, torch.Tensor) == traced.single
    for returned, result in zip(traced.returns, [want] if traced.single else want, strict=True):
        if result is None:
            assert returned.name is None
            continue
        assert returned.name is not None
        found_shape = tuple(int(value(size, numbers)) for size in returned.shape)
        assert found_shape == tuple(result.shape)
        output = got[returned.name].reshape(found_shape)
        # eager computes what the program calls float32 in float32
        torch.testing.assert_close(output, result.to(output.dtype), rtol=2e-5, atol=2e-6, equal_nan=True)
    return traced


@pytest.fixture
def agrees() -> Callable[..., Traced]:
    return agree


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Source]:
    """A user's file from the text of its functions."""

    def write(text: str) -> Source:
        imports = "import math\nimport torch\nimport torch.nn.functional as F\nfrom torch import Tensor\n"
        return parse(imports + text, tmp_path / "program.py")

    return write
