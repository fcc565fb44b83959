"""Base 2: exponentials are computed as the hardware does, with log2(e) folded into the scale of the scores.

    exp(x)  =  exp2(x * log2(e))        (x * scale) * log2(e)  =  x * (scale * log2(e))
    max_j (c * x(j))  =  c * max_j x(j)      for c > 0; likewise for max(x, y), min(x, y), |x| and cumulative sums
    2 ** x  =  exp2(x)
    x * c + y * c  =  (x + y) * c        where c finds nothing to join in either
    log(x) * log2(e)  =  log2(x)        max_j x(j)  =  (max_j (x(j) * log2(e))) / log2(e)   where both are wanted

The factor moves down to the nearest scalar, constant or bias, so that it costs nothing for the scores themselves; one
that finds nothing to join stays outside.
Finite constants saturate at the ends of float32 rather than overflow: a fill value must stay finite. What is read
from memory for each score, a bias or a mask of numbers, may be as low as that too, and so may be what an operator makes
of such a constant: then the factor stays outside of the whole power, where what overflows is far from the maximum,
exp2((x - max) * log2(e)).
Where the logarithm of their sum is wanted for each score, too, powers are differences times a factor: x * c - max * c
is one multiply-add, but not zero for the greatest of the scores, by as much as max * c was rounded; the logarithm of a
weight of one would be as far from zero.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TypeGuard

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Const, Expr, Load, Map, Reduce, Scalar, Scan, is_float, unrounded, walk
from flashlight.ir.ops import COMPARISONS
from flashlight.ir.program import Name, Program, is_const, mapped, rebuilt, rewrite
from flashlight.ir.signs import is_positive
from rewriters.common import slope_of
from rewriters.scale import positive_factor

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)
LOWEST = -3.3895e38
"""Just inside the range of float32 and bfloat16."""


def base2(program: Program) -> Program:
    names = dict(program.names)
    done: dict[Expr, Expr] = {}
    factor = build.const(LOG2_E, FLOAT)
    nodes = list(walk(*(output.expr for output in program.outputs)))
    if not any(map(_is_exponential, nodes)):
        return program
    scanned = any(isinstance(node, Scan) and _of_scores(node) for node in nodes)
    exponentials = [] if scanned else [node for node in nodes if _is_exponential(node)]
    whole = {node for node in exponentials if added_loads(node.children[0]) or _is_out_of_reach(node.children[0])}
    whole |= {node for node in _logged(nodes) if not scanned}
    unscaled = {inner for node in whole for inner in walk(node) if _is_maximum(inner)}
    for node in nodes:
        new = rebuilt(node, tuple(done[child] for child in node.children))
        if isinstance(new, Map) and new.op == "exp" and new.axes:
            power = new.args[0]
            if node in whole:
                difference, number = _difference(_widened(power))
                power = build.op("mul", difference, build.op("mul", number, factor, dtype=FLOAT), dtype=FLOAT)
            else:
                power = scaled(power, factor, names)
            new = build.op("exp2", power, dtype=new.dtype)
        elif isinstance(new, Map) and new.op == "pow" and is_const(new.args[0], 2.0) and new.axes and is_float(new):
            new = build.op("exp2", _widened(new.args[1]), dtype=new.dtype)
        elif (
            isinstance(new, Map) and new.op in ("eq", "ne") and _is_limit_test(new) and unscaled.isdisjoint(walk(node))
        ):
            # x is infinite exactly where x * log2(e) is: the maximum that the exponential needs serves the test too
            larger = scaled(new.args[0], factor, names)
            if larger is not build.op("mul", new.args[0], factor, dtype=FLOAT):
                new = build.op(new.op, larger, new.args[1])
        elif scanned and isinstance(new, Map) and new.op in COMPARISONS and _of_scores(new) and is_float(new.args[0]):
            # scores that are added up are wanted times log2(e) everywhere
            new = build.op(new.op, *(scaled(arg, factor, names) for arg in new.args))
        done[node] = new
        if scanned and node in program.names:
            names.setdefault(new, program.names[node])
    result = mapped(program, done)
    result = replace(result, names={**names, **result.names})
    return _one_maximum(result, [new for new in done.values() if _is_maximum(new)], factor)


def _one_maximum(program: Program, maxima: list[Expr], factor: Expr) -> Program:
    """Where a maximum is wanted both as it is and times log2(e), take the latter, and it over log2(e)."""
    nodes = set(walk(*(output.expr for output in program.outputs)))
    back = build.const(LN_2, FLOAT)
    same: dict[Expr, Expr] = {}
    for plain in maxima:
        larger = scaled(plain, factor, {})
        if (
            plain in nodes
            and larger is not plain
            and larger in nodes
            and _is_maximum(larger)
            and not _saturates(larger)
        ):
            same[plain] = build.op("mul", larger, back, dtype=FLOAT)
    rewritten = rewrite(program, lambda node: same.get(node, node))
    return replace(rewritten, names={**program.names, **rewritten.names})


def _is_maximum(expr: Expr) -> TypeGuard[Reduce]:
    return isinstance(expr, Reduce) and expr.op == "max"


def _of_maximum(expr: Expr) -> bool:
    """A maximum along the keys, times a factor or with other numbers in it: a sink's score, say."""
    within = isinstance(expr, Map) and expr.op in ("mul", "maximum", "cast") and any(map(_of_maximum, expr.args))
    return _is_maximum(expr) or within


def _saturates(expr: Expr) -> bool:
    """Whether a fill in it may have been brought into the range of float32, so that there is no way back."""
    lowest = (isinstance(node, Const) and is_float(node) and float(node.value) <= LOWEST for node in walk(expr))
    return any(lowest) or _is_limit(expr)


def scaled(expr: Expr, factor: Expr, names: dict[Expr, Name]) -> Expr:
    """``expr * factor`` for a factor without axes, moved down as far as it goes (a run-time scale may be negative)."""
    result = _scaled(expr, factor, names)
    if expr in names and not (isinstance(result, Map) and result.op == "mul" and result.args[0] in names):
        names.setdefault(result, names[expr])
    return result


def _scaled(expr: Expr, factor: Expr, names: dict[Expr, Name]) -> Expr:
    def down(child: Expr) -> Expr:
        return scaled(child, factor, names)

    if isinstance(expr, Const):
        value = float(expr.value)
        product = build.op("mul", build.const(value, FLOAT), factor, dtype=FLOAT)
        if isinstance(product, Const) and math.isfinite(value) and abs(product.value) > -LOWEST:
            return build.const(math.copysign(LOWEST, product.value), FLOAT)
        stays = not value or math.isnan(value) or (math.isinf(value) and is_positive(factor))
        return build.const(value, FLOAT) if stays else product
    if not expr.axes and is_float(expr):
        product = build.op("mul", expr, factor, dtype=FLOAT)
        # a run-time fill such as finfo.min must stay finite
        return _finite(product, expr) if _is_limit(expr) else product
    if isinstance(expr, Reduce) and expr.op == "max" and is_positive(factor):
        inner = down(expr.arg)
        # a factor that found nothing to join is cheaper outside the maximum
        if all(inner is not build.op("mul", arg, factor, dtype=FLOAT) for arg in (expr.arg, unrounded(expr.arg))):
            return build.reduce("max", inner, expr.axis)
    if isinstance(expr, Scan) and expr.op == "sum" and is_float(expr) and _of_scores(expr):
        inner = down(expr.arg)
        if _selected(inner) is not build.op("mul", _selected(expr.arg), factor, dtype=FLOAT):
            return build.scan("sum", inner, expr.axis, expr.at, expr.reverse)
    if isinstance(expr, Map):
        wanted = _of_scores(expr) or any(map(_of_maximum, expr.args)) or _has_lowest(expr)
        if expr.op in ("minimum", "maximum", "abs") and wanted and is_positive(factor):
            return build.op(expr.op, *map(down, expr.args), dtype=FLOAT)
        if expr.op == "log" and factor is build.const(LOG2_E, FLOAT) and _of_scores(expr):
            return build.op("log2", expr.args[0], dtype=FLOAT)
        if expr.op in ("add", "sub") and is_float(expr):  # a difference of integers is exact, one of their products not
            left, right = down(expr.args[0]), down(expr.args[1])
            first, second = (_product_with(side, factor) if side.axes == expr.axes else None for side in (left, right))
            if expr.op == "add" and first is not None and second is not None:
                # neither has a factor that this one joins
                return build.op("mul", build.op("add", first, second, dtype=FLOAT), factor, dtype=FLOAT)
            if any(alone and slope_of(other) for alone, other in ((first, expr.args[1]), (second, expr.args[0]))):
                # scores without a factor, and a slope times a distance: one factor for the sum, as `common` left it
                return build.op("mul", expr, factor, dtype=FLOAT)
            return build.op(expr.op, left, right, dtype=FLOAT)
        if expr.op == "neg" and is_float(expr):
            return build.op("neg", down(expr.args[0]), dtype=FLOAT)
        if expr.op == "where":
            yes, no = down(expr.args[1]), down(expr.args[2])
            plain = (expr.args[1], unrounded(expr.args[1]))
            unjoined = any(yes is build.op("mul", arg, factor, dtype=FLOAT) for arg in plain)
            if not (unjoined and isinstance(no, Const) and math.isinf(float(no.value))):
                return build.where(expr.args[0], yes, no)
        if expr.op == "cast" and is_float(expr.args[0]) and (expr.dtype == FLOAT or _is_logarithm(expr)):
            return down(expr.args[0])
        if expr.op == "mul":
            left, right = expr.args
            if not left.axes or not right.axes:
                tile, number = (right, left) if not left.axes else (left, right)
                if _has_lowest(number):  # what it multiplies is one or zero: sums of such products would be inf - inf
                    return build.op("mul", tile, down(number), dtype=FLOAT)
                return scaled(tile, build.op("mul", build.cast(number, FLOAT), factor, dtype=FLOAT), names)
            small, large = sorted((left, right), key=lambda side: len(side.axes))
            if small.axes < expr.axes and is_float(small):
                return build.op("mul", large, down(small), dtype=FLOAT)
        if expr.op == "div" and not expr.args[1].axes:
            inverse = build.op("div", build.const(1.0, FLOAT), build.cast(expr.args[1], FLOAT), dtype=FLOAT)
            return scaled(expr.args[0], build.op("mul", inverse, factor, dtype=FLOAT), names)
    return build.op("mul", expr, factor, dtype=FLOAT)


def _product_with(expr: Expr, factor: Expr) -> Expr | None:
    """``x`` where the expression is ``x * factor``."""
    if isinstance(expr, Map) and expr.op == "mul" and factor in expr.args and _of_scores(expr):
        return expr.args[0] if expr.args[1] is factor else expr.args[1]
    return None


def added_loads(power: Expr) -> set[Load]:
    """The terms of an exponential that are read from memory for each score: biases, masks of numbers."""
    streamed = {node.axis for node in walk(power) if _is_maximum(node)} or power.axes

    def added(term: Expr) -> set[Load]:
        if isinstance(term, Load):
            return set() if not is_float(term) or streamed.isdisjoint(term.axes) else {term}
        if not isinstance(term, Map) or term.op not in ("add", "sub", "neg", "cast", "minimum", "maximum", "where"):
            return set()
        return set().union(*map(added, term.args[term.op == "where" :]))

    return added(power)


def _is_out_of_reach(power: Expr, positive: bool = True) -> bool:
    """Whether a term is made of a number that times log2(e) may overflow, by an operator that keeps the factor outside.

    ``positive`` is whether the factor with what joined it on the way is known to be.
    """
    if not power.axes or not _has_lowest(power):
        return False
    if _is_maximum(power):
        return _is_out_of_reach(power.arg, positive)
    if not isinstance(power, Map):
        return True
    if power.op in ("mul", "div"):
        numbers = [arg for arg in power.args if not arg.axes]
        return not numbers or _is_out_of_reach(
            next(arg for arg in power.args if arg.axes), positive and is_positive(numbers[0])
        )
    through = power.op in ("add", "sub", "neg", "where") or (power.op in ("minimum", "maximum") and positive)
    if not through and not (power.op == "cast" and power.dtype == FLOAT):
        return True
    return any(_is_out_of_reach(arg, positive) for arg in power.args[power.op == "where" :])


def _has_lowest(expr: Expr) -> bool:
    """Whether there is a number in it that times log2(e) may overflow float32."""
    constants = (node for node in walk(expr) if isinstance(node, Const) and is_float(node))
    return _is_limit(expr) or any(-LOWEST / LOG2_E < abs(constant.value) < math.inf for constant in constants)


def _widened(power: Expr) -> Expr:
    """The difference of what is in float32 anyway: without roundings, its maximum is that of the same scores."""
    if isinstance(power, Map) and power.op == "sub":
        return build.op("sub", *map(unrounded, power.args), dtype=FLOAT)
    return power


def _logged(nodes: list[Expr]) -> set[Expr]:
    """The exponentials of whose sum the logarithm is taken, and wanted for each of the terms: as by log_softmax."""
    return {
        inner
        for node in nodes
        if isinstance(node, Map)
        for log in node.args
        if isinstance(log, Map) and log.op == "log" and isinstance(log.args[0], Reduce) and log.args[0].op == "sum"
        if log.axes < node.axes
        for inner in walk(log.args[0].arg)
        if _is_exponential(inner)
    }


def _difference(power: Expr) -> tuple[Expr, Expr]:
    """``(x - y, k)`` where the expression is ``x * k - y * k``; the expression and 1 else."""
    if isinstance(power, Map) and power.op == "sub":
        left, right = map(positive_factor, map(unrounded, power.args))
        if left is not None and right is not None and left[1] is right[1]:
            return build.op("sub", left[0], right[0], dtype=FLOAT), build.cast(left[1], FLOAT)
    return power, build.const(1.0, FLOAT)


def _is_exponential(expr: Expr) -> bool:
    return isinstance(expr, Map) and expr.op == "exp" and bool(expr.axes)


def _of_scores(expr: Expr) -> bool:
    """Whether it is computed for every score: what is loaded, or a statistic, costs little and stays as it is."""
    return {node.op for node in walk(expr) if isinstance(node, Reduce)} == {"sum"}


def _selected(expr: Expr) -> Expr:
    return _selected(expr.args[1]) if isinstance(expr, Map) and expr.op == "where" else expr


def _is_logarithm(expr: Expr) -> bool:
    """Whether it is the logarithm of a function of scores, which is computed in base 2 before any rounding."""
    return _of_scores(expr) and any(isinstance(node, Map) and node.op == "log" for node in walk(expr))


def _is_limit_test(test: Map) -> bool:
    """Whether a maximum is compared with infinity."""
    left, right = test.args
    extreme = any(isinstance(node, Reduce) and node.op == "max" for node in walk(left))
    return extreme and isinstance(right, Const) and math.isinf(float(right.value))


def _finite(product: Expr, limit: Expr) -> Expr:
    """The product with a limit of a dtype, within the range of float32 on the side to which the limit may lie."""
    side = _side(limit)
    if side >= 0:
        product = build.op("minimum", product, build.const(-LOWEST, FLOAT))
    return build.op("maximum", product, build.const(LOWEST, FLOAT)) if side <= 0 else product


def _side(limit: Expr) -> int:
    """The sign of a number made of limits, or 0."""
    if isinstance(limit, Scalar) and limit.name.startswith("finfo_"):
        return -1 if limit.name == "finfo_min" else 1
    if isinstance(limit, Map) and limit.op in ("mul", "div"):
        return math.prod(map(_side, limit.args))
    if isinstance(limit, Map) and limit.op in ("neg", "cast"):
        return _side(limit.args[0]) * (-1 if limit.op == "neg" else 1)
    negative = isinstance(limit, Const) and limit.value < 0
    return -1 if negative else int(is_positive(limit))


def _is_limit(expr: Expr) -> bool:
    return any(isinstance(node, Scalar) and node.name.startswith("finfo_") for node in walk(expr))
