"""Gluon: what files of Hopper kernels import and define, and how statements in Triton read there."""

from __future__ import annotations

import re
import textwrap

IMPORTS = """
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
"""

HOPPER = "triton.experimental.gluon.language.nvidia.hopper"
PARTS = ("fence_async_shared", "mbarrier", "tma", "warpgroup_mma", "warpgroup_mma_wait")
"""What of that module kernels may need."""

_PROTOCOL = (
    "In each program one group of four warps, the loads, fills rings of blocks in shared memory by the copy engine. "
    "Every other group, the rows, computes 64 rows of a tile and drains the rings. "
)
_DEALT = (
    "All go through the same tiles, and the same blocks of keys in each, so that their counts agree without a word "
    "between them."
)
_DRAWN = (
    "The loads draw the number of each tile, heavy ones first, and announce it to the rows; from it all derive the "
    "same blocks of keys."
)


def protocol(body: str) -> str:
    """What the header of a file says of how its kernels run."""
    every = [_DEALT] * ("turn_count(" in body) + [_DRAWN] * ("announce(" in body)
    return f"\n{textwrap.fill(_PROTOCOL + ' Others: '.join(every), 118)}\n"


HELPERS = '''
# Renamed in Triton 3.7
copy_in = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
copy_out = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
synchronise = getattr(gl, "barrier", None) or gl.thread_barrier

GROUP_ROWS = gl.constexpr(64)  # rows that four warps multiply at once


@gluon.constexpr_function
def product_layout(*widths):
    """How the registers of four warps hold products: instructions as wide as the narrowest tile, so all are alike."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, min(*widths, 256), 16])


@gluon.constexpr_function
def tile_shape(ring_shape):
    """The shape of a block of a ring, without the dimensions in which it has one position."""
    return [width for width in ring_shape[1:] if width > 1]


@gluon.jit
def matmul(left, right, LAYOUT: gl.constexpr):
    """left @ right, of which the right is in shared memory."""
    ROWS: gl.constexpr = left.shape[0]
    COLUMNS: gl.constexpr = right.shape[1]
    return warpgroup_mma(left, right, gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT), use_acc=False)


@gluon.jit
def start_matmul(left, right, LAYOUT: gl.constexpr):
    """The same, to be waited for."""
    ROWS: gl.constexpr = left.shape[0]
    COLUMNS: gl.constexpr = right.shape[1]
    return warpgroup_mma(left, right, gl.zeros([ROWS, COLUMNS], gl.float32, LAYOUT), use_acc=False, is_async=True)


@gluon.jit
def ring_of(dtype: gl.constexpr, STAGES: gl.constexpr, READERS: gl.constexpr, shape: gl.constexpr):
    """Blocks in shared memory, with a barrier each that says it is ready, and one that all readers are done."""
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for(shape, dtype)
    blocks = gl.allocate_shared_memory(dtype, [STAGES] + shape, layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(ready.index(stage), 1)
        mbarrier.init(free.index(stage), READERS)
    return blocks, ready, free


@gluon.jit
def buffer_of(dtype: gl.constexpr, GROUPS: gl.constexpr, shape: gl.constexpr):
    """Room in shared memory for a tile of each group on its way out."""
    layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for(shape, dtype)
    return gl.allocate_shared_memory(dtype, [GROUPS] + shape, layout)


@gluon.jit
def send(source, place, ring, use):
    """Copy a block to the stage of a ring whose turn it is, once those who read what is there are done.

    A barrier has the parity of how often its stage has been used. To wait for the other one passes the first time.
    """
    blocks, ready, free = ring
    STAGES: gl.constexpr = blocks.shape[0]
    stage = use % STAGES
    mbarrier.wait(free.index(stage), (use // STAGES & 1) ^ 1)
    mbarrier.expect(ready.index(stage), source.block_type.nbytes)
    copy_in(source, place, ready.index(stage), blocks.index(stage))


@gluon.jit
def received(ring, use):
    """The block of that use of a ring, as soon as it is there: in shared memory, until it is released."""
    blocks, ready, free = ring
    STAGES: gl.constexpr = blocks.shape[0]
    stage = use % STAGES
    mbarrier.wait(ready.index(stage), use // STAGES & 1)
    return blocks.index(stage).reshape(tile_shape(blocks.shape))


@gluon.jit
def release(ring, use):
    """This reader is done with the block."""
    blocks, ready, free = ring
    mbarrier.arrive(free.index(use % blocks.shape[0]))


@gluon.jit
def pass_by(ring, use):
    """This reader does not need the block. It is there first, so that no reader gets a round ahead of the others."""
    received(ring, use)
    release(ring, use)


@gluon.jit
def taken(ring, use, LAYOUT: gl.constexpr):
    """The block in registers. Its place is free at once: the fence has the next copy wait until it is read."""
    tile = received(ring, use).load(LAYOUT)
    fence_async_shared()
    release(ring, use)
    return tile


@gluon.jit
def with_offsets(near, KEYS: gl.constexpr, LAYOUT: gl.constexpr):
    """near[:, None] + the offsets of keys, as float32: one addition for each.

    A thread holds keys 8 n + p and 8 n + p + 1 of a row: near + p is converted twice a row, and 8 n is a constant.
    """
    ROWS: gl.constexpr = near.shape[0]
    STEPS: gl.constexpr = gl.reshape(gl.zeros([ROWS, KEYS], gl.float32, LAYOUT), [ROWS, KEYS // 8, 8]).type.layout
    near = gl.convert_layout(near, gl.SliceLayout(1, gl.SliceLayout(2, STEPS)))
    step = gl.arange(0, KEYS // 8, gl.SliceLayout(0, gl.SliceLayout(2, STEPS))) * 8
    within = gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(1, STEPS)))
    start = gl.expand_dims(gl.expand_dims(near, 1), 2) + gl.expand_dims(gl.expand_dims(within, 0), 1)
    step = gl.expand_dims(gl.expand_dims(step, 0), 2)
    keys = start.to(gl.float32) + step.to(gl.float32)
    return gl.convert_layout(gl.reshape(keys, [ROWS, KEYS]), LAYOUT, assert_trivial=True)


@gluon.jit
def send_back(target, place, buffer, tile):
    """Copy a tile to its place through a buffer, while the program goes on."""
    tma.store_wait(0)
    synchronise()
    buffer.reshape(tile.shape).store(tile)
    fence_async_shared()
    synchronise()
    copy_out(target, place, buffer)


@gluon.jit
def turn_count(row_blocks, heads):
    """How many turns a program has."""
    return gl.cdiv(row_blocks * heads, gl.num_programs(0))


@gluon.jit
def tile_of(turn, row_blocks, heads):
    """The block of rows and the head of a program's turn, and whether there is one.

    All blocks of a head are near each other in time, so that its keys are in the cache.
    """
    number = turn * gl.num_programs(0) + gl.program_id(0)
    exists = number < row_blocks * heads
    return number % row_blocks, number // row_blocks, exists


@gluon.jit
def section(row_blocks):
    """How many heads fill two rounds of all programs, and the rounds: an even number, more than two for a long head."""
    programs = gl.num_programs(0)
    width = gl.maximum(2 * programs // row_blocks, 1)
    return width, gl.cdiv(width * row_blocks, 2 * programs) * 2


@gluon.jit
def balanced_turn_count(row_blocks, heads):
    """How many turns a program has where later rows see more keys."""
    width, rounds = section(row_blocks)
    return gl.cdiv(heads, width) * rounds


@gluon.jit
def balanced_tile_of(turn, row_blocks, heads):
    """The same as `tile_of` where later rows see more keys: each program gets as many long tiles as short ones.

    A section of heads is gone through from its last rows to its first, every other round in reverse.
    """
    programs, program = gl.num_programs(0), gl.program_id(0)
    width, rounds = section(row_blocks)
    first, round = turn // rounds * width, turn % rounds
    number = round * programs + gl.where(round % 2 == 0, program, programs - 1 - program)
    present = gl.minimum(width, heads - first)
    exists = number < present * row_blocks
    return row_blocks - 1 - number // present, first + number % present, exists


@gluon.jit
def turns_of(READERS: gl.constexpr):
    """Room for the numbers of two tiles, with barriers as a ring has them."""
    numbers = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    ready = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(2):
        mbarrier.init(ready.index(stage), 1)
        mbarrier.init(free.index(stage), READERS)
    return numbers, ready, free


@gluon.jit
def announce(turns, done, number):
    """Tell the readers the number of the next tile, as soon as they know that of the last but one."""
    numbers, ready, free = turns
    mbarrier.wait(free.index(done % 2), (done // 2 & 1) ^ 1)
    numbers.index(done % 2).store(gl.full([1], number, gl.int32, gl.BlockedLayout([1], [32], [4], [0])))
    synchronise()
    mbarrier.arrive(ready.index(done % 2))


@gluon.jit
def told(turns, done):
    """The number of the next tile."""
    numbers, ready, free = turns
    mbarrier.wait(ready.index(done % 2), done // 2 & 1)
    number = gl.max(numbers.index(done % 2).load(gl.BlockedLayout([1], [32], [4], [0])), 0)
    synchronise()
    mbarrier.arrive(free.index(done % 2))
    return number


@gluon.jit
def drawn(counter):
    """The number of a tile that no program has begun."""
    return gl.num_programs(0) + gl.atomic_add(counter, 1)
'''

NAMES = frozenset(re.findall(r"^(?:def )?(\w+)(?:\(| = )", HELPERS, re.M)).union(
    ("tma", "mbarrier", "gl", "gluon", "warpgroup_mma", "warpgroup_mma_wait", "fence_async_shared"),
    ("GROUP", "GROUPS", "STAGES", "LAYOUT", "turn", "done", "step", "group", "block", "exists", "number"),
    ("given", "loads", "group_start", "own_start", "own_stop"),
)
"""What Hopper kernels call their own beside what all kernels do."""


class Unsuitable(Exception):
    """The schedule is none for this lowering; the message says why."""


def in_gluon(text: str) -> str:
    """Statements in Triton as Gluon has them: new tiles say how they lie in registers."""
    text = re.sub(r"\btl\.range\b", "range", text)
    for function in ("zeros", "full"):
        start = 0
        while (place := text.find(f"tl.{function}(", start)) >= 0:
            opened = place + len(f"tl.{function}(")
            end, depth = opened, 1
            while depth:
                depth += {"(": 1, ")": -1}.get(text[end], 0)
                end += 1
            shape = text[opened + 1 : text.index("]", opened)].split(", ")
            if len(shape) > 2:
                raise Unsuitable("a tile of three dimensions")
            layout = "LAYOUT" if len(shape) == 2 else f"gl.SliceLayout({int(shape[0] == 'GROUP_ROWS')}, LAYOUT)"
            text = f"{text[: end - 1]}, {layout}{text[end - 1 :]}"
            start = end
    for missing in ("tl.broadcast_to", "tl.arange(0, BLOCK_ROWS)", "tl.dot", "tl.trans", "tl.sort"):
        if missing in text:
            raise Unsuitable(f"{missing}, which Gluon lacks")
    text = re.sub(r"\btl\.(?!PropagateNan)", "gl.", text.replace("@triton.jit", "@gluon.jit"))
    return text.replace("gl.sigmoid(x)", "1.0 / (1.0 + gl.exp2(x * -1.4426950408889634))")
