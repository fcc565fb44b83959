"""Integer expressions in a normal form, so that the index arithmetic of views cancels.

An integer is a polynomial over atoms (sizes, positions, and whatever is not a sum or a product: quotients, remainders,
gathered indices). ``(h // G) * G + h % G`` becomes ``h``, ``(b * H + h) // H`` becomes ``b`` because 0 <= h < H: the
reasoning that makes view, expand, chunk and repeat_interleave disappear. Quotients round down, as Python's do.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from flashlight.ir.expr import BOOL, INT, Const, Expr, Iota, Map, Scalar, walk
from flashlight.ir.ops import MIRRORED
from flashlight.ir.order import sort_key

Monomial = tuple[Expr, ...]
Polynomial = dict[Monomial, int]
Divisible = tuple[Expr, Expr]

_EXACT: ContextVar[Collection[Divisible]] = ContextVar("exact", default=())
"""Pairs of sizes of which the second divides the first in the program at hand."""


def take_exact(pairs: Collection[Divisible]) -> None:
    """Reason from here on by these divisibilities, which may grow."""
    _EXACT.set(pairs)


@contextmanager
def assuming(conditions: Iterable[Expr]) -> Iterator[None]:
    """Reason by what a program assumes: of its conditions, those that say ``whole % divisor == 0``."""
    equalities = [c.args for c in conditions if isinstance(c, Map) and c.op == "eq"]
    pairs = [a.args for a, b in equalities if isinstance(a, Map) and a.op == "mod" and b is constant(0)]
    token = _EXACT.set({(whole, divisor) for whole, divisor in pairs})
    try:
        yield
    finally:
        _EXACT.reset(token)


def divides(divisor: Expr, whole: Expr) -> bool:
    """Whether the program at hand assumes that the divisor leaves no remainder."""
    return any(w is whole and d is divisor for w, d in _EXACT.get())


def quotient(whole: Expr, part: Expr) -> Expr | None:
    """``whole / part`` where that is certain to leave no remainder in the program at hand."""
    for dividend, divisor in _EXACT.get():
        if dividend is whole and floordiv(dividend, divisor) is part:
            return divisor
    count = floordiv(whole, part)
    if divides(part, whole) or mul(count, part) is whole:
        return count
    terms = polynomial(whole)
    if len(terms) == 1 and set(terms.values()) == {1}:
        return None
    total: Expr = constant(0)
    for monomial, coefficient in terms.items():
        one = quotient(expression({monomial: 1}), part)
        if one is None:
            return None
        total = add(total, mul(one, constant(coefficient)))
    return total


def constant(value: int) -> Const:
    return Const(int(value), INT)


def polynomial(expr: Expr) -> Polynomial:
    """The expression as a sum of integer multiples of products of atoms."""
    if isinstance(expr, Const):
        return {(): int(expr.value)} if expr.value else {}
    if isinstance(expr, Map):
        if expr.op == "add":
            return _sum(polynomial(expr.args[0]), polynomial(expr.args[1]))
        if expr.op == "sub":
            return _sum(polynomial(expr.args[0]), _scaled(polynomial(expr.args[1]), -1))
        if expr.op == "neg":
            return _scaled(polynomial(expr.args[0]), -1)
        if expr.op == "mul":
            return _product(polynomial(expr.args[0]), polynomial(expr.args[1]))
    return {(expr,): 1}


def expression(poly: Polynomial) -> Expr:
    """The polynomial as an expression, its terms in a fixed order: positive ones first, constants last."""
    if not poly:
        return constant(0)

    def rank(item: tuple[Monomial, int]) -> tuple[object, ...]:
        monomial, coefficient = item
        return (coefficient < 0, not monomial, [sort_key(atom) for atom in monomial])

    result: Expr | None = None
    for monomial, coefficient in sorted(poly.items(), key=rank):
        magnitude = abs(coefficient)
        term: Expr | None = None
        for atom in monomial:
            term = atom if term is None else Map("mul", (term, atom), INT)
        if term is None:
            term = constant(magnitude)
        elif magnitude != 1:
            term = Map("mul", (term, constant(magnitude)), INT)
        if result is None:
            if coefficient > 0:
                result = term
            else:
                result = constant(-magnitude) if not monomial else Map("neg", (term,), INT)
        else:
            result = Map("add" if coefficient > 0 else "sub", (result, term), INT)
    assert result is not None
    return result


def add(left: Expr, right: Expr) -> Expr:
    return expression(_sum(polynomial(left), polynomial(right)))


def sub(left: Expr, right: Expr) -> Expr:
    return expression(_sum(polynomial(left), _scaled(polynomial(right), -1)))


def mul(left: Expr, right: Expr) -> Expr:
    return expression(_product(polynomial(left), polynomial(right)))


def floordiv(left: Expr, right: Expr) -> Expr:
    quotient, remainder = _divide(polynomial(left), right)
    if not remainder or is_nonnegative_below(remainder, right):
        return expression(quotient)
    rest = expression(remainder)
    if isinstance(rest, Const) and isinstance(right, Const):
        return expression(_sum(quotient, polynomial(constant(int(rest.value) // int(right.value)))))
    parts = _coarser(remainder, right)
    if parts is not None:
        _, coarse, _, divisor = parts
        return expression(_sum(quotient, polynomial(floordiv(expression(coarse), divisor))))
    return expression(_sum(quotient, polynomial(Map("floordiv", (rest, right), INT))))


def mod(left: Expr, right: Expr) -> Expr:
    _, remainder = _divide(polynomial(left), right)
    if not remainder or is_nonnegative_below(remainder, right):
        return expression(remainder)
    rest = expression(remainder)
    if isinstance(rest, Const) and isinstance(right, Const):
        return constant(int(rest.value) % int(right.value))
    parts = _coarser(remainder, right)
    if parts is not None:
        step, coarse, fine, divisor = parts
        return expression(_sum(polynomial(mul(step, mod(expression(coarse), divisor))), fine))
    return Map("mod", (rest, right), INT)


def solved(expr: Expr, unknown: Expr) -> tuple[Expr, Expr] | None:
    """``(a, b)`` where the expression is ``a * unknown + b`` and neither has the unknown; None where it is not."""
    with_unknown: Polynomial = {}
    rest: Polynomial = {}
    for monomial, coefficient in polynomial(expr).items():
        left = tuple(atom for atom in monomial if atom is not unknown)
        if any(unknown in walk(atom) for atom in left) or len(left) < len(monomial) - 1:
            return None
        (rest if len(left) == len(monomial) else with_unknown)[left] = coefficient
    return (expression(with_unknown), expression(rest)) if with_unknown else None


def isolated(comparison: Map, unknown: Expr) -> Map | None:
    """The same comparison of integers with the unknown alone on its left; None where its factor is not 1 or -1."""
    found = solved(sub(*comparison.args), unknown)
    if found is None or found[0] not in (constant(1), constant(-1)):
        return None
    factor, rest = found
    if factor is constant(1):
        return Map(comparison.op, (unknown, sub(constant(0), rest)), comparison.dtype)
    return Map(MIRRORED[comparison.op], (unknown, rest), comparison.dtype)


def is_nonnegative_below(poly: Polynomial, bound: Expr) -> bool:
    """Whether 0 <= poly < bound is certain from the extents of its axes and the positivity of sizes."""
    low, high = _range(poly)
    if low is None or high is None:
        return False
    return _is_nonnegative(low) and _is_nonnegative(_sum(_sum(polynomial(bound), _scaled(high, -1)), {(): -1}))


def known_nonnegative(expr: Expr) -> bool:
    """Whether expr >= 0 is certain from the extents of its axes and the positivity of sizes."""
    low, _ = _range(polynomial(expr))
    return low is not None and _is_nonnegative(low)


def simplified(condition: Expr) -> Expr:
    """A comparison of integers, true or false where that is certain, and without what both sides add."""
    if not (isinstance(condition, Map) and condition.op in _SMALLER and condition.args[0].dtype == INT):
        return condition
    less, greater = condition.args if condition.op in ("le", "lt") else condition.args[::-1]
    difference = sub(sub(greater, less), constant(_SMALLER[condition.op]))
    if known_nonnegative(difference):
        return Const(True, BOOL)
    if known_nonnegative(sub(constant(-1), difference)):
        return Const(False, BOOL)
    left, right = map(polynomial, condition.args)
    shared = {monomial: factor for monomial, factor in left.items() if right.get(monomial) == factor}
    if not shared:
        return condition
    sides = ({m: c for m, c in side.items() if m not in shared} for side in (left, right))
    return Map(condition.op, tuple(map(expression, sides)), condition.dtype)


_SMALLER = {"le": 0, "ge": 0, "lt": 1, "gt": 1}
"""By how much the smaller side of a comparison is the smaller one at least."""


def _sum(left: Polynomial, right: Polynomial) -> Polynomial:
    result = dict(left)
    for monomial, coefficient in right.items():
        total = result.get(monomial, 0) + coefficient
        if total:
            result[monomial] = total
        else:
            result.pop(monomial, None)
    return _recombined(result)


def _scaled(poly: Polynomial, factor: int) -> Polynomial:
    return {monomial: coefficient * factor for monomial, coefficient in poly.items() if factor}


def _product(left: Polynomial, right: Polynomial) -> Polynomial:
    result: Polynomial = {}
    for left_monomial, left_coefficient in left.items():
        for right_monomial, right_coefficient in right.items():
            monomial = tuple(sorted(left_monomial + right_monomial, key=sort_key))
            total = result.get(monomial, 0) + left_coefficient * right_coefficient
            if total:
                result[monomial] = total
            else:
                result.pop(monomial, None)
    return _recombined(result)


def _recombined(poly: Polynomial) -> Polynomial:
    """Apply (x // n) * n + x % n = x wherever both terms stand with the same factor, or n is known to divide x."""
    for monomial, coefficient in poly.items():
        for position, atom in enumerate(monomial):
            if not (isinstance(atom, Map) and atom.op in ("mod", "floordiv")):
                continue
            value, divisor = atom.args
            others = monomial[:position] + monomial[position + 1 :]
            if atom.op == "floordiv":
                if divides(divisor, value):
                    left, remainder = _divide({others: coefficient}, divisor)
                    if not remainder:
                        rest = {m: c for m, c in poly.items() if m != monomial}
                        return _sum(rest, _product(left, polynomial(value)))
                    wholes = [m for m, c in _product({others: 1}, polynomial(value)).items() if c == 1 and m in poly]
                    if isinstance(divisor, Const) and len(wholes) == 1 == len(polynomial(value)):
                        # x - x // 2 is the other half, x // 2
                        rest = {m: c for m, c in poly.items() if m not in (monomial, *wholes)}
                        return _sum(rest, {monomial: coefficient + poly[wholes[0]] * int(divisor.value)})
                continue
            quotient = _product({others: coefficient}, polynomial(floordiv(value, divisor)))
            partner = _product(quotient, polynomial(divisor))
            if partner and all(poly.get(m) == c for m, c in partner.items()):
                rest = {m: c for m, c in poly.items() if m not in partner and m != monomial}
                return _sum(rest, _product({others: coefficient}, polynomial(value)))
    return poly


def _divide(poly: Polynomial, divisor: Expr) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder of the terms that the divisor divides exactly, and the terms that it does not."""
    divisors = polynomial(divisor)
    if len(divisors) != 1:
        return {}, poly
    ((factors, scale),) = divisors.items()
    quotient: Polynomial = {}
    remainder: Polynomial = {}
    for monomial, coefficient in poly.items():
        left = list(monomial)
        exact = coefficient % scale == 0
        for factor in factors:
            if factor in left:
                left.remove(factor)
            else:
                exact = False
        if exact:
            quotient[tuple(left)] = coefficient // scale
        elif not factors and abs(coefficient) >= scale > 0 and not monomial:
            if coefficient // scale:
                quotient[()] = coefficient // scale
            if coefficient % scale:
                remainder[()] = coefficient % scale
        else:
            remainder[monomial] = coefficient
    return quotient, remainder


def _coarser(poly: Polynomial, divisor: Expr) -> tuple[Expr, Polynomial, Polynomial, Expr] | None:
    """``(s, x, r, m)`` where the polynomial is s x + r with 0 <= r < s, and the divisor is s m; None if none is found.

    Then ``(s x + r) // (s m) = x // m`` and ``(s x + r) % (s m) = s (x % m) + r``: a view counts in steps of s.
    """
    divisors = polynomial(divisor)
    if len(divisors) != 1:
        return None
    ((factors, scale),) = divisors.items()
    places = range(len(factors))
    for count in reversed(range(len(factors) + 1)):
        for inside in itertools.combinations(places, count):
            for own in dict.fromkeys((scale, 1)):
                step = expression({tuple(factors[n] for n in inside): own})
                rest = expression({tuple(factors[n] for n in places if n not in inside): scale // own})
                if constant(1) in (step, rest) or not known_size(step):
                    continue
                coarse, fine = _divide(poly, step)
                if coarse and is_nonnegative_below(fine, step):
                    return step, coarse, fine, rest
    return None


def _range(poly: Polynomial) -> tuple[Polynomial | None, Polynomial | None]:
    """Bounds of the polynomial, themselves polynomials in sizes; None where nothing is known."""
    low: Polynomial = {}
    high: Polynomial = {}
    for monomial, coefficient in poly.items():
        term_low: Polynomial = {(): 1}
        term_high: Polynomial = {(): 1}
        for atom in monomial:
            bounds = _atom_range(atom)
            if bounds is None:
                return None, None
            term_low = _product(term_low, bounds[0])
            term_high = _product(term_high, bounds[1])
        if coefficient < 0:
            term_low, term_high = term_high, term_low
        low = _sum(low, _scaled(term_low, coefficient))
        high = _sum(high, _scaled(term_high, coefficient))
    return low, high


def _atom_range(atom: Expr) -> tuple[Polynomial, Polynomial] | None:
    """Bounds of an atom, both nonnegative (a product of such bounds is a bound of the product)."""
    if isinstance(atom, Iota):
        return {}, _sum(polynomial(atom.axis.extent), {(): -1})
    if isinstance(atom, Scalar) and atom.positive:
        return {(atom,): 1}, {(atom,): 1}
    if isinstance(atom, Map) and not atom.axes and known_size(atom):
        return {(atom,): 1}, {(atom,): 1}
    if isinstance(atom, Map) and atom.op == "mod" and known_size(atom.args[1]):
        return {}, _sum(polynomial(atom.args[1]), {(): -1})
    if isinstance(atom, Map) and atom.op == "floordiv" and known_nonnegative(atom.args[0]) and known_size(atom.args[1]):
        _, high = _range(polynomial(atom.args[0]))
        if high is None:
            return None
        divisor = atom.args[1]
        if isinstance(divisor, Map) and divisor.op == "floordiv" and _sum(high, {(): 1}) == polynomial(divisor.args[0]):
            # x < N gives x // (N // M) < M where M divides N, as it does where N // M is known to be a size
            return {}, _sum(polynomial(divisor.args[1]), {(): -1})
        # x <= N - 1 gives x // n <= (N - 1) // n = N // n - 1 where n divides N
        above = _sum(high, {(): 1})
        whole, rest = _divide(above, atom.args[1])
        return ({}, _sum(whole, {(): -1})) if not rest else ({}, high)
    return None


def known_size(expr: Expr) -> bool:
    """Whether the expression is built from sizes so that it is at least 1: a quotient is where it is exact."""
    if isinstance(expr, Const):
        return int(expr.value) >= 1
    if isinstance(expr, Scalar):
        return expr.positive
    if not (isinstance(expr, Map) and expr.op in ("mul", "add", "floordiv") and all(map(known_size, expr.args))):
        return False
    return expr.op != "floordiv" or divides(expr.args[1], expr.args[0])


def _is_nonnegative(poly: Polynomial) -> bool:
    """Whether the polynomial in sizes, all of them at least 1, is certainly >= 0."""
    spare = sum(c for m, c in poly.items() if c > 0 and m and all(known_size(a) for a in m)) + poly.get((), 0)
    negatives = [(m, c) for m, c in poly.items() if c < 0 and m]
    return not negatives and spare >= 0
