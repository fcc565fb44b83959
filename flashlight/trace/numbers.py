"""Symbolic sizes and scalars: PyTorch's SymInt, SymFloat and SymBool over expressions of our own IR.

PyTorch lets any object stand behind a SymInt. Ours holds an integer expression of `flashlight.ir` and a sample value,
so that index arithmetic needs no translation and no general solver: what must be decided while tracing is decided by
the sample, and remembered as an assumption of the program where it matters.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch

from flashlight.ir import build, integers
from flashlight.ir.expr import BOOL, FLOAT, INT, Const, Expr, Load, Map, Scalar
from flashlight.trace.problems import Inconsistent, Retry, Unsupported

Number = float | int | bool


class Sizes:
    """What a trace knows of its numbers: samples, equalities, divisibilities, and what it has assumed."""

    def __init__(self, hints: Mapping[Scalar, Number], flexible: Mapping[Scalar, Scalar], user_file: str) -> None:
        self.hints = dict(hints)
        self.flexible = dict(flexible)
        self.user_file = user_file
        self.divisible: list[tuple[Expr, Expr]] = []
        self.assumptions: dict[Expr, None] = {}
        self._sampled: dict[Expr, Number] = {}

    def sample(self, expr: Expr) -> Number:
        """The expression's value for the sample sizes."""
        if isinstance(expr, Const):
            return expr.value
        if isinstance(expr, Scalar):
            return self.hints[expr]
        known = self._sampled.get(expr)
        if known is None:
            assert isinstance(expr, Map), expr
            known = _MEANING[expr.op](*(self.sample(arg) for arg in expr.args))
            if expr.op == "cast":
                known = float(known) if expr.dtype not in (BOOL, INT) else int(known)
            self._sampled[expr] = known
        return known

    def simplify(self, expr: Expr) -> Expr:
        """The integer expression with n * (x // n) replaced by x where n is known to divide x."""
        if isinstance(expr, (Const, Scalar)) or not self.divisible:
            return expr
        for dividend, divisor in self.divisible:
            expr = _multiplied_out(expr, dividend, divisor)
        return expr

    def same(self, left: Expr, right: Expr) -> bool:
        """Whether two sizes are certainly equal."""
        return left is right or self.simplify(integers.sub(self.simplify(left), self.simplify(right))) is _ZERO

    def unify(self, left: Expr, right: Expr, what: str = "sizes") -> Expr:
        """Make two sizes equal: certain, assumed because the samples agree, or by tracing anew. Gives the plainer."""
        left, right = self.simplify(left), self.simplify(right)
        if self.same(left, right):
            return left if _plainness(left) <= _plainness(right) else right
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Scalar) and one in self.flexible and isinstance(other, (Scalar, Const)):
                raise Retry(ties={one: other})
        if not (isinstance(left, Const) or isinstance(right, Const)) and self.sample(left) == self.sample(right):
            self.assume_equal(left, right)
            return left if _plainness(left) <= _plainness(right) else right
        for whole, product in ((left, right), (right, left)):
            divisor = _divisor_of(whole, product)
            if divisor is not None:
                raise Retry(multiples={whole: divisor})
        raise Inconsistent(f"{what} {left} and {right} differ")

    def assume_equal(self, left: Expr, right: Expr) -> None:
        for whole, product in ((left, right), (right, left)):
            divisor = _divisor_of(whole, product)
            if divisor is not None:
                self.assume_divides(whole, divisor)
                return
        if not self.same(left, right):
            self.assumptions[build.op("eq", left, right)] = None

    def assume_divides(self, whole: Expr, divisor: Expr) -> None:
        """Take ``whole % divisor == 0`` for granted from here on. Asks for another sample where this one disagrees."""
        remainder = self.simplify(integers.mod(whole, divisor))
        if remainder is _ZERO or any(w is whole and d is divisor for w, d in self.divisible):
            return
        if self.sample(remainder) != 0:
            raise Retry(multiples={whole: divisor})
        self.divisible.append((whole, divisor))
        self.assumptions[build.op("eq", remainder, _ZERO)] = None

    def quotient(self, whole: Expr, divisor: Expr) -> Expr:
        """``whole / divisor``, assumed to be exact."""
        whole = self.simplify(whole)
        self.assume_divides(whole, divisor)
        return self.simplify(integers.floordiv(whole, divisor))

    def holds(self, condition: Expr, *, record: bool) -> bool:
        """Decide a condition on sizes by the samples; ``record`` it as an assumption unless it is certain."""
        known = self.certain(condition)
        if known is not None:
            return known
        result = bool(self.sample(condition))
        if record:
            taken = condition if result else build.op("not", condition)
            gap = _gap(taken)
            if gap is None or not any(other is gap for other in map(_gap, self.assumptions)):
                self.assumptions[taken] = None
        return result

    def certain(self, condition: Expr) -> bool | None:
        """Whether a condition certainly holds or certainly fails; None where it depends."""
        if isinstance(condition, Const):
            return bool(condition.value)
        if not isinstance(condition, Map):
            return None
        if condition.op == "not":
            inner = self.certain(condition.args[0])
            return None if inner is None else not inner
        if condition.op in ("eq", "ne", "lt", "le", "gt", "ge"):
            left, right = (self.simplify(arg) if arg.dtype == INT else arg for arg in condition.args)
            if not (left.dtype == INT and right.dtype == INT):
                return None
            difference = integers.sub(right, left)
            at_least, above = nonnegative(difference), nonnegative(integers.sub(difference, _ONE))
            at_most = nonnegative(integers.sub(left, right))
            below = nonnegative(integers.sub(integers.sub(left, right), _ONE))
            outcomes = {
                "lt": (above, at_most),
                "le": (at_least, below),
                "gt": (below, at_least),
                "ge": (at_most, above),
                "eq": (self.same(left, right), above or below),
                "ne": (above or below, self.same(left, right)),
            }
            yes, no = outcomes[condition.op]
            return True if yes else False if no else None
        return None

    def minimum(self, left: Expr, right: Expr) -> Expr:
        """The smaller of two integers, decided by the samples where it depends."""
        return left if self.holds(build.op("le", left, right), record=True) else right


def _gap(condition: Expr) -> Expr | None:
    """What an inequality between integers says is >= 0, so that two ways of writing it are seen to be one."""
    if not (isinstance(condition, Map) and all(arg.dtype == INT for arg in condition.args)):
        return None
    left, right = condition.args[:2] if len(condition.args) == 2 else (_ZERO, _ZERO)
    return {
        "ge": lambda: integers.sub(left, right),
        "gt": lambda: integers.sub(integers.sub(left, right), _ONE),
        "le": lambda: integers.sub(right, left),
        "lt": lambda: integers.sub(integers.sub(right, left), _ONE),
    }.get(condition.op, lambda: None)()


def nonnegative(expr: Expr) -> bool:
    """Whether an integer expression is certainly >= 0."""
    if integers.known_nonnegative(expr):
        return True
    # n * x - m * (x // k) and the like: a quotient of sizes is at most its dividend
    poly = integers.polynomial(expr)
    replaced = dict(poly)
    for monomial, coefficient in poly.items():
        if coefficient < 0 and len(monomial) == 1 and isinstance(monomial[0], Map) and monomial[0].op == "floordiv":
            whole, divisor = monomial[0].args
            if isinstance(divisor, Const) and int(divisor.value) >= -coefficient and isinstance(whole, Scalar):
                del replaced[monomial]
                # c * (x // k) <= x for c <= k
                replaced[(whole,)] = replaced.get((whole,), 0) - 1
    return replaced != poly and integers.known_nonnegative(
        integers.expression({m: c for m, c in replaced.items() if c})
    )


def _plainness(expr: Expr) -> int:
    return 0 if isinstance(expr, Const) else 1 if isinstance(expr, Scalar) else 2


def _divisor_of(whole: Expr, product: Expr) -> Expr | None:
    """n where ``product`` is n * (whole // n)."""
    poly = integers.polynomial(product)
    if len(poly) != 1:
        return None
    ((monomial, coefficient),) = poly.items()
    for position, atom in enumerate(monomial):
        if isinstance(atom, Map) and atom.op == "floordiv" and atom.args[0] is whole:
            rest = integers.expression({monomial[:position] + monomial[position + 1 :]: coefficient})
            if rest is atom.args[1]:
                return rest
    return None


def _multiplied_out(expr: Expr, dividend: Expr, divisor: Expr) -> Expr:
    quotient = integers.floordiv(dividend, divisor)
    factors = integers.polynomial(divisor)
    if not (isinstance(quotient, Map) and quotient.op == "floordiv") or len(factors) != 1:
        return expr
    ((atoms, scale),) = factors.items()
    result: Expr = _ZERO
    changed = False
    for monomial, coefficient in integers.polynomial(expr).items():
        rest = list(monomial)
        matched = quotient in rest and coefficient % scale == 0
        if matched:
            rest.remove(quotient)
            for atom in atoms:
                if atom in rest:
                    rest.remove(atom)
                else:
                    matched = False
        if matched:
            changed = True
            term = integers.mul(integers.expression({tuple(rest): coefficient // scale}), dividend)
        else:
            term = integers.expression({monomial: coefficient})
        result = integers.add(result, term)
    return _multiplied_out(result, dividend, divisor) if changed else expr


_ZERO = build.integer(0)
_ONE = build.integer(1)


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

    def str(self) -> str:
        return repr(self.expr)

    _graph_repr = __repr__ = str

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
        return self.sizes.holds(_truth(self.expr), record=_outside_torch())

    def guard_bool(self, file: str = "", line: int = 0) -> bool:
        return self.sizes.holds(_truth(self.expr), record=False)

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
        raise Unsupported(
            "FL204",
            f"the size {self.expr} must be a known number here",
            "state the number in the shape, as in # [B, H, 49, D], or write this without a loop over the size",
        )

    def guard_float(self, file: str = "", line: int = 0) -> float:
        if isinstance(self.expr, Const):
            return float(self.expr.value)
        if isinstance(self.expr, Scalar) and self.expr.name.startswith("finfo_"):
            return float(self.hint)
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
        result: Expr = _ONE
        for _ in range(int(other.expr.value)):
            result = integers.mul(result, self.expr)
        return Node(self.sizes, result)
    return _binary("pow", floats=True)(self, other)


def _unary(name: str) -> Callable[[Node], Node]:
    def method(self: Node) -> Node:
        arg = self.expr
        if name not in ("neg", "abs"):
            arg = _as_float(arg)
        return Node(self.sizes, build.op(name, arg))

    return method


def _logical(name: str) -> Callable[[Node, Node], Node]:
    def method(self: Node, other: Node) -> Node:
        return Node(self.sizes, build.op(name, _truth(self.expr), _truth(other.expr)))

    return method


def _install() -> None:
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
            setattr(Node, name, _binary(op))
    for name in ("truediv", "int_truediv", "float_truediv"):
        setattr(Node, name, _binary("div", floats=True))
    for name in ("pow", "float_pow", "pow_by_natural"):
        setattr(Node, name, _power)
    for name in ("neg", "abs"):
        setattr(Node, name, _unary(name))
    for name in ("sqrt", "exp", "log", "log2", "tanh", "sin", "cos"):
        setattr(Node, f"sym_{name}", _unary(name))
    setattr(Node, "sym_float", lambda self: Node(self.sizes, _as_float(self.expr)))
    for name, op in (("floor", "floor"), ("ceil", "ceil"), ("trunc", "floor")):

        def rounded(self: Node, op: str = op) -> Node:
            whole = self.expr if self.is_int() else build.cast(build.op(op, self.expr), INT)
            return Node(self.sizes, whole)

        setattr(Node, name, rounded)
        setattr(Node, f"sym_{name}", rounded)
    for name in ("and", "or"):
        setattr(Node, f"{name}_", _logical(name))
        setattr(Node, f"sym_{name}", _logical(name))
        setattr(Node, f"bitwise_{name}", _logical(name))
    for name in ("not", "not_", "sym_not"):
        setattr(Node, name, lambda self: Node(self.sizes, build.op("not", _truth(self.expr))))


_install()

_MEANING: dict[str, Callable[..., Number]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "neg": operator.neg,
    "pow": operator.pow,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "not": operator.not_,
    "maximum": max,
    "minimum": min,
    "abs": abs,
    "sqrt": math.sqrt,
    "rsqrt": lambda a: 1 / math.sqrt(a),
    "exp": math.exp,
    "log": math.log,
    "log2": math.log2,
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "floor": math.floor,
    "ceil": math.ceil,
    "cast": lambda a: a,
    "where": lambda c, a, b: a if c else b,
}


def wrap(sizes: Sizes, expr: Expr) -> Any:
    """The expression as a Python number: a plain one if it is constant, otherwise one of PyTorch's symbolic numbers."""
    if isinstance(expr, Const):
        return expr.value
    node = Node(sizes, expr)
    return torch.SymInt(node) if node.is_int() else torch.SymBool(node) if node.is_bool() else torch.SymFloat(node)


def unwrap(number: Any) -> Expr:
    """The expression that a Python number stands for."""
    if isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        expr: Expr = number.node.expr
        return expr
    if isinstance(number, bool):
        return build.const(number, BOOL)
    return build.integer(number) if isinstance(number, int) else build.const(float(number), FLOAT)


def depends_on_tensors(expr: Expr) -> bool:
    """Whether an expression reads any tensor."""
    return isinstance(expr, Load) or any(map(depends_on_tensors, expr.children))
