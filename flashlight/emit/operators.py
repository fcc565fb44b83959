"""How each pointwise operator is written in Triton."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spelling:
    """An infix or prefix operator with Python's precedence, or a function (precedence 100)."""

    form: str
    precedence: int


ATOM = 100
INFIX: dict[str, Spelling] = {
    "or": Spelling("{} | {}", 3),
    "and": Spelling("{} & {}", 5),
    "eq": Spelling("{} == {}", 2),
    "ne": Spelling("{} != {}", 2),
    "lt": Spelling("{} < {}", 2),
    "le": Spelling("{} <= {}", 2),
    "gt": Spelling("{} > {}", 2),
    "ge": Spelling("{} >= {}", 2),
    "add": Spelling("{} + {}", 7),
    "sub": Spelling("{} - {}", 7),
    "mul": Spelling("{} * {}", 8),
    "div": Spelling("{} / {}", 8),
    "neg": Spelling("-{}", 9),
    "not": Spelling("~{}", 9),
}

FUNCTIONS: dict[str, str] = {
    "where": "tl.where({}, {}, {})",
    "maximum": "tl.maximum({}, {})",
    "minimum": "tl.minimum({}, {})",
    "exp": "tl.exp({})",
    "exp2": "tl.exp2({})",
    "log": "tl.log({})",
    "log2": "tl.log2({})",
    "sqrt": "tl.sqrt({})",
    "rsqrt": "tl.rsqrt({})",
    "abs": "tl.abs({})",
    "sigmoid": "tl.sigmoid({})",
    "erf": "tl.erf({})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
    "floor": "tl.floor({})",
    "ceil": "tl.ceil({})",
    "tanh": "tanh({})",
    "pow": "power({}, {})",
}

HELPERS: dict[str, str] = {
    "tanh": '''
@triton.jit
def tanh(x):
    """tanh(x) = 1 - 2 / (exp(2x) + 1), which neither overflows nor loses its sign."""
    return 1.0 - 2.0 / (tl.exp2(x * 2.885390081777927) + 1.0)
''',
    "power": '''
@triton.jit
def power(base, exponent):
    """base ** exponent for a nonnegative base."""
    return tl.where(base > 0.0, tl.exp2(exponent * tl.log2(base)), tl.where(exponent == 0.0, 1.0, 0.0))
''',
    "floor_divide": '''
@triton.jit
def floor_divide(a, b):
    """a // b rounded down, for b > 0 and any a (Triton rounds integer quotients towards zero)."""
    return tl.where(a >= 0, a // b, -((b - 1 - a) // b))
''',
}
"""Functions that a generated file defines where it uses them."""
