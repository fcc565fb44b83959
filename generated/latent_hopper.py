"""Hopper kernels for latent.py, in Gluon.

Written by flashlight 0.1.0 from examples/latent.py (sha256 dd78669f4a7ce6b3)
with `flashlight transpile examples/latent.py`; change the source and run that again.

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


@gluon.jit
def latent_attention_loads(
    given,
    R: gl.constexpr,
    BLOCK_R: gl.constexpr,
    C: gl.constexpr,
    BLOCK_C: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Keep the rings full: blocks of rows and of keys, in the order in which they are read."""
    (
        # fmt: off
        # tensors
        q_latent_ptr, q_rope_ptr, kv_latent_ptr, k_rope_ptr,
        # their strides, in elements
        q_latent_stride_b, q_latent_stride_h, q_latent_stride_s,
        q_rope_stride_b, q_rope_stride_h, q_rope_stride_s,
        kv_latent_stride_b, kv_latent_stride_s,
        k_rope_stride_b, k_rope_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S_k, S_q,
        # rings in shared memory
        q_latent_ring, q_rope_ring, kv_latent_ring, k_rope_ring,
        # fmt: on
    ) = given
    q_latent_blocks = tma.make_tensor_descriptor(
        q_latent_ptr,
        [B, H, S_q, C],
        [q_latent_stride_b, q_latent_stride_h, q_latent_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_C],
        q_latent_ring[0].layout,
    )
    q_rope_blocks = tma.make_tensor_descriptor(
        q_rope_ptr,
        [B, H, S_q, R],
        [q_rope_stride_b, q_rope_stride_h, q_rope_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_R],
        q_rope_ring[0].layout,
    )
    kv_latent_blocks = tma.make_tensor_descriptor(
        kv_latent_ptr,
        [B, S_k, C],
        [kv_latent_stride_b, kv_latent_stride_s, 1],
        [1, BLOCK_KEYS, BLOCK_C],
        kv_latent_ring[0].layout,
    )
    k_rope_blocks = tma.make_tensor_descriptor(
        k_rope_ptr, [B, S_k, R], [k_rope_stride_b, k_rope_stride_s, 1], [1, BLOCK_KEYS, BLOCK_R], k_rope_ring[0].layout
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
                send(
                    q_latent_blocks,
                    [batch, head, row_start + group * GROUP_ROWS, 0],
                    q_latent_ring,
                    done * GROUPS + group,
                )
            for group in gl.static_range(GROUPS):
                send(
                    q_rope_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], q_rope_ring, done * GROUPS + group
                )
            for key_start in range(0, S_k, BLOCK_KEYS):
                send(kv_latent_blocks, [batch, key_start, 0], kv_latent_ring, step)
                send(k_rope_blocks, [batch, key_start, 0], k_rope_ring, step)
                step += 1
            done += 1


@gluon.jit
def latent_attention_rows(
    given,
    BLOCK_R: gl.constexpr,
    C: gl.constexpr,
    BLOCK_C: gl.constexpr,
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
        q_latent_ring, q_rope_ring, kv_latent_ring, k_rope_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_R, BLOCK_C)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, H, S_q, C],
        [output_stride_b, output_stride_h, output_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_C],
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
            q_latent = received(q_latent_ring, done * GROUPS + GROUP)
            q_rope = received(q_rope_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_C], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S_k, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                kv_latent = received(kv_latent_ring, step)
                k_rope = received(k_rope_ring, step)
                scores = (
                    warpgroup_mma(q_rope, k_rope.permute((1, 0)), matmul(q_latent, kv_latent.permute((1, 0)), LAYOUT))
                    * scale
                )  # latent.py:15
                release(k_rope_ring, step)
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2(running_max - finite_max)
                scores_2 = gl.exp2(scores - finite_max[:, None])  # latent.py:16
                accumulator = warpgroup_mma(
                    gl.convert_layout(scores_2.to(kv_latent.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    kv_latent,
                    accumulator * rescale[:, None],
                )
                release(kv_latent_ring, step)
                running_sum = running_sum * rescale + gl.sum(scores_2, 1)
                running_max = new_max
                step += 1
            release(q_latent_ring, done * GROUPS + GROUP)
            release(q_rope_ring, done * GROUPS + GROUP)

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
def latent_attention_kernel(
    # fmt: off
    # tensors
    q_latent_ptr, q_rope_ptr, kv_latent_ptr, k_rope_ptr, output_ptr,
    # their strides, in elements
    q_latent_stride_b, q_latent_stride_h, q_latent_stride_s,
    q_rope_stride_b, q_rope_stride_h, q_rope_stride_s,
    kv_latent_stride_b, kv_latent_stride_s,
    k_rope_stride_b, k_rope_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S_k, S_q,
    # numbers
    scale,  # softmax_scale * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    R: gl.constexpr, BLOCK_R: gl.constexpr, C: gl.constexpr, BLOCK_C: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """latent_attention:

        scores[b, h, i, j] = (Σ_c q_latent[b, h, i, c] * kv_latent[b, j, c]) + (Σ_r q_rope[b, h, i, r] *
            k_rope[b, j, r])
        t[b, h, i, j] = float32(scores[b, h, i, j] * softmax_scale)
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        scores_2[b, h, i, j] = element(t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j]))
        output[b, h, i, c] = Σ_j scores_2[b, h, i, j] * kv_latent[b, j, c]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_latent_ring = ring_of(q_latent_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_C])
    q_rope_ring = ring_of(q_rope_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_R])
    kv_latent_ring = ring_of(kv_latent_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_C])
    k_rope_ring = ring_of(k_rope_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_R])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_C])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_latent_ptr, q_rope_ptr, kv_latent_ptr, k_rope_ptr, q_latent_stride_b, q_latent_stride_h, q_latent_stride_s,
        q_rope_stride_b, q_rope_stride_h, q_rope_stride_s, kv_latent_stride_b, kv_latent_stride_s, k_rope_stride_b,
        k_rope_stride_s, H, B, S_k, S_q, q_latent_ring, q_rope_ring, kv_latent_ring, k_rope_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_h, output_stride_s, H, B, S_k, S_q, scale, q_latent_ring,
        q_rope_ring, kv_latent_ring, k_rope_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (latent_attention_loads, (loads, R, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (latent_attention_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (latent_attention_loads, (loads, R, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (latent_attention_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (latent_attention_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (latent_attention_loads, (loads, R, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (latent_attention_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (latent_attention_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (latent_attention_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def latent_attention_decode_loads(
    given,
    R: gl.constexpr,
    BLOCK_R: gl.constexpr,
    C: gl.constexpr,
    BLOCK_C: gl.constexpr,
    BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr,
    GROUPS: gl.constexpr,
):
    """Keep the rings full: blocks of rows and of keys, in the order in which they are read."""
    (
        # fmt: off
        # tensors
        q_nope_ptr, q_pe_ptr, kv_cache_ptr, pe_cache_ptr,
        # their strides, in elements
        q_nope_stride_b, q_nope_stride_s, q_nope_stride_h,
        q_pe_stride_b, q_pe_stride_s, q_pe_stride_h,
        kv_cache_stride_b, kv_cache_stride_s,
        pe_cache_stride_b, pe_cache_stride_s,
        # sizes: one compiled kernel serves them all
        S_q, B, S_k, H,
        # rings in shared memory
        q_nope_ring, q_pe_ring, kv_cache_ring, pe_cache_ring,
        # fmt: on
    ) = given
    q_nope_blocks = tma.make_tensor_descriptor(
        q_nope_ptr,
        [B, S_q, H, C],
        [q_nope_stride_b, q_nope_stride_s, q_nope_stride_h, 1],
        [1, 1, GROUP_ROWS, BLOCK_C],
        q_nope_ring[0].layout,
    )
    q_pe_blocks = tma.make_tensor_descriptor(
        q_pe_ptr,
        [B, S_q, H, R],
        [q_pe_stride_b, q_pe_stride_s, q_pe_stride_h, 1],
        [1, 1, GROUP_ROWS, BLOCK_R],
        q_pe_ring[0].layout,
    )
    kv_cache_blocks = tma.make_tensor_descriptor(
        kv_cache_ptr,
        [B, S_k, C],
        [kv_cache_stride_b, kv_cache_stride_s, 1],
        [1, BLOCK_KEYS, BLOCK_C],
        kv_cache_ring[0].layout,
    )
    pe_cache_blocks = tma.make_tensor_descriptor(
        pe_cache_ptr,
        [B, S_k, R],
        [pe_cache_stride_b, pe_cache_stride_s, 1],
        [1, BLOCK_KEYS, BLOCK_R],
        pe_cache_ring[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(H, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S_q)):
        block, number, exists = tile_of(turn, row_blocks, B * S_q)
        if exists:
            row_start = block * BLOCK_ROWS
            s_q = (number % S_q).to(gl.int64)
            batch = number // S_q
            live_stop = gl.cast(gl.maximum(0, gl.minimum(s_q + S_k + 1 - S_q, S_k)), gl.int32)
            for group in gl.static_range(GROUPS):
                send(
                    q_nope_blocks,
                    [batch, gl.cast(s_q, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_nope_ring,
                    done * GROUPS + group,
                )
            for group in gl.static_range(GROUPS):
                send(
                    q_pe_blocks,
                    [batch, gl.cast(s_q, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_pe_ring,
                    done * GROUPS + group,
                )
            for key_start in range(0, live_stop, BLOCK_KEYS):
                send(kv_cache_blocks, [batch, key_start, 0], kv_cache_ring, step)
                send(pe_cache_blocks, [batch, key_start, 0], pe_cache_ring, step)
                step += 1
            done += 1


@gluon.jit
def latent_attention_decode_rows(
    given,
    BLOCK_R: gl.constexpr,
    C: gl.constexpr,
    BLOCK_C: gl.constexpr,
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
        S_q, B, S_k, H,
        # numbers
        scale,
        # rings in shared memory
        q_nope_ring, q_pe_ring, kv_cache_ring, pe_cache_ring, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_R, BLOCK_C)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, S_q, H, C],
        [output_stride_b, output_stride_s, output_stride_h, 1],
        [1, 1, GROUP_ROWS, BLOCK_C],
        output_buffer.layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(H, BLOCK_ROWS)
    for turn in range(turn_count(row_blocks, B * S_q)):
        block, number, exists = tile_of(turn, row_blocks, B * S_q)
        if exists:
            row_start = block * BLOCK_ROWS
            s_q = (number % S_q).to(gl.int64)
            batch = number // S_q
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            q_nope = received(q_nope_ring, done * GROUPS + GROUP)
            q_pe = received(q_pe_ring, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_C], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
            live_stop = gl.cast(gl.maximum(0, gl.minimum(s_q + S_k + 1 - S_q, S_k)), gl.int32)
            full_stop = (
                gl.cast(gl.maximum(0, gl.minimum(s_q + S_k + 1 - S_q, S_k)), gl.int32) // BLOCK_KEYS * BLOCK_KEYS
            )

            for key_start in range(0, live_stop, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                kv_cache = received(kv_cache_ring, step)
                pe_cache = received(pe_cache_ring, step)
                scores = (
                    warpgroup_mma(q_pe, pe_cache.permute((1, 0)), matmul(q_nope, kv_cache.permute((1, 0)), LAYOUT))
                    * scale
                )  # latent.py:31
                release(pe_cache_ring, step)
                if partial:
                    scores = gl.where((keys <= s_q + S_k - S_q)[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2(running_max - finite_max)
                weights = gl.exp2(scores - finite_max[:, None])  # latent.py:32
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(kv_cache.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    kv_cache,
                    accumulator * rescale[:, None],
                )
                release(kv_cache_ring, step)
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                running_max = new_max
                step += 1
            release(q_nope_ring, done * GROUPS + GROUP)
            release(q_pe_ring, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None]
            send_back(
                output_blocks,
                [batch, gl.cast(s_q, gl.int32), group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["S_q", "B", "S_k", "H"])
def latent_attention_decode_kernel(
    # fmt: off
    # tensors
    q_nope_ptr, q_pe_ptr, kv_cache_ptr, pe_cache_ptr, output_ptr,
    # their strides, in elements
    q_nope_stride_b, q_nope_stride_s, q_nope_stride_h,
    q_pe_stride_b, q_pe_stride_s, q_pe_stride_h,
    kv_cache_stride_b, kv_cache_stride_s,
    pe_cache_stride_b, pe_cache_stride_s,
    output_stride_b, output_stride_s, output_stride_h,
    # sizes: one compiled kernel serves them all
    S_q, B, S_k, H,
    # numbers
    scale,  # (C + R) ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    R: gl.constexpr, BLOCK_R: gl.constexpr, C: gl.constexpr, BLOCK_C: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """latent_attention_decode:

        hidden[s_q, j] = j > s_q + S_k - S_q
        scores[b, s_q, i, j] = ((Σ_c q_nope[b, s_q, i, c] * kv_cache[b, j, c]) + (Σ_r q_pe[b, s_q, i, r] *
            pe_cache[b, j, r])) * float32(C + R) ** -0.5
        scores_2[b, s_q, i, j] = where(hidden[s_q, j], -inf, scores[b, s_q, i, j])
        t[b, s_q, i, j] = exp(scores_2[b, s_q, i, j] - (max_j scores_2[b, s_q, i, j]))
        weights[b, s_q, i, j] = t[b, s_q, i, j] / (Σ_j t[b, s_q, i, j])
        output[b, s_q, i, c] = Σ_j weights[b, s_q, i, j] * kv_cache[b, j, c]

    Programs take turns at each b, s_q and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_nope_ring = ring_of(q_nope_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_C])
    q_pe_ring = ring_of(q_pe_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_R])
    kv_cache_ring = ring_of(kv_cache_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_C])
    pe_cache_ring = ring_of(pe_cache_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, BLOCK_R])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_C])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_nope_ptr, q_pe_ptr, kv_cache_ptr, pe_cache_ptr, q_nope_stride_b, q_nope_stride_s, q_nope_stride_h,
        q_pe_stride_b, q_pe_stride_s, q_pe_stride_h, kv_cache_stride_b, kv_cache_stride_s, pe_cache_stride_b,
        pe_cache_stride_s, S_q, B, S_k, H, q_nope_ring, q_pe_ring, kv_cache_ring, pe_cache_ring,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_s, output_stride_h, S_q, B, S_k, H, scale, q_nope_ring, q_pe_ring,
        kv_cache_ring, pe_cache_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (latent_attention_decode_loads, (loads, R, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (latent_attention_decode_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (latent_attention_decode_loads, (loads, R, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (latent_attention_decode_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (latent_attention_decode_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (latent_attention_decode_loads, (loads, R, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (latent_attention_decode_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (latent_attention_decode_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (latent_attention_decode_rows, (rows, BLOCK_R, C, BLOCK_C, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
