"""Constructors that fold what can be folded, so that no stage has to clean up after another.

Integers go to the normal form of `flashlight.ir.integers`. For floats only what holds exactly in IEEE arithmetic is
folded (and 0 + x, whose sign of zero no attention program can observe): constants, 1 * x, selections whose condition
is known. Booleans built as numbers (``torch.ones(n, n).tril() == 0``) become the conditions that they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flashlight.ir import integers
from flashlight.ir.expr import (
    BOOL,
    FLOAT,
    FLOATS,
    INT,
    INTEGERS,
    Axis,
    Const,
    Expr,
    Iota,
    Load,
    Map,
    Reduce,
    Scan,
    Tensor,
    is_float,
    is_int,
)
from flashlight.ir.ops import COMPARISONS, NEGATED

__all__ = ["cast", "const", "false", "integer", "iota", "load", "op", "reduce", "scan", "true", "where"]


def const(value: float | int | bool, dtype: str) -> Const:
    if dtype == BOOL:
        return Const(bool(value), BOOL)
    if dtype in INTEGERS:
        return Const(int(value), INT)
    return Const(float(value), dtype)


def integer(value: int) -> Const:
    return Const(int(value), INT)


def true() -> Const:
    return Const(True, BOOL)


def false() -> Const:
    return Const(False, BOOL)


def iota(axis: Axis) -> Expr:
    return integer(0) if axis.extent is integer(1) else Iota(axis)


def load(tensor: Tensor, index: tuple[Expr, ...]) -> Expr:
    assert len(index) == len(tensor.shape), (tensor, index)
    return Load(tensor, index)


def reduce(operator: str, arg: Expr, axis: Axis) -> Expr:
    return Reduce(operator, arg, axis)


def scan(operator: str, arg: Expr, axis: Axis, at: Expr, reverse: bool = False) -> Expr:
    return Scan(operator, arg, axis, at, reverse)


def where(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """``yes`` where the condition holds, ``no`` elsewhere; both of one dtype."""
    if isinstance(condition, Const):
        return yes if condition.value else no
    if yes is no:
        return yes
    if isinstance(condition, Map) and condition.op == "not" and no.axes:
        # a selection whose fallback is a number is a mask: it keeps that form
        return where(condition.args[0], no, yes)
    if yes.dtype == BOOL:
        if isinstance(yes, Const):
            return op("or", condition, no) if yes.value else op("and", op("not", condition), no)
        if isinstance(no, Const):
            return op("or", op("not", condition), yes) if no.value else op("and", condition, yes)
    # nested selections with one fallback are one selection
    if isinstance(yes, Map) and yes.op == "where" and yes.args[2] is no:
        return where(op("and", condition, yes.args[0]), yes.args[1], no)
    if isinstance(no, Map) and no.op == "where" and no.args[1] is yes:
        return where(op("or", condition, no.args[0]), yes, no.args[2])
    if isinstance(no, Map) and no.op == "where" and isinstance(yes, Const) and no.args[2] is yes:
        return where(op("and", op("not", condition), no.args[0]), no.args[1], yes)
    return Map("where", (condition, yes, no), _common(yes, no))


def cast(arg: Expr, dtype: str) -> Expr:
    """The value converted to another dtype. Narrow integers count as int64: widths are the emitter's business."""
    if dtype in INTEGERS:
        dtype = INT
    if arg.dtype == dtype or (dtype == INT and is_int(arg)):
        return arg
    if isinstance(arg, Const):
        return const(arg.value, dtype)
    if arg.dtype == BOOL:
        return where(arg, const(1, dtype), const(0, dtype))
    if dtype == BOOL:
        return op("ne", arg, const(0, arg.dtype))
    if isinstance(arg, Map) and arg.op == "where" and any(isinstance(branch, Const) for branch in arg.args[1:]):
        return where(arg.args[0], cast(arg.args[1], dtype), cast(arg.args[2], dtype))
    return Map("cast", (arg,), dtype)


def op(name: str, *args: Expr, dtype: str | None = None) -> Expr:
    """``name`` of `flashlight.ir.ops` applied to the arguments, folded; ``dtype`` defaults to the arguments' own."""
    if name == "where":
        return where(*args)
    if name in ("and", "or"):
        return _junction(name, *args)
    if name == "not":
        return _negation(*args)
    if name in COMPARISONS:
        return _comparison(name, *args)
    if all(map(is_int, args)) and name != "div" and (dtype is None or dtype in INTEGERS):
        return _integer(name, args)
    return _float(name, args, dtype or _common(*args))


def _common(*args: Expr) -> str:
    dtypes = {arg.dtype for arg in args}
    if len(dtypes) == 1:
        return dtypes.pop()
    floats = dtypes & FLOATS
    if not floats:
        return INT if dtypes & INTEGERS else BOOL
    return floats.pop() if len(floats) == 1 else ("float64" if "float64" in floats else FLOAT)


def _integer(name: str, args: tuple[Expr, ...]) -> Expr:
    if name in ("add", "sub", "mul", "floordiv", "mod"):
        fold = {
            "add": integers.add,
            "sub": integers.sub,
            "mul": integers.mul,
            "floordiv": integers.floordiv,
            "mod": integers.mod,
        }
        special = _through_selection(name, args, INT)
        return special if special is not None else fold[name](*args)
    if name == "neg":
        return integers.sub(integer(0), args[0])
    if name == "pow" and isinstance(args[1], Const) and 0 <= args[1].value <= 8:
        result: Expr = integer(1)
        for _ in range(int(args[1].value)):
            result = integers.mul(result, args[0])
        return result
    if all(isinstance(arg, Const) for arg in args):
        values = [int(arg.value) for arg in args if isinstance(arg, Const)]
        if name == "maximum":
            return integer(max(values))
        if name == "minimum":
            return integer(min(values))
        if name == "abs":
            return integer(abs(values[0]))
    if name == "abs" and integers.known_nonnegative(args[0]):
        return args[0]
    if name in ("maximum", "minimum") and args[0] is args[1]:
        return args[0]
    return Map(name, args, INT)


def _float(name: str, args: tuple[Expr, ...], dtype: str) -> Expr:
    args = tuple(cast(arg, dtype) if isinstance(arg, Const) and dtype in FLOATS else arg for arg in args)
    values = [float(arg.value) if isinstance(arg, Const) else None for arg in args]
    known = [value for value in values if value is not None]
    if len(known) == len(args) and name in _FOLDED:
        try:
            return const(_FOLDED[name](*known), dtype)
        except (ZeroDivisionError, ValueError, OverflowError):
            pass
    if name == "mul" and values[0] is not None and values[1] is None:
        args, values = (args[1], args[0]), [values[1], values[0]]
    if name in ("mul", "div", "pow") and values[1] == 1.0:
        return cast(args[0], dtype)
    if name == "mul" and values[1] == -1.0:
        return op("neg", args[0], dtype=dtype)
    if name == "add" and 0.0 in values:
        return cast(args[1 - values.index(0.0)], dtype)
    if name == "sub" and values[1] == 0.0:
        return cast(args[0], dtype)
    if name in ("neg", "abs") and isinstance(args[0], Map) and args[0].op == "neg":
        return args[0].args[0] if name == "neg" else op("abs", args[0].args[0], dtype=dtype)
    special = _through_selection(name, args, dtype)
    return special if special is not None else Map(name, args, dtype)


_FOLDED: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pow": lambda a, b: math.pow(a, b),
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1.0 / math.sqrt(a),
    "exp": math.exp,
    "log": math.log,
    "abs": abs,
    "maximum": max,
    "minimum": min,
}


def _through_selection(name: str, args: tuple[Expr, ...], dtype: str) -> Expr | None:
    """f(where(c, 1, 0)) = where(c, f(1), f(0)) where the branches and the other arguments are constants."""
    chosen = [i for i, arg in enumerate(args) if isinstance(arg, Map) and arg.op == "where"]
    if len(chosen) != 1 or not all(isinstance(arg, Const) for i, arg in enumerate(args) if i != chosen[0]):
        return None
    selection = args[chosen[0]]
    assert isinstance(selection, Map)
    condition, yes, no = selection.args
    if not (isinstance(yes, Const) and isinstance(no, Const)):
        return None
    branches = [op(name, *args[: chosen[0]], branch, *args[chosen[0] + 1 :], dtype=dtype) for branch in (yes, no)]
    return where(condition, *branches) if all(isinstance(branch, Const) for branch in branches) else None


def _junction(name: str, left: Expr, right: Expr) -> Expr:
    neutral = name == "and"
    for one, other in ((left, right), (right, left)):
        if isinstance(one, Const):
            return other if bool(one.value) == neutral else one
    if left is right:
        return left
    return Map(name, (left, right), BOOL)


def _negation(arg: Expr) -> Expr:
    if isinstance(arg, Const):
        return const(not arg.value, BOOL)
    if isinstance(arg, Map):
        if arg.op == "not":
            return arg.args[0]
        if arg.op in NEGATED and (arg.op in ("eq", "ne") or all(map(is_int, arg.args))):
            # not (x < y) is x >= y only where neither can be NaN
            return Map(NEGATED[arg.op], arg.args, BOOL)
        if arg.op in ("and", "or"):
            return _junction("or" if arg.op == "and" else "and", *(_negation(part) for part in arg.args))
    return Map("not", (arg,), BOOL)


def _comparison(name: str, left: Expr, right: Expr) -> Expr:
    for one, other, flipped in ((left, right, False), (right, left, True)):
        if isinstance(one, Map) and one.op == "where" and isinstance(other, Const):
            condition, yes, no = one.args
            if isinstance(yes, Const) and isinstance(no, Const):
                results = [_compared(name, *((other, branch) if flipped else (branch, other))) for branch in (yes, no)]
                return where(condition, *(const(result, BOOL) for result in results))
    if isinstance(left, Const) and isinstance(right, Const):
        return const(_compared(name, left, right), BOOL)
    if left.dtype == BOOL and isinstance(right, Const) and name in ("eq", "ne"):
        return left if bool(right.value) == (name == "eq") else _negation(left)
    if is_int(left) and is_int(right):
        difference = integers.sub(left, right)
        if isinstance(difference, Const):
            return const(_compared(name, difference, integer(0)), BOOL)
        # x < y + 1 reads better as x <= y
        step = integers.polynomial(right).get((), 0)
        if len(integers.polynomial(right)) > 1 and (name, step) in _TIGHTER:
            name, right = _TIGHTER[name, step], integers.sub(right, integer(step))
    elif is_float(left) and isinstance(right, Const) and is_int(right):
        right = const(right.value, left.dtype)
    elif is_float(right) and isinstance(left, Const) and is_int(left):
        left = const(left.value, right.dtype)
    return Map(name, (left, right), BOOL)


_TIGHTER = {("lt", 1): "le", ("ge", 1): "gt", ("le", -1): "lt", ("gt", -1): "ge"}


def _compared(name: str, left: Const, right: Const) -> bool:
    a, b = left.value, right.value
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[name]
