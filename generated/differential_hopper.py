"""Hopper kernels for differential.py, in Gluon.

Written by flashlight 0.1.0 from examples/differential.py (sha256 33347bba358bb960)
with `flashlight transpile examples/differential.py`; change the source and run that again.

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
def load_tile(pointers, exists, masked: gl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = gl.load(pointers, mask=exists, other=0)
    else:
        tile = gl.load(pointers)
    return tile


@gluon.jit
def diff_attn_loads(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_D_2: gl.constexpr,
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
        H, B, S,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr, [B, H * 2, S, D], [q_stride_b, q_stride_h, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring[0].layout
    )
    q_blocks_2 = tma.make_tensor_descriptor(
        q_ptr,
        [B, H * 2, S, D],
        [q_stride_b, q_stride_h, q_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        q_ring_2[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr, [B, H * 2, S, D], [k_stride_b, k_stride_h, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring[0].layout
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr,
        [B, H, S, D * 2],
        [v_stride_b, v_stride_h, v_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D_2],
        v_ring[0].layout,
    )
    k_blocks_2 = tma.make_tensor_descriptor(
        k_ptr,
        [B, H * 2, S, D],
        [k_stride_b, k_stride_h, k_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        k_ring_2[0].layout,
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
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks,
                    [batch, gl.cast(head, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_ring,
                    done * GROUPS + group,
                )
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks_2,
                    [batch, gl.cast(head + H, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_ring_2,
                    done * GROUPS + group,
                )
            for key_start in range(0, S, BLOCK_KEYS):
                send(k_blocks, [batch, gl.cast(head, gl.int32), key_start, 0], k_ring, step)
                send(v_blocks, [batch, gl.cast(head, gl.int32), key_start, 0], v_ring, step)
                send(k_blocks_2, [batch, gl.cast(head + H, gl.int32), key_start, 0], k_ring_2, step)
                step += 1
            done += 1


@gluon.jit
def diff_attn_rows(
    given,
    D: gl.constexpr,
    BLOCK_D: gl.constexpr,
    BLOCK_D_2: gl.constexpr,
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
        H, B, S,
        # numbers
        scale, lam,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D, BLOCK_D_2)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, H, S, D * 2],
        [output_stride_b, output_stride_h, output_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D_2],
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
            q_2 = received(q_ring_2, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D_2], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))
            running_max_2 = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator_2 = gl.zeros([GROUP_ROWS, BLOCK_D_2], gl.float32, LAYOUT)
            running_sum_2 = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                scores = matmul(q, k.permute((1, 0)), LAYOUT)
                release(k_ring, step)
                if partial:
                    visible = keys < S
                    scores = gl.where(visible[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                attn1 = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # differential.py:19
                v = received(v_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(attn1.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator * rescale[:, None],
                )
                running_sum = running_sum * rescale + gl.sum(attn1, 1)
                k_2 = received(k_ring_2, step)
                scores_2 = matmul(q_2, k_2.permute((1, 0)), LAYOUT)
                release(k_ring_2, step)
                if partial:
                    visible_2 = keys < S
                    scores_2 = gl.where(visible_2[None, :], scores_2, float("-inf"))
                new_max_2 = gl.maximum(running_max_2, gl.max(scores_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max_2 = gl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
                rescale_2 = gl.exp2((running_max_2 - finite_max_2) * scale)
                attn2 = gl.exp2(scores_2 * scale - (finite_max_2 * scale)[:, None])  # differential.py:20
                accumulator_2 = warpgroup_mma(
                    gl.convert_layout(attn2.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator_2 * rescale_2[:, None],
                )
                release(v_ring, step)
                running_sum_2 = running_sum_2 * rescale_2 + gl.sum(attn2, 1)
                running_max = new_max
                running_max_2 = new_max_2
                step += 1
            release(q_ring, done * GROUPS + GROUP)
            release(q_ring_2, done * GROUPS + GROUP)

            output = accumulator * (1.0 / running_sum)[:, None] - accumulator_2 * (1.0 / running_sum_2 * lam)[:, None]
            send_back(
                output_blocks,
                [batch, head, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S"])
def diff_attn_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    lam,
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_D_2: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """diff_attn:

        t[b, h, i, j] = (Σ_d q[b, h, i, d] * k[b, h, j, d]) * float32(D) ** -0.5
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        attn1[b, h, i, j] = t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j])
        t_3[b, h, i, j] = (Σ_d q[b, h + H, i, d] * k[b, h + H, j, d]) * float32(D) ** -0.5
        t_4[b, h, i, j] = exp(t_3[b, h, i, j] - (max_j t_3[b, h, i, j]))
        attn2[b, h, i, j] = t_4[b, h, i, j] / (Σ_j t_4[b, h, i, j])
        output[b, h, i, d] = Σ_j (attn1[b, h, i, j] - attn2[b, h, i, j] * lam) * v[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    q_ring_2 = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D_2])
    k_ring_2 = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D_2])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, q_stride_b, q_stride_h, q_stride_s, k_stride_b, k_stride_h, k_stride_s, v_stride_b,
        v_stride_h, v_stride_s, H, B, S, q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
    )
    rows = (
        output_ptr, output_stride_b, output_stride_h, output_stride_s, H, B, S, scale, lam, q_ring, q_ring_2, k_ring,
        v_ring, k_ring_2, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (diff_attn_loads, (loads, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_rows, (rows, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (diff_attn_loads, (loads, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_rows, (rows, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (diff_attn_rows, (rows, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (diff_attn_loads, (loads, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_rows, (rows, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (diff_attn_rows, (rows, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (diff_attn_rows, (rows, D, BLOCK_D, BLOCK_D_2, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def diff_attn_chunk_loads(
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
        H, B, S,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr, [B, H * 2, S, D], [q_stride_b, q_stride_h, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring[0].layout
    )
    q_blocks_2 = tma.make_tensor_descriptor(
        q_ptr,
        [B, H * 2, S, D],
        [q_stride_b, q_stride_h, q_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        q_ring_2[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr, [B, H * 2, S, D], [k_stride_b, k_stride_h, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring[0].layout
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr, [B, H, S, D_v], [v_stride_b, v_stride_h, v_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D_v], v_ring[0].layout
    )
    k_blocks_2 = tma.make_tensor_descriptor(
        k_ptr,
        [B, H * 2, S, D],
        [k_stride_b, k_stride_h, k_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        k_ring_2[0].layout,
    )
    step = 0  # blocks of keys so far
    done = 0  # tiles so far
    row_blocks = gl.cdiv(S, BLOCK_ROWS)
    for turn in range(balanced_turn_count(row_blocks, B * H)):
        block, number, exists = balanced_tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            batch = number // H
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks,
                    [batch, gl.cast(head, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_ring,
                    done * GROUPS + group,
                )
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks_2,
                    [batch, gl.cast(head + H, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_ring_2,
                    done * GROUPS + group,
                )
            for key_start in range(0, live_stop, BLOCK_KEYS):
                send(k_blocks, [batch, gl.cast(head, gl.int32), key_start, 0], k_ring, step)
                send(v_blocks, [batch, gl.cast(head, gl.int32), key_start, 0], v_ring, step)
                send(k_blocks_2, [batch, gl.cast(head + H, gl.int32), key_start, 0], k_ring_2, step)
                step += 1
            done += 1


@gluon.jit
def diff_attn_chunk_rows(
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
        lambda_full_ptr, output_ptr,
        # their strides, in elements
        lambda_full_stride_h,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S,
        # numbers
        scale,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2, output_buffer,
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
    for turn in range(balanced_turn_count(row_blocks, B * H)):
        block, number, exists = balanced_tile_of(turn, row_blocks, B * H)
        if exists:
            row_start = block * BLOCK_ROWS
            head = (number % H).to(gl.int64)
            batch = number // H
            key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
            rows = row_start + row_offsets
            q = received(q_ring, done * GROUPS + GROUP)
            q_2 = received(q_ring_2, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))
            running_max_2 = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator_2 = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum_2 = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
            live_stop = gl.minimum(S, BLOCK_ROWS + row_start)
            full_stop = gl.minimum(S, group_start + 1) // BLOCK_KEYS * BLOCK_KEYS
            # Of the blocks that some row of the tile sees, those that one of this group does
            own_stop = gl.minimum(live_stop, GROUP_ROWS + group_start)

            for key_start in range(0, own_stop, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                scores = matmul(q, k.permute((1, 0)), LAYOUT)
                release(k_ring, step)
                if partial:
                    scores = gl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                attn1 = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # differential.py:37
                v = received(v_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(attn1.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator * rescale[:, None],
                )
                running_sum = running_sum * rescale + gl.sum(attn1, 1)
                k_2 = received(k_ring_2, step)
                scores_2 = matmul(q_2, k_2.permute((1, 0)), LAYOUT)
                release(k_ring_2, step)
                if partial:
                    scores_2 = gl.where(keys[None, :] <= rows[:, None], scores_2, float("-inf"))
                new_max_2 = gl.maximum(running_max_2, gl.max(scores_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max_2 = gl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
                rescale_2 = gl.exp2((running_max_2 - finite_max_2) * scale)
                attn2 = gl.exp2(scores_2 * scale - (finite_max_2 * scale)[:, None])  # differential.py:38
                accumulator_2 = warpgroup_mma(
                    gl.convert_layout(attn2.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator_2 * rescale_2[:, None],
                )
                release(v_ring, step)
                running_sum_2 = running_sum_2 * rescale_2 + gl.sum(attn2, 1)
                running_max = new_max
                running_max_2 = new_max_2
                step += 1
            for _ in range(gl.cdiv(own_stop, BLOCK_KEYS) * BLOCK_KEYS, live_stop, BLOCK_KEYS):
                pass_by(k_ring, step)
                pass_by(v_ring, step)
                pass_by(k_ring_2, step)
                step += 1
            release(q_ring, done * GROUPS + GROUP)
            release(q_ring_2, done * GROUPS + GROUP)

            lambda_full = gl.load(lambda_full_ptr + head * lambda_full_stride_h)
            output = (
                accumulator * (1.0 / running_sum)[:, None]
                - accumulator_2 * (1.0 / running_sum_2 * lambda_full.to(gl.float32))[:, None]
            )
            send_back(
                output_blocks,
                [batch, gl.cast(head, gl.int32), group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S"])
def diff_attn_chunk_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, lambda_full_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    lambda_full_stride_h,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, D_v: gl.constexpr, BLOCK_D_v: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """diff_attn_chunk:

        mask[i, j] = j > i
        t[b, h, i, j] = where(mask[i, j], -inf, float32((Σ_d q[b, h, i, d] * k[b, h, j, d]) * float32(D) **
            -0.5))
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        attn1[b, h, i, j] = t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j])
        t_3[b, h, i, j] = where(mask[i, j], -inf, float32((Σ_d q[b, h + H, i, d] * k[b, h + H, j, d]) *
            float32(D) ** -0.5))
        t_4[b, h, i, j] = exp(t_3[b, h, i, j] - (max_j t_3[b, h, i, j]))
        attn2[b, h, i, j] = t_4[b, h, i, j] / (Σ_j t_4[b, h, i, j])
        attn[b, h, i, j] = attn1[b, h, i, j] - lambda_full[h] * attn2[b, h, i, j]
        output[b, h, i, d_v] = Σ_j element(attn[b, h, i, j]) * v[b, h, j, d_v]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    q_ring_2 = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D_v])
    k_ring_2 = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D_v])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, q_stride_b, q_stride_h, q_stride_s, k_stride_b, k_stride_h, k_stride_s, v_stride_b,
        v_stride_h, v_stride_s, H, B, S, q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
    )
    rows = (
        lambda_full_ptr, output_ptr, lambda_full_stride_h, output_stride_b, output_stride_h, output_stride_s, H, B, S,
        scale, q_ring, q_ring_2, k_ring, v_ring, k_ring_2, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (diff_attn_chunk_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_chunk_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (diff_attn_chunk_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_chunk_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (diff_attn_chunk_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (diff_attn_chunk_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_chunk_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (diff_attn_chunk_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (diff_attn_chunk_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def diff_attn_norm_loads(
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
        H, B, S,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr, [B, H * 2, S, D], [q_stride_b, q_stride_h, q_stride_s, 1], [1, 1, GROUP_ROWS, BLOCK_D], q_ring[0].layout
    )
    q_blocks_2 = tma.make_tensor_descriptor(
        q_ptr,
        [B, H * 2, S, D],
        [q_stride_b, q_stride_h, q_stride_s, 1],
        [1, 1, GROUP_ROWS, BLOCK_D],
        q_ring_2[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr, [B, H * 2, S, D], [k_stride_b, k_stride_h, k_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D], k_ring[0].layout
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr, [B, H, S, D_v], [v_stride_b, v_stride_h, v_stride_s, 1], [1, 1, BLOCK_KEYS, BLOCK_D_v], v_ring[0].layout
    )
    k_blocks_2 = tma.make_tensor_descriptor(
        k_ptr,
        [B, H * 2, S, D],
        [k_stride_b, k_stride_h, k_stride_s, 1],
        [1, 1, BLOCK_KEYS, BLOCK_D],
        k_ring_2[0].layout,
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
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks,
                    [batch, gl.cast(head, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_ring,
                    done * GROUPS + group,
                )
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks_2,
                    [batch, gl.cast(head + H, gl.int32), row_start + group * GROUP_ROWS, 0],
                    q_ring_2,
                    done * GROUPS + group,
                )
            for key_start in range(0, S, BLOCK_KEYS):
                send(k_blocks, [batch, gl.cast(head, gl.int32), key_start, 0], k_ring, step)
                send(v_blocks, [batch, gl.cast(head, gl.int32), key_start, 0], v_ring, step)
                send(k_blocks_2, [batch, gl.cast(head + H, gl.int32), key_start, 0], k_ring_2, step)
                step += 1
            done += 1


@gluon.jit
def diff_attn_norm_rows(
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
        weight_ptr, output_ptr,
        # their strides, in elements
        weight_stride_d,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        H, B, S,
        # numbers
        scale, lam, scale_2, scale_3,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2, output_buffer,
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
            d_v = gl.arange(0, BLOCK_D_v, gl.SliceLayout(0, LAYOUT)).to(gl.int64)
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            q = received(q_ring, done * GROUPS + GROUP)
            q_2 = received(q_ring_2, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))
            running_max_2 = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator_2 = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum_2 = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                scores = matmul(q, k.permute((1, 0)), LAYOUT)
                release(k_ring, step)
                if partial:
                    visible = keys < S
                    scores = gl.where(visible[None, :], scores, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                attn1 = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # differential.py:55
                v = received(v_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(attn1.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator * rescale[:, None],
                )
                running_sum = running_sum * rescale + gl.sum(attn1, 1)
                k_2 = received(k_ring_2, step)
                scores_2 = matmul(q_2, k_2.permute((1, 0)), LAYOUT)
                release(k_ring_2, step)
                if partial:
                    visible_2 = keys < S
                    scores_2 = gl.where(visible_2[None, :], scores_2, float("-inf"))
                new_max_2 = gl.maximum(running_max_2, gl.max(scores_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max_2 = gl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
                rescale_2 = gl.exp2((running_max_2 - finite_max_2) * scale)
                attn2 = gl.exp2(scores_2 * scale - (finite_max_2 * scale)[:, None])  # differential.py:56
                accumulator_2 = warpgroup_mma(
                    gl.convert_layout(attn2.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator_2 * rescale_2[:, None],
                )
                release(v_ring, step)
                running_sum_2 = running_sum_2 * rescale_2 + gl.sum(attn2, 1)
                running_max = new_max
                running_max_2 = new_max_2
                step += 1
            release(q_ring, done * GROUPS + GROUP)
            release(q_ring_2, done * GROUPS + GROUP)

            out = (
                accumulator * (1.0 / running_sum)[:, None] - accumulator_2 * (1.0 / running_sum_2 * lam)[:, None]
            )  # differential.py:57
            normed = (
                out * gl.rsqrt(gl.sum(gl.where((d_v < D_v)[None, :], out * out, 0.0), 1) * scale_2 + 1e-05)[:, None]
            )  # differential.py:58
            weight = load_tile(weight_ptr + d_v * weight_stride_d, (d_v < D_v), BLOCK_D_v != D_v)
            output = normed * (weight.to(gl.float32) * scale_3)[None, :]
            send_back(
                output_blocks,
                [batch, head, group_start, 0],
                output_buffer.index(GROUP),
                output.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S"])
def diff_attn_norm_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, weight_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s,
    k_stride_b, k_stride_h, k_stride_s,
    v_stride_b, v_stride_h, v_stride_s,
    weight_stride_d,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    H, B, S,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    lam,
    scale_2,  # 1.0 / D_v
    scale_3,  # 1.0 - lambda_init
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, D_v: gl.constexpr, BLOCK_D_v: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """diff_attn_norm:

        t[b, h, i, j] = (Σ_d q[b, h, i, d] * k[b, h, j, d]) * float32(D) ** -0.5
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        attn1[b, h, i, j] = t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j])
        t_3[b, h, i, j] = (Σ_d q[b, h + H, i, d] * k[b, h + H, j, d]) * float32(D) ** -0.5
        t_4[b, h, i, j] = exp(t_3[b, h, i, j] - (max_j t_3[b, h, i, j]))
        attn2[b, h, i, j] = t_4[b, h, i, j] / (Σ_j t_4[b, h, i, j])
        out[b, h, i, d_v] = float32(Σ_j (attn1[b, h, i, j] - attn2[b, h, i, j] * lam) * v[b, h, j, d_v])
        normed[b, h, i, d_v] = out[b, h, i, d_v] * rsqrt((Σ_d_v out[b, h, i, d_v] * out[b, h, i, d_v]) /
            float32(D_v) + 1e-05)
        output[b, h, i, d_v] = element(normed[b, h, i, d_v]) * weight[d_v] * (1 - lambda_init)

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    q_ring_2 = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D_v])
    k_ring_2 = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D_v])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, q_stride_b, q_stride_h, q_stride_s, k_stride_b, k_stride_h, k_stride_s, v_stride_b,
        v_stride_h, v_stride_s, H, B, S, q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
    )
    rows = (
        weight_ptr, output_ptr, weight_stride_d, output_stride_b, output_stride_h, output_stride_s, H, B, S, scale,
        lam, scale_2, scale_3, q_ring, q_ring_2, k_ring, v_ring, k_ring_2, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (diff_attn_norm_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_norm_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (diff_attn_norm_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_norm_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (diff_attn_norm_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (diff_attn_norm_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (diff_attn_norm_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (diff_attn_norm_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (diff_attn_norm_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def multihead_diff_attn_loads(
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
        q_stride_b, q_stride_s, q_stride_h,
        k_stride_b, k_stride_s, k_stride_h,
        v_stride_b, v_stride_s, v_stride_h,
        # sizes: one compiled kernel serves them all
        H, B, S,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
        # fmt: on
    ) = given
    q_blocks = tma.make_tensor_descriptor(
        q_ptr, [B, S, H * 2, D], [q_stride_b, q_stride_s, q_stride_h, 1], [1, GROUP_ROWS, 1, BLOCK_D], q_ring[0].layout
    )
    q_blocks_2 = tma.make_tensor_descriptor(
        q_ptr,
        [B, S, H * 2, D],
        [q_stride_b, q_stride_s, q_stride_h, 1],
        [1, GROUP_ROWS, 1, BLOCK_D],
        q_ring_2[0].layout,
    )
    k_blocks = tma.make_tensor_descriptor(
        k_ptr, [B, S, H * 2, D], [k_stride_b, k_stride_s, k_stride_h, 1], [1, BLOCK_KEYS, 1, BLOCK_D], k_ring[0].layout
    )
    v_blocks = tma.make_tensor_descriptor(
        v_ptr, [B, S, H, D_v], [v_stride_b, v_stride_s, v_stride_h, 1], [1, BLOCK_KEYS, 1, BLOCK_D_v], v_ring[0].layout
    )
    k_blocks_2 = tma.make_tensor_descriptor(
        k_ptr,
        [B, S, H * 2, D],
        [k_stride_b, k_stride_s, k_stride_h, 1],
        [1, BLOCK_KEYS, 1, BLOCK_D],
        k_ring_2[0].layout,
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
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks,
                    [batch, row_start + group * GROUP_ROWS, gl.cast(head * 2, gl.int32), 0],
                    q_ring,
                    done * GROUPS + group,
                )
            for group in gl.static_range(GROUPS):
                send(
                    q_blocks_2,
                    [batch, row_start + group * GROUP_ROWS, gl.cast(head * 2 + 1, gl.int32), 0],
                    q_ring_2,
                    done * GROUPS + group,
                )
            for key_start in range(0, S, BLOCK_KEYS):
                send(k_blocks, [batch, key_start, gl.cast(head * 2, gl.int32), 0], k_ring, step)
                send(v_blocks, [batch, key_start, gl.cast(head, gl.int32), 0], v_ring, step)
                send(k_blocks_2, [batch, key_start, gl.cast(head * 2 + 1, gl.int32), 0], k_ring_2, step)
                step += 1
            done += 1


@gluon.jit
def multihead_diff_attn_rows(
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
        lambda_full_ptr, output_ptr,
        # their strides, in elements
        output_stride_b, output_stride_s, output_stride_h,
        # sizes: one compiled kernel serves them all
        H, B, S,
        # numbers
        scale, scale_2, scale_3,
        # rings in shared memory
        q_ring, q_ring_2, k_ring, v_ring, k_ring_2, output_buffer,
        # fmt: on
    ) = given
    LAYOUT: gl.constexpr = product_layout(BLOCK_KEYS, BLOCK_D, BLOCK_D_v)
    output_blocks = tma.make_tensor_descriptor(
        output_ptr,
        [B, S, H, D_v],
        [output_stride_b, output_stride_s, output_stride_h, 1],
        [1, GROUP_ROWS, 1, BLOCK_D_v],
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
            d_v = gl.arange(0, BLOCK_D_v, gl.SliceLayout(0, LAYOUT)).to(gl.int64)
            # Rows of this group
            group_start = row_start + GROUP * GROUP_ROWS
            q = received(q_ring, done * GROUPS + GROUP)
            q_2 = received(q_ring_2, done * GROUPS + GROUP)

            running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))
            running_max_2 = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
            accumulator_2 = gl.zeros([GROUP_ROWS, BLOCK_D_v], gl.float32, LAYOUT)
            running_sum_2 = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

            # The last block may reach past the keys
            full_stop = S // BLOCK_KEYS * BLOCK_KEYS

            for key_start in range(0, S, BLOCK_KEYS):
                keys = key_start + key_offsets
                partial = key_start >= full_stop
                k = received(k_ring, step)
                attn_weights = matmul(q, k.permute((1, 0)), LAYOUT)  # differential.py:72
                release(k_ring, step)
                if partial:
                    visible = keys < S
                    attn_weights = gl.where(visible[None, :], attn_weights, float("-inf"))
                new_max = gl.maximum(running_max, gl.max(attn_weights, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = gl.exp2((running_max - finite_max) * scale)
                weights = gl.exp2(attn_weights * scale - (finite_max * scale)[:, None])
                v = received(v_ring, step)
                accumulator = warpgroup_mma(
                    gl.convert_layout(weights.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator * rescale[:, None],
                )
                running_sum = running_sum * rescale + gl.sum(weights, 1)
                k_2 = received(k_ring_2, step)
                attn_weights_2 = matmul(q_2, k_2.permute((1, 0)), LAYOUT)  # differential.py:72
                release(k_ring_2, step)
                if partial:
                    visible_2 = keys < S
                    attn_weights_2 = gl.where(visible_2[None, :], attn_weights_2, float("-inf"))
                new_max_2 = gl.maximum(running_max_2, gl.max(attn_weights_2, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max_2 = gl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
                rescale_2 = gl.exp2((running_max_2 - finite_max_2) * scale)
                weights_2 = gl.exp2(attn_weights_2 * scale - (finite_max_2 * scale)[:, None])
                accumulator_2 = warpgroup_mma(
                    gl.convert_layout(weights_2.to(v.dtype), gl.DotOperandLayout(0, LAYOUT, 2)),
                    v,
                    accumulator_2 * rescale_2[:, None],
                )
                release(v_ring, step)
                running_sum_2 = running_sum_2 * rescale_2 + gl.sum(weights_2, 1)
                running_max = new_max
                running_max_2 = new_max_2
                step += 1
            release(q_ring, done * GROUPS + GROUP)
            release(q_ring_2, done * GROUPS + GROUP)

            lambda_full = gl.load(lambda_full_ptr)
            attn = (
                accumulator * (1.0 / running_sum)[:, None]
                - accumulator_2 * (1.0 / running_sum_2 * lambda_full.to(gl.float32))[:, None]
            )  # differential.py:76
            attn_2 = (
                attn
                * (gl.rsqrt(gl.sum(gl.where((d_v < D_v)[None, :], attn * attn, 0.0), 1) * scale_2 + 1e-05) * scale_3)[
                    :, None
                ]
            )  # differential.py:77
            send_back(
                output_blocks,
                [batch, group_start, head, 0],
                output_buffer.index(GROUP),
                attn_2.to(output_ptr.dtype.element_ty),
            )
            done += 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["H", "B", "S"])
def multihead_diff_attn_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, lambda_full_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_s, q_stride_h,
    k_stride_b, k_stride_s, k_stride_h,
    v_stride_b, v_stride_s, v_stride_h,
    output_stride_b, output_stride_s, output_stride_h,
    # sizes: one compiled kernel serves them all
    H, B, S,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    scale_2,  # 1.0 / D_v
    scale_3,  # 1.0 - lambda_init
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, D_v: gl.constexpr, BLOCK_D_v: gl.constexpr, BLOCK_ROWS: gl.constexpr,
    BLOCK_KEYS: gl.constexpr, STAGES: gl.constexpr,
    # fmt: on
):
    """multihead_diff_attn:

        attn_weights[b, h, i, j] = Σ_d q[b, i, h * 2, d] * float32(D) ** -0.5 * k[b, j, h * 2, d]
        t[b, h, i, j] = float32(attn_weights[b, h, i, j])
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        attn_weights_2[b, h, i, j] = element(t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j]))
        attn_weights_3[b, h, i, j] = Σ_d q[b, i, h * 2 + 1, d] * float32(D) ** -0.5 * k[b, j, h * 2 + 1, d]
        t_3[b, h, i, j] = float32(attn_weights_3[b, h, i, j])
        t_4[b, h, i, j] = exp(t_3[b, h, i, j] - (max_j t_3[b, h, i, j]))
        attn_weights_4[b, h, i, j] = element(t_4[b, h, i, j] / (Σ_j t_4[b, h, i, j]))
        attn_weights_5[b, h, i, j] = attn_weights_2[b, h, i, j] - lambda_full[] * attn_weights_4[b, h, i, j]
        attn[b, h, i, d_v] = float32(Σ_j attn_weights_5[b, h, i, j] * v[b, j, h, d_v])
        attn_2[b, h, i, d_v] = attn[b, h, i, d_v] * rsqrt((Σ_d_v attn[b, h, i, d_v] * attn[b, h, i, d_v]) /
            float32(D_v) + 1e-05) * (1 - lambda_init)
        output[b, i, h, d_v] = element(attn_2[b, h, i, d_v])

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    q_ring = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, 1, BLOCK_D])
    q_ring_2 = ring_of(q_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, GROUP_ROWS, 1, BLOCK_D])
    k_ring = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, BLOCK_D])
    v_ring = ring_of(v_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, BLOCK_D_v])
    k_ring_2 = ring_of(k_ptr.dtype.element_ty, STAGES, GROUPS, [1, BLOCK_KEYS, 1, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, GROUP_ROWS, 1, BLOCK_D_v])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        q_ptr, k_ptr, v_ptr, q_stride_b, q_stride_s, q_stride_h, k_stride_b, k_stride_s, k_stride_h, v_stride_b,
        v_stride_s, v_stride_h, H, B, S, q_ring, q_ring_2, k_ring, v_ring, k_ring_2,
    )
    rows = (
        lambda_full_ptr, output_ptr, output_stride_b, output_stride_s, output_stride_h, H, B, S, scale, scale_2,
        scale_3, q_ring, q_ring_2, k_ring, v_ring, k_ring_2, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (multihead_diff_attn_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (multihead_diff_attn_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (multihead_diff_attn_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (multihead_diff_attn_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (multihead_diff_attn_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (multihead_diff_attn_loads, (loads, D, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (multihead_diff_attn_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (multihead_diff_attn_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (multihead_diff_attn_rows, (rows, BLOCK_D, D_v, BLOCK_D_v, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
