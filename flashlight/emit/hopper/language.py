"""Gluon: what files of Hopper kernels import and define, and how statements in Triton read there."""

from __future__ import annotations

import re

IMPORTS = """
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
"""

HOPPER = "triton.experimental.gluon.language.nvidia.hopper"
PARTS = ("fence_async_shared", "mbarrier", "tma", "warpgroup_mma", "warpgroup_mma_wait")
"""What of that module kernels may need."""

HELPERS = '''
# Triton has called these otherwise since version 3.7
copy_in = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
copy_out = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
synchronise = getattr(gl, "barrier", None) or gl.thread_barrier

GROUP_ROWS = gl.constexpr(64)  # rows that four warps multiply at once


@gluon.constexpr_function
def product_layout(*widths):
    """How the registers of four warps hold products: instructions as wide as the narrowest tile, so all are alike."""
    return gl.NVMMADistributedLayout([3, 0], [4, 1], [16, min(*widths, 256), 16])


@gluon.jit
def matmul(left, right, TILE: gl.constexpr):
    """left @ right, of which the right is in shared memory."""
    ROWS: gl.constexpr = left.shape[0]
    COLUMNS: gl.constexpr = right.shape[1]
    return warpgroup_mma(left, right, gl.zeros([ROWS, COLUMNS], gl.float32, TILE), use_acc=False)


@gluon.jit
def start_matmul(left, right, TILE: gl.constexpr):
    """The same, to be waited for."""
    ROWS: gl.constexpr = left.shape[0]
    COLUMNS: gl.constexpr = right.shape[1]
    return warpgroup_mma(left, right, gl.zeros([ROWS, COLUMNS], gl.float32, TILE), use_acc=False, is_async=True)


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
def send(source, place, ring, step, STAGES: gl.constexpr):
    """Copy a block to its stage of a ring, once those who read what is there are done."""
    blocks, ready, free = ring
    stage = step % STAGES
    mbarrier.wait(free.index(stage), (step // STAGES & 1) ^ 1)
    mbarrier.expect(ready.index(stage), source.block_type.nbytes)
    copy_in(source, place, ready.index(stage), blocks.index(stage))


@gluon.jit
def received(ring, step, STAGES: gl.constexpr, shape: gl.constexpr):
    """The block of a ring that belongs to a step, as soon as it is there."""
    blocks, ready, free = ring
    stage = step % STAGES
    mbarrier.wait(ready.index(stage), step // STAGES & 1)
    return blocks.index(stage).reshape(shape)


@gluon.jit
def release(ring, step, STAGES: gl.constexpr):
    """This reader is done with the block of a step."""
    blocks, ready, free = ring
    mbarrier.arrive(free.index(step % STAGES))


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
def turn_count(row_blocks, heads, GROWING: gl.constexpr):
    """How many turns a program has."""
    programs = gl.num_programs(0)
    if GROWING:
        width, rounds = section(row_blocks)
        count = gl.cdiv(heads, width) * rounds
    else:
        count = gl.cdiv(row_blocks * heads, programs)
    return count


@gluon.jit
def section(row_blocks):
    """How many heads fill two rounds of all programs (an even number, where one head takes more), and the rounds."""
    programs = gl.num_programs(0)
    width = gl.maximum(2 * programs // row_blocks, 1)
    return width, gl.cdiv(width * row_blocks, 2 * programs) * 2


@gluon.jit
def tile_of(turn, row_blocks, heads, GROWING: gl.constexpr):
    """The block of rows and the head of a program's turn, and whether there is one.

    All blocks of a head are near each other in time, so that its keys are in the cache. Where later rows see more keys
    (GROWING), a section of heads is gone through from its last rows to its first, every other round in reverse, so
    that each program gets as many long tiles as short ones.
    """
    programs, program = gl.num_programs(0), gl.program_id(0)
    if GROWING:
        width, rounds = section(row_blocks)
        first, round = turn // rounds * width, turn % rounds
        number = round * programs + gl.where(round % 2 == 0, program, programs - 1 - program)
        present = gl.minimum(width, heads - first)
        exists = number < present * row_blocks
        block, head = row_blocks - 1 - number // present, first + number % present
    else:
        number = turn * programs + program
        exists = number < row_blocks * heads
        block, head = number % row_blocks, number // row_blocks
    return block, head, exists
'''

NAMES = (
    ("tma", "mbarrier", "gl", "gluon", "warpgroup_mma", "fence_async_shared", "copy_in", "copy_out", "synchronise"),
    (
        "product_layout",
        "matmul",
        "start_matmul",
        "warpgroup_mma_wait",
        "ring_of",
        "buffer_of",
        "send",
        "received",
        "release",
        "send_back",
        "turn_count",
        "section",
    ),
    ("tile_of", "GROUP", "GROUP_ROWS", "GROUPS", "STAGES", "TILE", "turn", "done", "step", "block", "exists", "number"),
    ("given",),
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
            layout = "TILE" if len(shape) == 2 else f"gl.SliceLayout({int(shape[0] == 'GROUP_ROWS')}, TILE)"
            text = f"{text[: end - 1]}, {layout}{text[end - 1 :]}"
            start = end
    for missing in ("tl.broadcast_to", "tl.arange(0, BLOCK_ROWS)", "tl.dot", "tl.trans", "tl.sort"):
        if missing in text:
            raise Unsuitable(f"{missing}, which Gluon lacks")
    text = re.sub(r"\btl\.(?!PropagateNan)", "gl.", text.replace("@triton.jit", "@gluon.jit"))
    return text.replace("gl.sigmoid(x)", "1.0 / (1.0 + gl.exp2(x * -1.4426950408889634))")
