"""Arguments for the launchers of a generated kernel file, made from the checks that the launchers themselves make.

This reads the file's text alone: neither the source that it was written from nor flashlight's other stages are needed,
so that `python -m flashlight.tune` runs on a machine that has only torch and triton.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

SIZES: Mapping[str, int] = {"batch": 4, "heads": 16, "length": 4096}
"""The sizes that are bound where none are given; head dimensions are bound by the caller."""
WINDOW = 256
"""What integer parameters get: windows, prefixes, radii."""
_LARGEST = 2**28
_HEADS_PER_KEY_HEAD = 8


@dataclass(frozen=True)
class TensorCheck:
    """A tensor that a launcher checks: its shape as expressions, and the dtypes that it takes."""

    name: str
    shape: tuple[str, ...]
    dtypes: tuple[str, ...]

    @property
    def is_element(self) -> bool:
        """Whether the tensor has the dtype that the kernel is launched for."""
        return len(self.dtypes) > 1 and "torch.float16" in self.dtypes or self.dtypes[0].endswith(".dtype")


@dataclass(frozen=True)
class Launcher:
    """A function of a kernel file that launches a kernel."""

    name: str
    parameters: tuple[str, ...]
    sizes: tuple[str, ...]
    tensors: tuple[TensorCheck, ...]
    conditions: tuple[str, ...]
    """What sizes have to satisfy, as the launcher's own tests."""


def launchers(text: str) -> list[Launcher]:
    """The launchers in a kernel file's text, in order: functions that call ``expect`` on tensors."""
    return [found for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and (found := _launcher(node))]


def _launcher(function: ast.FunctionDef) -> Launcher | None:
    sizes: list[str] = []
    tensors: list[TensorCheck] = []
    conditions: list[str] = []
    integers: list[str] = []
    for node in function.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            target = node.targets[0]
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            sizes += [name.id for name in names if isinstance(name, ast.Name) and name.id != "_"]
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and ".shape[" in ast.unparse(node):
            sizes.append(node.targets[0].id)  # what follows from a dimension, such as `R = q.shape[1] // G`
        for call in ast.walk(node):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "integer":
                assert isinstance(call.args[0], ast.Constant)
                integers.append(str(call.args[0].value))
            elif isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "expect":
                name, _, shape, dtypes = call.args[:4]
                assert isinstance(name, ast.Constant) and isinstance(shape, ast.Tuple) and isinstance(dtypes, ast.Tuple)
                tensors.append(TensorCheck(str(name.value), _texts(shape), _texts(dtypes)))
        if isinstance(node, ast.If) and isinstance(node.body[0], ast.Raise) and isinstance(node.test, ast.UnaryOp):
            conditions.append(ast.unparse(node.test.operand))
    if not tensors:
        return None
    # integers of which shapes are made, or into which they are divided, are sizes
    used = set(re.findall(r"\w+", " ".join([*conditions, *(size for check in tensors for size in check.shape)])))
    sizes += [name for name in integers if name in used]
    parameters = tuple(argument.arg for argument in function.args.args)
    return Launcher(function.name, parameters, tuple(dict.fromkeys(sizes)), tuple(tensors), tuple(conditions))


def _texts(node: ast.Tuple) -> tuple[str, ...]:
    return tuple(ast.unparse(item) for item in node.elts)


def bound(launcher: Launcher, head_dim: int, given: Mapping[str, int] | None = None) -> dict[str, int]:
    """A number for each size of a launcher, by what its name and place say it is.

    Lengths shrink together until no tensor has more than 2^28 elements; what ``given`` names is left as it is.

    Raises:
        ValueError: the sizes are not among those that the launcher takes.
    """
    given = dict(given or {})
    kinds = {name: _kind(name, launcher) for name in launcher.sizes}
    length = given.get("length", SIZES["length"])
    divided = [re.findall(r"\w+", c)[:2] for c in launcher.conditions if re.fullmatch(r"\w+ % \w+ == 0", c)]
    while True:
        values = {**SIZES, **given, "length": length, "head_dim": head_dim}
        values["key_heads"] = max(1, values["heads"] // _HEADS_PER_KEY_HEAD)
        numbers = {name: values[kind] for name, kind in kinds.items()}
        for whole, part in divided:
            if kinds.get(whole) == "head_dim" and kinds.get(part) == "heads":
                numbers[whole] = values["heads"] * head_dim
        numbers |= {name: number for name, number in given.items() if name in numbers}
        largest = max(math.prod(shape_of(check, numbers)) for check in launcher.tensors)
        if largest <= max(_LARGEST, 1) or length <= 64 or "length" in given:
            break
        length //= 2
    for condition in launcher.conditions:
        if not eval(condition, {"math": math}, dict(numbers)):
            named = ", ".join(f"{name}={value}" for name, value in numbers.items())
            raise ValueError(f"{launcher.name} needs {condition}, and got {named}: give sizes that satisfy it")
    return numbers


def shape_of(check: TensorCheck, numbers: Mapping[str, int]) -> tuple[int, ...]:
    """A checked tensor's shape in numbers."""
    return tuple(int(eval(size, {"math": math}, dict(numbers))) for size in check.shape)


def _kind(name: str, launcher: Launcher) -> str:
    word = name.split("_")[0]
    if name in ("H_kv", "H_k", "KV", "G"):
        return "key_heads"
    if "head" in name.lower():
        return "heads"
    known = {"B": "batch", "H": "heads", "S": "length", "L": "length", "T": "length", "N": "length", "D": "head_dim"}
    if word in known:
        return known[word]
    places = [
        (place, len(check.shape))
        for check in launcher.tensors
        for place, size in enumerate(check.shape)
        if name in re.findall(r"\w+", size)
    ]
    if any(rank >= 3 and place == rank - 1 for place, rank in places):
        return "head_dim"
    if any(rank >= 3 and place == 0 for place, rank in places):
        return "batch"
    return "heads" if any(rank >= 4 and place < rank - 2 for place, rank in places) else "length"


def make(
    launcher: Launcher,
    numbers: Mapping[str, int],
    types: Mapping[str, Any],
    dtype: str = "bfloat16",
    device: str = "meta",
) -> dict[str, Any]:
    """The launcher's arguments by name, on a device; ``types`` tell int from float parameters."""
    import torch

    generator = None if device == "meta" else torch.Generator(device).manual_seed(0)
    checks = {check.name: check for check in launcher.tensors}
    arguments: dict[str, Any] = {}
    for name in launcher.parameters:
        if name not in checks:
            arguments[name] = numbers[name] if name in numbers else _number(name, types.get(name))
            continue
        check = checks[name]
        shape = shape_of(check, numbers)
        kind = dtype if check.is_element else check.dtypes[0].removeprefix("torch.")
        element = getattr(torch, kind)
        if generator is None:
            arguments[name] = torch.empty(shape, dtype=element, device=device)
        elif element.is_floating_point:
            arguments[name] = torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(element)
        elif element == torch.bool:
            arguments[name] = torch.rand(shape, generator=generator, device=device) < 0.75
        else:
            arguments[name] = _integers(check, shape, numbers).to(element).to(device)
    return arguments


def _number(name: str, annotation: Any) -> int | float:
    if annotation in (int, "int"):
        return WINDOW
    if annotation in (float, "float"):
        return 30.0 if "cap" in name else 0.125
    return 0.125 if any(word in name for word in ("scal", "cap", "eps", "beta", "alpha", "temp")) else WINDOW


def _integers(check: TensorCheck, shape: tuple[int, ...], numbers: Mapping[str, int]) -> Any:
    """Lengths for one number a row of the batch, documents where the last dimension is a length, else zeros.

    Twelve documents a row, cut at random places: some long, some short, as packing makes them.

    Zeros are safe wherever the integers index another tensor.
    """
    import torch

    longest = max(numbers.values())
    if len(shape) == 1 and shape[0] < longest:
        return torch.full(shape, longest // 2)
    if len(shape) <= 2 and shape[-1] >= 64 and "ind" not in check.name and check.shape[0] != check.shape[-1]:
        generator = torch.Generator().manual_seed(0)
        cuts = torch.randint(1, shape[-1], (*shape[:-1], 11), generator=generator).sort(-1).values
        places = torch.arange(shape[-1]).expand(shape).contiguous()
        return torch.searchsorted(cuts, places, right=True)
    return torch.zeros(shape, dtype=torch.int64)


def load(path: Path) -> ModuleType:
    """A kernel file as a module of its own."""
    name = f"flashlight_loaded_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def annotated(path: Path, function: str) -> dict[str, str]:
    """The annotations of a function's parameters as text, from the wrapper that lies beside a kernel file."""
    wrapper = path.with_name(path.name.replace("_triton.py", ".py"))
    if wrapper == path or not wrapper.is_file():
        return {}
    for node in ast.parse(wrapper.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return {a.arg: ast.unparse(a.annotation) for a in node.args.args if a.annotation is not None}
    return {}


def kernel_file(path: Path) -> Path:
    """The kernel file of a generated pair, whichever of the two is named."""
    return path if path.stem.endswith("_triton") else path.with_name(f"{path.stem}_triton.py")
