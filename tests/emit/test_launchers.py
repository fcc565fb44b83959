"""What every launcher does, whatever its kernel computes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flashlight.arguments import load

GENERATED = Path(__file__).parents[2] / "generated"


@pytest.mark.parametrize("path", sorted(GENERATED.glob("*_triton.py")), ids=lambda path: path.stem)
def test_a_kernel_is_launched_on_the_device_of_its_tensors(path: Path) -> None:
    """Triton launches on the current device, which may be another: `launch` sees to it, and nothing else launches."""
    launched = 0
    for function in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(function, ast.FunctionDef) or function.decorator_list:
            continue
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        by_triton = [node for node in calls if isinstance(node.func, ast.Subscript)]
        launched += sum(isinstance(node.func, ast.Name) and node.func.id == "launch" for node in calls)
        if function.name == "launch":
            _, first, *rest = function.body[1:]
            assert "current_device" in ast.unparse(first) and "with torch.cuda.device(device)" in ast.unparse(first)
            assert rest and isinstance(first, ast.If) and isinstance(first.body[-1], ast.Return)
            assert not any(
                isinstance(node.func, ast.Subscript) for node in ast.walk(first) if isinstance(node, ast.Call)
            )
            assert len(by_triton) == 2
        else:
            assert not by_triton, function.name
    assert launched > 0


class Kernel:
    """Counts what is compiled for it, and keeps what is launched: as Triton's kernels look from outside."""

    arg_names = ("a_ptr", "b_ptr", "stride", "scale", "WIDTH", "BLOCK")

    def __init__(self) -> None:
        self.fn = lambda: None
        self.compiled = 0
        self.launched: list[tuple[object, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Kernel]:
        def launched(*given: object, WIDTH: int, BLOCK: int, num_warps: int) -> Kernel:
            self.compiled += 1
            self.launched.append((grid[0], *given, WIDTH, BLOCK))
            return self

        def again(*given: object) -> None:
            self.launched.append((grid[0], *given))

        return launched if len(grid) == 1 else again


@pytest.fixture()
def launch() -> Callable[..., None]:
    return load(GENERATED / "causal_triton.py").launch


def test_what_was_compiled_is_launched_again(launch: Callable[..., None]) -> None:
    kernel, (a, b, c) = Kernel(), torch.zeros(3, 32)  # 128 bytes apart
    launch(kernel, 3, (a, b), (4,), (0.5,), num_warps=4, BLOCK=64, WIDTH=32)
    launch(kernel, 3, (a, c), (4,), (1,), num_warps=4, BLOCK=64, WIDTH=32)
    assert kernel.compiled == 1
    (_, first_a, first_b, *first), (programs, second_a, second_b, *second) = kernel.launched
    # numbers are floats, and not what a kernel is compiled for; constants in the order of the kernel's parameters
    assert first == [4, 0.5, 32, 64] and second == [4, 1.0, 32, 64] and programs == 3
    assert isinstance(second[1], float)
    assert first_a is second_a is a and first_b is b and second_b is c


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": torch.zeros(2, 32).view(torch.int32).unbind()},
        {"tensors": torch.zeros(2, 33).unbind()},
        {"tensors": torch.zeros(2, 32, device="meta").unbind()},
        {"programs": 5},
        {"sizes": (1,)},
        {"WIDTH": 64},
        {"num_warps": 8},
        {"kernel": Kernel()},
    ],
    ids=["dtype", "alignment", "device", "programs", "size", "constant", "option", "kernel"],
)
def test_what_triton_may_compile_for_is_told_apart(launch: Callable[..., None], change: dict[str, Any]) -> None:
    kernel = Kernel()
    given: dict[str, Any] = {
        "kernel": kernel,
        "programs": 3,
        "tensors": torch.zeros(2, 32).unbind(),
        "sizes": (4,),
        "numbers": (0.5,),
    }
    given |= {"WIDTH": 32, "BLOCK": 64, "num_warps": 4}
    launch(**given)
    changed = {**given, **change}
    launch(**changed)
    assert kernel.compiled + (changed["kernel"].compiled if changed["kernel"] is not kernel else 0) == 2
    launch(**given)
    assert kernel.compiled == (1 if "kernel" in change else 2)


def test_a_thousand_shapes_do_not_pile_up(launch: Callable[..., None]) -> None:
    kernel, a = Kernel(), torch.zeros(4)
    kept = launch.__globals__["LAUNCHED"]
    for length in range(10000):
        launch(kernel, 1, (a, a), (length,), (0.5,), WIDTH=32, BLOCK=64, num_warps=4)
    assert kernel.compiled == 10000 and len(kept) <= 4096


TRACED = """
import sys, warnings
import torch
import torch.utils._triton

torch.utils._triton.has_triton = lambda *given: True  # before torch._dynamo asks
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import causal_triton, packed_documents_triton

graphs = []


def backend(module, inputs):
    graphs.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
    return module.forward


for module in (causal_triton, packed_documents_triton):
    module.architecture, module.precision = lambda device: "sm_90", lambda tensor: "bf16x6"
q, k, v = torch.zeros(3, 1, 2, 2048, 64, dtype=torch.bfloat16)
ids = torch.zeros(1, 2048, dtype=torch.int64)
for function, given in ((causal_triton.causal, (q, k, v)), (packed_documents_triton.packed_documents, (q, k, v, ids))):
    torch._dynamo.reset()
    try:
        with torch.no_grad():
            torch.compile(function, fullgraph=True, backend=backend)(*given)
    except RuntimeError as error:  # there is no GPU to launch them on
        print(type(error).__name__, error, file=sys.stderr)
    print(sum("triton_kernel_wrapper" in target for target in graphs.pop()))
"""


def test_torch_compile_traces_launches_without_a_break() -> None:
    """As on a Hopper GPU, in bfloat16: the launches are in one graph, also of a kernel that would have descriptors."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", TRACED, str(GENERATED)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.split() == ["1", "2"], done.stdout + done.stderr


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
