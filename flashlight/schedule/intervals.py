"""Bounds of integer expressions over one tile of rows, and the keys for which a condition can or must hold.

Masks are evaluated over intervals instead of points. For a condition on positions the answer is a range of keys, as
symbolic integers that go straight into the bounds of a loop; no mask is ever built.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.ir import build, integers
from flashlight.ir.expr import INT, Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, is_int, walk
from flashlight.ir.order import axis_key

ROW_START = Scalar("row_start", INT)
BLOCK_ROWS = Scalar("BLOCK_ROWS", INT, True)
"""The first row of a tile, and how many it has."""

Bound = Expr | None
_MOST = 2**31 - 1
"""Stands for the value of rows past the last: it must not widen the bounds of the tile."""


@dataclass(frozen=True)
class Interval:
    low: Expr
    high: Expr


@dataclass(frozen=True)
class Keys:
    """Ranges of keys, ends excluded; None stands for no bound.

    Outside ``live`` the condition fails for every row of the tile; inside ``full`` it holds for every row.
    """

    live_start: Bound = None
    live_stop: Bound = None
    full_start: Bound = None
    full_stop: Bound = None


def interval(expr: Expr, rows: Axis) -> Interval | None:
    """Bounds of an integer over the rows of a tile; None where the expression is not understood."""
    if rows not in expr.axes:
        return Interval(expr, expr)
    if isinstance(expr, Iota):
        last = build.op("add", ROW_START, build.op("sub", BLOCK_ROWS, build.integer(1)))
        return Interval(ROW_START, last)
    if isinstance(expr, Load):
        inside = build.op("lt", Iota(rows), rows.extent)
        low, high = (build.where(inside, expr, build.integer(end)) for end in (_MOST, -_MOST))
        return Interval(Reduce("min", low, rows), Reduce("max", high, rows))
    if not isinstance(expr, Map):
        return None
    if expr.op in ("add", "sub", "neg", "mul"):
        return _linear(expr, rows)
    inner = [interval(arg, rows) for arg in expr.args]
    if any(bounds is None for bounds in inner):
        return None
    known = [bounds for bounds in inner if bounds is not None]
    if expr.op in ("minimum", "maximum"):
        return Interval(*(build.op(expr.op, *ends) for ends in zip(*((b.low, b.high) for b in known), strict=True)))
    if expr.op == "floordiv" and integers.known_size(expr.args[1]):
        return Interval(*(build.op("floordiv", end, expr.args[1]) for end in (known[0].low, known[0].high)))
    return None


def _linear(expr: Expr, rows: Axis) -> Interval | None:
    low: Expr = build.integer(0)
    high: Expr = build.integer(0)
    for monomial, coefficient in integers.polynomial(expr).items():
        tiled = [atom for atom in monomial if rows in atom.axes]
        others = [atom for atom in monomial if rows not in atom.axes]
        factor = integers.expression({tuple(others): abs(coefficient)})
        if not tiled:
            ends = Interval(factor, factor)
        elif len(tiled) == 1 and all(integers.known_size(atom) for atom in others):
            bounds = interval(tiled[0], rows)
            if bounds is None:
                return None
            ends = Interval(build.op("mul", bounds.low, factor), build.op("mul", bounds.high, factor))
        else:
            return None
        if coefficient > 0:
            low, high = build.op("add", low, ends.low), build.op("add", high, ends.high)
        else:
            low, high = build.op("sub", low, ends.high), build.op("sub", high, ends.low)
    return Interval(low, high)


def keys(condition: Expr, rows: Axis, stream: Axis) -> Keys | None:
    """The keys for which the condition can hold and must hold over a tile; None where that is not understood."""
    if not isinstance(condition, Map) or stream not in condition.axes:
        return None
    if condition.op in ("and", "or"):
        left, right = (keys(arg, rows, stream) for arg in condition.args)
        if left is None or right is None:
            return None
        return both(left, right) if condition.op == "and" else _either(left, right)
    if condition.op in ("le", "lt", "ge", "gt", "eq") and all(map(is_int, condition.args)):
        excess = _excess(condition)
        at_most = _at_most(excess, rows, stream)
        if condition.op != "eq" or at_most is None:
            return at_most
        at_least = _at_most(build.op("neg", excess), rows, stream)
        return None if at_least is None else both(at_most, at_least)
    return None


def _excess(comparison: Map) -> Expr:
    """The value that is at most zero where one integer is less than (or equal to) the other."""
    left, right = comparison.args if comparison.op not in ("ge", "gt") else comparison.args[::-1]
    slack = build.integer(1 if comparison.op in ("lt", "gt") else 0)
    return build.op("add", build.op("sub", left, right), slack)


def _at_most(value: Expr, rows: Axis, stream: Axis) -> Keys | None:
    """The keys for which ``value <= 0``."""
    terms = integers.polynomial(value)
    streamed = {monomial: c for monomial, c in terms.items() if any(stream in atom.axes for atom in monomial)}
    if len(streamed) != 1:
        return None
    ((monomial, coefficient),) = streamed.items()
    rest = integers.expression({m: c for m, c in terms.items() if m != monomial})
    atoms = [atom for atom in monomial if stream in atom.axes]
    others = [atom for atom in monomial if stream not in atom.axes]
    if len(atoms) != 1 or not all(integers.known_size(atom) for atom in others):
        return None
    factor = integers.expression({tuple(others): abs(coefficient)})
    if coefficient > 0:
        # factor * atom <= -rest
        return _solve(atoms[0], build.op("floordiv", build.op("neg", rest), factor), True, rows, stream)
    # factor * atom >= rest: round up
    up = build.op("neg", build.op("floordiv", build.op("neg", rest), factor))
    return _solve(atoms[0], up, False, rows, stream)


def _solve(atom: Expr, bound: Expr, upper: bool, rows: Axis, stream: Axis) -> Keys | None:
    """The keys for which ``atom <= bound`` (``upper``) or ``atom >= bound``."""
    if isinstance(atom, Iota):
        ends = interval(bound, rows)
        if ends is None:
            return None
        if upper:
            one = build.integer(1)
            return Keys(live_stop=build.op("add", ends.high, one), full_stop=build.op("add", ends.low, one))
        return Keys(live_start=ends.low, full_start=ends.high)
    if not isinstance(atom, Map) or any(stream in arg.axes for arg in atom.args[1:]):
        return None
    if atom.op == "floordiv" and integers.known_size(atom.args[1]):
        # x // n <= b is x <= b * n + n - 1; x // n >= b is x >= b * n
        scaled = build.op("mul", bound, atom.args[1])
        if upper:
            scaled = build.op("add", scaled, build.op("sub", atom.args[1], build.integer(1)))
            return _at_most(build.op("sub", atom.args[0], scaled), rows, stream)
        return _at_most(build.op("sub", scaled, atom.args[0]), rows, stream)
    if atom.op == "abs":
        above = _at_most(build.op("sub", atom.args[0], bound), rows, stream)
        below = _at_most(build.op("sub", build.op("neg", atom.args[0]), bound), rows, stream)
        if upper and above is not None and below is not None:
            return both(above, below)
    return None


def within(condition: Expr, stream: Axis) -> bool:
    """Whether no existing row sees a key past the last under the condition, such as ``key <= row``."""
    if not (isinstance(condition, Map) and condition.op in ("le", "lt", "ge", "gt")):
        return False
    if not all(map(is_int, condition.args)):
        return False
    # the condition is key + rest <= 0
    terms = integers.polynomial(_excess(condition))
    if terms.pop((Iota(stream),), 0) != 1 or any(stream in atom.axes for monomial in terms for atom in monomial):
        return False
    last = build.op("sub", stream.extent, build.integer(1))
    return integers.known_nonnegative(build.op("add", last, integers.expression(terms)))


def both(left: Keys, right: Keys) -> Keys:
    return Keys(
        _pick("maximum", left.live_start, right.live_start),
        _pick("minimum", left.live_stop, right.live_stop),
        _pick("maximum", left.full_start, right.full_start),
        _pick("minimum", left.full_stop, right.full_stop),
    )


def _either(left: Keys, right: Keys) -> Keys:
    """The hull of what is live; of what is full, the union where it is one range, else one of the two."""
    full = left
    if left.full_start is right.full_start:
        stop = _widest("maximum", left.full_stop, right.full_stop)
        full = Keys(full_start=left.full_start, full_stop=stop)
    elif left.full_stop is right.full_stop:
        full = Keys(full_start=_widest("minimum", left.full_start, right.full_start), full_stop=left.full_stop)
    return Keys(
        _widest("minimum", left.live_start, right.live_start),
        _widest("maximum", left.live_stop, right.live_stop),
        full.full_start,
        full.full_stop,
    )


def _pick(op: str, left: Bound, right: Bound) -> Bound:
    """The tighter of two bounds."""
    if left is None or right is None:
        return right if left is None else left
    return left if left is right else build.op(op, left, right)


def _widest(op: str, left: Bound, right: Bound) -> Bound:
    """The looser of two bounds."""
    if left is None or right is None:
        return None
    return left if left is right else build.op(op, left, right)


def conjuncts(condition: Expr) -> list[Expr]:
    """The conditions that must all hold."""
    if isinstance(condition, Map) and condition.op == "and":
        return [part for arg in condition.args for part in conjuncts(arg)]
    return [condition]


def conjunction(conditions: list[Expr]) -> Expr:
    result: Expr = build.true()
    for condition in conditions:
        result = build.op("and", result, condition)
    return result


@dataclass(frozen=True)
class Matched:
    """A condition that compares a value of the row with a value loaded for the key, such as equal document ids.

    A block of keys is live where the range of its values meets that of the rows' own, full where both are one value.
    ``key_value`` is the expression that depends on the streamed axis, ``row_value`` the other side. Both are computed
    on whole tensors before the kernel, as are the ranges of blocks; ``axes`` are those of the grid that either has.
    """

    condition: Expr
    key_value: Load
    row_value: Expr
    axes: tuple[Axis, ...]


def matched(condition: Expr, rows: Axis, stream: Axis) -> Matched | None:
    """The condition as an equality of a row's value and a key's loaded value, if it is one."""
    if not (isinstance(condition, Map) and condition.op == "eq" and all(map(is_int, condition.args))):
        return None
    for row_value, key_value in (condition.args, condition.args[::-1]):
        if not (isinstance(key_value, Load) and _is_row_of_keys(key_value, rows, stream)):
            continue
        if stream not in row_value.axes and all(map(_on_whole_tensors, walk(row_value))):
            axes = (row_value.axes | key_value.axes) - {rows, stream}
            return Matched(condition, key_value, row_value, tuple(sorted(axes, key=axis_key)))
    return None


def _on_whole_tensors(node: Expr) -> bool:
    """Whether the node can be computed on whole tensors: what is loaded is loaded in order."""
    if isinstance(node, Load):
        return all(isinstance(index, Iota) for index in node.index)
    if isinstance(node, Map):
        return node.op in ("add", "sub", "neg", "mul", "minimum", "maximum", "floordiv")
    return isinstance(node, (Const, Scalar, Iota))


def _is_row_of_keys(value: Load, rows: Axis, stream: Axis) -> bool:
    """Whether the value is loaded, in order, from a tensor whose last dimension runs over the keys."""
    return (
        _on_whole_tensors(value)
        and rows not in value.axes
        and value.index[-1] is Iota(stream)
        and value.tensor.shape[-1] is stream.extent
    )


__all__ = ["Interval", "Keys", "Matched", "conjunction", "conjuncts", "interval", "keys", "matched", "within"]
