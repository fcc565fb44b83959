"""Hopper kernels for layers.py, in Gluon.

Written by flashlight 0.1.0 from examples/layers.py (sha256 c658a23514aa7606)
with `flashlight transpile examples/layers.py`; change the source and run that again.

In each program one group of four warps, the loads, fills rings of blocks in shared memory by the copy engine. Every
other group, the rows, computes 64 rows of a tile and drains the rings. All go through the same tiles, and the same
blocks of keys in each, so that their counts agree without a word between them.
"""

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma, warpgroup_mma

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
def send_back(target, place, buffer, tile):
    """Copy a tile to its place through a buffer, while the program goes on."""
    tma.store_wait(0)
    synchronise()
    buffer.reshape(tile.shape).store(tile)
    fence_async_shared()
    synchronise()
    copy_out(target, place, buffer)


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
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return gl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@gluon.jit
def gpt_layer_loads(
    given,
    E_n_head: gl.constexpr,
    BLOCK_E_n_head: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Keep the rings full: blocks of rows and of keys, in the order in which they are read."""
    (
        # fmt: off
        # tensors
        h_w_qkv_ptr,
        # their strides, in elements
        h_w_qkv_stride_b, h_w_qkv_stride_s, h_w_qkv_stride_n,
        # sizes: one compiled kernel serves them all
        n_head, B, S,
        # rings in shared memory
        h_w_qkv_ring, h_w_qkv_ring_2, h_w_qkv_ring_3,
        # fmt: on
    ) = given
    h_w_qkv_blocks = tma.make_tensor_descriptor(
        h_w_qkv_ptr,
        [B, S, n_head * 3, E_n_head],
        [h_w_qkv_stride_b, h_w_qkv_stride_s, h_w_qkv_stride_n, 1],
        [1, GROUP_ROWS, 1, BLOCK_E_n_head],
        h_w_qkv_ring[0].layout,
    )
    h_w_qkv_blocks_2 = tma.make_tensor_descriptor(
        h_w_qkv_ptr,
        [B, S, n_head * 3, E_n_head],
        [h_w_qkv_stride_b, h_w_qkv_stride_s, h_w_qkv_stride_n, 1],
        [1, BLOCK_KEYS, 1, BLOCK_E_n_head],
        h_w_qkv_ring_2[0].layout,
    )
    h_w_qkv_blocks_3 = tma.make_tensor_descriptor(
        h_w_qkv_ptr,
        [B, S, n_head * 3, E_n_head],
        [h_w_qkv_stride_b, h_w_qkv_stride_s, h_w_qkv_stride_n, 1],
        [1, BLOCK_KEYS, 1, BLOCK_E_n_head],
        h_w_qkv_ring_3[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(balanced_turn_count(row_blocks, B * n_head)):
        block, number, exists = balanced_tile_of(turn, row_blocks, B * n_head)
        if exists:
            row_start = block * BLOCK_ROWS
            h = (number % n_head).to(gl.int64)
            batch = number // n_head
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            for group in gl.static_range(GROUPS):
                send(
                    h_w_qkv_blocks,
                    [batch, row_start + group * GROUP_ROWS, gl.cast(h, gl.int32), 0],
                    h_w_qkv_ring,
                    done * GROUPS + group,
                )
            for key_start in range(0, live_stop, BLOCK_KEYS):
                send(h_w_qkv_blocks_2, [batch, key_start, gl.cast(h + n_head, gl.int32), 0], h_w_qkv_ring_2, step)
                send(h_w_qkv_blocks_3, [batch, key_start, gl.cast(h + n_head * 2, gl.int32), 0], h_w_qkv_ring_3, step)
                step += 1
            done += 1


@gluon.jit
def gpt_layer_rows(
    given,
    E_n_head: gl.constexpr,
    BLOCK_E_n_head: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    GROUPS: gl.constexpr,
    GROUP: gl.constexpr,
):
    """What the kernel computes, for 64 rows of each of its tiles."""
    (
        # fmt: off
        # tensors
        y_ptr,
        # their strides, in elements
        y_stride_b, y_stride_s, y_stride_n,
        # sizes: one compiled kernel serves them all
        n_head, B, S,
        # numbers
        scale,
        # rings in shared memory
        h_w_qkv_ring, h_w_qkv_ring_2, h_w_qkv_ring_3, y_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_E_n_head)
    y_blocks = tma.make_tensor_descriptor(
        y_ptr,
        [B, S, n_head, E_n_head],
        [y_stride_b, y_stride_s, y_stride_n, 1],
        [1, GROUP_ROWS, 1, BLOCK_E_n_head],
        y_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(balanced_turn_count(row_blocks, B * n_head)):
        block, number, exists = balanced_tile_of(turn, row_blocks, B * n_head)
        if exists:
            row_start = block * BLOCK_ROWS
            h = number % n_head
            batch = number // n_head
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            rows = row_start + row_offsets
            h_w_qkv = received(h_w_qkv_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_E_n_head], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            full_stop = gl.minimum(S, group_start + 1) // BLOCK_KEYS * BLOCK_KEYS
            # Of the blocks that some row of the tile sees, those that one of this group does
            own_stop = gl.minimum(live_stop, GROUP_ROWS + group_start)

            for key_start in range(0, own_stop, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                h_w_qkv_2 = received(h_w_qkv_ring_2, step)
                scores = matmul(h_w_qkv, h_w_qkv_2.permute((1, 0)), LAYOUT) * scale
                release(h_w_qkv_ring_2, step)
                if partial:
                    scores = gl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
                new_max = nan_max(running_max, gl.reduce(scores, 1, nan_max))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2(running_max - finite_max)
                weights = gl.exp2(scores - finite_max[:, None])
                h_w_qkv_3 = received(h_w_qkv_ring_3, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(h_w_qkv_3.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    h_w_qkv_3,
                    accumulator * rescale[:, None],
                )
                release(h_w_qkv_ring_3, step)
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                running_max = new_max
                step += 1
            for _ in range(gl.cdiv(own_stop, BLOCK_KEYS) * BLOCK_KEYS, live_stop, BLOCK_KEYS):
                pass_by(h_w_qkv_ring_2, step)
                pass_by(h_w_qkv_ring_3, step)
                step += 1
            release(h_w_qkv_ring, done * GROUPS + GROUP)

            y = gl.where(
                (running_max != float("-inf"))[:, None], accumulator * (1.0 / running_sum)[:, None], 0.0
            )  # layers.py:25
            send_back(y_blocks, [batch, group_start, h, 0], y_buffer.index(GROUP), y.to(y_ptr.dtype.element_ty))
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["n_head", "B", "S"])
def gpt_layer_kernel(
    # fmt: off
    # tensors
    h_w_qkv_ptr, y_ptr,
    # their strides, in elements
    h_w_qkv_stride_b, h_w_qkv_stride_s, h_w_qkv_stride_n,
    y_stride_b, y_stride_s, y_stride_n,
    # sizes: one compiled kernel serves them all
    n_head, B, S,
    # numbers
    scale,  # quotient(1.0, math.sqrt(E // n_head)) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    E_n_head: gl.constexpr, BLOCK_E_n_head: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """gpt_layer:

        t[b, h, i, j] = where(j > i, -inf, (Σ_g h_w_qkv[b, i, h, g] * h_w_qkv[b, j, h + n_head, g]) /
            sqrt(float32(E // n_head)))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        y[b, i, h, d] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) * h_w_qkv[b,
            j, h + n_head * 2, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    PyTorch computes h_w_qkv beforehand.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    h_w_qkv_ring = ring_of(h_w_qkv_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, 1, BLOCK_E_n_head])
    h_w_qkv_ring_2 = ring_of(h_w_qkv_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, BLOCK_E_n_head])
    h_w_qkv_ring_3 = ring_of(h_w_qkv_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, BLOCK_E_n_head])
    y_buffer = buffer_of(y_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, 1, BLOCK_E_n_head])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        h_w_qkv_ptr, h_w_qkv_stride_b, h_w_qkv_stride_s, h_w_qkv_stride_n, n_head, B, S, h_w_qkv_ring, h_w_qkv_ring_2,
        h_w_qkv_ring_3,
    )
    rows = (
        y_ptr, y_stride_b, y_stride_s, y_stride_n, n_head, B, S, scale, h_w_qkv_ring, h_w_qkv_ring_2, h_w_qkv_ring_3,
        y_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (gpt_layer_loads, (loads, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (gpt_layer_rows, (rows, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (gpt_layer_loads, (loads, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (gpt_layer_rows, (rows, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (gpt_layer_rows, (rows, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (gpt_layer_loads, (loads, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (gpt_layer_rows, (rows, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (gpt_layer_rows, (rows, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (gpt_layer_rows, (rows, E_n_head, BLOCK_E_n_head, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
