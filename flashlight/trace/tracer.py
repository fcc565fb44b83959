"""Traces a target: runs the user's function once on symbolic shapes and reads the program off its results."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher

from flashlight.diagnostics import Diagnostic
from flashlight.ir.expr import ELEMENT, Const, Expr, Iota, Load, Reduce, Scalar, Tensor, walk
from flashlight.ir.program import Name, Output, Program
from flashlight.source.model import Source, Target
from flashlight.trace.axes import told_apart
from flashlight.trace.branches import discharged
from flashlight.trace.capture import Capture, Intercept
from flashlight.trace.context import Context
from flashlight.trace.frames import Names, located_in
from flashlight.trace.guise import DTYPE, Aspect, Guise, Inquiry, depends, others, same_outputs
from flashlight.trace.load import load, symbolic
from flashlight.trace.numbers import wrap
from flashlight.trace.parameters import Inputs, inputs
from flashlight.trace.problems import Retry, Unsupported
from flashlight.trace.results import results
from flashlight.trace.sizes import Sizes
from flashlight.trace.traced import Parameter, Traced
from flashlight.trace.value import ONE, DTypes, Index, of_tensor

ATTEMPTS = 12


def trace(source: Source, target: Target, shapes: Mapping[str, Sequence[str]] | None = None) -> Traced:
    """The program that ``target`` computes.

    ``shapes`` states shapes for parameters that the file says nothing of, as names of sizes. Raises `Diagnostic` at
    the user's line where the program cannot be traced.
    """
    overrides = {name: tuple(dims) for name, dims in (shapes or {}).items()}
    module = load(source)
    function = _unwrapped(getattr(module, target.name))
    if not isinstance(function, FunctionType):
        message = f"a decorator makes `{target.name}` a {type(function).__name__}, which does not run line by line"
        raise Diagnostic(
            "FL105",
            message,
            "transpile the function without it",
            path=source.path,
            line=target.line,
            column=target.column,
        )
    element = torch.float16 if "bfloat16" in source.text else torch.bfloat16
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    job = _Job(source, target, module, function, Guise(element), overrides, defaults)
    return _traced_under(job, {})


def _traced_under(job: _Job, given_ties: Mapping[str, Expr]) -> Traced:
    first = job.trace(given_ties)
    for aspect, guise in others(job.guise, first.inquiry.asked):
        _check_same(job, first, aspect, guise)
    return discharged(first.traced, lambda more: _traced_under(job, {**first.ties, **more}))


def _check_same(job: _Job, first: _Trial, aspect: Aspect, guise: Guise) -> None:
    """Raises FL308 where the program is another one for arguments that a call may give as well."""
    program = first.traced.program
    concerned = ("int64", "int32") if guise.short else (ELEMENT,)
    if aspect is DTYPE and all(tensor.dtype not in concerned for tensor in program.inputs):
        return
    inquiry = Inquiry(guise, first.inquiry)
    try:
        second = replace(job, guise=guise).trace(first.ties, inquiry)
    except Diagnostic as diagnostic:
        if _refused_by_the_user(diagnostic, job.source):
            return
    else:
        if same_outputs(program.outputs, second.traced.program.outputs, guise.element):
            return
    raise located_in(depends(aspect, first.inquiry, inquiry), job.source, None)


def _refused_by_the_user(diagnostic: Diagnostic, source: Source) -> bool:
    """Whether the function itself raised the error: then there is nothing that a kernel would have to agree with."""
    traceback = diagnostic.__cause__.__traceback__ if diagnostic.__cause__ is not None else None
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename == str(source.path)


@dataclass(frozen=True)
class _Trial:
    """A trace: the program, with some sizes and numbers replaced, the replacements that it took, and its course."""

    traced: Traced
    ties: Mapping[str, Expr]
    inquiry: Inquiry


@dataclass(frozen=True)
class _Job:
    """All that an attempt needs but the samples."""

    source: Source
    target: Target
    module: ModuleType
    function: Any
    guise: Guise
    overrides: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, Any]

    def trace(self, given_ties: Mapping[str, Expr], inquiry: Inquiry | None = None) -> _Trial:
        inquiry = inquiry or Inquiry(self.guise)
        ties = dict(given_ties)
        samples: dict[str, int] = {}
        pinned: set[str] = set()
        numbers: set[str] = set()
        for attempt in range(ATTEMPTS):
            given = inputs(self.source, self.target, self.overrides, ties, samples, self.defaults, pinned, numbers)
            inquiry.begin()
            sizes = Sizes(given.hints, given.flexible, given.pinnable, inquiry)
            try:
                with symbolic(self.module, sizes, self.guise.element):
                    return _Trial(_run(self.source, self.target, self.function, given, sizes), ties, inquiry)
            except Retry as retry:
                ties |= {scalar.name: other for scalar, other in retry.ties.items()}
                samples |= {scalar.name: number for scalar, number in retry.samples.items()}
                pinned |= {retry.pinned.name} if retry.pinned is not None else set()
                numbers |= {retry.size.name} if retry.size is not None else set()
                for whole, divisor in retry.multiples.items():
                    _refit(samples, sizes, whole, divisor)
            except Diagnostic as diagnostic:
                if not given.flexible or attempt == ATTEMPTS - 1 or diagnostic.code not in ("FL202", "FL305"):
                    raise
                # the convention kept sizes apart that this program takes to be equal
                ties |= {scalar.name: other for scalar, other in given.flexible.items()}
        raise Diagnostic(
            "FL202",
            f"no sample sizes fit `{self.target.name}`",
            "state the shapes of its parameters",
            path=self.source.path,
        )


def _refit(samples: dict[str, int], sizes: Sizes, whole: Expr, divisor: Expr) -> None:
    """Choose a sample for a size of ``whole`` so that ``divisor`` divides it, as what has been assumed so far does."""
    scalars = [node for node in walk(whole) if isinstance(node, Scalar) and node.positive]
    step = int(sizes.sample(divisor))
    taken = {int(hint) for scalar, hint in sizes.hints.items() if scalar.positive}
    for scalar in scalars if step > 0 else ():
        first = max(2 * step, int(sizes.hints[scalar]) // step * step)
        for number in range(first, first + 200 * step):
            if number not in taken and sizes.are_multiples({scalar: number}, [*sizes.divisible, (whole, divisor)]):
                samples[scalar.name] = number
                return
    raise Unsupported("FL202", f"{whole} is not a multiple of {divisor}")


def _run(source: Source, target: Target, function: Any, given: Inputs, sizes: Sizes) -> Traced:
    names = Names(source, sizes.inquiry)
    context = Context(sizes, DTypes(sizes.inquiry.guise.element, sizes.inquiry.guise.short))
    capture = Capture(context, names)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 20000))
    try:
        arguments = _arguments(given, capture)
        with torch.no_grad(), enable_python_dispatcher(), Intercept(capture), capture:
            result = _called(function, arguments)
        outputs, returns = results(source, target, context, result)
    except (Retry, Diagnostic):
        raise
    except Unsupported as problem:
        raise located_in(problem, source, problem.__traceback__) from None
    except Exception as error:
        reason = str(error).strip().splitlines()
        message = f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
        failure = Unsupported("FL305", message, "correct the program or the shapes of its parameters")
        raise located_in(failure, source, error.__traceback__) from error
    finally:
        sys.setrecursionlimit(limit)
        names.finish()
    program, parameters = _traced(target, given, capture, outputs, names.names)
    return Traced(program, parameters, returns, single=not isinstance(result, (tuple, list)))


def _unwrapped(function: Any) -> Any:
    """The user's own function below decorators such as ``torch.compile`` and type checkers."""
    function = getattr(function, "_torchdynamo_orig_callable", function)
    return inspect.unwrap(function)


def _called(function: Any, arguments: Mapping[str, Any]) -> Any:
    positional = [
        arguments[name]
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY
    ]
    names = list(inspect.signature(function).parameters)[: len(positional)]
    return function(*positional, **{name: value for name, value in arguments.items() if name not in names})


def _arguments(given: Inputs, capture: Capture) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(given.specialised)
    for parameter in given.parameters:
        if parameter.tensor is not None:
            dtype = capture.context.dtypes.given(parameter.tensor.dtype)
            made = capture.tensor(of_tensor(parameter.tensor, dtype), parameter.tensor.name)
            if parameter.item is None:
                arguments[parameter.name] = made
            else:
                arguments.setdefault(parameter.name, []).append(made)
        elif parameter.scalar is not None:
            fixed = given.fixed.get(parameter.name, parameter.scalar)
            arguments[parameter.name] = wrap(capture.context.sizes, fixed)
    return arguments


def _traced(
    target: Target, given: Inputs, capture: Capture, outputs: tuple[Output, ...], names: Mapping[Expr, Name]
) -> tuple[Program, tuple[Parameter, ...]]:
    tensors = tuple(parameter.tensor for parameter in given.parameters if parameter.tensor is not None)
    strict = _strict(tensors, capture.used)
    smaller = {tensor.name for tensor in tensors} - strict
    covered = {size for tensor in tensors if tensor.name in strict for size in tensor.shape}
    # a size that only such tensors have could not be known
    smaller = {
        tensor.name
        for tensor in tensors
        if tensor.name in smaller and all(isinstance(size, Const) or size in covered for size in tensor.shape)
    }
    smaller -= _alone(outputs, smaller)
    reached = set(walk(*(output.expr for output in outputs)))
    program = Program(
        name=target.name,
        inputs=tensors,
        outputs=outputs,
        names={expr: name for expr, name in names.items() if expr in reached},
        assumptions=_assumptions(capture.context.sizes),
    )
    parameters = tuple(_marked(parameter, smaller, capture.whole) for parameter in given.parameters)
    return told_apart(program), parameters


def _alone(outputs: tuple[Output, ...], smaller: set[str]) -> set[str]:
    """Those of the tensors without which an axis of an output or a reduction would have nothing to say how long it is.

    Row scores that are added to key scores make the rows: with a size of 1 there would be one row, not S equal ones.
    """
    scopes = [(axis, output.expr) for output in outputs for axis in output.axes]
    nodes = walk(*(output.expr for output in outputs))
    scopes += [(node.axis, node.arg) for node in nodes if isinstance(node, Reduce)]
    alone: set[str] = set()
    for axis, scope in scopes:
        waiting, seen = [scope], {scope}
        names: set[str] = set()
        while waiting and axis in scope.axes:
            node = waiting.pop()
            if isinstance(node, Iota) and node.axis is axis:
                names.add("")  # a position that is made from the size itself
            # a slice of a longer tensor says nothing: its end was taken from another
            if isinstance(node, Load) and any(
                index is Iota(axis) and size is axis.extent
                for index, size in zip(node.index, node.tensor.shape, strict=True)
            ):
                names.add(node.tensor.name)
            for child in () if isinstance(node, Load) else node.children:
                if child not in seen and axis in child.axes:
                    seen.add(child)
                    waiting.append(child)
        if names <= smaller:
            alone |= names
    return alone


def _strict(tensors: tuple[Tensor, ...], used: set[tuple[frozenset[str], Index]]) -> set[str]:
    """The tensors that have to be as large as stated: those that had the sizes of what was not merely broadcast.

    What has its sizes from several is as large as it seems if those are that have all of its dimensions.
    """
    sizes = {tensor.name: Counter(tensor.shape) for tensor in tensors}
    strict: set[str] = set()
    for origins, shape in used:
        wanted = Counter(size for size in shape if size is not ONE)
        strict |= {name for name in origins if wanted <= sizes[name]} or origins
    return strict


def _assumptions(sizes: Sizes) -> tuple[Expr, ...]:
    """What was assumed and is still not certain, given everything else that was."""
    return tuple(
        condition
        for condition in sizes.assumptions
        if sizes.certain(condition) is None or getattr(condition, "op", None) == "eq"
    )


def _marked(parameter: Parameter, smaller: set[str], whole: set[str]) -> Parameter:
    tensor = parameter.tensor
    if tensor is None or tensor.name not in smaller:
        return parameter
    return replace(parameter, broadcast=True, whole=tensor.name in whole)
