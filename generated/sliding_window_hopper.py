"""Hopper kernels for sliding_window.py, in Gluon.

Written by flashlight 0.1.0 from examples/sliding_window.py (sha256 55a2cf0bbe0a7de8)
with `flashlight transpile examples/sliding_window.py`; change the source and run that again.

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
def sliding_window_loads(
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
        H, B, S, window,
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
            live_start = gl.maximum(0, row_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(live_start, live_stop, BLOCK_KEYS):
                send(key_blocks, [batch, head, key_start, 0], key_ring, step)
                send(value_blocks, [batch, head, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def sliding_window_rows(
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
        output_ptr,
        # their strides, in elements
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S, window,
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
            head = number % H
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

            # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
            live_start = gl.maximum(0, row_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            full_start = gl.cdiv(gl.maximum(0, GROUP_ROWS + group_start - window), BLOCK_KEYS) * BLOCK_KEYS
            full_stop = gl.minimum(S, group_start + 1) // BLOCK_KEYS * BLOCK_KEYS
            # Of the blocks that some row of the tile sees, those that one of this group does
            own_start = gl.maximum(live_start, gl.maximum(0, group_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS)
            own_stop = gl.minimum(live_stop, GROUP_ROWS + group_start)
            for _ in range(live_start, gl.minimum(own_start, live_stop), BLOCK_KEYS):
                pass_by(key_ring, step)
                pass_by(value_ring, step)
                step += 1

            for key_start in range(own_start, own_stop, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = (key_start < full_start) | (key_start >= full_stop)
                key = received(key_ring, step)
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # sliding_window.py:21
                release(key_ring, step)
                # Full blocks skip both tests by one branch
                if partial:
                    if key_start < full_start:
                        scores = gl.where(keys[None, :] > (rows - window)[:, None], scores, float("-inf"))
                    if key_start >= full_stop:
                        scores = gl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                attn_weights = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # sliding_window.py:22
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
            for _ in range(gl.maximum(own_start, gl.cdiv(own_stop, BLOCK_KEYS) * BLOCK_KEYS), live_stop, BLOCK_KEYS):
                pass_by(key_ring, step)
                pass_by(value_ring, step)
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, head, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S", "window"])
def sliding_window_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S, window,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """sliding_window:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        scores_2[b, h, i, j] = where(i - j < 0 or i - j >= window, -inf, scores[b, h, i, j])
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
        attn_weights[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
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
        key_stride_s, value_stride_b, value_stride_h, value_stride_s, H, B, S, window, query_ring, key_ring,
        value_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_h, output_stride_s, H, B, S, window, scale, query_ring, key_ring,
        value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (sliding_window_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (sliding_window_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (sliding_window_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (sliding_window_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (sliding_window_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (sliding_window_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def sliding_window_band_loads(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    D_v: gl.constexpr,
    BLOCK_D_v: gl.constexpr,
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
        q_stride_b, q_stride_h, q_stride_s,
        k_stride_b, k_stride_h, k_stride_s,
        v_stride_b, v_stride_h, v_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S, window,
        # rings in shared memory
        q_ring, k_ring, v_ring,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr, [B, H, S, D], [q_stride_b, q_stride_h, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring[0].layout
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr, [B, H, S, D], [k_stride_b, k_stride_h, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring[0].layout
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr, [B, H, S, D_v], [v_stride_b, v_stride_h, v_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D_v], v_ring[0].layout
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
            live_start = gl.maximum(0, row_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            for group in gl.static_range(GROUPS):
                send(q_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], q_ring, done * GROUPS + group)
            for key_start in range(live_start, live_stop, BLOCK_KEYS):
                send(k_blocks, [batch, head, key_start, 0], k_ring, step)
                send(v_blocks, [batch, head, key_start, 0], v_ring, step)
                step += 1
            done += 1


@gluon.jit
def sliding_window_band_rows(
    given,
    BLOCK_D: gl.constexpr,
    D_v: gl.constexpr,
    BLOCK_D_v: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    GROUPS: gl.constexpr,
    GROUP: gl.constexpr,
):
    """What the kernel computes, for 64 rows of each of its tiles."""
    (
        # fmt: off
        # tensors
        output_ptr,
        # their strides, in elements
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S, window,
        # numbers
        scale,
        # rings in shared memory
        q_ring, k_ring, v_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D, BLOCK_D_v)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, H, S, D_v],
        [output_stride_b, output_stride_h, output_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D_v],
        output_buffer.layout,
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
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            rows = row_start + row_offsets
            q = received(q_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
            live_start = gl.maximum(0, row_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            full_start = gl.cdiv(gl.maximum(0, GROUP_ROWS + group_start - window), BLOCK_KEYS) * BLOCK_KEYS
            full_stop = gl.minimum(S, group_start + 1) // BLOCK_KEYS * BLOCK_KEYS
            # Of the blocks that some row of the tile sees, those that one of this group does
            own_start = gl.maximum(live_start, gl.maximum(0, group_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS)
            own_stop = gl.minimum(live_stop, GROUP_ROWS + group_start)
            for _ in range(live_start, gl.minimum(own_start, live_stop), BLOCK_KEYS):
                pass_by(k_ring, step)
                pass_by(v_ring, step)
                step += 1

            for key_start in range(own_start, own_stop, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = (key_start < full_start) | (key_start >= full_stop)
                k = received(k_ring, step)
                att = matmul(q, k.permute((1, 0)), LAYOUT)  # sliding_window.py:46
                release(k_ring, step)
                # Full blocks skip both tests by one branch
                if partial:
                    if key_start < full_start:
                        att = gl.where(keys[None, :] > (rows - window)[:, None], att, float("-inf"))
                    if key_start >= full_stop:
                        att = gl.where(keys[None, :] <= rows[:, None], att, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(att, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                weights = gl.exp2(att * scale - (finite_max * scale)[:, None])
                v = received(v_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator * rescale[:, None],
                )
                release(v_ring, step)
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                running_max = new_max
                step += 1
            for _ in range(gl.maximum(own_start, gl.cdiv(own_stop, BLOCK_KEYS) * BLOCK_KEYS), live_stop, BLOCK_KEYS):
                pass_by(k_ring, step)
                pass_by(v_ring, step)
                step += 1
            release(q_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, head, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S", "window"])
def sliding_window_band_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S, window,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, D_v: gl.constexpr, BLOCK_D_v: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """sliding_window_band:

        band[i, j] = j > i - window and j <= i
        att[b, h, i, j] = (Σ_d q[b, h, i, d] * k[b, h, j, d]) / sqrt(float32(D))
        att_2[b, h, i, j] = where(band[i, j], att[b, h, i, j], -inf)
        t[b, h, i, j] = exp(att_2[b, h, i, j] - (max_j att_2[b, h, i, j]))
        output[b, h, i, d_v] = Σ_j t[b, h, i, j] / (Σ_j t[b, h, i, j]) * v[b, h, j, d_v]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D_v])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D_v])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, q_stride_b, q_stride_h, q_stride_s, k_stride_b, k_stride_h, k_stride_s, v_stride_b,
        v_stride_h, v_stride_s, H, B, S, window, q_ring, k_ring, v_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_h, output_stride_s, H, B, S, window, scale, q_ring, k_ring, v_ring,
        output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (sliding_window_band_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_band_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (sliding_window_band_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_band_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (sliding_window_band_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (sliding_window_band_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_band_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (sliding_window_band_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (sliding_window_band_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def sliding_window_bottom_right_loads(
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
            live_start = gl.maximum(0, S_k + row_start - S_q - 127) // BLOCK_KEYS * BLOCK_KEYS
            live_stop = gl.minimum(S_k, gl.maximum(0, BLOCK_ROWS + S_k + row_start - S_q))
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(live_start, live_stop, BLOCK_KEYS):
                send(key_blocks, [batch, head, key_start, 0], key_ring, step)
                send(value_blocks, [batch, head, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def sliding_window_bottom_right_rows(
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
        output_ptr,
        # their strides, in elements
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S_k, S_q,
        # numbers
        scale,
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
            head = number % H
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

            # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
            live_start = gl.maximum(0, S_k + row_start - S_q - 127) // BLOCK_KEYS * BLOCK_KEYS
            live_stop = gl.minimum(S_k, gl.maximum(0, BLOCK_ROWS + S_k + row_start - S_q))
            full_start = gl.cdiv(gl.maximum(0, GROUP_ROWS + S_k + group_start - S_q - 128), BLOCK_KEYS) * BLOCK_KEYS
            full_stop = gl.minimum(S_k, gl.maximum(0, S_k + group_start + 1 - S_q)) // BLOCK_KEYS * BLOCK_KEYS
            # Of the blocks that some row of the tile sees, those that one of this group does
            own_start = gl.maximum(live_start, gl.maximum(0, S_k + group_start - S_q - 127) // BLOCK_KEYS * BLOCK_KEYS)
            own_stop = gl.minimum(live_stop, gl.maximum(0, GROUP_ROWS + S_k + group_start - S_q))
            for _ in range(live_start, gl.minimum(own_start, live_stop), BLOCK_KEYS):
                pass_by(key_ring, step)
                pass_by(value_ring, step)
                step += 1

            for key_start in range(own_start, own_stop, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = (key_start < full_start) | (key_start >= full_stop)
                key = received(key_ring, step)
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # sliding_window.py:61
                release(key_ring, step)
                # Full blocks skip both tests by one branch
                if partial:
                    if key_start < full_start:
                        scores = gl.where(keys[None, :] > (rows + S_k - S_q - 128)[:, None], scores, float("-inf"))
                    if key_start >= full_stop:
                        scores = gl.where(keys[None, :] <= (rows + S_k - S_q)[:, None], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                weights = gl.exp2(scores * scale - (finite_max * scale)[:, None])
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
            for _ in range(gl.maximum(own_start, gl.cdiv(own_stop, BLOCK_KEYS) * BLOCK_KEYS), live_stop, BLOCK_KEYS):
                pass_by(key_ring, step)
                pass_by(value_ring, step)
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, head, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S_k", "S_q"])
def sliding_window_bottom_right_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S_k, S_q,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """sliding_window_bottom_right:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) * float32(D) ** -0.5
        scores_2[b, h, i, j] = where(i + S_k - j - S_q >= 0 and i + S_k - j - S_q < 128, scores[b, h, i, j],
            -inf)
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
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
        key_stride_s, value_stride_b, value_stride_h, value_stride_s, H, B, S_k, S_q, query_ring, key_ring, value_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_h, output_stride_s, H, B, S_k, S_q, scale, query_ring, key_ring,
        value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (sliding_window_bottom_right_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_bottom_right_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (sliding_window_bottom_right_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_bottom_right_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (sliding_window_bottom_right_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (sliding_window_bottom_right_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (sliding_window_bottom_right_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (sliding_window_bottom_right_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (sliding_window_bottom_right_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
