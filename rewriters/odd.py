"""Odd: a sign passes through an odd function, so that a parameter that scales it counts as positive.

    k * f(x / k)  =  |k| * f(x / |k|)            k * f(x * k)  =  |k| * f(x * |k|)          f(-x) = -f(x)

for a run-time number k, with other factors that are positive beside it. A soft cap given as an argument is such a k:
its sign is not known, and a maximum lets only positive factors out. What multiplies f is at least the least normal
number of float32, so that a cap of zero leaves minus infinity in masked scores, as a mask after the cap has it.
"""

from __future__ import annotations

from flashlight.ir import build
from flashlight.ir.expr import FLOAT, Expr, Map, Scalar, is_float, unrounded, walk
from flashlight.ir.program import Program, rewrite, substitute
from flashlight.ir.signs import is_positive

ODD = frozenset({"tanh", "sin"})
TINY = 2.0**-126


def odd(program: Program) -> Program:
    return rewrite(program, _positive)


def _positive(node: Expr) -> Expr:
    if not (isinstance(node, Map) and node.op == "mul" and node.axes):
        return node
    for value, factor in (node.args, node.args[::-1]):
        function = unrounded(value)
        if factor.axes or not (isinstance(function, Map) and function.op in ODD):
            continue
        product = unrounded(function.args[0])
        if not (isinstance(product, Map) and product.op == "mul"):
            continue
        for x, inner in (product.args, product.args[::-1]):
            number = _signed(factor)
            if number is not None and x.axes and not inner.axes and _once(number, inner):
                size = build.op("abs", number)
                within = build.op("mul", x, substitute(inner, {number: size}), dtype=product.dtype)
                least = build.op("maximum", size, build.const(TINY, FLOAT))
                return build.op(
                    "mul",
                    substitute(value, {product: within}),
                    substitute(factor, {number: least}),
                    dtype=node.dtype,
                )
    return node


def _signed(factor: Expr) -> Scalar | None:
    """The only number in a product that need not be positive."""
    signed = [one for one in _multiplied(factor) if not is_positive(one)]
    number = signed[0] if len(signed) == 1 else None
    return number if isinstance(number, Scalar) else None


def _once(number: Scalar, product: Expr) -> bool:
    """Whether the number is one of the factors or divisors, and in no other."""
    return [one for one in _multiplied(product) if number in walk(one)] == [number]


def _multiplied(product: Expr) -> list[Expr]:
    """What a product and quotient is made of."""
    if isinstance(product, Map) and product.op in ("mul", "div", "cast") and is_float(product.args[0]):
        return [one for arg in product.args for one in _multiplied(arg)]
    return [product]
