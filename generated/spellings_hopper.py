"""Hopper kernels for spellings.py, in Gluon.

Written by flashlight 0.1.0 from examples/spellings.py (sha256 fa40909f73152972)
with `flashlight transpile examples/spellings.py`; change the source and run that again.

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
def with_einsum_loads(
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
        query_stride_b, query_stride_s, query_stride_h,
        key_stride_b, key_stride_s, key_stride_h,
        value_stride_b, value_stride_s, value_stride_h,
        # sizes: one compiled kernel serves them all
        H, B, S_k, S_q,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr,
        [B, S_q, H, D],
        [query_stride_b, query_stride_s, query_stride_h, 1],
        [1, GROUP_ROWS, 1, BLOCK_D],
        query_ring[0].layout,
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr,
        [B, S_k, H, D],
        [key_stride_b, key_stride_s, key_stride_h, 1],
        [1, BLOCK_KEYS, 1, BLOCK_D],
        key_ring[0].layout,
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr,
        [B, S_k, H, D],
        [value_stride_b, value_stride_s, value_stride_h, 1],
        [1, BLOCK_KEYS, 1, BLOCK_D],
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
                send(query_blocks, [batch, row_start + group * GROUP_ROWS, head, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S_k, BLOCK_KEYS):
                send(key_blocks, [batch, key_start, head, 0], key_ring, step)
                send(value_blocks, [batch, key_start, head, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def with_einsum_rows(
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
        output_stride_b, output_stride_s, output_stride_h,
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
        [B, S_q, H, D],
        [output_stride_b, output_stride_s, output_stride_h, 1],
        [1, GROUP_ROWS, 1, BLOCK_D],
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
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # spellings.py:16
                release(key_ring, step)
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                probs = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # spellings.py:17
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(probs.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(probs, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, group_start, head, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S_k", "S_q"])
def with_einsum_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_s, query_stride_h,
    key_stride_b, key_stride_s, key_stride_h,
    value_stride_b, value_stride_s, value_stride_h,
    output_stride_b, output_stride_s, output_stride_h,
    # sizes: one compiled kernel serves them all
    H, B, S_k, S_q,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_einsum:

        scores[b, h, i, j] = (Σ_d query[b, i, h, d] * key[b, j, h, d]) / sqrt(float32(D))
        t[b, h, i, j] = exp(scores[b, h, i, j] - (max_j scores[b, h, i, j]))
        probs[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, i, h, d] = Σ_j probs[b, h, i, j] * value[b, j, h, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, 1, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, 1, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_b, query_stride_s, query_stride_h, key_stride_b, key_stride_s,
        key_stride_h, value_stride_b, value_stride_s, value_stride_h, H, B, S_k, S_q, query_ring, key_ring, value_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_s, output_stride_h, H, B, S_k, S_q, scale, query_ring, key_ring,
        value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (with_einsum_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_einsum_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_einsum_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_einsum_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_einsum_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_einsum_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_einsum_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_einsum_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_einsum_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_einsum_dots_loads(
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
        H, B, S_kv, S,
        # rings in shared memory
        q_ring, k_ring, v_ring,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr, [B, H, S, D], [q_stride_b, q_stride_h, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring[0].layout
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr, [B, H, S_kv, D], [k_stride_b, k_stride_h, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring[0].layout
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr,
        [B, H, S_kv, D_v],
        [v_stride_b, v_stride_h, v_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D_v],
        v_ring[0].layout,
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
                send(q_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], q_ring, done * GROUPS + group)
            for key_start in range(0, S_kv, BLOCK_KEYS):
                send(k_blocks, [batch, head, key_start, 0], k_ring, step)
                send(v_blocks, [batch, head, key_start, 0], v_ring, step)
                step += 1
            done += 1


@gluon.jit
def with_einsum_dots_rows(
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
        H, B, S_kv, S,
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
            q = received(q_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S_kv // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S_kv, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                sim = matmul(q, k.permute((1, 0)), LAYOUT)  # spellings.py:23
                release(k_ring, step)
                if partial:
                    sim = gl.where((keys < S_kv)[None, :], sim, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(sim, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                attn = gl.exp2(sim * scale - (finite_max * scale)[:, None])  # spellings.py:24
                v = received(v_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(attn.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator * rescale[:, None],
                )
                release(v_ring, step)
                running_sum = running_sum * rescale + gl.sum(attn, 1)
                running_max = new_max
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


@gluon.jit(do_not_specialize=["H", "B", "S_kv", "S"])
def with_einsum_dots_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S_kv, S,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, D_v: gl.constexpr, BLOCK_D_v: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """with_einsum_dots:

        sim[b, h, i, j] = (Σ_d q[b, h, i, d] * k[b, h, j, d]) * float32(D) ** -0.5
        t[b, h, i, j] = exp(sim[b, h, i, j] - (max_j sim[b, h, i, j]))
        attn[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d_v] = Σ_j attn[b, h, i, j] * v[b, h, j, d_v]

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
        v_stride_h, v_stride_s, H, B, S_kv, S, q_ring, k_ring, v_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_h, output_stride_s, H, B, S_kv, S, scale, q_ring, k_ring, v_ring,
        output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (with_einsum_dots_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_einsum_dots_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_einsum_dots_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_einsum_dots_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_einsum_dots_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_einsum_dots_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_einsum_dots_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_einsum_dots_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_einsum_dots_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_at_loads(
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
def with_at_rows(
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
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # spellings.py:34
                release(key_ring, step)
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                probs = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # spellings.py:35
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(probs.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(probs, 1)
                running_max = new_max
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
def with_at_kernel(
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
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_at:

        scores[b, h, i, j] = (Σ_d key[b, h, j, d] * query[b, h, i, d]) / sqrt(float32(D))
        t[b, h, i, j] = exp(scores[b, h, i, j] - (max_j scores[b, h, i, j]))
        probs[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d] = Σ_j probs[b, h, i, j] * value[b, h, j, d]

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
            (with_at_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_at_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_at_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_at_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_at_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_at_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_at_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_at_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_at_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_matmul_loads(
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
        query_stride_s, query_stride_b, query_stride_h,
        key_stride_s, key_stride_b, key_stride_h,
        value_stride_s, value_stride_b, value_stride_h,
        # sizes: one compiled kernel serves them all
        H, B, S_k, S_q,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr,
        [S_q, B, H, D],
        [query_stride_s, query_stride_b, query_stride_h, 1],
        [GROUP_ROWS, 1, 1, BLOCK_D],
        query_ring[0].layout,
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr,
        [S_k, B, H, D],
        [key_stride_s, key_stride_b, key_stride_h, 1],
        [BLOCK_KEYS, 1, 1, BLOCK_D],
        key_ring[0].layout,
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr,
        [S_k, B, H, D],
        [value_stride_s, value_stride_b, value_stride_h, 1],
        [BLOCK_KEYS, 1, 1, BLOCK_D],
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
                send(query_blocks, [row_start + group * GROUP_ROWS, batch, head, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S_k, BLOCK_KEYS):
                send(key_blocks, [key_start, batch, head, 0], key_ring, step)
                send(value_blocks, [key_start, batch, head, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def with_matmul_rows(
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
        output_stride_s, output_stride_b, output_stride_h,
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
        [S_q, B, H, D],
        [output_stride_s, output_stride_b, output_stride_h, 1],
        [GROUP_ROWS, 1, 1, BLOCK_D],
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
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # spellings.py:45
                release(key_ring, step)
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                probs = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # spellings.py:46
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(probs.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(probs, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            context = accumulator * (1.0 / running_sum)[:, None]  # spellings.py:47
            send_back(
                output_blocks,
                [group_start, batch, head, 0],
                output_buffer.index(GROUP),
                context.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S_k", "S_q"])
def with_matmul_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_s, query_stride_b, query_stride_h,
    key_stride_s, key_stride_b, key_stride_h,
    value_stride_s, value_stride_b, value_stride_h,
    output_stride_s, output_stride_b, output_stride_h,
    # sizes: one compiled kernel serves them all
    H, B, S_k, S_q,
    # numbers
    scale,  # 1.0 / D ** 0.5 * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_matmul:

        scores[b, h, i, j] = Σ_d query[i, b, h, d] * key[j, b, h, d]
        t[b, h, i, j] = scores[b, h, i, j] / float32(D) ** 0.5
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        probs[b, h, i, j] = t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j])
        output[i, b, h, d] = Σ_j probs[b, h, i, j] * value[j, b, h, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [GROUP_ROWS, 1, 1, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [BLOCK_KEYS, 1, 1, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [BLOCK_KEYS, 1, 1, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [GROUP_ROWS, 1, 1, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_s, query_stride_b, query_stride_h, key_stride_s, key_stride_b,
        key_stride_h, value_stride_s, value_stride_b, value_stride_h, H, B, S_k, S_q, query_ring, key_ring, value_ring,
    )
    rows = (
        output_ptr, output_stride_s, output_stride_b, output_stride_h, H, B, S_k, S_q, scale, query_ring, key_ring,
        value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (with_matmul_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_matmul_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_matmul_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_matmul_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_matmul_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_matmul_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_matmul_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_matmul_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_matmul_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_bmm_loads(
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
        query_stride_b, query_stride_s,
        key_stride_b, key_stride_s,
        value_stride_b, value_stride_s,
        # sizes: one compiled kernel serves them all
        B, S_k, S_q,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr, [B, S_q, D], [query_stride_b, query_stride_s, 1], [1, GROUP_ROWS, BLOCK_D], query_ring[0].layout
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr, [B, S_k, D], [key_stride_b, key_stride_s, 1], [1, BLOCK_KEYS, BLOCK_D], key_ring[0].layout
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr, [B, S_k, D], [value_stride_b, value_stride_s, 1], [1, BLOCK_KEYS, BLOCK_D], value_ring[0].layout
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B)):
        block, number, exists = tile_of(turn, row_blocks, B)
        if exists:
            row_start = block * BLOCK_ROWS
            batch = number
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S_k, BLOCK_KEYS):
                send(key_blocks, [batch, key_start, 0], key_ring, step)
                send(value_blocks, [batch, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def with_bmm_rows(
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
        output_stride_b, output_stride_s,
        # sizes: one compiled kernel serves them all
        B, S_k, S_q,
        # numbers
        scale,
        # rings in shared memory
        query_ring, key_ring, value_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr, [B, S_q, D], [output_stride_b, output_stride_s, 1], [1, GROUP_ROWS, BLOCK_D], output_buffer.layout
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B)):
        block, number, exists = tile_of(turn, row_blocks, B)
        if exists:
            row_start = block * BLOCK_ROWS
            batch = number
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
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
                attn_weights = matmul(query, key.permute((1, 0)), LAYOUT)  # spellings.py:57
                release(key_ring, step)
                if partial:
                    attn_weights = gl.where((keys < S_k)[None, :], attn_weights, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(attn_weights, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                attn_weights_2 = gl.exp2(attn_weights * scale - (finite_max * scale)[:, None])  # spellings.py:58
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(attn_weights_2.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(attn_weights_2, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["B", "S_k", "S_q"])
def with_bmm_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_s,
    key_stride_b, key_stride_s,
    value_stride_b, value_stride_s,
    output_stride_b, output_stride_s,
    # sizes: one compiled kernel serves them all
    B, S_k, S_q,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_bmm:

        attn_weights[b, i, j] = (Σ_d query[b, i, d] * key[b, j, d]) / sqrt(float32(D))
        t[b, i, j] = exp(attn_weights[b, i, j] - (max_j attn_weights[b, i, j]))
        attn_weights_2[b, i, j] = t[b, i, j] / (Σ_j t[b, i, j])
        output[b, i, d] = Σ_j attn_weights_2[b, i, j] * value[b, j, d]

    Programs take turns at each b and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_b, query_stride_s, key_stride_b, key_stride_s, value_stride_b,
        value_stride_s, B, S_k, S_q, query_ring, key_ring, value_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_s, B, S_k, S_q, scale, query_ring, key_ring, value_ring,
        output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (with_bmm_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_bmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_bmm_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_bmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_bmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_bmm_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_bmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_bmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_bmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_bmm_reshaped_loads(
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
        query_ptr, key_ptr, value_ptr, attention_mask_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s,
        value_stride_b, value_stride_h, value_stride_s,
        attention_mask_stride_b, attention_mask_stride_1, attention_mask_stride_2,
        # sizes: one compiled kernel serves them all
        H, B, S_k, S_q,
        # rings in shared memory
        query_ring, key_ring, attention_mask_ring, value_ring,
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
    attention_mask_blocks = tma.make_tensor_descriptor(
        attention_mask_ptr,
        [B, 1, S_q, S_k],
        [attention_mask_stride_b, attention_mask_stride_1, attention_mask_stride_2, 1],
        [1, 1, GROUP_ROWS, BLOCK_KEYS],
        attention_mask_ring[0].layout,
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
                for group in gl.static_range(GROUPS):
                    send(
                        attention_mask_blocks,
                        [batch, 0, row_start + group * GROUP_ROWS, key_start],
                        attention_mask_ring,
                        step * GROUPS + group,
                    )
                send(value_blocks, [batch, head, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def with_bmm_reshaped_rows(
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
        query_ring, key_ring, attention_mask_ring, value_ring, output_buffer,
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
                attn_weights_product = start_matmul(query, key.permute((1, 0)), LAYOUT)
                attention_mask = taken(attention_mask_ring, step * GROUPS + GROUP, LAYOUT)
                attn_weights = warpgroup_mma_wait(0, [attn_weights_product]) * scale  # spellings.py:73
                release(key_ring, step)
                attn_weights_2 = attn_weights + attention_mask.to(gl.float32)  # spellings.py:74
                if partial:
                    attn_weights_2 = gl.where((keys < S_k)[None, :], attn_weights_2, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(attn_weights_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((attn_weights_2 - finite_max[:, None]) * LOG2_E)
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
                [batch, head, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S_k", "S_q"])
def with_bmm_reshaped_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, attention_mask_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    attention_mask_stride_b, attention_mask_stride_1, attention_mask_stride_2,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S_k, S_q,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_bmm_reshaped:

        query_2[b, h, i, d] = query[b, h, i, d] * float32(D) ** -0.5
        attn_weights[b, h, i, j] = Σ_d query_2[b, h, i, d] * key[b, h, j, d]
        attn_weights_2[b, h, i, j] = attn_weights[b, h, i, j] + attention_mask[b, 0, i, j]
        t[b, h, i, j] = exp(attn_weights_2[b, h, i, j] - (max_j attn_weights_2[b, h, i, j]))
        attn_probs[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d] = Σ_j attn_probs[b, h, i, j] * value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    attention_mask_ring = ring_of(
        attention_mask_ptr.dtype.element_ty, STAGES * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_KEYS]
    )
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, attention_mask_ptr, query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s, value_stride_b, value_stride_h, value_stride_s,
        attention_mask_stride_b, attention_mask_stride_1, attention_mask_stride_2, H, B, S_k, S_q, query_ring,
        key_ring, attention_mask_ring, value_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_h, output_stride_s, H, B, S_k, S_q, scale, query_ring, key_ring,
        attention_mask_ring, value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (with_bmm_reshaped_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_bmm_reshaped_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_bmm_reshaped_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_bmm_reshaped_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_bmm_reshaped_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_bmm_reshaped_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_bmm_reshaped_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_bmm_reshaped_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_bmm_reshaped_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_baddbmm_loads(
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
        query_stride_b, query_stride_s,
        key_stride_b, key_stride_s,
        value_stride_b, value_stride_s,
        # sizes: one compiled kernel serves them all
        B, S_k, S_q,
        # rings in shared memory
        query_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr, [B, S_q, D], [query_stride_b, query_stride_s, 1], [1, GROUP_ROWS, BLOCK_D], query_ring[0].layout
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr, [B, S_k, D], [key_stride_b, key_stride_s, 1], [1, BLOCK_KEYS, BLOCK_D], key_ring[0].layout
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr, [B, S_k, D], [value_stride_b, value_stride_s, 1], [1, BLOCK_KEYS, BLOCK_D], value_ring[0].layout
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B)):
        block, number, exists = tile_of(turn, row_blocks, B)
        if exists:
            row_start = block * BLOCK_ROWS
            batch = number
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S_k, BLOCK_KEYS):
                send(key_blocks, [batch, key_start, 0], key_ring, step)
                send(value_blocks, [batch, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def with_baddbmm_rows(
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
        output_stride_b, output_stride_s,
        # sizes: one compiled kernel serves them all
        B, S_k, S_q,
        # numbers
        scale_2,
        # rings in shared memory
        query_ring, key_ring, value_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr, [B, S_q, D], [output_stride_b, output_stride_s, 1], [1, GROUP_ROWS, BLOCK_D], output_buffer.layout
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B)):
        block, number, exists = tile_of(turn, row_blocks, B)
        if exists:
            row_start = block * BLOCK_ROWS
            batch = number
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
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
                scores = matmul(query, key.permute((1, 0)), LAYOUT) * scale_2  # spellings.py:88
                release(key_ring, step)
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2(running_max - finite_max)
                probs = gl.exp2(scores - finite_max[:, None])  # spellings.py:89
                value = received(value_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(probs.to(value.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    value,
                    accumulator * rescale[:, None],
                )
                release(value_ring, step)
                running_sum = running_sum * rescale + gl.sum(probs, 1)
                running_max = new_max
                step += 1
            release(query_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["B", "S_k", "S_q"])
def with_baddbmm_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_s,
    key_stride_b, key_stride_s,
    value_stride_b, value_stride_s,
    output_stride_b, output_stride_s,
    # sizes: one compiled kernel serves them all
    B, S_k, S_q,
    # numbers
    scale_2,  # scale * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_baddbmm:

        scores[b, i, j] = (Σ_d query[b, i, d] * key[b, j, d]) * scale
        t[b, i, j] = exp(scores[b, i, j] - (max_j scores[b, i, j]))
        probs[b, i, j] = t[b, i, j] / (Σ_j t[b, i, j])
        output[b, i, d] = Σ_j probs[b, i, j] * value[b, j, d]

    Programs take turns at each b and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, query_stride_b, query_stride_s, key_stride_b, key_stride_s, value_stride_b,
        value_stride_s, B, S_k, S_q, query_ring, key_ring, value_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_s, B, S_k, S_q, scale_2, query_ring, key_ring, value_ring,
        output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (with_baddbmm_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_baddbmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_baddbmm_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_baddbmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_baddbmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_baddbmm_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_baddbmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_baddbmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_baddbmm_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_baddbmm_bias_loads(
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
        query_ptr, key_ptr, value_ptr, alibi_ptr,
        # their strides, in elements
        query_stride_b, query_stride_s,
        key_stride_b, key_stride_s,
        value_stride_b, value_stride_s,
        alibi_stride_b, alibi_stride_1,
        # sizes: one compiled kernel serves them all
        B, S_k, S_q,
        # rings in shared memory
        query_ring, alibi_ring, key_ring, value_ring,
        # fmt: on
    ) = given
    query_blocks = tma.make_tensor_descriptor(
        query_ptr, [B, S_q, D], [query_stride_b, query_stride_s, 1], [1, GROUP_ROWS, BLOCK_D], query_ring[0].layout
    )
    alibi_blocks = tma.make_tensor_descriptor(
        alibi_ptr, [B, 1, S_k], [alibi_stride_b, alibi_stride_1, 1], [1, 1, BLOCK_KEYS], alibi_ring[0].layout
    )
    key_blocks = tma.make_tensor_descriptor(
        key_ptr, [B, S_k, D], [key_stride_b, key_stride_s, 1], [1, BLOCK_KEYS, BLOCK_D], key_ring[0].layout
    )
    value_blocks = tma.make_tensor_descriptor(
        value_ptr, [B, S_k, D], [value_stride_b, value_stride_s, 1], [1, BLOCK_KEYS, BLOCK_D], value_ring[0].layout
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B)):
        block, number, exists = tile_of(turn, row_blocks, B)
        if exists:
            row_start = block * BLOCK_ROWS
            batch = number
            for group in gl.static_range(GROUPS):
                send(query_blocks, [batch, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
            for key_start in range(0, S_k, BLOCK_KEYS):
                send(alibi_blocks, [batch, 0, key_start], alibi_ring, step)
                send(key_blocks, [batch, key_start, 0], key_ring, step)
                send(value_blocks, [batch, key_start, 0], value_ring, step)
                step += 1
            done += 1


@gluon.jit
def with_baddbmm_bias_rows(
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
        output_stride_b, output_stride_s,
        # sizes: one compiled kernel serves them all
        B, S_k, S_q,
        # numbers
        scale,
        # rings in shared memory
        query_ring, alibi_ring, key_ring, value_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr, [B, S_q, D], [output_stride_b, output_stride_s, 1], [1, GROUP_ROWS, BLOCK_D], output_buffer.layout
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S_q, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B)):
        block, number, exists = tile_of(turn, row_blocks, B)
        if exists:
            row_start = block * BLOCK_ROWS
            batch = number
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            query = received(query_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S_k, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                alibi = taken(alibi_ring, step, gl.SliceLayout(0, LAYOUT))
                key = received(key_ring, step)
                scores = (
                    alibi.to(gl.float32)[None, :] + matmul(query, key.permute((1, 0)), LAYOUT) * scale
                )  # spellings.py:101
                release(key_ring, step)
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * LOG2_E)
                weights = gl.exp2((scores - finite_max[:, None]) * LOG2_E)  # spellings.py:102
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
                [batch, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["B", "S_k", "S_q"])
def with_baddbmm_bias_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, alibi_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_s,
    key_stride_b, key_stride_s,
    value_stride_b, value_stride_s,
    alibi_stride_b, alibi_stride_1,
    output_stride_b, output_stride_s,
    # sizes: one compiled kernel serves them all
    B, S_k, S_q,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_baddbmm_bias:

        scores[b, i, j] = alibi[b, 0, j] + (Σ_d query[b, i, d] * key[b, j, d]) * (1 / sqrt(float32(D)))
        t[b, i, j] = exp(scores[b, i, j] - (max_j scores[b, i, j]))
        weights[b, i, j] = t[b, i, j] / (Σ_j t[b, i, j])
        output[b, i, d] = Σ_j weights[b, i, j] * value[b, j, d]

    Programs take turns at each b and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, BLOCK_D])
    alibi_ring = ring_of(alibi_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, alibi_ptr, query_stride_b, query_stride_s, key_stride_b, key_stride_s,
        value_stride_b, value_stride_s, alibi_stride_b, alibi_stride_1, B, S_k, S_q, query_ring, alibi_ring, key_ring,
        value_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_s, B, S_k, S_q, scale, query_ring, alibi_ring, key_ring, value_ring,
        output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (with_baddbmm_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_baddbmm_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_baddbmm_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_baddbmm_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_baddbmm_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_baddbmm_bias_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_baddbmm_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_baddbmm_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_baddbmm_bias_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def with_softmax_written_out_loads(
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
def with_softmax_written_out_rows(
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
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # spellings.py:112
                release(key_ring, step)
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                weights = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # spellings.py:113
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
                [batch, head, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S_k", "S_q"])
def with_softmax_written_out_kernel(
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
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """with_softmax_written_out:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        weights[b, h, i, j] = exp(scores[b, h, i, j] - (max_j scores[b, h, i, j]))
        output[b, h, i, d] = (Σ_j weights[b, h, i, j] * value[b, h, j, d]) / (Σ_j weights[b, h, i, j])

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
            (with_softmax_written_out_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_softmax_written_out_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (with_softmax_written_out_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_softmax_written_out_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_softmax_written_out_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (with_softmax_written_out_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (with_softmax_written_out_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (with_softmax_written_out_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (with_softmax_written_out_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
