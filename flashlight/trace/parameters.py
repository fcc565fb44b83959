"""Decides how each parameter of the target enters the trace, and makes the sizes and samples that it needs."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import torch

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build
from flashlight.ir.expr import ELEMENT, FLOAT, INT, Expr, Scalar, Tensor
from flashlight.source.model import ParameterText, Source, Target
from flashlight.source.shapes import FLEXIBLE, Shape, at, stated
from flashlight.trace.traced import Parameter

HEADS = (24, 12, 6, 3)
FEATURES = (64, 48, 80, 112)
BATCHES = (22, 34, 38)
LENGTHS = (1018, 1082, 1114, 1142, 1154, 1202, 1214, 1234)


@dataclass
class Inputs:
    """The parameters in the order of the signature, the samples of all numbers, and which sizes may yet be tied."""

    parameters: list[Parameter] = field(default_factory=list)
    specialised: dict[str, Any] = field(default_factory=dict)
    hints: dict[Scalar, float | int] = field(default_factory=dict)
    flexible: dict[Scalar, Scalar] = field(default_factory=dict)
    pinnable: set[Scalar] = field(default_factory=set)
    """Numbers with a default, which the program may be specialised to."""
    fixed: dict[str, Expr] = field(default_factory=dict)
    """Numbers that the trace replaces by others."""


def inputs(
    source: Source,
    target: Target,
    overrides: Mapping[str, tuple[str, ...]],
    ties: Mapping[str, Expr],
    samples: Mapping[str, int],
    defaults: Mapping[str, Any],
    pinned: Set[str] = frozenset(),
    sizes: Set[str] = frozenset(),
) -> Inputs:
    """Sort the parameters of ``target`` into tensors, run-time numbers and specialised values.

    ``ties`` replaces sizes by others, ``samples`` overrides their sample values, ``defaults`` are the evaluated
    defaults of the function, ``pinned`` names the numbers to be specialised to theirs, ``sizes`` those that are sizes
    though no shape names them. Raises FL201 for a tensor without a shape.
    """
    result = Inputs()
    known_shapes = [stated(parameter, overrides, source.path) for parameter in target.parameters]
    shapes = [shape for known in known_shapes for shape in (known if isinstance(known, tuple) else (known,))]
    named = {*sizes, *re.findall(r"[^\W\d]\w*", " ".join(dim for shape in shapes if shape for dim in shape.dims))}
    for parameter in target.parameters:
        if parameter.kind in ("*", "**"):
            continue
        known = stated(parameter, overrides, source.path)
        if isinstance(known, tuple):
            for item, shape in enumerate(known):
                tensor = _tensor(f"{parameter.name}_{item}", shape, result, ties, samples)
                result.parameters.append(Parameter(parameter.name, tensor=tensor, item=item))
        elif known is not None:
            tensor = _tensor(parameter.name, known, result, ties, samples)
            result.parameters.append(Parameter(parameter.name, tensor=tensor))
        else:
            result.parameters.append(_number(source, parameter, result, defaults, pinned))
            scalar = result.parameters[-1].scalar
            if scalar is not None and scalar.name in named and scalar.name not in ties and scalar.dtype == INT:
                scalar = _as_size(scalar, result, samples)
                result.parameters[-1] = Parameter(parameter.name, scalar=scalar)
            if scalar is not None and scalar.name in ties:
                result.fixed[scalar.name] = ties[scalar.name]
            if scalar is not None and scalar.name in samples:
                result.hints[scalar] = samples[scalar.name]
    return result


def _tensor(name: str, shape: Shape, result: Inputs, ties: Mapping[str, Expr], samples: Mapping[str, int]) -> Tensor:
    def size(dim: str) -> Expr:
        return _size(ast.parse(dim, mode="eval").body, shape, result, ties, samples)

    return Tensor(name, tuple(size(dim) for dim in shape.dims), shape.dtype or ELEMENT)


def _size(node: ast.expr, shape: Shape, result: Inputs, ties: Mapping[str, Expr], samples: Mapping[str, int]) -> Expr:
    if isinstance(node, ast.Constant):
        return build.integer(int(str(node.value)))
    if isinstance(node, ast.BinOp):
        left, right = (_size(side, shape, result, ties, samples) for side in (node.left, node.right))
        names: dict[type, str] = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.FloorDiv: "floordiv"}
        return build.op(names[type(node.op)], left, right)
    assert isinstance(node, ast.Name)
    if node.id in ties:
        tied = ties[node.id]
        while isinstance(tied, Scalar) and tied.name in ties:
            tied = ties[tied.name]
        if isinstance(tied, Scalar):
            _sampled(tied, result, samples)
        return tied
    scalar = Scalar(node.id, INT, positive=True)
    _sampled(scalar, result, samples)
    if shape.conventional and node.id in FLEXIBLE:
        result.flexible[scalar] = Scalar(FLEXIBLE[node.id], INT, positive=True)
    return scalar


def _as_size(scalar: Scalar, result: Inputs, samples: Mapping[str, int]) -> Scalar:
    """A parameter that shapes name is the size of that name."""
    size = Scalar(scalar.name, INT, positive=True)
    del result.hints[scalar]
    _sampled(size, result, samples)
    if scalar in result.pinnable:
        result.pinnable.remove(scalar)
        result.pinnable.add(size)
    return size


def _sampled(scalar: Scalar, result: Inputs, samples: Mapping[str, int]) -> None:
    if scalar not in result.hints:
        result.hints[scalar] = samples.get(scalar.name) or _sample(scalar.name, set(result.hints.values()))


def _sample(name: str, taken: set[float | int]) -> int:
    """A plausible size, different from all others: many programs ask for divisibility, some for powers of two."""
    first = name.lower()[:1]
    choices: tuple[int, ...] = FEATURES if first in "dec" else BATCHES if first == "b" else LENGTHS
    if first in "hn":
        choices = HEADS
    return next((size for size in (*choices, *range(1250, 3000, 2)) if size not in taken), 3001)


def _number(
    source: Source, parameter: ParameterText, result: Inputs, defaults: Mapping[str, Any], pinned: Set[str]
) -> Parameter:
    annotation = (parameter.annotation or "").replace(" ", "").strip("\"'")
    default = defaults.get(parameter.name)
    given = parameter.name in defaults
    if given and (default is None or isinstance(default, (bool, str)) or parameter.name in pinned):
        result.specialised[parameter.name] = default
        return Parameter(parameter.name, value=parameter.default)
    if annotation.split("|")[0] in ("float", "Optional[float]") or isinstance(default, float):
        return _scalar(parameter, FLOAT, 0.37 if not default else float(default), result, given)
    if annotation.split("|")[0] in ("int", "Optional[int]") or (isinstance(default, int) and given):
        return _scalar(parameter, INT, 37 if not default else int(default), result, given)
    if given and not isinstance(default, torch.Tensor):
        result.specialised[parameter.name] = default
        return Parameter(parameter.name, value=parameter.default)
    if annotation in ("bool", "str"):
        raise at(
            parameter,
            source.path,
            Diagnostic(
                "FL204", f"the value of `{parameter.name}` decides what is computed", "give the parameter a default"
            ),
        )
    raise at(
        parameter,
        source.path,
        Diagnostic(
            "FL201",
            f"the shape of `{parameter.name}` is not stated",
            _stating(parameter.name, annotation),
        ),
    )


def _stating(name: str, annotation: str) -> str:
    """How to say what a parameter is, by what it is announced as."""
    if re.match(r"(typing\.)?(list|tuple|sequence)\b", annotation, re.IGNORECASE):
        return f"write the shape of every item next to it: `{name}: list[Tensor],  # [[B, H, S, D], [S, D]]`"
    if annotation and "Tensor" not in annotation:
        return (
            f"a kernel takes tensors, lists of them, ints and floats: pass what is in `{name}` as parameters of its own"
        )
    return f"write it next to the parameter: `{name}: Tensor,  # [B, H, S, D]`, or pass --shape {name}=B,H,S,D"


def _scalar(parameter: ParameterText, dtype: str, sample: float | int, result: Inputs, given: bool) -> Parameter:
    scalar = Scalar(parameter.name, dtype)
    result.hints[scalar] = sample
    if given:
        result.pinnable.add(scalar)
    return Parameter(parameter.name, scalar=scalar)
