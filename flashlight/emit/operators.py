"""How each pointwise operator is written in Triton."""

from __future__ import annotations

from dataclasses import dataclass

from rewriters.base2 import LN_2, LOG2_E


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

CONSTANTS = {LOG2_E: "LOG2_E", LN_2: "LN_2"}
"""Numbers that have a name in kernels."""

HELPERS: dict[str, str] = {
    "LOG2_E": "LOG2_E = tl.constexpr(1.4426950408889634)  # log2(e)",
    "LN_2": "LN_2 = tl.constexpr(0.6931471805599453)  # log(2) = 1 / log2(e)",
    "tanh": '''
@triton.jit
def tanh(x, approximate: tl.constexpr):
    """tanh(x): one instruction of 11 good bits where that is enough, else 1 - 2 / (exp(2x) + 1); a series near 0."""
    if approximate:
        result = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        square = x * x
        near = x * (1.0 - square * (0.3333333333333333 - square * 0.13333333333333333))
        result = tl.where(square < 0.01, near, 1.0 - 2.0 / (tl.exp2(x * 2.885390081777927) + 1.0))
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
    """log2(1 + x): one instruction where an error of 2**-22 is small enough, else with what 1 + x rounds away."""
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
    base, exponent = tl.cast(base, tl.float32), tl.cast(exponent, tl.float32)
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
    "dot_in_range": '''
@triton.jit
def dot_in_range(weights, values, accumulator, PRECISION: tl.constexpr):
    """accumulator + weights @ values for weights out of float16's range: TF32 has as many digits."""
    if values.dtype == tl.float16:
        return tl.dot(weights, values.to(tl.float32), accumulator, input_precision="tf32")
    return tl.dot(weights.to(values.dtype), values, accumulator, input_precision=PRECISION)
''',
    "product": '''
@triton.jit
def product(a, b):
    """What a block's factors come to."""
    return a * b
''',
    "matching_ranges": '''
@triton.jit
def joined(start, stop, one_start, one_stop, ones, start_2, stop_2, one_start_2, one_stop_2, ones_2):
    """Two runs of live blocks and two of blocks of one value as one run each, and how many of the latter there are."""
    start, stop = tl.minimum(start, start_2), tl.maximum(stop, stop_2)
    return start, stop, tl.minimum(one_start, one_start_2), tl.maximum(one_stop, one_stop_2), ones + ones_2


@triton.jit(do_not_specialize=["row_count", "key_count"])
def matching_ranges_kernel(
    row_values_ptr, key_values_ptr, ranges_ptr, row_values_stride_0, row_values_stride_1, key_values_stride_0,
    key_values_stride_1, row_count, key_count, BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The four ends of `matching_ranges` for one block of rows; `BLOCKS` blocks of keys are looked at in one go.

    `ROWS` is the number of rows in a block, or the next power of two.
    """
    program = tl.program_id(0)
    row_blocks, key_blocks = tl.cdiv(row_count, BLOCK_ROWS), tl.cdiv(key_count, BLOCK_KEYS)
    row_values_ptr += (program // row_blocks).to(tl.int64) * row_values_stride_0
    key_values_ptr += (program // row_blocks).to(tl.int64) * key_values_stride_0
    # Past an end stands the last value once more
    row_offsets = tl.minimum(tl.arange(0, ROWS), BLOCK_ROWS - 1)
    rows = tl.minimum(program % row_blocks * BLOCK_ROWS + row_offsets, row_count - 1)
    row_values = tl.load(row_values_ptr + rows.to(tl.int64) * row_values_stride_1)
    row_low, row_high = tl.min(row_values), tl.max(row_values)
    live_start, live_stop, one_start, one_stop, ones = key_blocks, 0, key_blocks, 0, 0
    for first in tl.range(0, key_blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        exists = block < key_blocks
        keys = tl.minimum(block[:, None] * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)[None, :], key_count - 1)
        key_values = tl.load(key_values_ptr + keys.to(tl.int64) * key_values_stride_1)
        low, high = tl.min(key_values, 1), tl.max(key_values, 1)
        live = exists & (low <= row_high) & (high >= row_low)
        one = live & (low == high) & (row_low == row_high)
        found = tl.reduce(
            (
                tl.where(live, block, key_blocks),
                tl.where(live, block + 1, 0),
                tl.where(one, block, key_blocks),
                tl.where(one, block + 1, 0),
                one.to(tl.int32),
            ),
            0,
            joined,
        )
        live_start, live_stop, one_start, one_stop, ones = joined(
            live_start, live_stop, one_start, one_stop, ones, found[0], found[1], found[2], found[3], found[4]
        )
    # a run with a gap in it is no run
    one_stop = tl.where(ones == one_stop - one_start, one_stop, 0)
    ranges_ptr += program.to(tl.int64) * 4
    tl.store(ranges_ptr, live_start * BLOCK_KEYS)
    tl.store(ranges_ptr + 1, tl.minimum(live_stop * BLOCK_KEYS, key_count))
    tl.store(ranges_ptr + 2, one_start * BLOCK_KEYS)
    tl.store(ranges_ptr + 3, one_stop * BLOCK_KEYS)


def matching_ranges(row_values, key_values, block_rows, block_keys):
    """For each block of rows [N, R], the keys [N, K] whose values can equal its own: int32 [N, blocks of rows, 4].

    The four are the start and the stop of the blocks of keys that hold a value between the least and the greatest of
    the rows, and of those in which every value is the one value of the rows: two runs of whole blocks.
    """
    (count, rows), keys = row_values.shape, key_values.shape[1]
    row_blocks = -(-rows // block_rows)
    ranges = torch.empty((count, row_blocks, 4), dtype=torch.int32, device=row_values.device)
    launch(
        matching_ranges_kernel,
        count * row_blocks,
        (row_values, key_values, ranges),
        (*row_values.stride(), *key_values.stride(), rows, keys),
        (),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        ROWS=1 << (block_rows - 1).bit_length(),
        BLOCKS=max(1, (4096 if keys <= 4096 else 16384) // block_keys),
        num_warps=8 if keys <= 4096 else 16,
    )
    return ranges
''',
    "heaviest_first": '''
@triton.jit
def key_counts(ranges_ptr, tiles, tile_count):
    """How many keys are in the ranges of blocks of rows, -1 for what is no block."""
    exists = tiles < tile_count
    start = tl.load(ranges_ptr + tiles * 4, mask=exists, other=0)
    stop = tl.load(ranges_ptr + tiles * 4 + 1, mask=exists, other=0)
    return tl.where(exists, tl.maximum(stop - start, 0), -1)


@triton.jit(do_not_specialize=["tile_count"])
def heaviest_first_kernel(
    ranges_ptr, order_ptr, tile_count, TILES: tl.constexpr, OTHERS: tl.constexpr, SECTION: tl.constexpr
):
    """The place of each of `TILES` blocks: how many of its section have more keys, or as many and come later."""
    tiles = tl.program_id(0) * TILES + tl.arange(0, TILES)
    keys = key_counts(ranges_ptr, tiles, tile_count)
    section = tl.program_id(0) * TILES // SECTION * SECTION
    places = tl.zeros([TILES], tl.int32)
    for first in tl.range(section, tl.minimum(section + SECTION, tile_count), OTHERS):
        others = first + tl.arange(0, OTHERS)
        other_keys = key_counts(ranges_ptr, others, tile_count)
        later = (other_keys[None, :] == keys[:, None]) & (others[None, :] > tiles[:, None])
        places += tl.sum(((other_keys[None, :] > keys[:, None]) | later).to(tl.int32), 1)
    tl.store(order_ptr + section + places, tiles, mask=tiles < tile_count)
    tl.store(order_ptr + tile_count, 0)


def heaviest_first(ranges):
    """What `matching_ranges` found; and the numbers of its blocks of rows, those with the longest ranges first.

    After them stands a zero, where programs will count the tiles that they draw. Of more than 4096 blocks each 4096
    have an order of their own.
    """
    tile_count = ranges.shape[0] * ranges.shape[1]
    order = torch.empty(tile_count + 1, dtype=torch.int32, device=ranges.device)
    launch(
        heaviest_first_kernel,
        -(-tile_count // 32),
        (ranges, order),
        (tile_count,),
        (),
        TILES=32,
        OTHERS=256,
        SECTION=4096,
    )
    return ranges, order
''',
    "integer_power": '''
@triton.jit
def integer_power(base, exponent):
    """base ** exponent in 64 bits, by squaring; what does not fit wraps, and negative powers are cut off."""
    base, exponent = tl.cast(base, tl.int64), tl.cast(exponent, tl.int64)
    result = base * 0 + exponent * 0 + 1
    square, left = base + exponent * 0, tl.abs(exponent) + base * 0
    for _ in tl.static_range(32):
        result = tl.where(left % 2 == 1, result * square, result)
        square *= square
        left //= 2
    return tl.where((exponent >= 0) | (tl.abs(base) == 1), result, 0)
''',
    "floor_divide_signed": '''
@triton.jit
def floor_divide_signed(a, b):
    """a // b rounded down, whatever the signs (Triton rounds integer quotients towards zero)."""
    quotient = a // b
    return tl.where((quotient * b != a) & ((a < 0) != (b < 0)), quotient - 1, quotient)
''',
    "floor_divide": '''
@triton.jit
def floor_divide(a, b):
    """a // b rounded down, for b > 0 and any a (Triton rounds integer quotients towards zero)."""
    return tl.where(a >= 0, a // b, -1 - (-1 - a) // b)
''',
}
"""Functions that a generated file defines where it uses them."""
