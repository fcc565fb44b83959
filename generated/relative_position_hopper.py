"""Hopper kernels for relative_position.py, in Gluon.

Written by flashlight 0.1.0 from examples/relative_position.py (sha256 48ef2ec18dad5130)
with `flashlight transpile examples/relative_position.py`; change the source and run that again.

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
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return gl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@gluon.jit
def bucketed_bias_loads(
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
        query_ptr, key_ptr, value_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s,
        value_stride_b, value_stride_h, value_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S_k, S_q,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr,
        [B, H, S_q, D],
        [query_stride_b, query_stride_h, query_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        query_ring[0].layout,
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr,
        [B, H, S_k, D],
        [key_stride_b, key_stride_h, key_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        key_ring[0].layout,
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr,
        [B, H, S_k, D],
        [value_stride_b, value_stride_h, value_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        value_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            batch = number // H
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S_k, BLOCK_KEYS):
                send(key_blocks, [batch, head, key_start, 0], key_ring, step)
                send(value_blocks, [batch, head, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def bucketed_bias_rows(
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
        bias_table_ptr, output_ptr,
        # their strides, in elements
        bias_table_stride_0, bias_table_stride_h,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S_k, S_q,
        # rings in shared memory
        query_ring, key_ring, value_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, H, S_q, D],
        [output_stride_b, output_stride_h, output_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            batch = number // H
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            rows = row_start + row_offsets
            query = received(query_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S_k, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                key = received(key_ring, step)
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # relative_position.py:35
                release(key_ring, step)
                position = keys[None, :] - rows[:, None]
                distance = gl.abs(position)  # relative_position.py:17
                wide = gl.minimum(
                    (gl.log(nan_max(distance.to(gl.float32), 1.0) * 0.125) * 2.8853900817779268).to(gl.int32) + 8, 15
                )  # relative_position.py:19
                bucket = gl.where(distance < 8, distance, wide)  # relative_position.py:20
                bucket_2 = gl.where(position > 0, 16, 0) + bucket  # relative_position.py:33
                bias_table = gl.load(
                    bias_table_ptr + head * bias_table_stride_h + bucket_2.to(gl.int64) * bias_table_stride_0,
                    mask=(bucket_2 >= 0) & (bucket_2 < 32) & (rows < S_q)[:, None] & (keys < S_k)[None, :],
                    other=0,
                )
                scores_2 = scores + bias_table.to(gl.float32)  # relative_position.py:36
                if partial:
                    scores_2 = gl.where((keys < S_k)[None, :], scores_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                attn_weights = gl.exp2((scores_2 - finite_max[:, None]) * LOG2_E)  # relative_position.py:37
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(attn_weights.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(attn_weights, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, gl.cast(head, gl.int32), group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S_k", "S_q"])
def bucketed_bias_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, bias_table_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    bias_table_stride_0, bias_table_stride_h,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S_k, S_q,
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """bucketed_bias:

        scores[b, h, i, j] = Σ_d query[b, h, i, d] * key[b, h, j, d]
        ratio[i, j] = log(max(float32(abs(j - i)), 1) / 8) / 2.77258872
        scores_2[b, h, i, j] = scores[b, h, i, j] + bias_table[where(j - i > 0, 16, 0) + where(abs(j - i) < 8,
            abs(j - i), min(int64(ratio[i, j] * 8) + 8, 15)), h]
        t[b, h, i, j] = float32(scores_2[b, h, i, j])
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        attn_weights[b, h, i, j] = element(t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j]))
        output[b, h, i, d] = Σ_j attn_weights[b, h, i, j] * value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_b, query_stride_h, query_stride_s, key_stride_b, key_stride_h,
        key_stride_s, value_stride_b, value_stride_h, value_stride_s, H, B, S_k, S_q, query_ring, key_ring, value_ring,
    )
    rows = (
        bias_table_ptr, output_ptr, bias_table_stride_0, bias_table_stride_h, output_stride_b, output_stride_h,
        output_stride_s, H, B, S_k, S_q, query_ring, key_ring, value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (bucketed_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (bucketed_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (bucketed_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (bucketed_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (bucketed_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (bucketed_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (bucketed_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (bucketed_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (bucketed_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def window_bias_loads(
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
        query_ptr, key_ptr, value_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s,
        value_stride_b, value_stride_h, value_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr,
        [B, H, S, D],
        [query_stride_b, query_stride_h, query_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        query_ring[0].layout,
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr,
        [B, H, S, D],
        [key_stride_b, key_stride_h, key_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        key_ring[0].layout,
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr,
        [B, H, S, D],
        [value_stride_b, value_stride_h, value_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        value_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            batch = number // H
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S, BLOCK_KEYS):
                send(key_blocks, [batch, head, key_start, 0], key_ring, step)
                send(value_blocks, [batch, head, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def window_bias_rows(
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
        relative_position_bias_table_ptr, relative_position_index_ptr, output_ptr,
        # their strides, in elements
        relative_position_bias_table_stride_t, relative_position_bias_table_stride_h,
        relative_position_index_stride_0, relative_position_index_stride_1,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S, T,
        # numbers
        scale,
        # rings in shared memory
        query_ring, key_ring, value_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, H, S, D],
        [output_stride_b, output_stride_h, output_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            batch = number // H
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            rows = row_start + row_offsets
            query = received(query_ring, done * GROUPS + GROUP)

            # Read once: the rows, and what is the same for every block of keys
            relative_position_index_block = (
                relative_position_index_ptr
                + gl.cast(row_start, gl.int64) * relative_position_index_stride_0
                + gl.cast(row_offsets[:, None], gl.int64) * relative_position_index_stride_0
            )

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                relative_position_index = gl.load(
                    relative_position_index_block + gl.cast(keys[None, :], gl.int64) * relative_position_index_stride_1,
                    mask=(rows < S)[:, None] & (keys < S)[None, :],
                    other=0,
                )
                relative_position_bias_table = gl.load(
                    relative_position_bias_table_ptr
                    + head * relative_position_bias_table_stride_h
                    + gl.where(relative_position_index < 0, relative_position_index + T, relative_position_index).to(
                        gl.int64
                    )
                    * relative_position_bias_table_stride_t,
                    mask=(
                        gl.where(relative_position_index < 0, relative_position_index + T, relative_position_index) >= 0
                    )
                    & (gl.where(relative_position_index < 0, relative_position_index + T, relative_position_index) < T)
                    & (rows < S)[:, None]
                    & (keys < S)[None, :],
                    other=0,
                )
                key = received(key_ring, step)
                attn = matmul(query, key.permute((1, 0)), LAYOUT) * scale  # relative_position.py:52
                release(key_ring, step)
                attn_2 = attn + relative_position_bias_table.to(gl.float32)  # relative_position.py:53
                if partial:
                    attn_2 = gl.where((keys < S)[None, :], attn_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(attn_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((attn_2 - finite_max[:, None]) * LOG2_E)
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, gl.cast(head, gl.int32), group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S", "T"])
def window_bias_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, relative_position_bias_table_ptr, relative_position_index_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    relative_position_bias_table_stride_t, relative_position_bias_table_stride_h,
    relative_position_index_stride_0, relative_position_index_stride_1,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S, T,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """window_bias:

        attn[b, h, i, j] = Σ_d query[b, h, i, d] * float32(D) ** -0.5 * key[b, h, j, d]
        attn_2[b, h, i, j] = attn[b, h, i, j] + relative_position_bias_table[where(relative_position_index[i, j]
            < 0, relative_position_index[i, j] + T, relative_position_index[i, j]), h]
        t[b, h, i, j] = exp(attn_2[b, h, i, j] - (max_j attn_2[b, h, i, j]))
        attn_3[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d] = Σ_j attn_3[b, h, i, j] * value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_b, query_stride_h, query_stride_s, key_stride_b, key_stride_h,
        key_stride_s, value_stride_b, value_stride_h, value_stride_s, H, B, S, query_ring, key_ring, value_ring,
    )
    rows = (
        relative_position_bias_table_ptr, relative_position_index_ptr, output_ptr,
        relative_position_bias_table_stride_t, relative_position_bias_table_stride_h, relative_position_index_stride_0,
        relative_position_index_stride_1, output_stride_b, output_stride_h, output_stride_s, H, B, S, T, scale,
        query_ring, key_ring, value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (window_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (window_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (window_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (window_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (window_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (window_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (window_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (window_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (window_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def window_bias_by_coordinates_loads(
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
        query_ptr, key_ptr, value_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_2,
        key_stride_b, key_stride_h, key_stride_2,
        value_stride_b, value_stride_h, value_stride_2,
        # sizes: one compiled kernel serves them all
        H, B,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr,
        [B, H, 49, D],
        [query_stride_b, query_stride_h, query_stride_2, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        query_ring[0].layout,
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr,
        [B, H, 49, D],
        [key_stride_b, key_stride_h, key_stride_2, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        key_ring[0].layout,
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr,
        [B, H, 49, D],
        [value_stride_b, value_stride_h, value_stride_2, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        value_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(49, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            batch = number // H
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, 49, BLOCK_KEYS):
                send(key_blocks, [batch, head, key_start, 0], key_ring, step)
                send(value_blocks, [batch, head, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def window_bias_by_coordinates_rows(
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
        table_ptr, output_ptr,
        # their strides, in elements
        table_stride_0, table_stride_1, table_stride_h,
        output_stride_b, output_stride_h, output_stride_n,
        # sizes: one compiled kernel serves them all
        H, B,
        # numbers
        scale,
        # rings in shared memory
        query_ring, key_ring, value_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, H, 49, D],
        [output_stride_b, output_stride_h, output_stride_n, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(49, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            batch = number // H
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            rows = row_start + row_offsets
            query = received(query_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = 49 // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, 49, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                table = gl.load(
                    table_ptr
                    + gl.cast(6, gl.int64) * table_stride_0
                    + gl.cast(6, gl.int64) * table_stride_1
                    + head * table_stride_h
                    + ((rows // 7)[:, None] - (keys // 7)[None, :]).to(gl.int64) * table_stride_0
                    + ((rows % 7)[:, None] - (keys % 7)[None, :]).to(gl.int64) * table_stride_1,
                    mask=(rows < 49)[:, None] & (keys < 49)[None, :],
                    other=0,
                )
                key = received(key_ring, step)
                scores = matmul(query, key.permute((1, 0)), LAYOUT) * scale  # relative_position.py:70
                release(key_ring, step)
                scores_2 = scores + table.to(gl.float32)
                if partial:
                    scores_2 = gl.where((keys < 49)[None, :], scores_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((scores_2 - finite_max[:, None]) * LOG2_E)
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, gl.cast(head, gl.int32), group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B"])
def window_bias_by_coordinates_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, table_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_2,
    key_stride_b, key_stride_h, key_stride_2,
    value_stride_b, value_stride_h, value_stride_2,
    table_stride_0, table_stride_1, table_stride_h,
    output_stride_b, output_stride_h, output_stride_n,
    # sizes: one compiled kernel serves them all
    H, B,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """window_bias_by_coordinates:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        t[b, h, i, j] = scores[b, h, i, j] + table[i // 7 + 6 - j // 7, i % 7 + 6 - j % 7, h]
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        output[b, h, i, d] = Σ_j t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j]) * value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_b, query_stride_h, query_stride_2, key_stride_b, key_stride_h,
        key_stride_2, value_stride_b, value_stride_h, value_stride_2, H, B, query_ring, key_ring, value_ring,
    )
    rows = (
        table_ptr, output_ptr, table_stride_0, table_stride_1, table_stride_h, output_stride_b, output_stride_h,
        output_stride_n, H, B, scale, query_ring, key_ring, value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (window_bias_by_coordinates_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (window_bias_by_coordinates_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (window_bias_by_coordinates_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (window_bias_by_coordinates_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (window_bias_by_coordinates_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (window_bias_by_coordinates_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (window_bias_by_coordinates_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (window_bias_by_coordinates_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (window_bias_by_coordinates_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def clipped_distance_bias_loads(
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
        query_ptr, key_ptr, value_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s,
        value_stride_b, value_stride_h, value_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr,
        [B, H, S, D],
        [query_stride_b, query_stride_h, query_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        query_ring[0].layout,
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr,
        [B, H, S, D],
        [key_stride_b, key_stride_h, key_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        key_ring[0].layout,
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr,
        [B, H, S, D],
        [value_stride_b, value_stride_h, value_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        value_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            batch = number // H
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S, BLOCK_KEYS):
                send(key_blocks, [batch, head, key_start, 0], key_ring, step)
                send(value_blocks, [batch, head, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def clipped_distance_bias_rows(
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
        table_ptr, output_ptr,
        # their strides, in elements
        table_stride_h, table_stride_1,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S,
        # numbers
        scale,
        # rings in shared memory
        query_ring, key_ring, value_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, H, S, D],
        [output_stride_b, output_stride_h, output_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * H)):
        block, number, exists = tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            batch = number // H
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            rows = row_start + row_offsets
            query = received(query_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                key = received(key_ring, step)
                distance = gl.minimum(gl.maximum(keys[None, :] - rows[:, None], -32), 32)  # relative_position.py:82
                table = gl.load(
                    table_ptr
                    + head * table_stride_h
                    + gl.cast(32, gl.int64) * table_stride_1
                    + distance.to(gl.int64) * table_stride_1,
                    mask=(distance + 32 >= 0) & (distance + 32 < 65) & (rows < S)[:, None] & (keys < S)[None, :],
                    other=0,
                )
                scores = matmul(query, key.permute((1, 0)), LAYOUT) * scale + table.to(
                    gl.float32
                )  # relative_position.py:84
                release(key_ring, step)
                if partial:
                    scores = gl.where((keys < S)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((scores - finite_max[:, None]) * LOG2_E)
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, gl.cast(head, gl.int32), group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S"])
def clipped_distance_bias_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, table_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    table_stride_h, table_stride_1,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """clipped_distance_bias:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) * float32(D) ** -0.5 + table[h, min(max(j
            - i, -32), 32) + 32]
        t[b, h, i, j] = exp(scores[b, h, i, j] - (max_j scores[b, h, i, j]))
        output[b, h, i, d] = Σ_j t[b, h, i, j] / (Σ_j t[b, h, i, j]) * value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_b, query_stride_h, query_stride_s, key_stride_b, key_stride_h,
        key_stride_s, value_stride_b, value_stride_h, value_stride_s, H, B, S, query_ring, key_ring, value_ring,
    )
    rows = (
        table_ptr, output_ptr, table_stride_h, table_stride_1, output_stride_b, output_stride_h, output_stride_s, H, B,
        S, scale, query_ring, key_ring, value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (clipped_distance_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (clipped_distance_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (clipped_distance_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (clipped_distance_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (clipped_distance_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (clipped_distance_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (clipped_distance_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (clipped_distance_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (clipped_distance_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
