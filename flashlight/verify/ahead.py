"""Compiling a generated kernel for a GPU that need not be there, and reading what the compiler made of it.

The launcher of a generated module is called with its kernels replaced by recorders: what it would have launched, with
these very arguments, is then compiled as Triton's own launch would (arguments of 1 folded, multiples of 16 marked).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Chip:
    """A GPU to compile for: Triton's target, shared memory a program may have, and its matrix instruction."""

    name: str
    target: GPUTarget
    shared_limit: int
    matrix_instruction: str


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_80", GPUTarget("cuda", 80, 32), 163 * 1024, r"\bmma\.sync"),
        Chip("sm_90", GPUTarget("cuda", 90, 32), 227 * 1024, r"\bwgmma\.mma_async"),
        Chip("sm_100", GPUTarget("cuda", 100, 32), 227 * 1024, r"\btcgen05\.mma|\bmma\.sync"),
        Chip("gfx942", GPUTarget("hip", "gfx942", 64), 64 * 1024, r"\bv_mfma_"),
    )
}

_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments of one launch, by the names of its parameters, and the compiler's options."""

    kernel: JITFunction[Any]
    arguments: Mapping[str, Any]
    options: Mapping[str, int]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a launch; ``spills`` are bytes (on AMD, registers), ``registers`` those of a thread."""

    assembly: str
    spills: int
    registers: int
    shared: int


def launches(module: ModuleType, launcher: Callable[..., Any], arguments: tuple[Any, ...], chip: Chip) -> list[Launch]:
    """What ``launcher`` would launch on that chip, without launching it; the tensors may lie anywhere."""
    recorded: list[Launch] = []
    with _recording(module, recorded), mock.patch.object(module, "architecture", lambda device: chip.name):
        launcher(*arguments)
    return recorded


@contextmanager
def _recording(module: ModuleType, recorded: list[Launch]) -> Iterator[None]:
    def recorder(kernel: JITFunction[Any]) -> Any:
        def launch(*positional: Any, **named: Any) -> None:
            options = {name: named.pop(name) for name in _OPTIONS if name in named}
            arguments = dict(zip(kernel.arg_names, positional, strict=False)) | named
            for parameter in kernel.params:
                if parameter.name not in arguments:
                    arguments[parameter.name] = parameter.default
            ordered = {name: arguments[name] for name in kernel.arg_names}
            recorded.append(Launch(kernel, ordered, options))

        class Recorder:
            def __getitem__(self, grid: Any) -> Callable[..., None]:
                return launch

        return Recorder()

    kernels = {name: value for name, value in vars(module).items() if isinstance(value, JITFunction)}
    # only what is launched: helpers are called from within kernels, which look them up in the module
    with mock.patch.multiple(module, **{n: recorder(k) for n, k in kernels.items() if n.endswith("_kernel")}):
        yield


def compile_launch(launch: Launch, chip: Chip) -> Compiled:
    """Compile a launch. Triton's own errors pass through."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        folded = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or folded or value is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = _type(value)
        whole = value % 16 == 0 if isinstance(value, int) else isinstance(value, torch.Tensor)
        if whole and not parameter.do_not_specialize and not isinstance(value, bool):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=chip.target, options=dict(launch.options))
    if chip.target.backend == "cuda":
        assembly = str(compiled.asm["ptx"])
        spills, registers = _resources(compiled.asm["cubin"])
    else:
        assembly = str(compiled.asm["amdgcn"])
        spills = _amd(assembly, "vgpr_spill_count") + _amd(assembly, "sgpr_spill_count")
        registers = _amd(assembly, "vgpr_count")
    return Compiled(assembly, spills, registers, int(compiled.metadata.shared))


def uses_matrix_instructions(compiled: Compiled, chip: Chip) -> bool:
    return re.search(chip.matrix_instruction, compiled.assembly) is not None


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
        names |= {torch.bool: "i1", torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8", torch.int8: "i8"}
        return f"*{names[value.dtype]}"
    if isinstance(value, bool):
        return "i1"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Bytes of stack (spilled registers: these kernels have no arrays) and registers a thread, by cuobjdump."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [str(program), "--dump-resource-usage", str(path)]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    stack = re.findall(r"\b(?:STACK|LOCAL):(\d+)", report)
    registers = re.findall(r"\bREG:(\d+)", report)
    assert stack and registers, report
    return sum(map(int, stack)), max(map(int, registers))


def _amd(assembly: str, field: str) -> int:
    return max((int(found) for found in re.findall(rf"\.{field}:\s*(\d+)", assembly)), default=0)
