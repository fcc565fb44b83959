"""Hopper kernels for evoformer.py, in Gluon.

Written by flashlight 0.1.0 from examples/evoformer.py (sha256 48ca79e9eabb27c6)
with `flashlight transpile examples/evoformer.py`; change the source and run that again.

In each program one group of four warps, the loads, fills rings of blocks in shared memory by the copy engine. Every
other group, the rows, computes 64 rows of a tile and drains the rings. All go through the same tiles, and the same
blocks of keys in each, so that their counts agree without a word between them.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

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
def sigmoid(x, approximate: gl.constexpr):
    """1 / (1 + exp(-x)): a reciprocal in one instruction where a unit in the last place of float32 does not matter."""
    if approximate:
        result = gl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;",
            "=f,f",
            [1.0 + gl.exp2(x * -1.4426950408889634)],
            dtype=gl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        result = 1.0 / (1.0 + gl.exp2(x * -1.4426950408889634))
    return result


@gluon.jit
def row_attention_loads(
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
        q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr, pair_bias_ptr,
        # their strides, in elements
        q_stride_b, q_stride_n, q_stride_s, q_stride_h,
        k_stride_b, k_stride_n, k_stride_s, k_stride_h,
        v_stride_b, v_stride_n, v_stride_s, v_stride_h,
        gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h,
        mask_bias_stride_b, mask_bias_stride_n, mask_bias_stride_2, mask_bias_stride_3,
        pair_bias_stride_b, pair_bias_stride_1, pair_bias_stride_h, pair_bias_stride_3,
        # sizes: one compiled kernel serves them all
        H, N, B, S,
        # rings in shared memory
        q_ring, k_ring, mask_bias_ring, pair_bias_ring, v_ring, gate_ring,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr,
        [B, N, S, H, D],
        [q_stride_b, q_stride_n, q_stride_s, q_stride_h, 1],
        [1, 1, GROUP_ROWS, 1, BLOCK_D],
        q_ring[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr,
        [B, N, S, H, D],
        [k_stride_b, k_stride_n, k_stride_s, k_stride_h, 1],
        [1, 1, BLOCK_KEYS, 1, BLOCK_D],
        k_ring[0].layout,
    )
    mask_bias_blocks = tma.make_tensor_descriptor(
        mask_bias_ptr,
        [B, N, 1, 1, S],
        [mask_bias_stride_b, mask_bias_stride_n, mask_bias_stride_2, mask_bias_stride_3, 1],
        [1, 1, 1, 1, BLOCK_KEYS],
        mask_bias_ring[0].layout,
    )
    pair_bias_blocks = tma.make_tensor_descriptor(
        pair_bias_ptr,
        [B, 1, H, S, S],
        [pair_bias_stride_b, pair_bias_stride_1, pair_bias_stride_h, pair_bias_stride_3, 1],
        [1, 1, 1, GROUP_ROWS, BLOCK_KEYS],
        pair_bias_ring[0].layout,
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr,
        [B, N, S, H, D],
        [v_stride_b, v_stride_n, v_stride_s, v_stride_h, 1],
        [1, 1, BLOCK_KEYS, 1, BLOCK_D],
        v_ring[0].layout,
    )
    gate_blocks = tma.make_tensor_descriptor(
        gate_ptr,
        [B, N, S, H, D],
        [gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h, 1],
        [1, 1, GROUP_ROWS, 1, BLOCK_D],
        gate_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * N * H)):
        block, number, exists = tile_of(turn, row_blocks, B * N * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            n_index = number // H % N
            batch = number // H // N
            for group in gl.static_range(GROUPS):
                send(q_blocks, [batch, n_index, row_start + group * GROUP_ROWS, head, 0], q_ring, done * GROUPS + group)
            for key_start in range(0, S, BLOCK_KEYS):
                send(k_blocks, [batch, n_index, key_start, head, 0], k_ring, step)
                send(mask_bias_blocks, [batch, n_index, 0, 0, key_start], mask_bias_ring, step)
                for group in gl.static_range(GROUPS):
                    send(
                        pair_bias_blocks,
                        [batch, 0, head, row_start + group * GROUP_ROWS, key_start],
                        pair_bias_ring,
                        step * GROUPS + group,
                    )
                send(v_blocks, [batch, n_index, key_start, head, 0], v_ring, step)
                step += 1
            for group in gl.static_range(GROUPS):
                send(
                    gate_blocks,
                    [batch, n_index, row_start + group * GROUP_ROWS, head, 0],
                    gate_ring,
                    done * GROUPS + group,
                )
            done += 1


@gluon.jit
def row_attention_rows(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    APPROXIMATE: gl.constexpr,
    GROUPS: gl.constexpr,
    GROUP: gl.constexpr,
):
    """What the kernel computes, for 64 rows of each of its tiles."""
    (
        # fmt: off
        # tensors
        output_ptr,
        # their strides, in elements
        output_stride_b, output_stride_n, output_stride_s, output_stride_h,
        # sizes: one compiled kernel serves them all
        H, N, B, S,
        # numbers
        scale,
        # rings in shared memory
        q_ring, k_ring, mask_bias_ring, pair_bias_ring, v_ring, gate_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, N, S, H, D],
        [output_stride_b, output_stride_n, output_stride_s, output_stride_h, 1],
        [1, 1, GROUP_ROWS, 1, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * N * H)):
        block, number, exists = tile_of(turn, row_blocks, B * N * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            n_index = number // H % N
            batch = number // H // N
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            q = received(q_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                logits_product = start_matmul(q, k.permute((1, 0)), LAYOUT)
                mask_bias = taken(mask_bias_ring, step, gl.SliceLayout(0, LAYOUT))
                pair_bias = taken(pair_bias_ring, step * GROUPS + GROUP, LAYOUT)
                logits = warpgroup_mma_wait(0, [logits_product]) * scale  # evoformer.py:11
                release(k_ring, step)
                logits_2 = logits + mask_bias.to(gl.float32)[None, :] + pair_bias.to(gl.float32)  # evoformer.py:13
                if partial:
                    logits_2 = gl.where((keys < S)[None, :], logits_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(logits_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)
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
            release(q_ring, done * GROUPS + GROUP)

            gate = taken(gate_ring, done * GROUPS + GROUP, LAYOUT)
            weighted_avg = accumulator * (1.0 / running_sum)[:, None]  # evoformer.py:15
            output = sigmoid(gate.to(gl.float32), APPROXIMATE) * weighted_avg
            send_back(
                output_blocks,
                [batch, n_index, group_start, head, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "N", "B", "S"])
def row_attention_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr, pair_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_n, q_stride_s, q_stride_h,
    k_stride_b, k_stride_n, k_stride_s, k_stride_h,
    v_stride_b, v_stride_n, v_stride_s, v_stride_h,
    gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h,
    mask_bias_stride_b, mask_bias_stride_n, mask_bias_stride_2, mask_bias_stride_3,
    pair_bias_stride_b, pair_bias_stride_1, pair_bias_stride_h, pair_bias_stride_3,
    output_stride_b, output_stride_n, output_stride_s, output_stride_h,
    # sizes: one compiled kernel serves them all
    H, N, B, S,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr, APPROXIMATE: gl.constexpr,
    # fmt: on
):
    """row_attention:

        logits[b, n, h, i, j] = Σ_d q[b, n, i, h, d] / sqrt(float32(D)) * k[b, n, j, h, d]
        logits_2[b, n, h, i, j] = logits[b, n, h, i, j] + mask_bias[b, n, 0, 0, j] + pair_bias[b, 0, h, i, j]
        t[b, n, h, i, j] = exp(logits_2[b, n, h, i, j] - (max_j logits_2[b, n, h, i, j]))
        weights[b, n, h, i, j] = t[b, n, h, i, j] / (Σ_j t[b, n, h, i, j])
        weighted_avg[b, n, h, i, d] = Σ_j weights[b, n, h, i, j] * v[b, n, j, h, d]
        output[b, n, i, h, d] = sigmoid(gate[b, n, i, h, d]) * weighted_avg[b, n, h, i, d]

    Programs take turns at each b, n, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, 1, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, 1, BLOCK_D])
    mask_bias_ring = ring_of(mask_bias_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, 1, 1, BLOCK_KEYS])
    pair_bias_ring = ring_of(pair_bias_ptr.dtype.element_ty, STAGES * GROUPS, 1, [1, 1, 1, GROUP_ROWS, BLOCK_KEYS])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, 1, BLOCK_D])
    gate_ring = ring_of(gate_ptr.dtype.element_ty, GROUPS, 1, [1, 1, GROUP_ROWS, 1, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, 1, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr, pair_bias_ptr, q_stride_b, q_stride_n, q_stride_s, q_stride_h,
        k_stride_b, k_stride_n, k_stride_s, k_stride_h, v_stride_b, v_stride_n, v_stride_s, v_stride_h, gate_stride_b,
        gate_stride_n, gate_stride_s, gate_stride_h, mask_bias_stride_b, mask_bias_stride_n, mask_bias_stride_2,
        mask_bias_stride_3, pair_bias_stride_b, pair_bias_stride_1, pair_bias_stride_h, pair_bias_stride_3, H, N, B, S,
        q_ring, k_ring, mask_bias_ring, pair_bias_ring, v_ring, gate_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_n, output_stride_s, output_stride_h, H, N, B, S, scale, q_ring,
        k_ring, mask_bias_ring, pair_bias_ring, v_ring, gate_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (row_attention_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (row_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (row_attention_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (row_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (row_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (row_attention_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (row_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (row_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
            (row_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def column_attention_loads(
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
        q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr,
        # their strides, in elements
        q_stride_b, q_stride_n, q_stride_s, q_stride_h,
        k_stride_b, k_stride_n, k_stride_s, k_stride_h,
        v_stride_b, v_stride_n, v_stride_s, v_stride_h,
        gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h,
        mask_bias_stride_b, mask_bias_stride_s, mask_bias_stride_2, mask_bias_stride_3,
        # sizes: one compiled kernel serves them all
        H, S, B, N,
        # rings in shared memory
        q_ring, k_ring, mask_bias_ring, v_ring, gate_ring,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr,
        [B, N, S, H, D],
        [q_stride_b, q_stride_n, q_stride_s, q_stride_h, 1],
        [1, GROUP_ROWS, 1, 1, BLOCK_D],
        q_ring[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr,
        [B, N, S, H, D],
        [k_stride_b, k_stride_n, k_stride_s, k_stride_h, 1],
        [1, BLOCK_KEYS, 1, 1, BLOCK_D],
        k_ring[0].layout,
    )
    mask_bias_blocks = tma.make_tensor_descriptor(
        mask_bias_ptr,
        [B, S, 1, 1, N],
        [mask_bias_stride_b, mask_bias_stride_s, mask_bias_stride_2, mask_bias_stride_3, 1],
        [1, 1, 1, 1, BLOCK_KEYS],
        mask_bias_ring[0].layout,
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr,
        [B, N, S, H, D],
        [v_stride_b, v_stride_n, v_stride_s, v_stride_h, 1],
        [1, BLOCK_KEYS, 1, 1, BLOCK_D],
        v_ring[0].layout,
    )
    gate_blocks = tma.make_tensor_descriptor(
        gate_ptr,
        [B, N, S, H, D],
        [gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h, 1],
        [1, GROUP_ROWS, 1, 1, BLOCK_D],
        gate_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(N, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S * H)):
        block, number, exists = tile_of(turn, row_blocks, B * S * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            s = number // H % S
            batch = number // H // S
            for group in gl.static_range(GROUPS):
                send(q_blocks, [batch, row_start + group * GROUP_ROWS, s, head, 0], q_ring, done * GROUPS + group)
            for key_start in range(0, N, BLOCK_KEYS):
                send(k_blocks, [batch, key_start, s, head, 0], k_ring, step)
                send(mask_bias_blocks, [batch, s, 0, 0, key_start], mask_bias_ring, step)
                send(v_blocks, [batch, key_start, s, head, 0], v_ring, step)
                step += 1
            for group in gl.static_range(GROUPS):
                send(gate_blocks, [batch, row_start + group * GROUP_ROWS, s, head, 0], gate_ring, done * GROUPS + group)
            done += 1


@gluon.jit
def column_attention_rows(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    APPROXIMATE: gl.constexpr,
    GROUPS: gl.constexpr,
    GROUP: gl.constexpr,
):
    """What the kernel computes, for 64 rows of each of its tiles."""
    (
        # fmt: off
        # tensors
        output_ptr,
        # their strides, in elements
        output_stride_b, output_stride_n, output_stride_s, output_stride_h,
        # sizes: one compiled kernel serves them all
        H, S, B, N,
        # numbers
        scale,
        # rings in shared memory
        q_ring, k_ring, mask_bias_ring, v_ring, gate_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, N, S, H, D],
        [output_stride_b, output_stride_n, output_stride_s, output_stride_h, 1],
        [1, GROUP_ROWS, 1, 1, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(N, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S * H)):
        block, number, exists = tile_of(turn, row_blocks, B * S * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            s = number // H % S
            batch = number // H // S
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            q = received(q_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = N // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, N, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                logits_product = start_matmul(q, k.permute((1, 0)), LAYOUT)
                mask_bias = taken(mask_bias_ring, step, gl.SliceLayout(0, LAYOUT))
                logits = warpgroup_mma_wait(0, [logits_product]) * scale  # evoformer.py:11
                release(k_ring, step)
                logits_2 = logits + mask_bias.to(gl.float32)[None, :]  # evoformer.py:13
                if partial:
                    logits_2 = gl.where((keys < N)[None, :], logits_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(logits_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)
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
            release(q_ring, done * GROUPS + GROUP)

            gate = taken(gate_ring, done * GROUPS + GROUP, LAYOUT)
            weighted_avg = accumulator * (1.0 / running_sum)[:, None]  # evoformer.py:15
            output = sigmoid(gate.to(gl.float32), APPROXIMATE) * weighted_avg
            send_back(
                output_blocks,
                [batch, group_start, s, head, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "S", "B", "N"])
def column_attention_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_n, q_stride_s, q_stride_h,
    k_stride_b, k_stride_n, k_stride_s, k_stride_h,
    v_stride_b, v_stride_n, v_stride_s, v_stride_h,
    gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h,
    mask_bias_stride_b, mask_bias_stride_s, mask_bias_stride_2, mask_bias_stride_3,
    output_stride_b, output_stride_n, output_stride_s, output_stride_h,
    # sizes: one compiled kernel serves them all
    H, S, B, N,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr, APPROXIMATE: gl.constexpr,
    # fmt: on
):
    """column_attention:

        logits[b, s, h, i, j] = Σ_d q[b, i, s, h, d] / sqrt(float32(D)) * k[b, j, s, h, d]
        logits_2[b, s, h, i, j] = logits[b, s, h, i, j] + mask_bias[b, s, 0, 0, j]
        t[b, s, h, i, j] = exp(logits_2[b, s, h, i, j] - (max_j logits_2[b, s, h, i, j]))
        weights[b, s, h, i, j] = t[b, s, h, i, j] / (Σ_j t[b, s, h, i, j])
        weighted_avg[b, s, h, i, d] = Σ_j weights[b, s, h, i, j] * v[b, j, s, h, d]
        output[b, i, s, h, d] = sigmoid(gate[b, i, s, h, d]) * weighted_avg[b, s, h, i, d]

    Programs take turns at each b, s, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, 1, 1, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, 1, BLOCK_D])
    mask_bias_ring = ring_of(mask_bias_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, 1, 1, BLOCK_KEYS])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, 1, BLOCK_D])
    gate_ring = ring_of(gate_ptr.dtype.element_ty, GROUPS, 1, [1, GROUP_ROWS, 1, 1, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, 1, 1, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr, q_stride_b, q_stride_n, q_stride_s, q_stride_h, k_stride_b,
        k_stride_n, k_stride_s, k_stride_h, v_stride_b, v_stride_n, v_stride_s, v_stride_h, gate_stride_b,
        gate_stride_n, gate_stride_s, gate_stride_h, mask_bias_stride_b, mask_bias_stride_s, mask_bias_stride_2,
        mask_bias_stride_3, H, S, B, N, q_ring, k_ring, mask_bias_ring, v_ring, gate_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_n, output_stride_s, output_stride_h, H, S, B, N, scale, q_ring,
        k_ring, mask_bias_ring, v_ring, gate_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (column_attention_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (column_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (column_attention_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (column_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (column_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (column_attention_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (column_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (column_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
            (column_attention_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def triangle_attention_starting_node_loads(
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
        q_ptr, k_ptr, v_ptr, gate_ptr,
        # their strides, in elements
        q_stride_b, q_stride_1, q_stride_2, q_stride_h,
        k_stride_b, k_stride_1, k_stride_2, k_stride_h,
        v_stride_b, v_stride_1, v_stride_2, v_stride_h,
        gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h,
        # sizes: one compiled kernel serves them all
        H, S, B,
        # rings in shared memory
        q_ring, k_ring, v_ring, gate_ring,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr,
        [B, S, S, H, D],
        [q_stride_b, q_stride_1, q_stride_2, q_stride_h, 1],
        [1, 1, GROUP_ROWS, 1, BLOCK_D],
        q_ring[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr,
        [B, S, S, H, D],
        [k_stride_b, k_stride_1, k_stride_2, k_stride_h, 1],
        [1, 1, BLOCK_KEYS, 1, BLOCK_D],
        k_ring[0].layout,
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr,
        [B, S, S, H, D],
        [v_stride_b, v_stride_1, v_stride_2, v_stride_h, 1],
        [1, 1, BLOCK_KEYS, 1, BLOCK_D],
        v_ring[0].layout,
    )
    gate_blocks = tma.make_tensor_descriptor(
        gate_ptr,
        [B, S, S, H, D],
        [gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h, 1],
        [1, 1, GROUP_ROWS, 1, BLOCK_D],
        gate_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S * H)):
        block, number, exists = tile_of(turn, row_blocks, B * S * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            s = number // H % S
            batch = number // H // S
            for group in gl.static_range(GROUPS):
                send(q_blocks, [batch, s, row_start + group * GROUP_ROWS, head, 0], q_ring, done * GROUPS + group)
            for key_start in range(0, S, BLOCK_KEYS):
                send(k_blocks, [batch, s, key_start, head, 0], k_ring, step)
                send(v_blocks, [batch, s, key_start, head, 0], v_ring, step)
                step += 1
            for group in gl.static_range(GROUPS):
                send(gate_blocks, [batch, s, row_start + group * GROUP_ROWS, head, 0], gate_ring, done * GROUPS + group)
            done += 1


@gluon.jit
def triangle_attention_starting_node_rows(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    APPROXIMATE: gl.constexpr,
    GROUPS: gl.constexpr,
    GROUP: gl.constexpr,
):
    """What the kernel computes, for 64 rows of each of its tiles."""
    (
        # fmt: off
        # tensors
        mask_ptr, triangle_bias_ptr, output_ptr,
        # their strides, in elements
        mask_stride_b, mask_stride_1, mask_stride_2,
        triangle_bias_stride_b, triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h,
        output_stride_b, output_stride_1, output_stride_2, output_stride_h,
        # sizes: one compiled kernel serves them all
        H, S, B,
        # numbers
        scale,
        # rings in shared memory
        q_ring, k_ring, v_ring, gate_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, S, S, H, D],
        [output_stride_b, output_stride_1, output_stride_2, output_stride_h, 1],
        [1, 1, GROUP_ROWS, 1, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S * H)):
        block, number, exists = tile_of(turn, row_blocks, B * S * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            s = (number // H % S).to(gl.int64)
            batch = (number // H // S).to(gl.int64)
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            q = received(q_ring, done * GROUPS + GROUP)

            # Read once: the rows, and what is the same for every block of keys
            mask_block = (
                mask_ptr + batch * mask_stride_b + s * mask_stride_1 + gl.cast(key_offsets, gl.int64) * mask_stride_2
            )
            existing_rows = gl.minimum(row_offsets, S - 1 - row_start)  # rows past the end read the last one
            triangle_bias_block = (
                triangle_bias_ptr
                + batch * triangle_bias_stride_b
                + gl.cast(row_start, gl.int64) * triangle_bias_stride_1
                + head * triangle_bias_stride_h
                + gl.cast(existing_rows[:, None], gl.int64) * triangle_bias_stride_1
            )

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                triangle_bias = gl.load(
                    triangle_bias_block + gl.cast(keys[None, :], gl.int64) * triangle_bias_stride_2,
                    mask=(keys < S)[None, :],
                    other=0,
                )
                mask = gl.load(mask_block + gl.cast(key_start, gl.int64) * mask_stride_2, mask=(keys < S), other=0)
                k = received(k_ring, step)
                logits = matmul(q, k.permute((1, 0)), LAYOUT) * scale  # evoformer.py:65
                release(k_ring, step)
                logits_2 = gl.where(
                    mask[None, :], logits + triangle_bias.to(gl.float32), -1000000000.0
                )  # evoformer.py:67
                if partial:
                    logits_2 = gl.where((keys < S)[None, :], logits_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(logits_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)  # evoformer.py:68
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
            release(q_ring, done * GROUPS + GROUP)

            gate = taken(gate_ring, done * GROUPS + GROUP, LAYOUT)
            output = sigmoid(gate.to(gl.float32), APPROXIMATE) * (accumulator * (1.0 / running_sum)[:, None])
            send_back(
                output_blocks,
                [gl.cast(batch, gl.int32), gl.cast(s, gl.int32), group_start, gl.cast(head, gl.int32), 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "S", "B"])
def triangle_attention_starting_node_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_ptr, triangle_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_1, q_stride_2, q_stride_h,
    k_stride_b, k_stride_1, k_stride_2, k_stride_h,
    v_stride_b, v_stride_1, v_stride_2, v_stride_h,
    gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h,
    mask_stride_b, mask_stride_1, mask_stride_2,
    triangle_bias_stride_b, triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h,
    output_stride_b, output_stride_1, output_stride_2, output_stride_h,
    # sizes: one compiled kernel serves them all
    H, S, B,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr, APPROXIMATE: gl.constexpr,
    # fmt: on
):
    """triangle_attention_starting_node:

        logits[b, s, h, i, j] = (Σ_d q[b, s, i, h, d] * k[b, s, j, h, d]) * float32(D) ** -0.5
        logits_2[b, s, h, i, j] = logits[b, s, h, i, j] + triangle_bias[b, i, j, h]
        logits_3[b, s, h, i, j] = where(mask[b, s, j], logits_2[b, s, h, i, j], -1000000000)
        t[b, s, h, i, j] = exp(logits_3[b, s, h, i, j] - (max_j logits_3[b, s, h, i, j]))
        weights[b, s, h, i, j] = t[b, s, h, i, j] / (Σ_j t[b, s, h, i, j])
        output[b, s, i, h, d] = sigmoid(gate[b, s, i, h, d]) * (Σ_j weights[b, s, h, i, j] * v[b, s, j, h, d])

    Programs take turns at each b, s, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, 1, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, 1, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, 1, BLOCK_D])
    gate_ring = ring_of(gate_ptr.dtype.element_ty, GROUPS, 1, [1, 1, GROUP_ROWS, 1, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, 1, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, gate_ptr, q_stride_b, q_stride_1, q_stride_2, q_stride_h, k_stride_b, k_stride_1,
        k_stride_2, k_stride_h, v_stride_b, v_stride_1, v_stride_2, v_stride_h, gate_stride_b, gate_stride_1,
        gate_stride_2, gate_stride_h, H, S, B, q_ring, k_ring, v_ring, gate_ring,
    )
    rows = (
        mask_ptr, triangle_bias_ptr, output_ptr, mask_stride_b, mask_stride_1, mask_stride_2, triangle_bias_stride_b,
        triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h, output_stride_b, output_stride_1,
        output_stride_2, output_stride_h, H, S, B, scale, q_ring, k_ring, v_ring, gate_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (triangle_attention_starting_node_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (triangle_attention_starting_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (triangle_attention_starting_node_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (triangle_attention_starting_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (triangle_attention_starting_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (triangle_attention_starting_node_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (triangle_attention_starting_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (triangle_attention_starting_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
            (triangle_attention_starting_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def triangle_attention_ending_node_loads(
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
        q_ptr, k_ptr, v_ptr, gate_ptr,
        # their strides, in elements
        q_stride_b, q_stride_1, q_stride_2, q_stride_h,
        k_stride_b, k_stride_1, k_stride_2, k_stride_h,
        v_stride_b, v_stride_1, v_stride_2, v_stride_h,
        gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h,
        # sizes: one compiled kernel serves them all
        H, S, B,
        # rings in shared memory
        q_ring, k_ring, v_ring, gate_ring,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr,
        [B, S, S, H, D],
        [q_stride_b, q_stride_1, q_stride_2, q_stride_h, 1],
        [1, GROUP_ROWS, 1, 1, BLOCK_D],
        q_ring[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr,
        [B, S, S, H, D],
        [k_stride_b, k_stride_1, k_stride_2, k_stride_h, 1],
        [1, BLOCK_KEYS, 1, 1, BLOCK_D],
        k_ring[0].layout,
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr,
        [B, S, S, H, D],
        [v_stride_b, v_stride_1, v_stride_2, v_stride_h, 1],
        [1, BLOCK_KEYS, 1, 1, BLOCK_D],
        v_ring[0].layout,
    )
    gate_blocks = tma.make_tensor_descriptor(
        gate_ptr,
        [B, S, S, H, D],
        [gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h, 1],
        [1, GROUP_ROWS, 1, 1, BLOCK_D],
        gate_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S * H)):
        block, number, exists = tile_of(turn, row_blocks, B * S * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = number % H
            s_2 = number // H % S
            batch = number // H // S
            for group in gl.static_range(GROUPS):
                send(q_blocks, [batch, row_start + group * GROUP_ROWS, s_2, head, 0], q_ring, done * GROUPS + group)
            for key_start in range(0, S, BLOCK_KEYS):
                send(k_blocks, [batch, key_start, s_2, head, 0], k_ring, step)
                send(v_blocks, [batch, key_start, s_2, head, 0], v_ring, step)
                step += 1
            for group in gl.static_range(GROUPS):
                send(
                    gate_blocks, [batch, row_start + group * GROUP_ROWS, s_2, head, 0], gate_ring, done * GROUPS + group
                )
            done += 1


@gluon.jit
def triangle_attention_ending_node_rows(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    APPROXIMATE: gl.constexpr,
    GROUPS: gl.constexpr,
    GROUP: gl.constexpr,
):
    """What the kernel computes, for 64 rows of each of its tiles."""
    (
        # fmt: off
        # tensors
        mask_ptr, triangle_bias_ptr, output_ptr,
        # their strides, in elements
        mask_stride_b, mask_stride_1, mask_stride_2,
        triangle_bias_stride_b, triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h,
        output_stride_b, output_stride_1, output_stride_2, output_stride_h,
        # sizes: one compiled kernel serves them all
        H, S, B,
        # numbers
        scale,
        # rings in shared memory
        q_ring, k_ring, v_ring, gate_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, S, S, H, D],
        [output_stride_b, output_stride_1, output_stride_2, output_stride_h, 1],
        [1, GROUP_ROWS, 1, 1, BLOCK_D],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S * H)):
        block, number, exists = tile_of(turn, row_blocks, B * S * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            s_2 = (number // H % S).to(gl.int64)
            batch = (number // H // S).to(gl.int64)
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            q = received(q_ring, done * GROUPS + GROUP)

            # Read once: the rows, and what is the same for every block of keys
            mask_block = (
                mask_ptr + batch * mask_stride_b + s_2 * mask_stride_2 + gl.cast(key_offsets, gl.int64) * mask_stride_1
            )
            existing_rows = gl.minimum(row_offsets, S - 1 - row_start)  # rows past the end read the last one
            triangle_bias_block = (
                triangle_bias_ptr
                + batch * triangle_bias_stride_b
                + gl.cast(row_start, gl.int64) * triangle_bias_stride_2
                + head * triangle_bias_stride_h
                + gl.cast(existing_rows[:, None], gl.int64) * triangle_bias_stride_2
            )

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                triangle_bias = gl.load(
                    triangle_bias_block + gl.cast(keys[None, :], gl.int64) * triangle_bias_stride_1,
                    mask=(keys < S)[None, :],
                    other=0,
                )
                mask = gl.load(mask_block + gl.cast(key_start, gl.int64) * mask_stride_1, mask=(keys < S), other=0)
                k = received(k_ring, step)
                logits = matmul(q, k.permute((1, 0)), LAYOUT) * scale  # evoformer.py:81
                release(k_ring, step)
                logits_2 = gl.where(
                    mask[None, :], logits + triangle_bias.to(gl.float32), -1000000000.0
                )  # evoformer.py:83
                if partial:
                    logits_2 = gl.where((keys < S)[None, :], logits_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(logits_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)  # evoformer.py:84
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
            release(q_ring, done * GROUPS + GROUP)

            gate = taken(gate_ring, done * GROUPS + GROUP, LAYOUT)
            output = sigmoid(gate.to(gl.float32), APPROXIMATE) * (accumulator * (1.0 / running_sum)[:, None])
            send_back(
                output_blocks,
                [gl.cast(batch, gl.int32), group_start, gl.cast(s_2, gl.int32), gl.cast(head, gl.int32), 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "S", "B"])
def triangle_attention_ending_node_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_ptr, triangle_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_1, q_stride_2, q_stride_h,
    k_stride_b, k_stride_1, k_stride_2, k_stride_h,
    v_stride_b, v_stride_1, v_stride_2, v_stride_h,
    gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h,
    mask_stride_b, mask_stride_1, mask_stride_2,
    triangle_bias_stride_b, triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h,
    output_stride_b, output_stride_1, output_stride_2, output_stride_h,
    # sizes: one compiled kernel serves them all
    H, S, B,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr, APPROXIMATE: gl.constexpr,
    # fmt: on
):
    """triangle_attention_ending_node:

        logits[b, s_2, h, i, j] = (Σ_d q[b, i, s_2, h, d] * k[b, j, s_2, h, d]) * float32(D) ** -0.5
        logits_2[b, s_2, h, i, j] = logits[b, s_2, h, i, j] + triangle_bias[b, j, i, h]
        logits_3[b, s_2, h, i, j] = where(mask[b, j, s_2], logits_2[b, s_2, h, i, j], -1000000000)
        t[b, s_2, h, i, j] = exp(logits_3[b, s_2, h, i, j] - (max_j logits_3[b, s_2, h, i, j]))
        weights[b, s_2, h, i, j] = t[b, s_2, h, i, j] / (Σ_j t[b, s_2, h, i, j])
        output[b, i, s_2, h, d] = sigmoid(gate[b, i, s_2, h, d]) * (Σ_j weights[b, s_2, h, i, j] * v[b, j, s_2,
            h, d])

    Programs take turns at each b, s_2, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, 1, 1, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, 1, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, 1, BLOCK_D])
    gate_ring = ring_of(gate_ptr.dtype.element_ty, GROUPS, 1, [1, GROUP_ROWS, 1, 1, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, 1, 1, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, gate_ptr, q_stride_b, q_stride_1, q_stride_2, q_stride_h, k_stride_b, k_stride_1,
        k_stride_2, k_stride_h, v_stride_b, v_stride_1, v_stride_2, v_stride_h, gate_stride_b, gate_stride_1,
        gate_stride_2, gate_stride_h, H, S, B, q_ring, k_ring, v_ring, gate_ring,
    )
    rows = (
        mask_ptr, triangle_bias_ptr, output_ptr, mask_stride_b, mask_stride_1, mask_stride_2, triangle_bias_stride_b,
        triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h, output_stride_b, output_stride_1,
        output_stride_2, output_stride_h, H, S, B, scale, q_ring, k_ring, v_ring, gate_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (triangle_attention_ending_node_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (triangle_attention_ending_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (triangle_attention_ending_node_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (triangle_attention_ending_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (triangle_attention_ending_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (triangle_attention_ending_node_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (triangle_attention_ending_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 0)),
            (triangle_attention_ending_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 1)),
            (triangle_attention_ending_node_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, APPROXIMATE, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
