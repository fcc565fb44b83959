"""Ahead-of-time compilation of generated kernels: what the compiler made of them, on a machine without a GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flashlight import arguments

TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
"""Shared memory that one block may take, in bytes."""
_TENSOR_CORE = {
    "sm_80": r"mma\.sync[\w.]*",
    "sm_90": r"wgmma\.mma_async[\w.]*|mma\.sync[\w.]*",
    "sm_100": r"tcgen05\.mma[\w.]*|mma\.sync[\w.]*",
    "gfx942": r"v_mfma\w+",
}
_COPY = r"cp\.async(?:\.bulk)?(?:\.tensor)?|global_load_\w+|buffer_load_\w+"


@dataclass(frozen=True)
class Compiled:
    """One kernel compiled for one architecture. Registers and spills are per thread; shared memory in bytes."""

    kernel: str
    architecture: str
    registers: int
    spills: int
    shared: int
    warps: int
    tensor_core: Mapping[str, int]
    copies: Mapping[str, int]

    @property
    def occupancy(self) -> int:
        """Blocks that fit a multiprocessor at once, by registers, shared memory and threads."""
        if self.architecture.startswith("gfx"):
            # four units of 512 registers a lane; a wave lies in one of them
            by_registers = 4 * (512 // max(1, self.registers)) // self.warps
            return min(by_registers, SHARED_LIMIT[self.architecture] // max(1, self.shared))
        by_registers = 65536 // max(1, self.registers * self.warps * 32)
        by_shared = (SHARED_LIMIT[self.architecture] + 1024) // (self.shared + 1024)
        return min(by_registers, by_shared, 2048 // (self.warps * 32), 32)


@dataclass(frozen=True)
class Call:
    """A launch as the launcher made it: the kernel, its arguments by name, and its options."""

    kernel: Any
    arguments: Mapping[str, Any]
    options: Mapping[str, int]


class _Recorder:
    """Stands in for a kernel: takes a launch and runs nothing."""

    def __init__(self, kernel: Any, calls: list[Call]) -> None:
        self.kernel = kernel
        self.fn = kernel.fn
        self.calls = calls

    def __getitem__(self, grid: object) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        options: dict[str, int] = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        names = list(self.kernel.arg_names)
        self.calls.append(Call(self.kernel, {**dict(zip(names, args, strict=False)), **kwargs}, options))


def launches(module: ModuleType, name: str, arguments: Mapping[str, Any], architecture: str) -> list[Call]:
    """What the launcher ``name`` of a kernel module would launch on ``architecture`` for these (meta) tensors."""
    calls: list[Call] = []
    hopper = module.hopper_kernels() if architecture == "sm_90" and hasattr(module, "hopper_kernels") else None
    modules = [module, *[hopper] * (hopper is not None)]
    saved = [dict(vars(one)) for one in modules]
    try:
        for one in modules:
            for kernel_name, kernel in list(vars(one).items()):
                if kernel_name.endswith("_kernel") and hasattr(kernel, "arg_names"):
                    setattr(one, kernel_name, _Recorder(kernel, calls))
        stand_ins: Any = module
        stand_ins.architecture, stand_ins.multiprocessors = lambda device: architecture, lambda device: 1
        getattr(module, name)(**arguments)
    finally:
        for one, before in zip(modules, saved, strict=True):
            vars(one).update(before)
    return calls


def compile_call(call: Call, architecture: str) -> Compiled:
    """Compile a recorded launch for an architecture."""
    import triton
    from triton.backends.compiler import GPUTarget

    compiled = triton.compile(source(call), target=GPUTarget(*TARGETS[architecture]), options=dict(call.options))
    return _report(call, architecture, compiled)


def source(call: Call) -> Any:
    """What Triton compiles for a recorded launch: the kernel with the types of its arguments."""
    from triton.compiler import ASTSource

    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    free = {p.name for p in call.kernel.params if p.do_not_specialize}
    constant_names = {p.name for p in call.kernel.params if p.is_constexpr}
    for position, name in enumerate(call.kernel.arg_names):
        value = call.arguments[name]
        if name in constant_names or (name not in free and isinstance(value, int) and value == 1):
            signature[name] = "constexpr"
            constants[(position,)] = value
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif isinstance(value, int):
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0 and name not in free:
                attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "*" + _element(value.dtype)
            attributes[(position,)] = [["tt.divisibility", 16]]
    if call.kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource as ASTSource
    return ASTSource(call.kernel, signature, constants, attributes)


def _element(dtype: Any) -> str:
    names = {
        "torch.float16": "fp16",
        "torch.bfloat16": "bf16",
        "torch.float32": "fp32",
        "torch.int64": "i64",
        "torch.int32": "i32",
        "torch.bool": "i1",
    }
    return names[str(dtype)]


def _report(call: Call, architecture: str, compiled: Any) -> Compiled:
    if architecture.startswith("gfx"):
        text = compiled.asm["amdgcn"]
        registers = int((re.search(r"\.vgpr_count:\s*(\d+)", text) or [0, 0])[1])
        spills = int((re.search(r"\.vgpr_spill_count:\s*(\d+)", text) or [0, 0])[1])
    else:
        text = compiled.asm["ptx"]
        registers, spills = _resources(compiled.asm["cubin"])
    return Compiled(
        call.kernel.fn.__name__,
        architecture,
        registers,
        spills,
        int(compiled.metadata.shared),
        int(compiled.metadata.num_warps),
        _counted(_TENSOR_CORE[architecture], text),
        _counted(_COPY, text),
    )


def _counted(pattern: str, text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in re.findall(pattern, text):
        found[name] = found.get(name, 0) + 1
    return found


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers a thread, and bytes of local memory a thread (spills), as the binary records them."""
    import triton

    tool = next(Path(triton.__file__).parent.rglob("bin/cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers = re.search(r"REG:(\d+)", text)
    stack = re.search(r"STACK:(\d+)", text)
    local = re.search(r"LOCAL:(\d+)", text)
    assert registers and stack and local, text
    return int(registers[1]), int(stack[1]) + int(local[1])


@dataclass(frozen=True)
class Inspected:
    """A kernel as a launcher would launch it at one head dimension, and what the compiler made of it."""

    function: str
    head_dim: int
    tile: tuple[int, ...]
    compiled: Compiled


def inspected(
    path: Path, architecture: str, head_dims: tuple[int, ...], dtype: str, sizes: Mapping[str, int] | None = None
) -> Iterator[Inspected]:
    """Compile every kernel of a generated file; the sizes are `arguments.SIZES` unless given.

    Raises:
        ValueError: a launcher does not take the sizes.
    """
    module = arguments.load(path)
    for launcher in arguments.launchers(path.read_text(encoding="utf-8")):
        seen: list[dict[str, int]] = []
        for head_dim in head_dims:
            numbers = arguments.bound(launcher, head_dim, sizes)
            if numbers in seen:
                continue  # it has no head dimension of its own
            seen.append(numbers)
            given = arguments.make(launcher, numbers, arguments.annotated(path, launcher.name), dtype)
            for call in launches(module, launcher.name, given, architecture):
                names = [name for name in ("BLOCK_ROWS", "BLOCK_KEYS") if name in call.arguments]
                compiled = compile_call(call, architecture)
                yield Inspected(launcher.name, head_dim, tuple(call.arguments[name] for name in names), compiled)
