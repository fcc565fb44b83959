"""Symbolic sizes and scalars: PyTorch's SymInt, SymFloat and SymBool over expressions of our own IR.

PyTorch lets any object stand behind a SymInt. Ours holds an integer expression of `flashlight.ir` and a sample value,
so that index arithmetic needs no translation and no general solver: what must be decided while tracing is decided by
the sample, and remembered as an assumption of the program where it matters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from flashlight.ir import build
from flashlight.ir.expr import BOOL, FLOAT, INT, Const, Expr, Scalar
from flashlight.trace.problems import Retry, Unsupported
from flashlight.trace.sizes import Number, Sizes


class Node:
    """What stands behind a SymInt, SymFloat or SymBool: an expression, and the trace that it belongs to."""

    def __init__(self, sizes: Sizes, expr: Expr) -> None:
        self.sizes = sizes
        self.expr = expr

    # what it is
    def is_int(self) -> bool:
        return self.expr.dtype == INT

    def is_bool(self) -> bool:
        return self.expr.dtype == BOOL

    def is_float(self) -> bool:
        return not (self.is_int() or self.is_bool())

    def is_symbolic(self) -> bool:
        return True

    def is_constant(self) -> bool:
        return isinstance(self.expr, Const)

    def is_nested_int(self) -> bool:
        return False

    def nested_int(self) -> None:
        return None

    def has_hint(self) -> bool:
        return True

    @property
    def hint(self) -> Number:
        return self.sizes.sample(self.expr)

    def require_hint(self, fallback: Any = None) -> Number:
        return self.hint

    def _constant(self) -> Any:
        return self.expr.value if isinstance(self.expr, Const) else None

    maybe_as_int = maybe_as_bool = maybe_as_float = constant_int = constant_bool = _constant
    singleton_int = nested_int

    def __repr__(self) -> str:
        return repr(self.expr)

    def _graph_repr(self) -> str:
        """What ``str`` and ``repr`` give: the number's name in a message, else its digits, which must be known."""
        return repr(self.expr) if messages.depth or not written_by_user() else str(self.known())

    def known(self) -> Number:
        """The number itself."""
        if self.is_bool():
            return self.sizes.holds(self.expr, record=True)
        return self.int_() if self.is_int() else self.guard_float()

    # constants of the same kind
    def wrap_int(self, value: int) -> Node:
        return Node(self.sizes, build.integer(value))

    def wrap_float(self, value: float) -> Node:
        return Node(self.sizes, build.const(value, FLOAT))

    def wrap_bool(self, value: bool) -> Node:
        return Node(self.sizes, build.const(value, BOOL))

    def clone(self) -> Node:
        return self

    # decisions
    def bool_(self) -> bool:
        """Python asks for the truth, perhaps in the user's own ``if``."""
        if _outside_torch():
            return self.sizes.holds(_truth(self.expr), record=True)
        return self.guard_bool()

    def guard_bool(self, file: str = "", line: int = 0) -> bool:
        condition = _truth(self.expr)
        result = self.sizes.holds(condition, record=False)
        # PyTorch takes short cuts where sizes are equal, which is right only as long as they are
        if getattr(condition, "op", None) == ("eq" if result else "ne"):
            return self.sizes.holds(condition, record=True)
        return result

    def guard_size_oblivious(self, file: str = "", line: int = 0) -> bool:
        return self.guard_bool()

    guard_or_false = guard_or_true = statically_known_true = expect_true = guard_size_oblivious

    def expect_size(self, file: str = "", line: int = 0) -> bool:
        return True

    def guard_int(self, file: str = "", line: int = 0) -> int:
        return self.int_()

    def int_(self) -> int:
        if isinstance(self.expr, Const):
            return int(self.expr.value)
        if isinstance(self.expr, Scalar) and self.expr in self.sizes.pinnable:
            raise Retry(pinned=self.expr)
        raise Unsupported(
            "FL204",
            f"the size {self.expr} must be a known number here",
            "state the number in the shape, as in # [B, H, 49, D], or write this so that it may be any number: "
            "without a loop over it, a text of it, or a table by it",
        )

    def guard_float(self, file: str = "", line: int = 0) -> float:
        if isinstance(self.expr, Const):
            return float(self.expr.value)
        if isinstance(self.expr, Scalar) and self.expr.name.startswith("finfo_"):
            return float(self.hint)
        if isinstance(self.expr, Scalar) and self.expr in self.sizes.pinnable:
            raise Retry(pinned=self.expr)
        raise Unsupported(
            "FL204", f"{self.expr} must be a known number here", "leave the number symbolic: do not call float() on it"
        )

    # contiguity is of no interest: every traced tensor counts as contiguous
    def is_contiguous(self, *_: Any) -> Node:
        return self.wrap_bool(True)

    is_non_overlapping_and_dense = is_non_overlapping_and_dense_indicator = is_contiguous

    def is_channels_last_contiguous_2d(self, *_: Any) -> Node:
        return self.wrap_bool(False)

    is_channels_last_contiguous_3d = is_channels_last_contiguous_2d
    is_channels_last_strides_2d = is_channels_last_strides_3d = is_channels_last_contiguous_2d


class _Messages(AbstractContextManager[None]):
    """While it is entered, text is for people, and may name a number that is not known."""

    depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


messages = _Messages()


def written_by_user() -> bool:
    """Whether the text of a number is asked for by the user's code, and not by PyTorch's for an error of its own."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_globals.get("__name__", "") in ("torch", __name__):
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None and not frame.f_globals.get("__name__", "").startswith(("torch.", "flashlight."))


def _outside_torch() -> bool:
    """Whether the nearest frame that is neither ours nor PyTorch's exists between here and the tracer."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("torch.") and name != "torch":
            return not name.startswith("flashlight.")
        if name.startswith("torch.nn") or name.startswith("torch.functional"):
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _truth(expr: Expr) -> Expr:
    return expr if expr.dtype == BOOL else build.op("ne", expr, build.const(0, expr.dtype))


def _as_float(expr: Expr) -> Expr:
    return build.cast(expr, FLOAT) if expr.dtype in (INT, BOOL) else expr


def _as_int(expr: Expr) -> Expr:
    return build.cast(expr, INT) if expr.dtype == BOOL else expr


def _binary(name: str, floats: bool = False) -> Callable[[Node, Node], Node]:
    def method(self: Node, other: Node) -> Node:
        left, right = _as_int(self.expr), _as_int(other.expr)
        if floats or left.dtype != INT or right.dtype != INT:
            left, right = _as_float(left), _as_float(right)
        result = build.op(name, left, right)
        return Node(self.sizes, self.sizes.simplify(result) if result.dtype == INT else result)

    return method


def _power(self: Node, other: Node) -> Node:
    if self.is_int() and isinstance(other.expr, Const) and other.is_int() and int(other.expr.value) >= 0:
        result: Expr = build.integer(1)
        for _ in range(int(other.expr.value)):
            result = build.op("mul", result, self.expr)
        return Node(self.sizes, result)
    return _binary("pow", floats=True)(self, other)


def _unary(name: str) -> Callable[[Node], Node]:
    def method(self: Node) -> Node:
        arg = self.expr
        if name not in ("neg", "abs"):
            arg = _as_float(arg)
        return Node(self.sizes, build.op(name, arg))

    return method


def _logical(name: str, bits: bool = False) -> Callable[[Node, Node], Node]:
    def method(self: Node, other: Node) -> Node:
        if bits and not (self.is_bool() and other.is_bool()):
            hint = "use quotients and remainders: n & 7 is n % 8"
            raise Unsupported("FL302", f"the bits of the size {self.expr} are not known", hint)
        return Node(self.sizes, build.op(name, _truth(self.expr), _truth(other.expr)))

    return method


def towards_zero(expr: Expr) -> Expr:
    """The integer that ``int`` makes of a number."""
    if expr.dtype == INT:
        return expr
    low, high = (build.op(name, expr) for name in ("floor", "ceil"))
    return build.cast(build.where(build.op("lt", expr, build.const(0.0, FLOAT)), high, low), INT)


def _rounded(self: Node, digits: int | None = None) -> Node:
    """``round``: to the nearest integer, and to the even one of two."""
    if digits is not None:
        raise Unsupported("FL302", f"rounding {self.expr} to {digits} digits has no rule", "use round(x * 100) / 100")
    low = build.op("floor", self.expr)
    rest = build.op("sub", self.expr, low)
    whole = build.cast(low, INT)
    odd = build.op("eq", build.op("mod", whole, build.integer(2)), build.integer(1))
    half = build.const(0.5, FLOAT)
    up = build.op("or", build.op("gt", rest, half), build.op("and", build.op("eq", rest, half), odd))
    return Node(self.sizes, build.where(up, build.op("add", whole, build.integer(1)), whole))


def _shifted(name: str) -> Callable[[Node, Node], Node]:
    def method(self: Node, other: Node) -> Node:
        return _binary(name)(self, self.wrap_int(1 << other.int_()))

    return method


def _install() -> None:
    methods: dict[str, Callable[..., Node]] = {}
    for names, op in (
        (("add",), "add"),
        (("sub",), "sub"),
        (("mul",), "mul"),
        (("floordiv", "int_floordiv"), "floordiv"),
        (("mod",), "mod"),
        (("sym_min",), "minimum"),
        (("sym_max",), "maximum"),
        (("eq",), "eq"),
        (("ne",), "ne"),
        (("lt",), "lt"),
        (("le",), "le"),
        (("gt",), "gt"),
        (("ge",), "ge"),
    ):
        for name in names:
            methods[name] = _binary(op)
    for name in ("truediv", "int_truediv", "float_truediv"):
        methods[name] = _binary("div", floats=True)
    for name in ("pow", "float_pow", "pow_by_natural"):
        methods[name] = _power
    for name in ("neg", "abs"):
        methods[name] = _unary(name)
    for name in ("sqrt", "exp", "log", "log2", "tanh", "sin", "cos"):
        methods[f"sym_{name}"] = _unary(name)
    methods["sym_float"] = lambda self: Node(self.sizes, _as_float(self.expr))
    methods["trunc"] = lambda self: Node(self.sizes, towards_zero(self.expr))
    methods["round"] = _rounded
    methods["lshift"], methods["rshift"] = _shifted("mul"), _shifted("floordiv")
    methods["is_integer"] = lambda self: Node(self.sizes, build.op("eq", build.op("floor", self.expr), self.expr))
    for name, op in (("floor", "floor"), ("ceil", "ceil")):

        def rounded(self: Node, op: str = op) -> Node:
            whole = self.expr if self.is_int() else build.cast(build.op(op, self.expr), INT)
            return Node(self.sizes, whole)

        methods[name] = rounded
        methods[f"sym_{name}"] = rounded
    methods["bitwise_xor"] = _logical("ne", bits=True)
    for name in ("and", "or"):
        methods[f"{name}_"] = _logical(name)
        methods[f"sym_{name}"] = _logical(name)
        methods[f"bitwise_{name}"] = _logical(name, bits=True)
    for name in ("not", "not_", "sym_not"):
        methods[name] = lambda self: Node(self.sizes, build.op("not", _truth(self.expr)))
    # PyTorch calls this one "str", which would shadow the type in the class
    methods["str"] = Node.__repr__  # type: ignore[assignment]
    for name, method in methods.items():
        setattr(Node, name, method)


_install()


def wrap(sizes: Sizes, expr: Expr) -> Any:
    """The expression as a Python number: a plain one if it is constant, otherwise one of PyTorch's symbolic numbers."""
    if isinstance(expr, Const):
        return expr.value
    node = Node(sizes, expr)
    kind: Any = torch.SymInt if node.is_int() else torch.SymBool if node.is_bool() else torch.SymFloat
    return kind(node)


def unwrap(number: Any) -> Expr:
    """The expression that a Python number stands for."""
    if isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        expr: Expr = number.node.expr
        return expr
    if isinstance(number, bool):
        return build.const(number, BOOL)
    return build.integer(number) if isinstance(number, int) else build.const(float(number), FLOAT)
