"""Hopper kernels for packed_documents.py, in Gluon.

Written by flashlight 0.1.0 from examples/packed_documents.py (sha256 bcc5a917dd46d524)
with `flashlight transpile examples/packed_documents.py`; change the source and run that again.

In each program one group of four warps, the loads, fills rings of blocks in shared memory by the copy engine. Every
other group, the rows, computes 64 rows of a tile and drains the rings. The loads draw the number of each tile, heavy
ones first, and announce it to the rows; from it all derive the same blocks of keys.
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


@gluon.jit
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return gl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@gluon.jit
def packed_documents_loads(
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
        # for each block of rows, the ranges of keys with values as its own
        document_id_ranges_ptr,
        # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
        document_id_order_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s,
        value_stride_b, value_stride_h, value_stride_s,
        # sizes: one compiled kernel serves them all
        B, H, S,
        # rings in shared memory
        turns, query_ring, key_ring, value_ring,
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
    number = gl.program_id(0)
    announce(turns, done, number)
    while number < B * row_blocks * H:
        block = gl.load(document_id_order_ptr + number // H)
        row_start = block % row_blocks * BLOCK_ROWS
        batch = block // row_blocks
        head = number % H
        document_id_range = document_id_ranges_ptr + block * 4
        live_start = gl.load(document_id_range)
        live_stop = gl.maximum(live_start, gl.minimum(BLOCK_ROWS + row_start, gl.load(document_id_range + 1)))
        for group in gl.static_range(GROUPS):
            send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
        for key_start in range(live_start, live_stop, BLOCK_KEYS):
            send(key_blocks, [batch, head, key_start, 0], key_ring, step)
            send(value_blocks, [batch, head, key_start, 0], value_ring, step)
            step += 1
        done += 1
        number = drawn(document_id_order_ptr + B * row_blocks)
        announce(turns, done, number)


@gluon.jit
def packed_documents_rows(
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
        document_id_ptr, output_ptr,
        # for each block of rows, the ranges of keys with values as its own
        document_id_ranges_ptr,
        # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
        document_id_order_ptr,
        # their strides, in elements
        document_id_stride_b, document_id_stride_s,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        B, H, S,
        # numbers
        scale,
        # rings in shared memory
        turns, query_ring, key_ring, value_ring, output_buffer,
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
    number = told(turns, done)
    while number < B * row_blocks * H:
        block = gl.load(document_id_order_ptr + number // H)
        row_start = block % row_blocks * BLOCK_ROWS
        batch = (block // row_blocks).to(gl.int64)
        head = number % H
        key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
        # Rows of this group
        group_start = row_start + GROUP * GROUP_ROWS
        row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
        rows = row_start + row_offsets
        query = received(query_ring, done * GROUPS + GROUP)

        # Read once: the rows, and what is the same for every block of keys
        row_document_id = gl.load(
            document_id_ptr
            + batch * document_id_stride_b
            + gl.cast(row_start, gl.int64) * document_id_stride_s
            + gl.cast(row_offsets, gl.int64) * document_id_stride_s,
            mask=(rows < S),
            other=0,
        )
        document_id_row = document_id_ptr + batch * document_id_stride_b

        running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
        accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
        running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

        # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
        document_id_range = document_id_ranges_ptr + block * 4
        document_id_start = gl.load(document_id_range + 2)
        document_id_stop = gl.load(document_id_range + 3)
        live_start = gl.load(document_id_range)
        live_stop = gl.maximum(live_start, gl.minimum(BLOCK_ROWS + row_start, gl.load(document_id_range + 1)))
        full_stop = gl.minimum(S, group_start + 1) // BLOCK_KEYS * BLOCK_KEYS
        # Of the blocks that some row of the tile sees, those that one of this group does
        own_stop = gl.minimum(live_stop, GROUP_ROWS + group_start)

        for key_start in range(live_start, own_stop, BLOCK_KEYS):
            keys = key_start + key_offsets
            partial = key_start >= full_stop
            document_id_mixed = (key_start < document_id_start) | (key_start >= document_id_stop)
            key = received(key_ring, step)
            scores = matmul(query, key.permute((1, 0)), LAYOUT)  # packed_documents.py:22
            release(key_ring, step)
            # Full blocks skip both tests by one branch
            if partial | document_id_mixed:
                if partial:
                    scores = gl.where(rows[:, None] >= keys[None, :], scores, float("-inf"))
                if document_id_mixed:
                    key_document_id = gl.load(
                        document_id_row + gl.cast(gl.minimum(keys, S - 1), gl.int64) * document_id_stride_s
                    )
                    scores = gl.where(row_document_id[:, None] == key_document_id[None, :], scores, float("-inf"))
            new_max = gl.maximum(running_max, gl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = gl.exp2((running_max - finite_max) * scale)
            attn_weights = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # packed_documents.py:23
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
        for _ in range(gl.maximum(live_start, gl.cdiv(own_stop, BLOCK_KEYS) * BLOCK_KEYS), live_stop, BLOCK_KEYS):
            pass_by(key_ring, step)
            pass_by(value_ring, step)
            step += 1
        release(query_ring, done * GROUPS + GROUP)

        output = accumulator * (1.0 / running_sum)[:, None]
        send_back(
            output_blocks,
            [gl.cast(batch, gl.int32), head, group_start, 0],
            output_buffer.index(GROUP),
            output.to(output_ptr.dtype.element_ty),
        )
        done += 1
        number = told(turns, done)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["B", "H", "S"])
def packed_documents_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, document_id_ptr, output_ptr,
    # for each block of rows, the ranges of keys with values as its own
    document_id_ranges_ptr,
    # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
    document_id_order_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    document_id_stride_b, document_id_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    B, H, S,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """packed_documents:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        scores_2[b, h, i, j] = where(i < j or document_id[b, i] != document_id[b, j], -inf, scores[b, h, i, j])
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
        attn_weights[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d] = Σ_j attn_weights[b, h, i, j] * value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    turns = turns_of(GROUPS)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, document_id_ranges_ptr, document_id_order_ptr, query_stride_b, query_stride_h,
        query_stride_s, key_stride_b, key_stride_h, key_stride_s, value_stride_b, value_stride_h, value_stride_s, B, H,
        S, turns, query_ring, key_ring, value_ring,
    )
    rows = (
        document_id_ptr, output_ptr, document_id_ranges_ptr, document_id_order_ptr, document_id_stride_b,
        document_id_stride_s, output_stride_b, output_stride_h, output_stride_s, B, H, S, scale, turns, query_ring,
        key_ring, value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (packed_documents_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (packed_documents_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (packed_documents_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (packed_documents_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (packed_documents_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (packed_documents_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def packed_documents_bidirectional_loads(
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
        # for each block of rows, the ranges of keys with values as its own
        segment_ids_ranges_ptr,
        # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
        segment_ids_order_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s,
        value_stride_b, value_stride_h, value_stride_s,
        # sizes: one compiled kernel serves them all
        B, H, S,
        # rings in shared memory
        turns, query_ring, key_ring, value_ring,
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
    number = gl.program_id(0)
    announce(turns, done, number)
    while number < B * row_blocks * H:
        block = gl.load(segment_ids_order_ptr + number // H)
        row_start = block % row_blocks * BLOCK_ROWS
        batch = block // row_blocks
        head = number % H
        segment_ids_range = segment_ids_ranges_ptr + block * 4
        live_start = gl.load(segment_ids_range)
        live_stop = gl.maximum(live_start, gl.load(segment_ids_range + 1))
        for group in gl.static_range(GROUPS):
            send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
        for key_start in range(live_start, live_stop, BLOCK_KEYS):
            send(key_blocks, [batch, head, key_start, 0], key_ring, step)
            send(value_blocks, [batch, head, key_start, 0], value_ring, step)
            step += 1
        done += 1
        number = drawn(segment_ids_order_ptr + B * row_blocks)
        announce(turns, done, number)


@gluon.jit
def packed_documents_bidirectional_rows(
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
        segment_ids_ptr, output_ptr,
        # for each block of rows, the ranges of keys with values as its own
        segment_ids_ranges_ptr,
        # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
        segment_ids_order_ptr,
        # their strides, in elements
        segment_ids_stride_b, segment_ids_stride_s,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        B, H, S,
        # numbers
        scale,
        # rings in shared memory
        turns, query_ring, key_ring, value_ring, output_buffer,
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
    number = told(turns, done)
    while number < B * row_blocks * H:
        block = gl.load(segment_ids_order_ptr + number // H)
        row_start = block % row_blocks * BLOCK_ROWS
        batch = (block // row_blocks).to(gl.int64)
        head = number % H
        key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
        # Rows of this group
        group_start = row_start + GROUP * GROUP_ROWS
        row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
        rows = row_start + row_offsets
        query = received(query_ring, done * GROUPS + GROUP)

        # Read once: the rows, and what is the same for every block of keys
        row_segment_ids = gl.load(
            segment_ids_ptr
            + batch * segment_ids_stride_b
            + gl.cast(row_start, gl.int64) * segment_ids_stride_s
            + gl.cast(row_offsets, gl.int64) * segment_ids_stride_s,
            mask=(rows < S),
            other=0,
        )
        segment_ids_row = segment_ids_ptr + batch * segment_ids_stride_b

        running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
        accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
        running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

        # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
        segment_ids_range = segment_ids_ranges_ptr + block * 4
        segment_ids_start = gl.load(segment_ids_range + 2)
        segment_ids_stop = gl.load(segment_ids_range + 3)
        live_start = gl.load(segment_ids_range)
        live_stop = gl.maximum(live_start, gl.load(segment_ids_range + 1))
        full_stop = S // BLOCK_KEYS * BLOCK_KEYS

        for key_start in range(live_start, live_stop, BLOCK_KEYS):
            keys = key_start + key_offsets
            partial = key_start >= full_stop
            segment_ids_mixed = (key_start < segment_ids_start) | (key_start >= segment_ids_stop)
            key = received(key_ring, step)
            scores = matmul(query, key.permute((1, 0)), LAYOUT)  # packed_documents.py:36
            release(key_ring, step)
            # Full blocks skip both tests by one branch
            if partial | segment_ids_mixed:
                if partial:
                    scores = gl.where((keys < S)[None, :], scores, float("-inf"))
                if segment_ids_mixed:
                    key_segment_ids = gl.load(
                        segment_ids_row + gl.cast(gl.minimum(keys, S - 1), gl.int64) * segment_ids_stride_s
                    )
                    scores = gl.where(row_segment_ids[:, None] == key_segment_ids[None, :], scores, float("-inf"))
            new_max = gl.maximum(running_max, gl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = gl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = gl.exp2((running_max - finite_max) * scale)
            probs = gl.exp2(scores * scale - (finite_max * scale)[:, None])  # packed_documents.py:37
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
            [gl.cast(batch, gl.int32), head, group_start, 0],
            output_buffer.index(GROUP),
            output.to(output_ptr.dtype.element_ty),
        )
        done += 1
        number = told(turns, done)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["B", "H", "S"])
def packed_documents_bidirectional_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, segment_ids_ptr, output_ptr,
    # for each block of rows, the ranges of keys with values as its own
    segment_ids_ranges_ptr,
    # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
    segment_ids_order_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    segment_ids_stride_b, segment_ids_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    B, H, S,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """packed_documents_bidirectional:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) * float32(D) ** -0.5
        different[b, i, j] = segment_ids[b, i] != segment_ids[b, j]
        bias[b, i, j] = where(different[b, i, j], -inf, 0)
        t[b, h, i, j] = scores[b, h, i, j] + bias[b, i, j]
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        probs[b, h, i, j] = t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j])
        output[b, h, i, d] = Σ_j probs[b, h, i, j] * value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    turns = turns_of(GROUPS)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, segment_ids_ranges_ptr, segment_ids_order_ptr, query_stride_b, query_stride_h,
        query_stride_s, key_stride_b, key_stride_h, key_stride_s, value_stride_b, value_stride_h, value_stride_s, B, H,
        S, turns, query_ring, key_ring, value_ring,
    )
    rows = (
        segment_ids_ptr, output_ptr, segment_ids_ranges_ptr, segment_ids_order_ptr, segment_ids_stride_b,
        segment_ids_stride_s, output_stride_b, output_stride_h, output_stride_s, B, H, S, scale, turns, query_ring,
        key_ring, value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (packed_documents_bidirectional_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_bidirectional_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (packed_documents_bidirectional_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_bidirectional_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (packed_documents_bidirectional_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (packed_documents_bidirectional_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_bidirectional_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (packed_documents_bidirectional_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (packed_documents_bidirectional_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on


@gluon.jit
def packed_documents_cross_loads(
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
        # for each block of rows, the ranges of keys with values as its own
        key_document_ranges_ptr,
        # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
        key_document_order_ptr,
        # their strides, in elements
        query_stride_b, query_stride_h, query_stride_s,
        key_stride_b, key_stride_h, key_stride_s,
        value_stride_b, value_stride_h, value_stride_s,
        # sizes: one compiled kernel serves them all
        B, H, S_q, S_k,
        # rings in shared memory
        turns, query_ring, key_ring, value_ring,
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
    number = gl.program_id(0)
    announce(turns, done, number)
    while number < B * row_blocks * H:
        block = gl.load(key_document_order_ptr + number // H)
        row_start = block % row_blocks * BLOCK_ROWS
        batch = block // row_blocks
        head = number % H
        key_document_range = key_document_ranges_ptr + block * 4
        live_start = gl.load(key_document_range)
        live_stop = gl.maximum(live_start, gl.load(key_document_range + 1))
        for group in gl.static_range(GROUPS):
            send(query_blocks, [batch, head, row_start + group * GROUP_ROWS, 0], query_ring, done * GROUPS + group)
        for key_start in range(live_start, live_stop, BLOCK_KEYS):
            send(key_blocks, [batch, head, key_start, 0], key_ring, step)
            send(value_blocks, [batch, head, key_start, 0], value_ring, step)
            step += 1
        done += 1
        number = drawn(key_document_order_ptr + B * row_blocks)
        announce(turns, done, number)


@gluon.jit
def packed_documents_cross_rows(
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
        query_document_ptr, key_document_ptr, output_ptr,
        # for each block of rows, the ranges of keys with values as its own
        key_document_ranges_ptr,
        # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
        key_document_order_ptr,
        # their strides, in elements
        query_document_stride_b, query_document_stride_s,
        key_document_stride_b, key_document_stride_s,
        output_stride_b, output_stride_h, output_stride_s,
        # sizes: one compiled kernel serves them all
        B, H, S_q, S_k,
        # numbers
        scale,
        # rings in shared memory
        turns, query_ring, key_ring, value_ring, output_buffer,
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
    number = told(turns, done)
    while number < B * row_blocks * H:
        block = gl.load(key_document_order_ptr + number // H)
        row_start = block % row_blocks * BLOCK_ROWS
        batch = (block // row_blocks).to(gl.int64)
        head = number % H
        key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))
        # Rows of this group
        group_start = row_start + GROUP * GROUP_ROWS
        row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))
        rows = row_start + row_offsets
        query = received(query_ring, done * GROUPS + GROUP)

        # Read once: the rows, and what is the same for every block of keys
        query_document = gl.load(
            query_document_ptr
            + batch * query_document_stride_b
            + gl.cast(row_start, gl.int64) * query_document_stride_s
            + gl.cast(row_offsets, gl.int64) * query_document_stride_s,
            mask=(rows < S_q),
            other=0,
        )
        key_document_row = key_document_ptr + batch * key_document_stride_b

        running_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, LAYOUT))
        accumulator = gl.zeros([GROUP_ROWS, BLOCK_D], gl.float32, LAYOUT)
        running_sum = gl.zeros([GROUP_ROWS], gl.float32, gl.SliceLayout(1, LAYOUT))

        # Keys that some row of this tile sees (live), and whole blocks that all rows of this group see (full)
        key_document_range = key_document_ranges_ptr + block * 4
        key_document_start = gl.load(key_document_range + 2)
        key_document_stop = gl.load(key_document_range + 3)
        live_start = gl.load(key_document_range)
        live_stop = gl.maximum(live_start, gl.load(key_document_range + 1))
        full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

        for key_start in range(live_start, live_stop, BLOCK_KEYS):
            keys = key_start + key_offsets
            partial = key_start >= full_stop
            key_document_mixed = (key_start < key_document_start) | (key_start >= key_document_stop)
            key = received(key_ring, step)
            scores = matmul(query, key.permute((1, 0)), LAYOUT)
            release(key_ring, step)
            # Full blocks skip both tests by one branch
            if partial | key_document_mixed:
                if partial:
                    scores = gl.where((keys < S_k)[None, :], scores, float("-inf"))
                if key_document_mixed:
                    key_document = gl.load(
                        key_document_row + gl.cast(gl.minimum(keys, S_k - 1), gl.int64) * key_document_stride_s
                    )
                    scores = gl.where(query_document[:, None] == key_document[None, :], scores, float("-inf"))
            new_max = nan_max(running_max, gl.reduce(scores, 1, nan_max))
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
        release(query_ring, done * GROUPS + GROUP)

        output = gl.where((running_max != float("-inf"))[:, None], accumulator * (1.0 / running_sum)[:, None], 0.0)
        send_back(
            output_blocks,
            [gl.cast(batch, gl.int32), head, group_start, 0],
            output_buffer.index(GROUP),
            output.to(output_ptr.dtype.element_ty),
        )
        done += 1
        number = told(turns, done)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["B", "H", "S_q", "S_k"])
def packed_documents_cross_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, query_document_ptr, key_document_ptr, output_ptr,
    # for each block of rows, the ranges of keys with values as its own
    key_document_ranges_ptr,
    # the blocks of rows, those with the longest ranges first, and how many tiles were drawn
    key_document_order_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s,
    key_stride_b, key_stride_h, key_stride_s,
    value_stride_b, value_stride_h, value_stride_s,
    query_document_stride_b, query_document_stride_s,
    key_document_stride_b, key_document_stride_s,
    output_stride_b, output_stride_h, output_stride_s,
    # sizes: one compiled kernel serves them all
    B, H, S_q, S_k,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings
    D: gl.constexpr, BLOCK_D: gl.constexpr, BLOCK_ROWS: gl.constexpr, BLOCK_KEYS: gl.constexpr,
    STAGES: gl.constexpr,
    # fmt: on
):
    """packed_documents_cross:

        t[b, h, i, j] = where(query_document[b, i] != key_document[b, j], -inf, (Σ_d query[b, h, i, d] * key[b,
            h, j, d]) / sqrt(float32(D)))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        output[b, h, i, d] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) *
            value[b, h, j, d]

    Programs take turns at each b, h and block of i; one group of four warps loads, each other one has 64 rows;
    one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    GROUPS: gl.constexpr = BLOCK_ROWS // GROUP_ROWS
    gl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)
    turns = turns_of(GROUPS)
    query_ring = ring_of(query_ptr.dtype.element_ty, 2 * GROUPS, 1, [1, 1, GROUP_ROWS, BLOCK_D])
    key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    value_ring = ring_of(value_ptr.dtype.element_ty, STAGES, GROUPS, [1, 1, BLOCK_KEYS, BLOCK_D])
    output_buffer = buffer_of(output_ptr.dtype.element_ty, GROUPS, [1, 1, GROUP_ROWS, BLOCK_D])
    fence_async_shared()  # the copy engine sees the barriers
    # fmt: off
    loads = (
        query_ptr, key_ptr, value_ptr, key_document_ranges_ptr, key_document_order_ptr, query_stride_b, query_stride_h,
        query_stride_s, key_stride_b, key_stride_h, key_stride_s, value_stride_b, value_stride_h, value_stride_s, B, H,
        S_q, S_k, turns, query_ring, key_ring, value_ring,
    )
    rows = (
        query_document_ptr, key_document_ptr, output_ptr, key_document_ranges_ptr, key_document_order_ptr,
        query_document_stride_b, query_document_stride_s, key_document_stride_b, key_document_stride_s,
        output_stride_b, output_stride_h, output_stride_s, B, H, S_q, S_k, scale, turns, query_ring, key_ring,
        value_ring, output_buffer,
    )
    # Groups that compute get the registers that those that load can spare
    if GROUPS == 1:
        gl.warp_specialize([
            (packed_documents_cross_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_cross_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
        ], [4], [240])
    elif GROUPS == 2:
        gl.warp_specialize([
            (packed_documents_cross_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_cross_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (packed_documents_cross_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
        ], [4, 4], [240, 240])
    elif GROUPS == 3:
        gl.warp_specialize([
            (packed_documents_cross_loads, (loads, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS)),
            (packed_documents_cross_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 0)),
            (packed_documents_cross_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 1)),
            (packed_documents_cross_rows, (rows, D, BLOCK_D, BLOCK_ROWS, BLOCK_KEYS, GROUPS, 2)),
        ], [4, 4, 4], [160, 160, 160])
    # fmt: on
