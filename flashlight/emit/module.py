"""The kernel file: header, tuned tiles, helpers, and for every target a kernel and its launcher."""

from __future__ import annotations

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import black

from flashlight.diagnostics import Diagnostic
from flashlight.emit import hopper, launcher, tuning
from flashlight.emit.hopper import language
from flashlight.emit.kernel.writer import write_kernel
from flashlight.emit.operators import HELPERS
from flashlight.emit.signature import Kernel
from flashlight.ir import integers
from flashlight.ir.expr import Map, walk
from flashlight.ir.printer import labels, show_program
from flashlight.ir.program import tensors
from flashlight.schedule.roles import legible

if TYPE_CHECKING:
    from flashlight.unit import Unit

LINE_LENGTH = 120
LAUNCHED = frozenset({"matching_ranges", "heaviest_first"})
"""Helpers that launchers call."""
_LOAD_TILE = '''
@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile
'''


def kernel_modules(units: Sequence[Unit], provenance: str, source_name: str) -> tuple[str, str | None]:
    """The texts of the kernel file, and of the file with Hopper kernels, if there are any."""
    written = [_written(unit, source_name) for unit in units]
    kernels, launchers = [kernel for kernel, _, _ in written], [launch for _, _, launch in written]
    hoppers = [hopper for _, hopper, _ in written if hopper is not None]
    # what is launched before a Hopper kernel is a kernel of Triton's, too
    before = frozenset().union(*(kernel.helpers for kernel in hoppers)) & LAUNCHED
    helpers = before.union(*(kernel.helpers for kernel in kernels))
    parts = [f'"""Triton kernels for {source_name}.\n\n{provenance}\n"""']
    callers = "\n".join([launcher.HELPERS, *launchers])
    called = (_used(text.strip().split("\n\n\n"), callers) for text in (launcher.CALLED, tuning.MODEL))
    needed = [function for functions in called for function in functions]
    needs_math = "math." in "\n".join([*launchers, *needed])
    imports = ["import functools", *["import importlib.util"] * bool(hoppers)]
    imports += [*["import math"] * needs_math, "import os"]
    parts.append("\n".join([*imports, "", "import torch", "import triton", "import triton.language as tl"]))
    parts.append(tuning.table({}))  # what was tuned is carried over from the file that this one replaces
    if "load_tile" in helpers:
        parts.append(_LOAD_TILE.strip())
    parts += [HELPERS[name].strip() for name in sorted(helpers & HELPERS.keys())]
    for kernel, launch in zip(kernels, launchers, strict=True):
        parts += [kernel.text, launch]
    parts.append(launcher.HELPERS.strip())
    parts += needed
    text = "\n\n\n".join(parts) + "\n"
    for unit in units:
        if len(re.findall(rf"^(?:def |import |import .* as ){unit.target.name}\b", text, re.M)) > 1:
            hint = "give the function another name"
            raise Diagnostic(
                "FL205", f"`{unit.target.name}` is the name of a function that the kernel file needs", hint
            )
    for launch in launchers:
        clash = _clash(launch)
        if clash is not None:
            raise Diagnostic("FL205", f"`{clash}` is a name that the launcher of the kernel needs", "choose another")
    return formatted(text), _hopper_module(hoppers, provenance, source_name)


def _hopper_module(kernels: Sequence[Kernel], provenance: str, source_name: str) -> str | None:
    if not kernels:
        return None
    helpers = frozenset().union(*(kernel.helpers for kernel in kernels))
    texts = [kernel.text for kernel in kernels]
    aliases, *functions = language.HELPERS.strip().split("\n\n\n")
    parts = [aliases, *_used(functions, "\n".join(texts))]
    parts += [language.in_gluon(_LOAD_TILE.strip())] * ("load_tile" in helpers)
    parts += [language.in_gluon(HELPERS[name].strip()) for name in sorted(helpers & HELPERS.keys() - LAUNCHED)]
    body = "\n\n\n".join([*parts, *texts])
    needed = ", ".join(name for name in language.PARTS if re.search(rf"\b{name}\b", body))
    imports = "import triton.language as tl\n" * ("tl.PropagateNan" in body)
    imports += f"{language.IMPORTS.strip()}\nfrom {language.HOPPER} import {needed}"
    head = f'"""Hopper kernels for {source_name}, in Gluon.\n\n{provenance}\n{language.protocol(body)}"""'
    return formatted(f"{head}\n\n{imports}\n\n\n{body}\n")


def _clash(launch: str) -> str | None:
    """A name that means two things in a launcher: an argument or a size, and something of the launcher's own."""
    function = ast.parse(launch).body[0]
    assert isinstance(function, ast.FunctionDef)
    meant = Counter(argument.arg for argument in function.args.args)
    modules = {"torch", "math", "tl", "triton"}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            read = {name.id for name in ast.walk(node.value) if isinstance(name, ast.Name)}
            set_ = {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
            meant.update(name for name in set_ - read if not name.startswith("_"))
        elif isinstance(node, ast.Call):
            called = node.func.value if isinstance(node.func, ast.Subscript) else node.func
            modules |= {called.id} if isinstance(called, ast.Name) else set()
    return next((name for name, count in meant.items() if count > 1 or name in modules), None)


def _written(unit: Unit, source_name: str) -> tuple[Kernel, Kernel | None, str]:
    """A kernel, the same for Hopper if it can be had, and their launcher."""
    with integers.assuming(unit.traced.program.assumptions):
        called = labels(*legible(unit.region.program, unit.schedule.roles, unit.schedule.program))
        read = {tensor.name for tensor in unit.schedule.program.inputs}
        # a variable that has the name of a tensor is what is read from it: what the user made of that has a number
        called = {name: label for name, label in called.items() if name.name in read}
        kernel = write_kernel(unit.schedule, source_name, describe(unit, PORTABLE), called)
        specialised = hopper.write_hopper_kernel(unit.schedule, source_name, describe(unit, hopper.TILING), called)
        return (
            kernel,
            specialised,
            launcher.write_launcher(unit.traced, unit.region, unit.schedule, kernel, specialised),
        )


def _used(functions: list[str], callers: str) -> list[str]:
    """The functions that the callers need, directly or through each other, in their order."""
    names = {re.search(r"^def (\w+)", text, re.M)[1]: text for text in functions}  # type: ignore[index]
    needed: set[str] = set()
    waiting = [callers]
    while waiting:
        words = set(re.findall(r"\w+", waiting.pop()))
        found = (words & names.keys()) - needed
        needed |= found
        waiting += [names[name] for name in found]
    return [text for name, text in names.items() if name in needed]


PORTABLE = "One program for each {blocks}; {passes}."


def describe(unit: Unit, tiling: str) -> str:
    """A kernel's docstring: the mathematics of the user's program, then how it is tiled.

    ``tiling`` is a sentence with places for the blocks that programs compute, and for the passes over the keys.
    """
    schedule = unit.schedule
    program, axes = legible(unit.region.program, schedule.roles, schedule.program)
    formulas = show_program(program, axes).splitlines()
    wrapped = [line for formula in formulas for line in _wrapped(formula)]
    roles = schedule.roles
    passes = "one pass" if len(schedule.passes) == 1 else f"{len(schedule.passes)} passes"
    order = ", the last one first" if any(one.descending for one in schedule.passes) else ""
    grid = ", ".join(axis.name for axis in roles.grid)
    tiling = tiling.format(
        blocks=f"{grid + ' and ' if grid else ''}block of {' and '.join(axis.name for axis in roles.blocked)}",
        passes=f"{passes} over {roles.stream.name} in blocks{order}",
    )
    if unit.region.before:
        read = {tensor.name for tensor in tensors(*(output.expr for output in schedule.program.outputs))}
        made = [step.tensor.name for step in unit.region.before if step.tensor.name in read]
        tiling += f"\nPyTorch computes {', '.join(made)} beforehand."
    nodes = walk(*(output.expr for output in schedule.program.outputs))
    if any(isinstance(node, Map) and node.op == "exp2" for node in nodes):
        tiling += "\nExponentials are taken in base 2: exp(x) is exp2(x * log2(e))."
    body = "\n".join(["", *(f"    {line}" for line in wrapped), "", tiling])
    return f"{unit.target.name}:\n{textwrap.indent(body, '    ')}\n    "


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 104, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def formatted(text: str) -> str:
    """The text as black formats it."""
    return black.format_str(text, mode=black.Mode(line_length=LINE_LENGTH))


__all__ = ["Kernel", "kernel_modules"]
