"""Traces a target: runs the user's function once on symbolic shapes and reads the program off its results."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher

from flashlight.diagnostics import Diagnostic
from flashlight.ir.expr import Const, Expr, Scalar, Tensor, walk
from flashlight.ir.program import Name, Output, Program
from flashlight.source.model import Source, Target
from flashlight.trace.capture import Capture, Intercept, TracedTensor
from flashlight.trace.context import Context
from flashlight.trace.frames import Names, located_in
from flashlight.trace.load import load, symbolic
from flashlight.trace.numbers import Sizes, wrap
from flashlight.trace.parameters import Inputs, inputs
from flashlight.trace.problems import Retry, Unsupported
from flashlight.trace.traced import Parameter, Traced
from flashlight.trace.value import DTypes, Value, at_axes, of_tensor, positions

ATTEMPTS = 12


def trace(source: Source, target: Target, shapes: Mapping[str, Sequence[str]] | None = None) -> Traced:
    """The program that ``target`` computes.

    ``shapes`` states shapes for parameters that the file says nothing of, as names of sizes. Raises `Diagnostic` at
    the user's line where the program cannot be traced.
    """
    overrides = {name: tuple(dims) for name, dims in (shapes or {}).items()}
    module = load(source)
    function = getattr(module, target.name)
    element = torch.float16 if "bfloat16" in source.text else torch.bfloat16
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    ties: dict[str, Expr] = {}
    samples: dict[str, int] = {}
    for attempt in range(ATTEMPTS):
        given = inputs(source, target, overrides, ties, samples, defaults)
        sizes = Sizes(given.hints, given.flexible, str(source.path))
        try:
            with symbolic(module, sizes, element):
                return _run(source, target, function, given, sizes, DTypes(element))
        except Retry as retry:
            ties |= {scalar.name: other for scalar, other in retry.ties.items()}
            for whole, divisor in retry.multiples.items():
                _refit(samples, sizes, whole, divisor)
        except Diagnostic as diagnostic:
            if not given.flexible or attempt == ATTEMPTS - 1 or diagnostic.code not in ("FL202", "FL305"):
                raise
            # the convention kept sizes apart that this program takes to be equal
            ties |= {scalar.name: other for scalar, other in given.flexible.items()}
    raise Diagnostic(
        "FL202", f"no sample sizes fit `{target.name}`", "state the shapes of its parameters", path=source.path
    )


def _refit(samples: dict[str, int], sizes: Sizes, whole: Expr, divisor: Expr) -> None:
    """Choose a sample of ``whole`` that ``divisor`` divides."""
    scalars = [node for node in walk(whole) if isinstance(node, Scalar) and node.positive]
    step = int(sizes.sample(divisor))
    if not scalars or step < 1:
        raise Unsupported("FL202", f"{whole} is not a multiple of {divisor}")
    count = max(2, int(sizes.sample(scalars[0])) // step)
    taken = {int(hint) for scalar, hint in sizes.hints.items() if scalar.positive}
    while step * count in taken:
        count += 1
    samples[scalars[0].name] = step * count


def _run(source: Source, target: Target, function: Any, given: Inputs, sizes: Sizes, dtypes: DTypes) -> Traced:
    names = Names(source)
    context = Context(sizes, dtypes)
    capture = Capture(context, names)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20000))
    try:
        arguments = _arguments(given, capture)
        with torch.no_grad(), enable_python_dispatcher(), Intercept(capture), capture:
            result = function(**arguments)
        returned = _returned(source, target, result)
        outputs = _outputs(given, dtypes, returned, result)
    except (Retry, Diagnostic):
        raise
    except Unsupported as problem:
        raise located_in(problem, source, problem.__traceback__) from None
    except Exception as error:
        reason = str(error).strip().splitlines()
        problem = Unsupported(
            "FL305", f"{type(error).__name__}: {reason[0] if reason else 'no message'}", "correct the program or its shapes"
        )
        raise located_in(problem, source, error.__traceback__) from error
    finally:
        sys.setrecursionlimit(limit)
        names.finish()
    for output in outputs:
        if output.expr.dtype == "":
            raise AssertionError(output)
    return _traced(target, given, capture, outputs, names.names)


def _arguments(given: Inputs, capture: Capture) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(given.specialised)
    for parameter in given.parameters:
        if parameter.tensor is not None:
            dtype = capture.context.dtypes.torch(None if parameter.tensor.dtype == "element" else parameter.tensor.dtype)
            made = capture.tensor(of_tensor(parameter.tensor, dtype), parameter.tensor.name)
            if parameter.item is None:
                arguments[parameter.name] = made
            else:
                arguments.setdefault(parameter.name, []).append(made)
        elif parameter.scalar is not None:
            arguments[parameter.name] = wrap(capture.context.sizes, parameter.scalar)
    return arguments


def _returned(source: Source, target: Target, result: Any) -> tuple[str | None, ...] | str:
    """Names for what the function returns: the variables' own where ``return`` names them."""
    names: list[str | None] = []
    tree = ast.parse(source.text)
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == target.name:
            for statement in ast.walk(node):
                if isinstance(statement, ast.Return) and statement.value is not None:
                    value = statement.value
                    elements = value.elts if isinstance(value, (ast.Tuple, ast.List)) else [value]
                    if len(elements) == len(parts):
                        names = [element.id if isinstance(element, ast.Name) else None for element in elements]
    names = names or [None] * len(parts)
    parameters = {parameter.name for parameter in target.parameters}
    chosen: list[str | None] = []
    for position, (name, part) in enumerate(zip(names, parts, strict=True)):
        if part is None:
            chosen.append(None)
            continue
        if not isinstance(part, torch.Tensor):
            raise Diagnostic(
                "FL306",
                f"`{target.name}` returns a {type(part).__name__}",
                "return a tensor or a tuple of tensors",
                path=source.path,
                line=target.line,
                column=target.column,
                end_column=target.column + len(target.name),
            )
        fallback = "output" if position == 0 else f"output_{position}"
        chosen.append(name if name is not None and name not in parameters and name not in chosen else fallback)
    if isinstance(result, (tuple, list)):
        return tuple(chosen)
    assert chosen[0] is not None
    return chosen[0]


def _outputs(given: Inputs, dtypes: DTypes, returned: tuple[str | None, ...] | str, result: Any) -> tuple[Output, ...]:
    parts = list(result) if isinstance(result, (tuple, list)) else [result]
    labels = [returned] if isinstance(returned, str) else list(returned)
    outputs = []
    for label, part in zip(labels, parts, strict=True):
        if label is None:
            continue
        if not isinstance(part, TracedTensor):
            raise Unsupported("FL306", "a constant tensor is returned", "return what is computed from the parameters")
        value: Value = part.value
        axes = positions(value.shape)
        outputs.append(Output(label, axes, at_axes(value, axes), dtypes.stored(value.dtype)))
    return tuple(outputs)


def _traced(
    target: Target, given: Inputs, capture: Capture, outputs: tuple[Output, ...], names: Mapping[Expr, Name]
) -> Traced:
    tensors = tuple(parameter.tensor for parameter in given.parameters if parameter.tensor is not None)
    strict = set(capture.strict)
    smaller = {tensor.name for tensor in tensors} - strict
    covered = {size for tensor in tensors if tensor.name in strict for size in tensor.shape}
    # a size that only such tensors have could not be known
    smaller = {t.name for t in tensors if t.name in smaller and all(isinstance(s, Const) or s in covered for s in t.shape)}
    reached = set(walk(*(output.expr for output in outputs)))
    program = Program(
        name=target.name,
        inputs=tensors,
        outputs=outputs,
        names={expr: name for expr, name in names.items() if expr in reached},
        assumptions=_assumptions(capture.context.sizes),
    )
    parameters = tuple(_marked(parameter, smaller) for parameter in given.parameters)
    return Traced(program, parameters)


def _assumptions(sizes: Sizes) -> tuple[Expr, ...]:
    """What was assumed and is still not certain, given everything else that was."""
    return tuple(
        condition
        for condition in sizes.assumptions
        if sizes.certain(condition) is None or getattr(condition, "op", None) == "eq"
    )


def _marked(parameter: Parameter, smaller: set[str]) -> Parameter:
    tensor: Tensor | None = parameter.tensor
    return replace(parameter, broadcast=True) if tensor is not None and tensor.name in smaller else parameter
