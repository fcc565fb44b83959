"""Imports the user's file, and makes its mathematics symbolic while it is traced."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build
from flashlight.ir.expr import FLOAT, INT, Scalar
from flashlight.source.model import Source
from flashlight.trace.numbers import unwrap, wrap
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
        module.__dict__.update(CONVERSIONS)
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
    """Calls ``int(n)`` and ``float(n)`` by other names: the types themselves are also dtypes, and asked about."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = f"_flashlight_{node.func.id}" if isinstance(node.func, ast.Name) else ""
        if name in CONVERSIONS and len(node.args) == 1 and not node.keywords:
            node.func = ast.copy_location(ast.Name(name, ast.Load()), node.func)
        return node


def _int(number: Any) -> Any:
    """``int``, but a symbolic number stays one: ``int(q.size(-1)) ** -0.5`` would fix the head dimension."""
    if _plain(number):
        return int(number)
    expr = unwrap(number)
    # towards zero, which is down for what is not negative
    low, high = (build.op(name, expr) for name in ("floor", "ceil")) if expr.dtype != INT else (expr, expr)
    rounded = low if expr.dtype == INT else build.where(build.op("lt", expr, build.const(0.0, FLOAT)), high, low)
    return wrap(number.node.sizes, build.cast(rounded, INT))


def _float(number: Any) -> Any:
    """``float``, but a symbolic number stays one."""
    return float(number) if _plain(number) else wrap(number.node.sizes, build.cast(unwrap(number), FLOAT))


CONVERSIONS: dict[str, Callable[[Any], Any]] = {"_flashlight_int": _int, "_flashlight_float": _float}


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
    # NumPy's functions call the method of that name of what is no number to it: np.sqrt(q.size(-1))
    methods = [(kind, name) for kind in (torch.SymInt, torch.SymFloat) for name in UNARY if not hasattr(kind, name)]
    for kind, name in methods:
        setattr(kind, name, _symbolic_function(name))
    try:
        yield
    finally:
        for kind, name in methods:
            delattr(kind, name)
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
