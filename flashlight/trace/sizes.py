"""What a trace knows of its sizes: samples, equalities, divisibilities, and what it takes for granted."""

from __future__ import annotations

import copy
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence, Set

from flashlight.ir import build, integers
from flashlight.ir.expr import BOOL, INT, Const, Expr, Map, Scalar
from flashlight.ir.integers import known_size
from flashlight.trace.guise import Inquiry
from flashlight.trace.problems import Inconsistent, Retry

Number = float | int | bool

_ZERO = build.integer(0)
_ONE = build.integer(1)

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


class Sizes:
    """What a trace knows of its numbers: samples, equalities, divisibilities, and what it has assumed."""

    def __init__(
        self,
        hints: Mapping[Scalar, Number],
        flexible: Mapping[Scalar, Scalar],
        pinnable: Set[Scalar],
        inquiry: Inquiry,
    ) -> None:
        self.hints = dict(hints)
        self.flexible = dict(flexible)
        self.pinnable = pinnable
        self.inquiry = inquiry
        self.divisible: list[tuple[Expr, Expr]] = []
        self.assumptions: dict[Expr, None] = {}
        self._sampled: dict[Expr, Number] = {}
        integers.take_exact(self.divisible)

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

    def are_multiples(self, samples: Mapping[Scalar, Number], pairs: Sequence[tuple[Expr, Expr]]) -> bool:
        """Whether with other samples the second of each pair divides the first."""
        other = copy.copy(self)
        other.hints, other._sampled = {**self.hints, **samples}, {}
        return all(int(other.sample(whole)) % max(int(other.sample(divisor)), 1) == 0 for whole, divisor in pairs)

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
        common, ours, theirs = _cancelled(left, right)
        if common is not _ONE:
            return self.simplify(integers.mul(common, self.unify(ours, theirs, what)))
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
            self._refit(whole, product)
        self._made_of(left, right)
        self._cut_less(left, right)
        raise Inconsistent(f"{what} {left} and {right} differ")

    def _refit(self, whole: Expr, product: Expr) -> None:
        """Trace anew where a number of the caller's, such as how often heads are repeated, can make the sizes equal."""
        poly = integers.polynomial(product)
        if len(poly) != 1:
            return
        for scalar in next(iter(poly)):
            if isinstance(scalar, Scalar) and not scalar.positive:
                rest = int(self.sample(product)) // max(int(self.sample(scalar)), 1)
                value, left = divmod(int(self.sample(whole)), max(rest, 1))
                if value > 0 and not left and value != self.sample(scalar):
                    raise Retry(samples={scalar: value})

    def _made_of(self, left: Expr, right: Expr) -> None:
        """Trace anew where a part of a size is another size by its name: E // heads features, of which there are D."""
        for part, size in ((left, right), (right, left)):
            if isinstance(part, Map) and part.op == "floordiv" and isinstance(size, Scalar) and known_size(part):
                whole, divisor = part.args
                if isinstance(whole, Scalar) and size.positive:
                    raise Retry(ties={whole: integers.mul(divisor, size)})

    def _cut_less(self, left: Expr, right: Expr) -> None:
        """Trace anew where a slice ended with its tensor by the samples alone: ``buffer[:S]`` takes S of its 1024."""
        taken = {int(number) for number in self.hints.values()}
        for limit, size in ((left, right), (right, left)):
            if isinstance(limit, Const) and isinstance(size, Scalar) and self.sample(size) > limit.value:
                fitting = next((number for number in range(int(limit.value) - 1, 1, -1) if number not in taken), None)
                if fitting is not None:
                    raise Retry(samples={size: fitting})
        for condition in self.assumptions:
            if isinstance(condition, Map) and condition.op == "gt" and isinstance(condition.args[1], Scalar):
                stop, longer = int(self.sample(condition.args[0])), condition.args[1]
                raise Retry(samples={longer: next(n for n in itertools.count(stop + 1) if n not in taken)})

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
        if isinstance(divisor, Scalar) and not divisor.positive:
            raise Retry(size=divisor)  # a number of parts
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
            if gap is None or not any(_implies(other, gap) for other in map(_gap, self.assumptions)):
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


def _implies(known: Expr | None, gap: Expr) -> bool:
    """Whether gap >= 0 follows from known >= 0."""
    spare = None if known is None else integers.sub(gap, known)
    return isinstance(spare, Const) and spare.value >= 0


def _cancelled(left: Expr, right: Expr) -> tuple[Expr, Expr, Expr]:
    """The common factor of two products of sizes, and what is left of each."""
    ours, theirs = integers.polynomial(left), integers.polynomial(right)
    if len(ours) != 1 or len(theirs) != 1:
        return _ONE, left, right
    ((mine, one),), ((yours, two),) = ours.items(), theirs.items()
    factor = math.gcd(one, two)
    atoms = []
    rest = list(yours)
    for atom in mine:
        if atom in rest and known_size(atom):
            rest.remove(atom)
            atoms.append(atom)
    kept = list(mine)
    for atom in atoms:
        kept.remove(atom)
    return (
        integers.expression({tuple(atoms): factor}),
        integers.expression({tuple(kept): one // factor}),
        integers.expression({tuple(rest): two // factor}),
    )


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
