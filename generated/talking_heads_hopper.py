"""Hopper kernels for talking_heads.py, in Gluon.

Written by flashlight 0.1.0 from examples/talking_heads.py (sha256 6038721926536cce)
with `flashlight transpile examples/talking_heads.py`; change the source and run that again.

In each program one group of four warps, the loads, fills rings of blocks in shared memory by the copy engine. Every
other group, the rows, computes 64 rows of a tile and drains the rings. All go through the same tiles, and the same
blocks of keys in each, so that their counts agree without a word between them.
"""

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


LOG2_E = gl.constexpr(1.4426950408889634)  # log2(e)


@gluon.jit
def talking_heads_loads(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Keep the rings full: blocks of rows and of keys, in the order in which they are read."""
    (
        # fmt: off
        # tensors
        q_ptr, k_ptr, v_ptr,
        # their strides, in elements
        q_stride_b, q_stride_1, q_stride_s,
        k_stride_b, k_stride_1, k_stride_s,
        v_stride_b, v_stride_1, v_stride_s,
        # sizes: one compiled kernel serves them all
        B, S,
        # rings in shared memory
        q_ring, q_ring_2, q_ring_3, q_ring_4, k_ring, k_ring_2, k_ring_3, k_ring_4, v_ring,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr, [B, 4, S, D], [q_stride_b, q_stride_1, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring[0].layout
    )
    q_blocks_2 = tma.make_tensor_descriptor(
        q_ptr, [B, 4, S, D], [q_stride_b, q_stride_1, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring_2[0].layout
    )
    q_blocks_3 = tma.make_tensor_descriptor(
        q_ptr, [B, 4, S, D], [q_stride_b, q_stride_1, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring_3[0].layout
    )
    q_blocks_4 = tma.make_tensor_descriptor(
        q_ptr, [B, 4, S, D], [q_stride_b, q_stride_1, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring_4[0].layout
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr, [B, 4, S, D], [k_stride_b, k_stride_1, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring[0].layout
    )
    k_blocks_2 = tma.make_tensor_descriptor(
        k_ptr, [B, 4, S, D], [k_stride_b, k_stride_1, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring_2[0].layout
    )
    k_blocks_3 = tma.make_tensor_descriptor(
        k_ptr, [B, 4, S, D], [k_stride_b, k_stride_1, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring_3[0].layout
    )
    k_blocks_4 = tma.make_tensor_descriptor(
        k_ptr, [B, 4, S, D], [k_stride_b, k_stride_1, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring_4[0].layout
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr, [B, 4, S, D], [v_stride_b, v_stride_1, v_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], v_ring[0].layout
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * 4)):
        block, number, exists = tile_of(turn, row_blocks, B * 4)
        if exists:
            row_start = block * BLOCK_ROWS
            n4 = number % 4
            batch = number // 4
            for group in gl.static_range(GROUPS):
                send(q_blocks, [batch, 0, row_start + group * GROUP_ROWS, 0], q_ring, done * GROUPS + group)
            for group in gl.static_range(GROUPS):
                send(q_blocks_2, [batch, 1, row_start + group * GROUP_ROWS, 0], q_ring_2, done * GROUPS + group)
            for group in gl.static_range(GROUPS):
                send(q_blocks_3, [batch, 2, row_start + group * GROUP_ROWS, 0], q_ring_3, done * GROUPS + group)
            for group in gl.static_range(GROUPS):
                send(q_blocks_4, [batch, 3, row_start + group * GROUP_ROWS, 0], q_ring_4, done * GROUPS + group)
            for key_start in range(0, S, BLOCK_KEYS):
                send(k_blocks, [batch, 0, key_start, 0], k_ring, step)
                send(k_blocks_2, [batch, 1, key_start, 0], k_ring_2, step)
                send(k_blocks_3, [batch, 2, key_start, 0], k_ring_3, step)
                send(k_blocks_4, [batch, 3, key_start, 0], k_ring_4, step)
                send(v_blocks, [batch, n4, key_start, 0], v_ring, step)
                step += 1
            done += 1


@gluon.jit
def talking_heads_rows(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    GROUPS: gl.constexpr,
    GROUP: gl.constexpr,
):
    """What the kernel computes, for 64 rows of each of its tiles."""
    (
        # fmt: off
        # tensors
        proj_l_ptr, proj_w_ptr, output_ptr,
        # their strides, in elements
        proj_l_stride_0, proj_l_stride_1,
        proj_w_stride_0, proj_w_stride_1,
        output_stride_b, output_stride_n, output_stride_s,
        # sizes: one compiled kernel serves them all
        B, S,
        # numbers
        scale,
        # rings in shared memory
        q_ring, q_ring_2, q_ring_3, q_ring_4, k_ring, k_ring_2, k_ring_3, k_ring_4, v_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, 4, S, D],
        [output_stride_b, output_stride_n, output_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * 4)):
        block, number, exists = tile_of(turn, row_blocks, B * 4)
        if exists:
            row_start = block * BLOCK_ROWS
            n4 = (number % 4).to(gl.int64)
            batch = number // 4
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            q = received(q_ring, done * GROUPS + GROUP)
            q_2 = received(q_ring_2, done * GROUPS + GROUP)
            q_3 = received(q_ring_3, done * GROUPS + GROUP)
            q_4 = received(q_ring_4, done * GROUPS + GROUP)

            # Read once: the rows, and what is the same for every block of keys
            proj_l = gl.load(proj_l_ptr)
            proj_l_scaled = scale * proj_l.to(gl.float32) * LOG2_E
            proj_l_2 = gl.load(proj_l_ptr + 1 * proj_l_stride_1)
            proj_l_scaled_2 = scale * proj_l_2.to(gl.float32) * LOG2_E
            proj_l_3 = gl.load(proj_l_ptr + gl.cast(2, gl.int64) * proj_l_stride_1)
            proj_l_scaled_3 = scale * proj_l_3.to(gl.float32) * LOG2_E
            proj_l_4 = gl.load(proj_l_ptr + gl.cast(3, gl.int64) * proj_l_stride_1)
            proj_l_scaled_4 = scale * proj_l_4.to(gl.float32) * LOG2_E
            proj_l_5 = gl.load(proj_l_ptr + 1 * proj_l_stride_0)
            proj_l_scaled_5 = scale * proj_l_5.to(gl.float32) * LOG2_E
            proj_l_6 = gl.load(proj_l_ptr + 1 * proj_l_stride_0 + 1 * proj_l_stride_1)
            proj_l_scaled_6 = scale * proj_l_6.to(gl.float32) * LOG2_E
            proj_l_7 = gl.load(proj_l_ptr + 1 * proj_l_stride_0 + gl.cast(2, gl.int64) * proj_l_stride_1)
            proj_l_scaled_7 = scale * proj_l_7.to(gl.float32) * LOG2_E
            proj_l_8 = gl.load(proj_l_ptr + 1 * proj_l_stride_0 + gl.cast(3, gl.int64) * proj_l_stride_1)
            proj_l_scaled_8 = scale * proj_l_8.to(gl.float32) * LOG2_E
            proj_l_9 = gl.load(proj_l_ptr + gl.cast(2, gl.int64) * proj_l_stride_0)
            proj_l_scaled_9 = scale * proj_l_9.to(gl.float32) * LOG2_E
            proj_l_10 = gl.load(proj_l_ptr + gl.cast(2, gl.int64) * proj_l_stride_0 + 1 * proj_l_stride_1)
            proj_l_scaled_10 = scale * proj_l_10.to(gl.float32) * LOG2_E
            proj_l_11 = gl.load(
                proj_l_ptr + gl.cast(2, gl.int64) * proj_l_stride_0 + gl.cast(2, gl.int64) * proj_l_stride_1
            )
            proj_l_scaled_11 = scale * proj_l_11.to(gl.float32) * LOG2_E
            proj_l_12 = gl.load(
                proj_l_ptr + gl.cast(2, gl.int64) * proj_l_stride_0 + gl.cast(3, gl.int64) * proj_l_stride_1
            )
            proj_l_scaled_12 = scale * proj_l_12.to(gl.float32) * LOG2_E
            proj_l_13 = gl.load(proj_l_ptr + gl.cast(3, gl.int64) * proj_l_stride_0)
            proj_l_scaled_13 = scale * proj_l_13.to(gl.float32) * LOG2_E
            proj_l_14 = gl.load(proj_l_ptr + gl.cast(3, gl.int64) * proj_l_stride_0 + 1 * proj_l_stride_1)
            proj_l_scaled_14 = scale * proj_l_14.to(gl.float32) * LOG2_E
            proj_l_15 = gl.load(
                proj_l_ptr + gl.cast(3, gl.int64) * proj_l_stride_0 + gl.cast(2, gl.int64) * proj_l_stride_1
            )
            proj_l_scaled_15 = scale * proj_l_15.to(gl.float32) * LOG2_E
            proj_l_16 = gl.load(
                proj_l_ptr + gl.cast(3, gl.int64) * proj_l_stride_0 + gl.cast(3, gl.int64) * proj_l_stride_1
            )
            proj_l_scaled_16 = scale * proj_l_16.to(gl.float32) * LOG2_E

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))
            running_max_2 = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator_2 = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum_2 = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))
            running_max_3 = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator_3 = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum_3 = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))
            running_max_4 = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator_4 = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum_4 = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                total = matmul(q, k.permute((1, 0)), LAYOUT)
                release(k_ring, step)
                k_2 = received(k_ring_2, step)
                total_2 = matmul(q_2, k_2.permute((1, 0)), LAYOUT)
                release(k_ring_2, step)
                k_3 = received(k_ring_3, step)
                total_3 = matmul(q_3, k_3.permute((1, 0)), LAYOUT)
                release(k_ring_3, step)
                k_4 = received(k_ring_4, step)
                total_4 = matmul(q_4, k_4.permute((1, 0)), LAYOUT)
                release(k_ring_4, step)
                scores = (
                    total * proj_l_scaled
                    + total_2 * proj_l_scaled_2
                    + total_3 * proj_l_scaled_3
                    + total_4 * proj_l_scaled_4
                )
                if partial:
                    visible = keys < S
                    scores = gl.where(visible[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2(running_max - finite_max)
                weights = gl.exp2(scores - finite_max[:, None])
                v = received(v_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator * rescale[:, None],
                )
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                scores_2 = (
                    total * proj_l_scaled_5
                    + total_2 * proj_l_scaled_6
                    + total_3 * proj_l_scaled_7
                    + total_4 * proj_l_scaled_8
                )
                if partial:
                    visible_2 = keys < S
                    scores_2 = gl.where(visible_2[None, :], scores_2, float("-inf"))
                new_max_2 = gl.maximum(running_max_2, gl.max(scores_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max_2 = gl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
                rescale_2 = gl.exp2(running_max_2 - finite_max_2)
                weights_2 = gl.exp2(scores_2 - finite_max_2[:, None])
                accumulator_2 = warpgroup_mma(
                    gl.convert_layout(weights_2.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator_2 * rescale_2[:, None],
                )
                running_sum_2 = running_sum_2 * rescale_2 + gl.sum(weights_2, 1)
                scores_3 = (
                    total * proj_l_scaled_9
                    + total_2 * proj_l_scaled_10
                    + total_3 * proj_l_scaled_11
                    + total_4 * proj_l_scaled_12
                )
                if partial:
                    visible_3 = keys < S
                    scores_3 = gl.where(visible_3[None, :], scores_3, float("-inf"))
                new_max_3 = gl.maximum(running_max_3, gl.max(scores_3, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max_3 = gl.where(new_max_3 == float("-inf"), 0.0, new_max_3)
                rescale_3 = gl.exp2(running_max_3 - finite_max_3)
                weights_3 = gl.exp2(scores_3 - finite_max_3[:, None])
                accumulator_3 = warpgroup_mma(
                    gl.convert_layout(weights_3.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator_3 * rescale_3[:, None],
                )
                running_sum_3 = running_sum_3 * rescale_3 + gl.sum(weights_3, 1)
                scores_4 = (
                    total * proj_l_scaled_13
                    + total_2 * proj_l_scaled_14
                    + total_3 * proj_l_scaled_15
                    + total_4 * proj_l_scaled_16
                )
                if partial:
                    visible_4 = keys < S
                    scores_4 = gl.where(visible_4[None, :], scores_4, float("-inf"))
                new_max_4 = gl.maximum(running_max_4, gl.max(scores_4, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max_4 = gl.where(new_max_4 == float("-inf"), 0.0, new_max_4)
                rescale_4 = gl.exp2(running_max_4 - finite_max_4)
                weights_4 = gl.exp2(scores_4 - finite_max_4[:, None])
                accumulator_4 = warpgroup_mma(
                    gl.convert_layout(weights_4.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator_4 * rescale_4[:, None],
                )
                release(v_ring, step)
                running_sum_4 = running_sum_4 * rescale_4 + gl.sum(weights_4, 1)
                running_max = new_max
                running_max_2 = new_max_2
                running_max_3 = new_max_3
                running_max_4 = new_max_4
                step += 1
            release(q_ring, done * GROUPS + GROUP)
            release(q_ring_2, done * GROUPS + GROUP)
            release(q_ring_3, done * GROUPS + GROUP)
            release(q_ring_4, done * GROUPS + GROUP)

            proj_w = gl.load(proj_w_ptr + n4 * proj_w_stride_0)
            proj_w_2 = gl.load(proj_w_ptr + n4 * proj_w_stride_0 + 1 * proj_w_stride_1)
            proj_w_3 = gl.load(proj_w_ptr + n4 * proj_w_stride_0 + gl.cast(2, gl.int64) * proj_w_stride_1)
            proj_w_4 = gl.load(proj_w_ptr + n4 * proj_w_stride_0 + gl.cast(3, gl.int64) * proj_w_stride_1)
            output = (
                accumulator * (proj_w.to(gl.float32) * (1.0 / running_sum))[:, None]
                + accumulator_2 * (proj_w_2.to(gl.float32) * (1.0 / running_sum_2))[:, None]
                + accumulator_3 * (proj_w_3.to(gl.float32) * (1.0 / running_sum_3))[:, None]
                + accumulator_4 * (proj_w_4.to(gl.float32) * (1.0 / running_sum_4))[:, None]
            )
            send_back(
                output_blocks,
                [batch, gl.cast(n4, gl.int32), group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["B", "S"])
def talking_heads_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, proj_l_ptr, proj_w_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_1, q_stride_s,
    k_stride_b, k_stride_1, k_stride_s,
    v_stride_b, v_stride_1, v_stride_s,
    proj_l_stride_0, proj_l_stride_1,
    proj_w_stride_0, proj_w_stride_1,
    output_stride_b, output_stride_n, output_stride_s,
    # sizes: one compiled kernel serves them all
    B, S,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """talking_heads:

        scores[b, n4, i, j] = Σ_d q[b, n4, i, d] * float32(D) ** -0.5 * k[b, n4, j, d]
        scores_2[b, i, j, n4_2] = Σ_n4 scores[b, n4, i, j] * proj_l[n4_2, n4]
        t[b, i, j, n4_2] = exp(scores_2[b, i, j, n4_2] - (max_j scores_2[b, i, j, n4_2]))
        attn[b, i, j, n4_2] = t[b, i, j, n4_2] / (Σ_j t[b, i, j, n4_2])
        attn_2[b, n4, i, j] = Σ_n4_2 attn[b, i, j, n4_2] * proj_w[n4, n4_2]
        output[b, n4, i, d] = Σ_j attn_2[b, n4, i, j] * v[b, n4, j, d]

    Programs take turns at each b, n4 and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    q_ring_2 = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    q_ring_3 = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    q_ring_4 = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    k_ring_2 = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    k_ring_3 = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    k_ring_4 = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, q_stride_b, q_stride_1, q_stride_s, k_stride_b, k_stride_1, k_stride_s, v_stride_b,
        v_stride_1, v_stride_s, B, S, q_ring, q_ring_2, q_ring_3, q_ring_4, k_ring, k_ring_2, k_ring_3, k_ring_4,
        v_ring,
    )
    rows = (
        proj_l_ptr, proj_w_ptr, output_ptr, proj_l_stride_0, proj_l_stride_1, proj_w_stride_0, proj_w_stride_1,
        output_stride_b, output_stride_n, output_stride_s, B, S, scale, q_ring, q_ring_2, q_ring_3, q_ring_4, k_ring,
        k_ring_2, k_ring_3, k_ring_4, v_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (talking_heads_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (talking_heads_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (talking_heads_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (talking_heads_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (talking_heads_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (talking_heads_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (talking_heads_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (talking_heads_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (talking_heads_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
