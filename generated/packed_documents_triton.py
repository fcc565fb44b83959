"""Triton kernels for packed_documents.py.

Written by flashlight 0.1.0 from examples/packed_documents.py (sha256 bcc5a917dd46d524)
with `flashlight transpile examples/packed_documents.py`; change the source and run that again.
"""

import functools
import importlib.util
import math
import os

import torch
import triton
import triton.language as tl

# Tiles that `flashlight tune` found: function, architecture, padded head dimension, bytes an element, keys;
# rows and keys of a tile, warps, pipeline stages, descriptors. `tile_for` serves without an entry.
# Those for sm_90a are tiles of the kernels in the _hopper file, which run where one is nearest.
TILES = {
    ("packed_documents", "sm_90", 64, 2, 1024): (64, 32, 4, 3, False),
    ("packed_documents", "sm_90", 64, 2, 4096): (64, 64, 4, 3, False),
    ("packed_documents", "sm_90", 64, 2, 16384): (64, 128, 4, 3, False),
    ("packed_documents", "sm_90", 128, 2, 1024): (64, 32, 4, 3, False),
    ("packed_documents", "sm_90", 128, 2, 4096): (64, 32, 4, 3, False),
    ("packed_documents", "sm_90", 128, 2, 16384): (64, 64, 4, 3, True),
    ("packed_documents", "sm_90a", 64, 2, 16384): (128, 128, 8, 2, True),
    ("packed_documents", "sm_90a", 128, 2, 4096): (128, 128, 8, 2, True),
    ("packed_documents", "sm_90a", 128, 2, 16384): (128, 128, 8, 2, True),
    ("packed_documents_bidirectional", "sm_90", 64, 2, 4096): (64, 128, 4, 3, False),
    ("packed_documents_bidirectional", "sm_90", 128, 2, 4096): (64, 32, 4, 3, False),
    ("packed_documents_bidirectional", "sm_90a", 128, 2, 4096): (128, 64, 8, 2, True),
    ("packed_documents_cross", "sm_90", 64, 2, 4096): (64, 64, 4, 3, False),
    ("packed_documents_cross", "sm_90", 128, 2, 4096): (64, 32, 4, 3, False),
}


@triton.jit
def key_counts(ranges_ptr, tiles, tile_count):
    """How many keys are in the ranges of blocks of rows, -1 for what is no block."""
    exists = tiles < tile_count
    start = tl.load(ranges_ptr + tiles * 4, mask=exists, other=0)
    stop = tl.load(ranges_ptr + tiles * 4 + 1, mask=exists, other=0)
    return tl.where(exists, tl.maximum(stop - start, 0), -1)


@triton.jit(do_not_specialize=["tile_count"])
def heaviest_first_kernel(
    ranges_ptr, order_ptr, tile_count, TILES: tl.constexpr, OTHERS: tl.constexpr, SECTION: tl.constexpr
):
    """The place of each of `TILES` blocks: how many of its section have more keys, or as many and come later."""
    tiles = tl.program_id(0) * TILES + tl.arange(0, TILES)
    keys = key_counts(ranges_ptr, tiles, tile_count)
    section = tl.program_id(0) * TILES // SECTION * SECTION
    places = tl.zeros([TILES], tl.int32)
    for first in tl.range(section, tl.minimum(section + SECTION, tile_count), OTHERS):
        others = first + tl.arange(0, OTHERS)
        other_keys = key_counts(ranges_ptr, others, tile_count)
        later = (other_keys[None, :] == keys[:, None]) & (others[None, :] > tiles[:, None])
        places += tl.sum(((other_keys[None, :] > keys[:, None]) | later).to(tl.int32), 1)
    tl.store(order_ptr + section + places, tiles, mask=tiles < tile_count)
    tl.store(order_ptr + tile_count, 0)


def heaviest_first(ranges):
    """What `matching_ranges` found; and the numbers of its blocks of rows, those with the longest ranges first.

    After them stands a zero, where programs will count the tiles that they draw. Of more than 4096 blocks each 4096
    have an order of their own.
    """
    tile_count = ranges.shape[0] * ranges.shape[1]
    order = torch.empty(tile_count + 1, dtype=torch.int32, device=ranges.device)
    launch(
        heaviest_first_kernel,
        -(-tile_count // 32),
        (ranges, order),
        (tile_count,),
        (),
        TILES=32,
        OTHERS=256,
        SECTION=4096,
    )
    return ranges, order


@triton.jit
def joined(start, stop, one_start, one_stop, ones, start_2, stop_2, one_start_2, one_stop_2, ones_2):
    """Two runs of live blocks and two of blocks of one value as one run each, and how many of the latter there are."""
    start, stop = tl.minimum(start, start_2), tl.maximum(stop, stop_2)
    return start, stop, tl.minimum(one_start, one_start_2), tl.maximum(one_stop, one_stop_2), ones + ones_2


@triton.jit(do_not_specialize=["row_count", "key_count"])
def matching_ranges_kernel(
    row_values_ptr,
    key_values_ptr,
    ranges_ptr,
    row_values_stride_0,
    row_values_stride_1,
    key_values_stride_0,
    key_values_stride_1,
    row_count,
    key_count,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
):
    """The four ends of `matching_ranges` for one block of rows; `BLOCKS` blocks of keys are looked at in one go.

    `ROWS` is the number of rows in a block, or the next power of two.
    """
    program = tl.program_id(0)
    row_blocks, key_blocks = tl.cdiv(row_count, BLOCK_ROWS), tl.cdiv(key_count, BLOCK_KEYS)
    row_values_ptr += (program // row_blocks).to(tl.int64) * row_values_stride_0
    key_values_ptr += (program // row_blocks).to(tl.int64) * key_values_stride_0
    # Past an end stands the last value once more
    row_offsets = tl.minimum(tl.arange(0, ROWS), BLOCK_ROWS - 1)
    rows = tl.minimum(program % row_blocks * BLOCK_ROWS + row_offsets, row_count - 1)
    row_values = tl.load(row_values_ptr + rows.to(tl.int64) * row_values_stride_1)
    row_low, row_high = tl.min(row_values), tl.max(row_values)
    live_start, live_stop, one_start, one_stop, ones = key_blocks, 0, key_blocks, 0, 0
    for first in tl.range(0, key_blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        exists = block < key_blocks
        keys = tl.minimum(block[:, None] * BLOCK_KEYS + tl.arange(0, BLOCK_KEYS)[None, :], key_count - 1)
        key_values = tl.load(key_values_ptr + keys.to(tl.int64) * key_values_stride_1)
        low, high = tl.min(key_values, 1), tl.max(key_values, 1)
        live = exists & (low <= row_high) & (high >= row_low)
        one = live & (low == high) & (row_low == row_high)
        found = tl.reduce(
            (
                tl.where(live, block, key_blocks),
                tl.where(live, block + 1, 0),
                tl.where(one, block, key_blocks),
                tl.where(one, block + 1, 0),
                one.to(tl.int32),
            ),
            0,
            joined,
        )
        live_start, live_stop, one_start, one_stop, ones = joined(
            live_start, live_stop, one_start, one_stop, ones, found[0], found[1], found[2], found[3], found[4]
        )
    # a run with a gap in it is no run
    one_stop = tl.where(ones == one_stop - one_start, one_stop, 0)
    ranges_ptr += program.to(tl.int64) * 4
    tl.store(ranges_ptr, live_start * BLOCK_KEYS)
    tl.store(ranges_ptr + 1, tl.minimum(live_stop * BLOCK_KEYS, key_count))
    tl.store(ranges_ptr + 2, one_start * BLOCK_KEYS)
    tl.store(ranges_ptr + 3, one_stop * BLOCK_KEYS)


def matching_ranges(row_values, key_values, block_rows, block_keys):
    """For each block of rows [N, R], the keys [N, K] whose values can equal its own: int32 [N, blocks of rows, 4].

    The four are the start and the stop of the blocks of keys that hold a value between the least and the greatest of
    the rows, and of those in which every value is the one value of the rows: two runs of whole blocks.
    """
    (count, rows), keys = row_values.shape, key_values.shape[1]
    row_blocks = -(-rows // block_rows)
    ranges = torch.empty((count, row_blocks, 4), dtype=torch.int32, device=row_values.device)
    launch(
        matching_ranges_kernel,
        count * row_blocks,
        (row_values, key_values, ranges),
        (*row_values.stride(), *key_values.stride(), rows, keys),
        (),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        ROWS=1 << (block_rows - 1).bit_length(),
        BLOCKS=max(1, (4096 if keys <= 4096 else 16384) // block_keys),
        num_warps=8 if keys <= 4096 else 16,
    )
    return ranges


@triton.jit
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["S", "H"])
def packed_documents_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, document_id_ptr, output_ptr,
    # for each block of rows, the ranges of keys with values as its own
    document_id_ranges_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    document_id_stride_b, document_id_stride_s,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """packed_documents:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        scores_2[b, h, i, j] = where(i < j or document_id[b, i] != document_id[b, j], -inf, scores[b, h, i, j])
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
        attn_weights[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d] = Σ_j attn_weights[b, h, i, j] * value[b, h, j, d]

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes: later rows see more keys, and start first
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (row_blocks - 1 - program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    batch = (program // row_blocks // H).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    row_document_id = tl.load(
        document_id_ptr
        + batch * document_id_stride_b
        + tl.cast(row_start, tl.int64) * document_id_stride_s
        + row_offsets * document_id_stride_s,
        mask=(rows < S),
        other=0,
    )
    document_id_block = document_id_ptr + batch * document_id_stride_b + key_offsets * document_id_stride_s
    query = tl.load(
        query_ptr
        + batch * query_stride_b
        + head * query_stride_h
        + tl.cast(row_start, tl.int64) * query_stride_s
        + row_offsets[:, None] * query_stride_s
        + d[None, :] * query_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    key_base = key_ptr + batch * key_stride_b + head * key_stride_h
    if DESCRIPTORS:
        key_blocks = tl.make_tensor_descriptor(key_base, [S, D], [key_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        key_blocks = key_base + key_offsets[:, None] * key_stride_s + d[None, :] * key_stride_d
    value_base = value_ptr + batch * value_stride_b + head * value_stride_h
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S, D], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    document_id_range = document_id_ranges_ptr + (batch * row_blocks + row_start // BLOCK_ROWS) * 4
    document_id_start = tl.load(document_id_range + 2)
    document_id_stop = tl.load(document_id_range + 3)
    live_start = tl.load(document_id_range)
    live_stop = tl.maximum(live_start, tl.minimum(BLOCK_ROWS + row_start, tl.load(document_id_range + 1)))
    full_stop = tl.minimum(S, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(live_start, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = key_start >= full_stop
        document_id_mixed = (key_start < document_id_start) | (key_start >= document_id_stop)
        if DESCRIPTORS:
            key = key_blocks.load([key_start, 0])
        else:
            key = tl.load(
                key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)  # packed_documents.py:22
        if partial:
            scores = tl.where(rows[:, None] >= keys[None, :], scores, float("-inf"))
        if document_id_mixed:
            key_document_id = tl.load(
                document_id_block + tl.cast(key_start, tl.int64) * document_id_stride_s, mask=(keys < S), other=0
            )
            scores = tl.where(row_document_id[:, None] == key_document_id[None, :], scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        attn_weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])  # packed_documents.py:23
        if DESCRIPTORS:
            value = value_blocks.load([key_start, 0])
        else:
            value = tl.load(
                value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        accumulator = tl.dot(
            attn_weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
        )
        running_sum = running_sum * rescale + tl.sum(attn_weights, 1)
        running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def packed_documents(query, key, value, document_id):
    """Launch `packed_documents_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S, D), (query.dtype,), query.device)
    document_id = spread("document_id", document_id, (B, S))
    expect("document_id", document_id, (B, S), (torch.int64, torch.int32), query.device)

    output = query.new_empty((B, H, S, D))
    hopper = hopper_tile("packed_documents", D, S, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().packed_documents_kernel,
            min(multiprocessors(query.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (
                query,
                key,
                value,
                document_id,
                output,
                *heaviest_first(matching_ranges(document_id, document_id, hopper["BLOCK_ROWS"], hopper["BLOCK_KEYS"])),
            ),
            (
                *query.stride()[:-1],
                *key.stride()[:-1],
                *value.stride()[:-1],
                *document_id.stride(),
                *output.stride()[:-1],
                B,
                H,
                S,
            ),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "packed_documents", query, D, S, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            packed_documents_kernel,
            -(-S // block_rows) * B * H,
            (query, key, value, document_id, output, matching_ranges(document_id, document_id, block_rows, block_keys)),
            (*query.stride(), *key.stride(), *value.stride(), *document_id.stride(), *output.stride(), S, H),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S", "H"])
def packed_documents_bidirectional_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, segment_ids_ptr, output_ptr,
    # for each block of rows, the ranges of keys with values as its own
    segment_ids_ranges_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    segment_ids_stride_b, segment_ids_stride_s,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
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

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    batch = (program // row_blocks // H).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    row_segment_ids = tl.load(
        segment_ids_ptr
        + batch * segment_ids_stride_b
        + tl.cast(row_start, tl.int64) * segment_ids_stride_s
        + row_offsets * segment_ids_stride_s,
        mask=(rows < S),
        other=0,
    )
    segment_ids_block = segment_ids_ptr + batch * segment_ids_stride_b + key_offsets * segment_ids_stride_s
    query = tl.load(
        query_ptr
        + batch * query_stride_b
        + head * query_stride_h
        + tl.cast(row_start, tl.int64) * query_stride_s
        + row_offsets[:, None] * query_stride_s
        + d[None, :] * query_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    key_base = key_ptr + batch * key_stride_b + head * key_stride_h
    if DESCRIPTORS:
        key_blocks = tl.make_tensor_descriptor(key_base, [S, D], [key_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        key_blocks = key_base + key_offsets[:, None] * key_stride_s + d[None, :] * key_stride_d
    value_base = value_ptr + batch * value_stride_b + head * value_stride_h
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S, D], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    segment_ids_range = segment_ids_ranges_ptr + (batch * row_blocks + row_start // BLOCK_ROWS) * 4
    segment_ids_start = tl.load(segment_ids_range + 2)
    segment_ids_stop = tl.load(segment_ids_range + 3)
    live_start = tl.load(segment_ids_range)
    live_stop = tl.maximum(live_start, tl.load(segment_ids_range + 1))
    full_stop = S // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(live_start, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = key_start >= full_stop
        segment_ids_mixed = (key_start < segment_ids_start) | (key_start >= segment_ids_stop)
        if DESCRIPTORS:
            key = key_blocks.load([key_start, 0])
        else:
            key = tl.load(
                key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)  # packed_documents.py:36
        if partial:
            scores = tl.where((keys < S)[None, :], scores, float("-inf"))
        if segment_ids_mixed:
            key_segment_ids = tl.load(
                segment_ids_block + tl.cast(key_start, tl.int64) * segment_ids_stride_s, mask=(keys < S), other=0
            )
            scores = tl.where(row_segment_ids[:, None] == key_segment_ids[None, :], scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        probs = tl.exp2(scores * scale - (finite_max * scale)[:, None])  # packed_documents.py:37
        if DESCRIPTORS:
            value = value_blocks.load([key_start, 0])
        else:
            value = tl.load(
                value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        accumulator = tl.dot(probs.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION)
        running_sum = running_sum * rescale + tl.sum(probs, 1)
        running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def packed_documents_bidirectional(query, key, value, segment_ids):
    """Launch `packed_documents_bidirectional_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S, D), (query.dtype,), query.device)
    expect("segment_ids", segment_ids, (B, S), (torch.int64, torch.int32), query.device)

    output = query.new_empty((B, H, S, D))
    hopper = hopper_tile("packed_documents_bidirectional", D, S, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().packed_documents_bidirectional_kernel,
            min(multiprocessors(query.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (
                query,
                key,
                value,
                segment_ids,
                output,
                *heaviest_first(matching_ranges(segment_ids, segment_ids, hopper["BLOCK_ROWS"], hopper["BLOCK_KEYS"])),
            ),
            (
                *query.stride()[:-1],
                *key.stride()[:-1],
                *value.stride()[:-1],
                *segment_ids.stride(),
                *output.stride()[:-1],
                B,
                H,
                S,
            ),
            (D ** (-0.5) * math.log2(math.e),),
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "packed_documents_bidirectional", query, D, S, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            packed_documents_bidirectional_kernel,
            -(-S // block_rows) * B * H,
            (query, key, value, segment_ids, output, matching_ranges(segment_ids, segment_ids, block_rows, block_keys)),
            (*query.stride(), *key.stride(), *value.stride(), *segment_ids.stride(), *output.stride(), S, H),
            (D ** (-0.5) * math.log2(math.e),),
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S_q", "H", "S_k"])
def packed_documents_cross_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, query_document_ptr, key_document_ptr, output_ptr,
    # for each block of rows, the ranges of keys with values as its own
    key_document_ranges_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    query_document_stride_b, query_document_stride_s,
    key_document_stride_b, key_document_stride_s,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S_q, H, S_k,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """packed_documents_cross:

        t[b, h, i, j] = where(query_document[b, i] != key_document[b, j], -inf, (Σ_d query[b, h, i, d] * key[b,
            h, j, d]) / sqrt(float32(D)))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        output[b, h, i, d] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) *
            value[b, h, j, d]

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S_q, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    batch = (program // row_blocks // H).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    query_document = tl.load(
        query_document_ptr
        + batch * query_document_stride_b
        + tl.cast(row_start, tl.int64) * query_document_stride_s
        + row_offsets * query_document_stride_s,
        mask=(rows < S_q),
        other=0,
    )
    key_document_block = key_document_ptr + batch * key_document_stride_b + key_offsets * key_document_stride_s
    query = tl.load(
        query_ptr
        + batch * query_stride_b
        + head * query_stride_h
        + tl.cast(row_start, tl.int64) * query_stride_s
        + row_offsets[:, None] * query_stride_s
        + d[None, :] * query_stride_d,
        mask=(rows < S_q)[:, None] & (d < D)[None, :],
        other=0,
    )
    key_base = key_ptr + batch * key_stride_b + head * key_stride_h
    if DESCRIPTORS:
        key_blocks = tl.make_tensor_descriptor(key_base, [S_k, D], [key_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        key_blocks = key_base + key_offsets[:, None] * key_stride_s + d[None, :] * key_stride_d
    value_base = value_ptr + batch * value_stride_b + head * value_stride_h
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S_k, D], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    key_document_range = key_document_ranges_ptr + (batch * row_blocks + row_start // BLOCK_ROWS) * 4
    key_document_start = tl.load(key_document_range + 2)
    key_document_stop = tl.load(key_document_range + 3)
    live_start = tl.load(key_document_range)
    live_stop = tl.maximum(live_start, tl.load(key_document_range + 1))
    full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(live_start, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = key_start >= full_stop
        key_document_mixed = (key_start < key_document_start) | (key_start >= key_document_stop)
        if DESCRIPTORS:
            key = key_blocks.load([key_start, 0])
        else:
            key = tl.load(
                key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                mask=(keys < S_k)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if partial:
            scores = tl.where((keys < S_k)[None, :], scores, float("-inf"))
        if key_document_mixed:
            key_document = tl.load(
                key_document_block + tl.cast(key_start, tl.int64) * key_document_stride_s, mask=(keys < S_k), other=0
            )
            scores = tl.where(query_document[:, None] == key_document[None, :], scores, float("-inf"))
        new_max = nan_max(running_max, tl.reduce(scores, 1, nan_max))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])
        if DESCRIPTORS:
            value = value_blocks.load([key_start, 0])
        else:
            value = tl.load(
                value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                mask=(keys < S_k)[:, None] & (d < D)[None, :],
                other=0,
            )
        accumulator = tl.dot(weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION)
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        running_max = new_max

    output = tl.where((running_max != float("-inf"))[:, None], accumulator * (1.0 / running_sum)[:, None], 0.0)
    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S_q)[:, None] & (d < D)[None, :],
    )


def packed_documents_cross(query, key, value, query_document, key_document):
    """Launch `packed_documents_cross_kernel` on tensors of one device."""
    B, H, S_q, D = query.shape
    _, _, S_k, _ = key.shape
    expect("query", query, (B, H, S_q, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S_k, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S_k, D), (query.dtype,), query.device)
    query_document = spread("query_document", query_document, (B, S_q))
    expect("query_document", query_document, (B, S_q), (torch.int64, torch.int32), query.device)
    key_document = spread("key_document", key_document, (B, S_k))
    expect("key_document", key_document, (B, S_k), (torch.int64, torch.int32), query.device)

    output = query.new_empty((B, H, S_q, D))
    hopper = hopper_tile("packed_documents_cross", D, S_k, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().packed_documents_cross_kernel,
            min(multiprocessors(query.device), -(-S_q // hopper["BLOCK_ROWS"]) * B * H),
            (
                query,
                key,
                value,
                query_document,
                key_document,
                output,
                *heaviest_first(
                    matching_ranges(query_document, key_document, hopper["BLOCK_ROWS"], hopper["BLOCK_KEYS"])
                ),
            ),
            (
                *query.stride()[:-1],
                *key.stride()[:-1],
                *value.stride()[:-1],
                *query_document.stride(),
                *key_document.stride(),
                *output.stride()[:-1],
                B,
                H,
                S_q,
                S_k,
            ),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "packed_documents_cross", query, D, S_k, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            packed_documents_cross_kernel,
            -(-S_q // block_rows) * B * H,
            (
                query,
                key,
                value,
                query_document,
                key_document,
                output,
                matching_ranges(query_document, key_document, block_rows, block_keys),
            ),
            (
                *query.stride(),
                *key.stride(),
                *value.stride(),
                *query_document.stride(),
                *key_document.stride(),
                *output.stride(),
                S_q,
                H,
                S_k,
            ),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


def runs_kernel(*tensors):
    """Whether a kernel takes these tensors: all on a GPU (or under Triton's interpreter), and with values in memory."""
    for tensor in tensors:
        if not (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") or tensor.numel() == 0:
            return False
        if not torch.compiler.is_compiling() and tensor.is_neg():  # z.conj().imag: what lies in memory is -x
            return False
    return True


def expect(name, tensor, shape, dtypes, device):
    """Raise a TypeError or ValueError that says what is wrong with an argument, if anything is."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    if tensor.dtype not in dtypes:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {' or '.join(map(str, dtypes))}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}")
    if tensor.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(f"{name} requires grad, and this kernel has no backward: use torch.no_grad()")


LAUNCHED = {}  # what runs a kernel again, for each of the launches so far


def launch(kernel, programs, tensors, sizes, numbers, alike=None, **constants):
    """Run so many programs of a kernel on the device of its tensors, which come first, then integers, then floats.

    `kernel[(programs,)](...)` looks for what Triton has compiled by all of them. Here it is kept by what that may
    depend on, numbers apart: sizes and constants, dtypes, the last bits of addresses. To launch a kernel again takes
    the host half the time. For `relaunch` it is kept by what is `alike` too. `torch.compile` traces launches by
    Triton itself.
    """
    device = tensors[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():  # on which Triton launches
        with torch.cuda.device(device):
            launch(kernel, programs, tensors, sizes, numbers, alike, **constants)
        return
    if torch.compiler.is_compiling():
        kernel[(programs,)](*tensors, *sizes, *numbers, **constants)
        return
    triton.set_allocator(scratch)
    numbers = tuple(map(float, numbers))
    kinds = [(tensor.dtype, tensor.data_ptr() % 128) for tensor in tensors]
    known = (kernel.fn, device, programs, sizes, *constants.values(), *kinds)
    run, values = LAUNCHED.get(known, (None, ()))
    if run is not None:
        run(*tensors, *sizes, *numbers, *values)
    else:
        compiled = kernel[(programs,)](*tensors, *sizes, *numbers, **constants)
        if compiled is None:  # the interpreter compiles nothing
            return
        run, values = compiled[(programs, 1, 1)], [constants[name] for name in kernel.arg_names if name in constants]
        keep(known, run, values)
    if alike is not None:
        keep(alike, run, (*sizes, *numbers, *values))


def keep(known, run, values):
    """Keep what runs a kernel, and what it is given after its tensors; of 4096 launches at most."""
    if len(LAUNCHED) == 4096:
        LAUNCHED.clear()
    LAUNCHED[known] = run, values


def relaunch(alike, *tensors):
    """Launch what was launched when arguments were alike, and nothing if that is not known; whether it was."""
    run, values = LAUNCHED.get(alike, (None, ()))
    if run is None or tensors[0].get_device() != torch.cuda.current_device():
        return False
    triton.set_allocator(scratch)
    run(*tensors, *values)
    return True


def spread(name, tensor, shape):
    """The tensor with its dimensions of size 1 spread to a shape; none may be missing, since they are counted."""
    if tensor.dim() != len(shape):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    return tensor if tensor.shape == shape else tensor.expand(shape)


def configuration(function, tensor, widest, length, **load):
    """How to tile for a tensor's device and dtype, the widest head, so many keys, and what a step holds: `tile_for`."""
    return tile_for(
        function, architecture(tensor.device), padded(widest), tensor.element_size(), padded(length), **load
    )


@functools.lru_cache(maxsize=None)
def tile_for(
    function,
    chip,
    width,
    size,
    length,
    accumulators,
    scores,
    blocks=2,
    exact=False,
    depth=1,
    row_count=64,
    gathered=False,
):
    """Rows and keys of a tile, warps, pipeline stages, and whether tensor descriptors read the blocks of keys.

    The tile tuned for the least number of keys that is no less than `length`, or for the most; without one, a tile
    that fits registers (255 a thread) and shared memory. Registers hold, for each row, `accumulators` times the head's
    width and `scores` values a key. Shared memory holds, for each stage, `blocks` of keys or values, and half as many
    of rows. Before Hopper the operands of a product lie in registers too, hence
    fewer keys; AMD's 64 KiB are for one stage. Products of float32 tensors unroll over the head dimension, which only
    small tiles bear; those of float32 values made of 16-bit tensors, if `exact`, are six of bfloat16. A tile with
    `depth` values for each pair of a row and a key holds all of them, and their 64-bit addresses where `gathered`.
    """
    tuned = sorted(key for key in TILES if key[:4] == (function, chip, width, size))
    if tuned:
        return TILES[next((key for key in tuned if key[4] >= length), tuned[-1])]
    hopper, blackwell = chip.startswith("sm_9"), chip.startswith("sm_10")
    amd = chip.startswith("gfx")
    if size > 2:
        rows, keys, warps, stages = (32, 16, 4, 2) if width <= 128 else (16, 16, 8, 1)
    elif width > 256:
        rows, keys, warps, stages = 32, 16, 4, 1
    elif exact and width <= 128:
        rows, keys, warps, stages = 64, 32, 4 if hopper or amd else 8, 1 if amd else 2
    elif amd:
        rows, keys, warps, stages = 64 if width > 128 else 128, 32 if width > 64 else 64, 4, 1
    elif width > 128:
        rows, keys, warps, stages = 64, 32, 4 if hopper or blackwell else 8, 2
    elif hopper:
        rows, keys, warps, stages = (64, 64, 4, 3) if width > 64 else (64, 128, 4, 2)
    elif blackwell:
        rows, keys, warps, stages = 128, 64, 8, 2
    else:
        rows, keys, warps, stages = (64, 32, 4, 2) if width > 64 else (128, 64, 8, 2)
    lanes, budget = 64 if amd else 32, 160 if hopper else 128
    while rows * (accumulators * width + scores * keys) > budget * lanes * warps and max(rows, keys) > 16:
        if keys > 16 and scores * keys > accumulators * width:
            keys //= 2
        elif warps < 8:
            warps *= 2
        elif rows > 16:
            rows //= 2
        else:
            keys //= 2
    shared = {"sm_80": 163, "sm_90": 227, "sm_100": 227, "gfx942": 64}.get(chip, 99) * 1024
    while blocks > 2 and (stages * keys + rows // 2) * blocks * width * size > shared * 0.6 and stages * keys > 16:
        keys, stages = (keys, stages - 1) if stages > 1 else (keys // 2, stages)
    if depth > 1:
        rows, stages = min(rows, row_count), 1 if gathered else stages
        values, least, most = (2 * depth, 16 if amd else 4, 4096) if gathered else (depth, 16, 16384)
        while rows * keys * values > most and (rows > least or keys > 16):
            rows, keys = (rows // 2, keys) if rows > max(keys, least) or keys == 16 else (rows, keys // 2)
        warps = 1 if gathered else warps
        while rows * keys * values > 4096 * warps and warps < 16:
            warps *= 2
    return rows, keys, warps, stages, not gathered


def hopper_tile(function, widest, length, *tensors):
    """What the Hopper kernel of a function is launched with; None if no tile of it was tuned or it cannot read these.

    `torch.compile` traces launches of Triton kernels, not of Gluon's; to it no tensor is `describable`.
    """
    device, size = tensors[0].device, tensors[0].element_size()
    tile = tuned_for_hopper(function, architecture(device), padded(widest), size, padded(length))
    if tile is None or not describable(*tensors) or hopper_kernels() is None:
        return None
    for tensor in tensors:
        if 0 in tensor.stride():
            return None
    return tile


@functools.lru_cache(maxsize=None)
def tuned_for_hopper(function, chip, width, size, length):
    """The entry for sm_90a, if that is the one among those for Hopper whose number of keys fits `length` best."""
    if chip != "sm_90":
        return None
    tuned = sorted(key for key in TILES if key[0] == function and key[1][:5] == chip and key[2:4] == (width, size))
    lengths = sorted(key[4] for key in tuned)
    nearest = next((keys for keys in lengths if keys >= length), lengths[-1] if lengths else 0)
    tile = TILES.get((function, "sm_90a", width, size, nearest))
    return tile and {"BLOCK_ROWS": tile[0], "BLOCK_KEYS": tile[1], "STAGES": tile[3]}


@functools.lru_cache(maxsize=None)
def hopper_kernels():
    """The module of Hopper kernels beside this one, its name ending in _hopper.

    None where that file was left behind, or Triton lacks the parts of such kernels: the others serve.
    """
    name = __name__.removesuffix("_triton") + "_hopper"
    spec = importlib.util.spec_from_file_location(name, __file__.removesuffix("_triton.py") + "_hopper.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (FileNotFoundError, ImportError, AttributeError):
        return None
    return module


@functools.lru_cache(maxsize=None)
def multiprocessors(device):
    """How many programs run side by side where one fills a multiprocessor."""
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.lru_cache(maxsize=None)
def architecture(device):
    """The device's architecture as the table names it, e.g. sm_90."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def describable(*tensors):
    """Whether tensor descriptors can read the tensors: on sm_90 and later, rows dense and 16-byte aligned.

    To `torch.compile` tensors have no addresses: there pointers read them.
    """
    if torch.compiler.is_compiling():
        return False
    if not architecture(tensors[0].device).startswith(("sm_9", "sm_1")):
        return False
    for tensor in tensors:
        if tensor.data_ptr() % 16 or not dense(tensor.stride(), tensor.element_size()):
            return False
    return True


@functools.lru_cache(maxsize=1024)
def dense(strides, size):
    """Whether rows of elements of that size have no gaps in them, and all start at multiples of 16 bytes."""
    *outer, inner = strides
    return inner == 1 and all(step * size % 16 == 0 for step in outer)


def scratch(size, alignment, stream):
    """Memory for a launch, as Triton asks for it: programs write descriptors of tensors to it."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


@functools.lru_cache(maxsize=None)
def padded(size):
    """The width of a tile that holds `size` elements: a power of two, as matrix instructions need."""
    return max(16, triton.next_power_of_2(size))


def precision(tensor):
    """How products of float32 values are computed.

    As PyTorch is set to compute those of float32 tensors. What was made of 16-bit tensors is multiplied as sums of
    three bfloat16 numbers each, near exactly and by matrix instructions.
    """
    if tensor.dtype != torch.float32 and tensor.is_cuda:
        return "bf16x6"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
