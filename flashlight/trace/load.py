"""Imports the user's file, and makes its mathematics symbolic while it is traced."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build
from flashlight.ir.expr import FLOAT, INT, Expr, Scalar, walk
from flashlight.source.model import Source
from flashlight.trace.capture import TracedTensor
from flashlight.trace.frames import place_of
from flashlight.trace.guise import KIND
from flashlight.trace.numbers import messages, towards_zero, unwrap, wrap
from flashlight.trace.problems import Unsupported
from flashlight.trace.sizes import Sizes

UNARY = ("sqrt", "exp", "log", "log2", "tanh", "sin", "cos", "floor", "ceil")


def load(source: Source) -> types.ModuleType:
    """The user's file as a module of its own. Raises FL106 where it cannot be imported."""
    name = f"_flashlight_user_{source.path.stem}"
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(source.path))
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(source.path)
    folder = str(source.path.parent.resolve())
    sys.modules[name] = module
    sys.path.insert(0, folder)
    try:
        module.__dict__.update(CONVERSIONS, **{MESSAGES: messages})
        tree = _Conversions().visit(ast.parse(source.text, str(source.path)))
        exec(compile(tree, str(source.path), "exec"), module.__dict__)
    except Exception as error:
        raise Diagnostic(
            "FL106", f"importing it fails: {type(error).__name__}: {error}", "it must be importable", path=source.path
        ) from error
    finally:
        sys.path.remove(folder)
        sys.modules.pop(name, None)
    return module


class _Conversions(ast.NodeTransformer):
    """Calls ``int(n)``, ``isinstance(n, int)`` and the like by other names, since symbolic numbers are neither ints nor
    floats, and says where text is a message. The types themselves are left alone: they are also dtypes."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = f"_flashlight_{node.func.id}" if isinstance(node.func, ast.Name) else ""
        if name in CONVERSIONS and len(node.args) == (2 if name.endswith("isinstance") else 1) and not node.keywords:
            node.func = ast.copy_location(ast.Name(name, ast.Load()), node.func)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.With:
        self.generic_visit(node)
        return _as_message(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        if node.msg is None:
            return node
        raised = ast.Call(ast.Name("AssertionError", ast.Load()), [node.msg], [])
        failed = ast.UnaryOp(ast.Not(), node.test)
        return _placed(ast.If(failed, [_as_message(_placed(ast.Raise(raised), node))], []), node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        self.generic_visit(node)
        called = node.value.func if isinstance(node.value, ast.Call) else None
        return _as_message(node) if getattr(called, "attr", getattr(called, "id", None)) in SPEAKING else node


def _as_message(statement: ast.stmt) -> ast.With:
    return _placed(ast.With([ast.withitem(ast.Name(MESSAGES, ast.Load()))], [statement]), statement)


Node = TypeVar("Node", bound=ast.AST)


def _placed(node: Node, old: ast.AST) -> Node:
    """The node at another's place, as far as its parts have none of their own."""
    return ast.fix_missing_locations(ast.copy_location(node, old))


def _int(number: Any) -> Any:
    """``int``, but a symbolic number stays one: ``int(q.size(-1)) ** -0.5`` would fix the head dimension."""
    if _plain(number):
        return int(number)
    return wrap(number.node.sizes, towards_zero(unwrap(number)))


def _float(number: Any) -> Any:
    """``float``, but a symbolic number stays one."""
    return float(number) if _plain(number) else wrap(number.node.sizes, build.cast(unwrap(number), FLOAT))


def _type(value: Any) -> type:
    """``type``, but of what the value stands for."""
    if isinstance(value, TracedTensor):
        return torch.Tensor
    if isinstance(value, torch.SymBool):
        return bool
    if _plain(value):
        return type(value)
    if isinstance(value, torch.SymInt) or not any(map(_announced_as_float, walk(unwrap(value)))):
        return int if isinstance(value, torch.SymInt) else float
    # the caller may give an int, and sums of ints are ints
    frame = sys._getframe(1)
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        frame = frame.f_back
    return int if value.node.sizes.inquiry.ask(KIND, place_of(frame)).whole else float


def _announced_as_float(expr: Expr) -> bool:
    return isinstance(expr, Scalar) and expr.dtype == FLOAT and not expr.name.startswith("finfo_")


def _isinstance(value: Any, kinds: Any) -> bool:
    return issubclass(_type(value), kinds) if isinstance(value, SYMBOLIC) else isinstance(value, kinds)


SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
CONVERSIONS: dict[str, Callable[..., Any]] = {
    "_flashlight_int": _int,
    "_flashlight_float": _float,
    "_flashlight_type": _type,
    "_flashlight_isinstance": _isinstance,
}
MESSAGES = "_flashlight_messages"
SPEAKING = frozenset({"print", "debug", "info", "warning", "warn", "error"})
"""Functions whose arguments are read by people: what these calls return is not looked at."""


@contextlib.contextmanager
def symbolic(module: types.ModuleType, sizes: Sizes, element: torch.dtype) -> Iterator[None]:
    """While it holds, ``math`` and ``torch.finfo`` in the user's module understand symbolic numbers.

    ``math.sqrt(q.size(-1))`` would fix the head dimension, and ``torch.finfo(q.dtype).min`` the dtype.
    """
    functions: dict[Any, Callable[..., Any]] = {getattr(math, name): _symbolic_function(name) for name in UNARY}
    functions[math.pow] = _symbolic_power
    replaced = {name: functions.get(value, value) for name, value in vars(math).items() if _hashable(value)}
    shim = types.SimpleNamespace(**replaced)
    changed: dict[str, Any] = {}
    for name, value in list(vars(module).items()):
        if value is math:
            changed[name], module.__dict__[name] = value, shim
        elif isinstance(value, types.BuiltinFunctionType) and value in functions:
            changed[name], module.__dict__[name] = value, functions[value]
    original = torch.finfo
    torch.finfo = _finfo(original, sizes, element)  # type: ignore[misc, assignment]
    for name, value in list(vars(module).items()):
        if value is original:
            changed[name], module.__dict__[name] = value, torch.finfo
    methods = {(kind, name): kind.__dict__.get(name) for kind in SYMBOLIC for name in METHODS}
    for kind, name in methods:
        setattr(kind, name, METHODS[name])
    try:
        yield
    finally:
        for (kind, name), method in methods.items():
            if method is None:
                delattr(kind, name)
            else:
                setattr(kind, name, method)
        torch.finfo = original  # type: ignore[misc]
        module.__dict__.update(changed)


def _hashable(value: Any) -> bool:
    return getattr(type(value), "__hash__", None) is not None


def _plain(*numbers: Any) -> bool:
    return not any(isinstance(number, (torch.SymInt, torch.SymFloat)) for number in numbers)


def _symbolic_function(name: str) -> Callable[[Any], Any]:
    plain = getattr(math, name)

    def function(number: Any) -> Any:
        if _plain(number):
            return plain(number)
        expr = unwrap(number)
        if name in ("floor", "ceil"):
            rounded = expr if expr.dtype == INT else build.cast(build.op(name, expr), INT)
            return wrap(number.node.sizes, rounded)
        return wrap(number.node.sizes, build.op(name, build.cast(expr, FLOAT)))

    return function


def _symbolic_power(base: Any, exponent: Any) -> Any:
    return math.pow(base, exponent) if _plain(base, exponent) else base**exponent


class _Unhashable(Unsupported, TypeError):
    """A number that is not known is no key. A TypeError, since who keeps results by sizes takes that for an answer."""


def _hash(number: Any) -> int:
    try:
        return hash(number.node.known())
    except Unsupported as problem:
        raise _Unhashable(problem.code, problem.message, problem.hint) from None


def _format(number: Any, how: str) -> str:
    return str(number) if messages.depth else format(number.node.known(), how)


def _attribute(number: Any, name: str) -> Any:
    """What numbers have and symbolic ones have not."""
    kind = {torch.SymInt: int, torch.SymBool: bool}.get(type(number), float)
    if name.startswith("_") or not hasattr(kind, name):
        raise AttributeError(f"'{kind.__name__}' object has no attribute '{name}'")
    return getattr(number.node.known(), name)


def _round(number: Any, digits: int | None = None) -> Any:
    if isinstance(number, torch.SymInt) and (digits is None or digits >= 0):
        return number
    return wrap(number.node.sizes, number.node.round(digits).expr)


METHODS: dict[str, Callable[..., Any]] = {
    "__divmod__": lambda number, other: (number // other, number % other),
    "__rdivmod__": lambda number, other: (other // number, other % number),
    "__invert__": lambda number: -_int(number) - 1,
    "__round__": _round,
    "__hash__": _hash,
    "__format__": _format,
    "__getattr__": _attribute,
    # NumPy's functions call the method of that name of what is no number to it: np.sqrt(q.size(-1))
    **{name: _symbolic_function(name) for name in UNARY},
}
"""What Python asks of numbers and PyTorch's symbolic ones do not know, or answer wrongly."""


def _finfo(original: Any, sizes: Sizes, element: torch.dtype) -> Callable[..., Any]:
    def finfo(dtype: torch.dtype | None = None) -> Any:
        known = original() if dtype is None else original(dtype)
        if dtype != element:
            return known
        fields = {}
        for name in ("min", "max", "tiny", "eps", "smallest_normal"):
            scalar = Scalar(f"finfo_{'tiny' if name == 'smallest_normal' else name}", FLOAT)
            sizes.hints[scalar] = getattr(known, name)
            fields[name] = wrap(sizes, scalar)
        return types.SimpleNamespace(**fields, bits=known.bits, dtype=known.dtype)

    return finfo
