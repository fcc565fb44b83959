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
    "sigmoid": "sigmoid({}, APPROXIMATE)",
    "erf": "tl.erf({})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
    "floor": "tl.floor({})",
    "ceil": "tl.ceil({})",
    "tanh": "tanh({}, APPROXIMATE)",
    "pow": "power({}, {})",
}

HELPERS: dict[str, str] = {
    "tanh": '''
@triton.jit
def tanh(x, approximate: tl.constexpr):
    """tanh(x): one instruction of 11 good bits where that is enough, else 1 - 2 / (exp(2x) + 1)."""
    if approximate:
        result = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        result = 1.0 - 2.0 / (tl.exp2(x * 2.885390081777927) + 1.0)
    return result
''',
    "sigmoid": '''
@triton.jit
def sigmoid(x, approximate: tl.constexpr):
    """1 / (1 + exp(-x)): a reciprocal in one instruction where a unit in the last place of float32 does not matter."""
    if approximate:
        result = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [1.0 + tl.exp2(x * -1.4426950408889634)], dtype=tl.float32,
            is_pure=True, pack=1,
        )
    else:
        result = tl.sigmoid(x)
    return result
''',
    "log2_1p": '''
@triton.jit
def log2_1p(x, approximate: tl.constexpr):
    """log2(1 + x): one instruction of 22 good bits where that is enough, else with what 1 + x rounds away."""
    above = 1.0 + x
    if approximate:
        result = tl.inline_asm_elementwise(
            "lg2.approx.f32 $0, $1;", "=f,f", [above], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        # Kahan: log(1 + x) / ((1 + x) - 1) is exact to a few roundings, however much of a small x is lost in 1 + x
        lost = tl.where(x < 1.0, x / (above - 1.0), 1.0)
        result = tl.where(above == 1.0, x * 1.4426950408889634, tl.log2(above) * lost)
    return result
''',
    "power": '''
@triton.jit
def power(base, exponent):
    """base ** exponent; NaN for a negative base unless the exponent is whole."""
    size = tl.exp2(exponent * tl.log2(tl.abs(base)))
    odd = exponent - 2.0 * tl.floor(exponent * 0.5) == 1.0
    signed = tl.where(tl.floor(exponent) == exponent, tl.where(odd, -size, size), float("nan"))
    return tl.where(exponent == 0.0, 1.0, tl.where(base < 0.0, signed, size))
''',
    "nan_max": '''
@triton.jit
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "nan_min": '''
@triton.jit
def nan_min(a, b):
    """The lesser of two numbers; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)
''',
    "product": '''
@triton.jit
def product(a, b):
    """What a block's factors come to."""
    return a * b
''',
    "matching_blocks": '''
@triton.jit
def matching_blocks(low_ptr, high_ptr, blocks, row_low, row_high):
    """Blocks whose values meet [row_low, row_high] lie in [start, stop); in [full_start, full_stop) all values are one.

    `low_ptr` and `high_ptr` hold the least and the greatest value of each of the `blocks` blocks.
    """
    start, stop = blocks, 0
    full_start, full_stop, full_count = blocks, 0, 0
    for first in tl.range(0, blocks, 128):
        block = first + tl.arange(0, 128)
        exists = block < blocks
        low = tl.load(low_ptr + block, mask=exists, other=0)
        high = tl.load(high_ptr + block, mask=exists, other=0)
        live = exists & (low <= row_high) & (high >= row_low)
        start = tl.minimum(start, tl.min(tl.where(live, block, blocks)))
        stop = tl.maximum(stop, tl.max(tl.where(live, block + 1, 0)))
        full = exists & (low == row_low) & (high == row_low) & (row_low == row_high)
        full_start = tl.minimum(full_start, tl.min(tl.where(full, block, blocks)))
        full_stop = tl.maximum(full_stop, tl.max(tl.where(full, block + 1, 0)))
        full_count += tl.sum(full.to(tl.int32))
    # a run with a gap in it is no run
    full_stop = tl.where(full_count == full_stop - full_start, full_stop, 0)
    return start, stop, full_start, full_stop


@triton.jit(do_not_specialize=["size", "blocks"])
def block_bounds_kernel(
    values_ptr, low_ptr, high_ptr, values_stride_row, values_stride_key, size, blocks, BLOCK_KEYS: tl.constexpr
):
    """The least and the greatest value of each block of keys: low[row, block] and high[row, block]."""
    program = tl.program_id(0)
    row = (program // blocks).to(tl.int64)
    keys = program % blocks * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)
    # past the end stands the block's own first value
    values_ptr += row * values_stride_row
    first = tl.load(values_ptr + (program % blocks).to(tl.int64) * BLOCK_KEYS * values_stride_key)
    values = tl.load(values_ptr + keys.to(tl.int64) * values_stride_key, mask=keys < size, other=0)
    values = tl.where(keys < size, values, first)
    tl.store(low_ptr + program, tl.min(values))
    tl.store(high_ptr + program, tl.max(values))


def block_bounds(values, block_keys):
    """The least and the greatest value of each block along the last dimension: two tensors [rows, blocks]."""
    values = values.reshape(-1, values.shape[-1])
    rows, size = values.shape
    blocks = triton.cdiv(size, block_keys)
    low, high = torch.empty((2, rows, blocks), dtype=values.dtype, device=values.device)
    block_bounds_kernel[(rows * blocks,)](values, low, high, *values.stride(), size, blocks, BLOCK_KEYS=block_keys)
    return low, high
''',
    "floor_divide": '''
@triton.jit
def floor_divide(a, b):
    """a // b rounded down, for b > 0 and any a (Triton rounds integer quotients towards zero)."""
    return tl.where(a >= 0, a // b, -((b - 1 - a) // b))
''',
}
"""Functions that a generated file defines where it uses them."""
