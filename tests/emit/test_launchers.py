"""What every launcher does, whatever its kernel computes."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
import textwrap
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
        elif function.name == "relaunch":
            assert "get_device() != torch.cuda.current_device()" in ast.unparse(function.body[2].test)
            assert not by_triton
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


def aligned(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """Two tensors at multiples of 128 bytes, as on a GPU: those of a CPU start at multiples of 64."""
    pool = torch.zeros(2 * math.prod(shape) + 32, dtype=dtype)
    start = -pool.data_ptr() % 128 // pool.element_size()
    return pool[start : start + 2 * math.prod(shape)].view(2, *shape).unbind()


class Again:
    """Repeats launches as `relaunch` has it, on tensors of a device that stands for the current one."""

    def __init__(self) -> None:
        self.module = load(GENERATED / "soft_cap_triton.py")
        self.kernel = Kernel()
        self.tensors = aligned(64, 32)
        self.launch(self.alike(), self.tensors)

    def alike(self, *tensors: torch.Tensor, value: float = 0.5) -> tuple[object, ...] | None:
        alike: tuple[object, ...] | None = self.module.layouts(tensors or self.tensors, "attend", value)
        return alike

    def launch(self, alike: tuple[object, ...] | None, tensors: tuple[torch.Tensor, ...]) -> None:
        self.module.launch(self.kernel, 3, tensors, (4,), (0.5,), alike, num_warps=4, BLOCK=64, WIDTH=32)

    def relaunch(self, alike: tuple[object, ...] | None, *tensors: torch.Tensor) -> bool:
        done: bool = self.module.relaunch(alike, *(tensors or self.tensors))
        return done


@pytest.fixture()
def again(monkeypatch: pytest.MonkeyPatch) -> Again:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: -1)  # which tensors of the CPU are on
    return Again()


def test_a_call_with_arguments_alike_repeats_the_launch(again: Again) -> None:
    (_, _, *first), other = again.kernel.launched[0], aligned(64, 32)
    assert again.relaunch(again.alike(*other), *other)
    programs, a, b, *second = again.kernel.launched[1]
    assert a is other[0] and b is other[1] and programs == 3 and second == first[1:]
    assert again.kernel.compiled == 1


@pytest.mark.parametrize(
    "tensors",
    [
        aligned(64, 32, dtype=torch.int32),
        aligned(32, 32),
        tuple(one.mT for one in aligned(32, 64)),
        tuple(one[:, :32] for one in aligned(64, 64)),
        tuple(one[1:] for one in aligned(65, 32)),
        tuple(one[1 : 64 * 32 + 1].view(64, 32) for one in aligned(65 * 32)),
        torch.zeros(2, 64, 32, device="meta").unbind(),
        torch.zeros(2, 64, 32, requires_grad=True).unbind(),
    ],
    ids=["dtype", "shape", "transposed", "strides", "offset", "alignment", "device", "gradient"],
)
def test_whatever_a_launch_follows_from_is_told_apart(
    again: Again, tensors: tuple[torch.Tensor, ...], request: pytest.FixtureRequest
) -> None:
    expected = "offset" in request.node.callspec.id  # of whole rows of 128 bytes: laid out the same
    with torch.enable_grad():
        assert again.relaunch(again.alike(*tensors), *tensors) is expected


@pytest.mark.parametrize(("first", "second"), [(0.0, -0.0), (1.0, 2.0), (1.0, 1.0000000000000002)])
def test_numbers_are_told_apart(again: Again, first: float, second: float) -> None:
    again.launch(again.alike(value=first), again.tensors)
    assert again.relaunch(again.alike(value=first)) and not again.relaunch(again.alike(value=second))


def test_what_is_not_a_number_is_alike(again: Again) -> None:
    again.launch(again.alike(value=float("nan")), again.tensors)
    assert again.relaunch(again.alike(value=float("nan")))


def test_another_current_device_is_left_to_launch(again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert not again.relaunch(again.alike())


def test_nothing_is_repeated_while_torch_compile_traces(again: Again, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert again.alike() is None and not again.relaunch(again.alike())


@pytest.mark.parametrize("path", sorted(GENERATED.glob("*_triton.py")), ids=lambda path: path.stem)
def test_what_is_repeated_is_what_is_launched(path: Path) -> None:
    """The early return names the tensors of every launch below it, in their order, and all arguments are in its key."""
    for function in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        named = {node.func.id: node for node in calls if isinstance(node.func, ast.Name)}
        if "relaunch" not in named:
            continue
        key, *repeated = map(ast.unparse, named["relaunch"].args)
        launches = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "launch"]
        assert 1 <= len(launches) <= 2
        for launch in launches:
            assert isinstance(launch.args[2], ast.Tuple)
            assert [ast.unparse(node) for node in launch.args[2].elts] == repeated
            assert ast.unparse(launch.args[5]) == key
        read = {node.id for node in ast.walk(named["layouts"]) if isinstance(node, ast.Name)}
        used = {node.id for launch in launches for node in ast.walk(launch) if isinstance(node, ast.Name)}
        assert {argument.arg for argument in function.args.args} & used <= read
        if "precision" in used:
            assert "precision" in read


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
def test_what_is_negated_when_it_is_read_is_left_to_pytorch(interpreted: Callable[[str], None]) -> None:
    """The imaginary part of a conjugate has the memory of the number itself."""
    script = f"""
        import sys
        import torch
        sys.path.insert(0, {str(GENERATED)!r})
        import causal

        query, key, value = (torch.randn(1, 2, 20, 16, dtype=torch.complex64).conj().imag for _ in range(3))
        assert query.is_neg()
        expected = causal.causal(query.clone(), key.clone(), value.clone())
        assert not torch.equal(expected, torch.zeros_like(expected))
        torch.testing.assert_close(causal.causal(query, key, value), expected)
        for one in range(3):
            given = [tensor.clone() if place != one else tensor for place, tensor in enumerate((query, key, value))]
            torch.testing.assert_close(causal.causal(*given), expected)
    """
    interpreted(textwrap.dedent(script))


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


@pytest.mark.interpret
def test_a_slice_from_the_end_says_what_it_was_transpiled_for(
    kernels: Callable[[str], str], interpreted: Callable[[str], None], tmp_path: Path
) -> None:
    """`k[:, :, -0:]` is all of k: the number of keys is `end` under an assumption, which is checked first."""
    kernels("""
        def attend(
            q: Tensor,  # [B, H, S_q, D]
            k: Tensor,  # [B, H, S_k, D]
            v: Tensor,  # [B, H, S_k, D]
            end: int,
        ) -> Tensor:
            k, v = k[:, :, -end:], v[:, :, -end:]
            return (q @ k.mT).softmax(-1) @ v
    """)
    script = f"""
        import sys
        import torch
        sys.path.insert(0, {str(tmp_path / "out")!r})
        import program

        q, k, v = torch.randn(3, 1, 2, 20, 16)
        torch.testing.assert_close(program.attend(q, k, v, 7), program._attend_pytorch(q, k, v, 7))
        for end in (0, -5, 100):
            try:
                program.attend(q, k, v, end)
            except ValueError as error:
                assert "was transpiled for sizes with" in str(error), error
            else:
                raise AssertionError(end)
    """
    interpreted(textwrap.dedent(script))


@pytest.mark.interpret
def test_an_integer_that_hangs_on_scores(verified: Callable[..., str]) -> None:
    """In 16 bits eager's scores are rounded, and other ones are over the threshold."""
    verified("""
        def attend(
            q: Tensor,  # [B, H, S_q, D]
            k: Tensor,  # [B, H, S_k, D]
            v: Tensor,  # [B, H, S_k, D]
        ):
            scores = q @ k.mT
            return scores.softmax(-1) @ v, (scores > 1.0).sum(-1), (scores > 1.0).any(-1)
    """)
