"""Triton kernels for sdpa.py.

Written by flashlight 0.1.0 from examples/sdpa.py (sha256 114ff251b39bf608)
with `flashlight transpile examples/sdpa.py`; change the source and run that again.
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
    ("sdpa", "sm_90", 64, 2, 4096): (64, 128, 4, 2, True),
    ("sdpa", "sm_90", 128, 2, 4096): (64, 64, 4, 3, True),
    ("sdpa", "sm_90a", 64, 2, 4096): (192, 128, 12, 4, True),
    ("sdpa", "sm_90a", 128, 2, 4096): (128, 128, 8, 2, True),
    ("sdpa_additive_mask", "sm_90", 64, 2, 4096): (64, 64, 4, 2, False),
    ("sdpa_additive_mask", "sm_90", 128, 2, 4096): (64, 32, 4, 3, True),
    ("sdpa_additive_mask", "sm_90a", 64, 2, 2048): (128, 128, 8, 2, True),
    ("sdpa_additive_mask", "sm_90a", 128, 2, 2048): (128, 64, 8, 2, True),
    ("sdpa_causal", "sm_90", 64, 2, 4096): (64, 128, 4, 2, True),
    ("sdpa_causal", "sm_90", 128, 2, 4096): (64, 64, 4, 3, True),
    ("sdpa_causal", "sm_90a", 64, 2, 4096): (128, 128, 8, 2, True),
    ("sdpa_causal", "sm_90a", 128, 2, 4096): (128, 128, 8, 2, True),
    ("sdpa_grouped", "sm_90a", 64, 2, 4096): (128, 128, 8, 2, True),
    ("sdpa_grouped", "sm_90a", 128, 2, 4096): (128, 128, 8, 2, True),
    ("sdpa_scale", "sm_90a", 64, 2, 4096): (192, 128, 12, 2, True),
    ("sdpa_scale", "sm_90a", 128, 2, 4096): (128, 128, 8, 2, True),
}


@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile


LOG2_E = tl.constexpr(1.4426950408889634)  # log2(e)


@triton.jit
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["S", "H", "S_kv"])
def sdpa_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, S_kv,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, D_v: tl.constexpr, BLOCK_D_v: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """sdpa:

        t[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        output[b, h, i, d_v] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) *
            value[b, h, j, d_v]

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
    d_v = tl.arange(0, BLOCK_D_v).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
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
        key_blocks = tl.make_tensor_descriptor(key_base, [S_kv, D], [key_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        key_blocks = key_base + key_offsets[:, None] * key_stride_s + d[None, :] * key_stride_d
    value_base = value_ptr + batch * value_stride_b + head * value_stride_h
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S_kv, D_v], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D_v])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d_v[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # The last block may reach past the keys
    full_stop = S_kv // BLOCK_KEYS * BLOCK_KEYS

    # Where all blocks are whole, the kernel is compiled without a mask
    for part in tl.static_range(1 if WHOLE else 2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, S_kv
        for key_start in tl.range(start, stop, BLOCK_KEYS):
            keys = key_start + tl.arange(0, BLOCK_KEYS)
            if DESCRIPTORS:
                key = key_blocks.load([key_start, 0])
            else:
                key = load_tile(
                    key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                    (keys < S_kv)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
            if part > 0:
                scores = tl.where((keys < S_kv)[None, :], scores, float("-inf"))
            new_max = nan_max(running_max, tl.reduce(scores, 1, nan_max))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * scale)
            weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])
            if DESCRIPTORS:
                value = value_blocks.load([key_start, 0])
            else:
                value = load_tile(
                    value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                    (keys < S_kv)[:, None] & (d_v < D_v)[None, :],
                    part > 0 or BLOCK_D_v != D_v,
                )
            accumulator = tl.dot(
                weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
            )
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            running_max = new_max

    output = tl.where((running_max != float("-inf"))[:, None], accumulator * (1.0 / running_sum)[:, None], 0.0)
    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d_v[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d_v < D_v)[None, :],
    )


def sdpa(query, key, value):
    """Launch `sdpa_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    _, _, S_kv, _ = key.shape
    _, _, _, D_v = value.shape
    output = query.new_empty((B, H, S, D_v))
    alike = layouts((query, key, value), "sdpa", precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S_kv, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S_kv, D_v), (query.dtype,), query.device)

    hopper = hopper_tile("sdpa", max(D, D_v), S_kv, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sdpa_kernel,
            min(multiprocessors(query.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, output),
            (*query.stride()[:-1], *key.stride()[:-1], *value.stride()[:-1], *output.stride()[:-1], H, B, S_kv, S),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            D_v=D_v,
            BLOCK_D_v=padded(D_v),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sdpa", query, max(D, D_v), S_kv, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sdpa_kernel,
            -(-S // block_rows) * B * H,
            (query, key, value, output),
            (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S, H, S_kv),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            D_v=D_v,
            BLOCK_D_v=padded(D_v),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S_kv % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S_q", "H", "S_k"])
def sdpa_causal_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S_q, H, S_k,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, D_v: tl.constexpr, BLOCK_D_v: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """sdpa_causal:

        t[b, h, i, j] = where(j > i, -inf, (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D)))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        output[b, h, i, d_v] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) *
            value[b, h, j, d_v]

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes: later rows see more keys, and start first
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S_q, BLOCK_ROWS)
    row_start = (row_blocks - 1 - program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    batch = (program // row_blocks // H).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)
    d_v = tl.arange(0, BLOCK_D_v).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
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
        value_blocks = tl.make_tensor_descriptor(value_base, [S_k, D_v], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D_v])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d_v[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S_k, BLOCK_ROWS + row_start)
    full_stop = tl.minimum(S_k, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(0, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = key_start >= full_stop
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
            scores = tl.where((keys < S_k)[None, :] & (keys[None, :] <= rows[:, None]), scores, float("-inf"))
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
                mask=(keys < S_k)[:, None] & (d_v < D_v)[None, :],
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
        + d_v[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S_q)[:, None] & (d_v < D_v)[None, :],
    )


def sdpa_causal(query, key, value):
    """Launch `sdpa_causal_kernel` on tensors of one device."""
    B, H, S_q, D = query.shape
    _, _, S_k, _ = key.shape
    _, _, _, D_v = value.shape
    output = query.new_empty((B, H, S_q, D_v))
    alike = layouts((query, key, value), "sdpa_causal", precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S_q, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S_k, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S_k, D_v), (query.dtype,), query.device)

    hopper = hopper_tile("sdpa_causal", max(D, D_v), S_k, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sdpa_causal_kernel,
            min(multiprocessors(query.device), -(-S_q // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, output),
            (*query.stride()[:-1], *key.stride()[:-1], *value.stride()[:-1], *output.stride()[:-1], H, B, S_k, S_q),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            D_v=D_v,
            BLOCK_D_v=padded(D_v),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sdpa_causal", query, max(D, D_v), S_k, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sdpa_causal_kernel,
            -(-S_q // block_rows) * B * H,
            (query, key, value, output),
            (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S_q, H, S_k),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            D_v=D_v,
            BLOCK_D_v=padded(D_v),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S_q", "H", "S_k"])
def sdpa_boolean_mask_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, mask_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    mask_stride_b, mask_stride_2, mask_stride_3,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S_q, H, S_k,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """sdpa_boolean_mask:

        t[b, h, i, j] = where(mask[b, 0, i, j], (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D)),
            -inf)
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
    existing_rows = tl.minimum(row_offsets, S_q - 1 - row_start)  # rows past the end read the last one
    mask_block = (
        mask_ptr
        + batch * mask_stride_b
        + tl.cast(row_start, tl.int64) * mask_stride_2
        + existing_rows[:, None] * mask_stride_2
        + key_offsets[None, :] * mask_stride_3
    )
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

    # The last block may reach past the keys
    full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

    # Where all blocks are whole, the kernel is compiled without a mask
    for part in tl.static_range(1 if WHOLE else 2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, S_k
        for key_start in tl.range(start, stop, BLOCK_KEYS):
            keys = key_start + tl.arange(0, BLOCK_KEYS)
            if DESCRIPTORS:
                key = key_blocks.load([key_start, 0])
            else:
                key = load_tile(
                    key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                    (keys < S_k)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            mask = load_tile(mask_block + tl.cast(key_start, tl.int64) * mask_stride_3, (keys < S_k)[None, :], part > 0)
            scores = tl.where(mask, tl.dot(query, tl.trans(key), input_precision=PRECISION), float("-inf"))
            if part > 0:
                scores = tl.where((keys < S_k)[None, :], scores, float("-inf"))
            new_max = nan_max(running_max, tl.reduce(scores, 1, nan_max))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * scale)
            weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])
            if DESCRIPTORS:
                value = value_blocks.load([key_start, 0])
            else:
                value = load_tile(
                    value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                    (keys < S_k)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(
                weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
            )
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


def sdpa_boolean_mask(query, key, value, mask):
    """Launch `sdpa_boolean_mask_kernel` on tensors of one device."""
    B, H, S_q, D = query.shape
    _, _, S_k, _ = key.shape
    output = query.new_empty((B, H, S_q, D))
    alike = layouts((query, key, value, mask), "sdpa_boolean_mask", precision(query))
    if relaunch(alike, query, key, value, mask, output):
        return output

    expect("query", query, (B, H, S_q, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S_k, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S_k, D), (query.dtype,), query.device)
    mask = mask.expand(B, 1, S_q, S_k)
    expect("mask", mask, (B, 1, S_q, S_k), (torch.bool,), query.device)

    hopper = hopper_tile("sdpa_boolean_mask", D, S_k, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sdpa_boolean_mask_kernel,
            min(multiprocessors(query.device), -(-S_q // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, mask, output),
            (
                *query.stride()[:-1],
                *key.stride()[:-1],
                *value.stride()[:-1],
                mask.stride(0),
                mask.stride(2),
                mask.stride(3),
                *output.stride()[:-1],
                H,
                B,
                S_q,
                S_k,
            ),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sdpa_boolean_mask", query, D, S_k, accumulators=1, scores=4
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sdpa_boolean_mask_kernel,
            -(-S_q // block_rows) * B * H,
            (query, key, value, mask, output),
            (
                *query.stride(),
                *key.stride(),
                *value.stride(),
                mask.stride(0),
                mask.stride(2),
                mask.stride(3),
                *output.stride(),
                S_q,
                H,
                S_k,
            ),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S_k % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S_q", "H", "S_k"])
def sdpa_additive_mask_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, bias_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    bias_stride_b, bias_stride_h, bias_stride_2, bias_stride_3,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S_q, H, S_k,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """sdpa_additive_mask:

        t[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D)) + bias[b, h, i, j]
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
    existing_rows = tl.minimum(row_offsets, S_q - 1 - row_start)  # rows past the end read the last one
    bias_block = (
        bias_ptr
        + batch * bias_stride_b
        + head * bias_stride_h
        + tl.cast(row_start, tl.int64) * bias_stride_2
        + existing_rows[:, None] * bias_stride_2
        + key_offsets[None, :] * bias_stride_3
    )
    value_base = value_ptr + batch * value_stride_b + head * value_stride_h
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S_k, D], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # The last block may reach past the keys
    full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

    # Where all blocks are whole, the kernel is compiled without a mask
    for part in tl.static_range(1 if WHOLE else 2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, S_k
        for key_start in tl.range(start, stop, BLOCK_KEYS):
            keys = key_start + tl.arange(0, BLOCK_KEYS)
            if DESCRIPTORS:
                key = key_blocks.load([key_start, 0])
            else:
                key = load_tile(
                    key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                    (keys < S_k)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            bias = load_tile(bias_block + tl.cast(key_start, tl.int64) * bias_stride_3, (keys < S_k)[None, :], part > 0)
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale + bias.to(tl.float32)
            if part > 0:
                scores = tl.where((keys < S_k)[None, :], scores, float("-inf"))
            new_max = nan_max(running_max, tl.reduce(scores, 1, nan_max))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            weights = tl.exp2((scores - finite_max[:, None]) * LOG2_E)
            if DESCRIPTORS:
                value = value_blocks.load([key_start, 0])
            else:
                value = load_tile(
                    value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                    (keys < S_k)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(
                weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
            )
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


def sdpa_additive_mask(query, key, value, bias):
    """Launch `sdpa_additive_mask_kernel` on tensors of one device."""
    B, H, S_q, D = query.shape
    _, _, S_k, _ = key.shape
    output = query.new_empty((B, H, S_q, D))
    alike = layouts((query, key, value, bias), "sdpa_additive_mask", precision(query))
    if relaunch(alike, query, key, value, bias, output):
        return output

    expect("query", query, (B, H, S_q, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S_k, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S_k, D), (query.dtype,), query.device)
    bias = bias.expand(B, H, S_q, S_k)
    expect("bias", bias, (B, H, S_q, S_k), (query.dtype,), query.device)

    hopper = hopper_tile("sdpa_additive_mask", D, S_k, query, key, bias, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sdpa_additive_mask_kernel,
            min(multiprocessors(query.device), -(-S_q // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, bias, output),
            (
                *query.stride()[:-1],
                *key.stride()[:-1],
                *value.stride()[:-1],
                *bias.stride()[:-1],
                *output.stride()[:-1],
                H,
                B,
                S_k,
                S_q,
            ),
            (1.0 / math.sqrt(D),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sdpa_additive_mask", query, D, S_k, accumulators=1, scores=4
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sdpa_additive_mask_kernel,
            -(-S_q // block_rows) * B * H,
            (query, key, value, bias, output),
            (*query.stride(), *key.stride(), *value.stride(), *bias.stride(), *output.stride(), S_q, H, S_k),
            (1.0 / math.sqrt(D),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S_k % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S_q", "H", "S_k"])
def sdpa_scale_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S_q, H, S_k,
    # numbers
    scale_2,  # scale * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """sdpa_scale:

        t[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) * scale
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        output[b, h, i, d] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) *
            value[b, h, j, d]

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale_2 = tl.cast(scale_2, tl.float32)

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

    # The last block may reach past the keys
    full_stop = S_k // BLOCK_KEYS * BLOCK_KEYS

    # Where all blocks are whole, the kernel is compiled without a mask
    for part in tl.static_range(1 if WHOLE else 2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, S_k
        for key_start in tl.range(start, stop, BLOCK_KEYS):
            keys = key_start + tl.arange(0, BLOCK_KEYS)
            if DESCRIPTORS:
                key = key_blocks.load([key_start, 0])
            else:
                key = load_tile(
                    key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                    (keys < S_k)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale_2
            if part > 0:
                scores = tl.where((keys < S_k)[None, :], scores, float("-inf"))
            new_max = nan_max(running_max, tl.reduce(scores, 1, nan_max))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2(running_max - finite_max)
            weights = tl.exp2(scores - finite_max[:, None])
            if DESCRIPTORS:
                value = value_blocks.load([key_start, 0])
            else:
                value = load_tile(
                    value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                    (keys < S_k)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(
                weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
            )
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


def sdpa_scale(query, key, value, scale):
    """Launch `sdpa_scale_kernel` on tensors of one device."""
    B, H, S_q, D = query.shape
    _, _, S_k, _ = key.shape
    scale = number("scale", scale)
    output = query.new_empty((B, H, S_q, D))
    alike = layouts((query, key, value), "sdpa_scale", scale, precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S_q, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S_k, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S_k, D), (query.dtype,), query.device)

    hopper = hopper_tile("sdpa_scale", D, S_k, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sdpa_scale_kernel,
            min(multiprocessors(query.device), -(-S_q // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, output),
            (*query.stride()[:-1], *key.stride()[:-1], *value.stride()[:-1], *output.stride()[:-1], H, B, S_k, S_q),
            (scale * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sdpa_scale", query, D, S_k, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sdpa_scale_kernel,
            -(-S_q // block_rows) * B * H,
            (query, key, value, output),
            (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S_q, H, S_k),
            (scale * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S_k % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S", "H", "H_kv"])
def sdpa_grouped_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, H_kv,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """sdpa_grouped:

        t[b, h, i, j] = where(j > i, -inf, (Σ_d query[b, h, i, d] * key[b, h // (H // H_kv), j, d]) /
            sqrt(float32(D)))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        output[b, h, i, d] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) *
            value[b, h // (H // H_kv), j, d]

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
    key_head = head // (H // H_kv)
    key_base = key_ptr + batch * key_stride_b + key_head * key_stride_h
    if DESCRIPTORS:
        key_blocks = tl.make_tensor_descriptor(key_base, [S, D], [key_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        key_blocks = key_base + key_offsets[:, None] * key_stride_s + d[None, :] * key_stride_d
    value_base = value_ptr + batch * value_stride_b + key_head * value_stride_h
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S, D], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S, BLOCK_ROWS + row_start)
    full_stop = tl.minimum(S, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(0, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = key_start >= full_stop
        if DESCRIPTORS:
            key = key_blocks.load([key_start, 0])
        else:
            key = tl.load(
                key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        if partial:
            scores = tl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
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
                mask=(keys < S)[:, None] & (d < D)[None, :],
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
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def sdpa_grouped(query, key, value):
    """Launch `sdpa_grouped_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    _, H_kv, _, _ = key.shape
    output = query.new_empty((B, H, S, D))
    alike = layouts((query, key, value), "sdpa_grouped", precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H_kv, S, D), (query.dtype,), query.device)
    expect("value", value, (B, H_kv, S, D), (query.dtype,), query.device)
    if not (H % H_kv == 0):
        raise ValueError("sdpa_grouped was transpiled for sizes with H % H_kv == 0")

    hopper = hopper_tile("sdpa_grouped", D, S, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sdpa_grouped_kernel,
            min(multiprocessors(query.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, output),
            (*query.stride()[:-1], *key.stride()[:-1], *value.stride()[:-1], *output.stride()[:-1], H, B, S, H_kv),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sdpa_grouped", query, D, S, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sdpa_grouped_kernel,
            -(-S // block_rows) * B * H,
            (query, key, value, output),
            (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S, H, H_kv),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
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
def sdpa_merged_heads_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, key_padding_mask_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_s, query_stride_h, query_stride_d,
    key_stride_b, key_stride_s, key_stride_h, key_stride_d,
    value_stride_b, value_stride_s, value_stride_h, value_stride_d,
    key_padding_mask_stride_b, key_padding_mask_stride_s,
    output_stride_b, output_stride_s, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """sdpa_merged_heads:

        t[b, h, i, j] = where(key_padding_mask[b, j], -inf, (Σ_d query[b, i, h, d] * key[b, j, h, d]) /
            sqrt(float32(D)))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        output[b, i, h, d] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) *
            value[b, j, h, d]

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
    key_padding_mask_block = (
        key_padding_mask_ptr + batch * key_padding_mask_stride_b + key_offsets * key_padding_mask_stride_s
    )
    query = tl.load(
        query_ptr
        + batch * query_stride_b
        + tl.cast(row_start, tl.int64) * query_stride_s
        + head * query_stride_h
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

    # The last block may reach past the keys
    full_stop = S // BLOCK_KEYS * BLOCK_KEYS

    # Where all blocks are whole, the kernel is compiled without a mask
    for part in tl.static_range(1 if WHOLE else 2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, S
        for key_start in tl.range(start, stop, BLOCK_KEYS):
            keys = key_start + tl.arange(0, BLOCK_KEYS)
            if DESCRIPTORS:
                key = key_blocks.load([key_start, 0])
            else:
                key = load_tile(
                    key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            key_padding_mask = load_tile(
                key_padding_mask_block + tl.cast(key_start, tl.int64) * key_padding_mask_stride_s, (keys < S), part > 0
            )
            scores = tl.where(
                (~key_padding_mask)[None, :], tl.dot(query, tl.trans(key), input_precision=PRECISION), float("-inf")
            )
            if part > 0:
                scores = tl.where((keys < S)[None, :], scores, float("-inf"))
            new_max = nan_max(running_max, tl.reduce(scores, 1, nan_max))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * scale)
            weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])
            if DESCRIPTORS:
                value = value_blocks.load([key_start, 0])
            else:
                value = load_tile(
                    value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(
                weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
            )
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            running_max = new_max

    output = tl.where(
        (running_max != float("-inf"))[:, None], accumulator * (1.0 / running_sum)[:, None], 0.0
    )  # sdpa.py:70
    tl.store(
        output_ptr
        + batch * output_stride_b
        + tl.cast(row_start, tl.int64) * output_stride_s
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def sdpa_merged_heads(query, key, value, key_padding_mask):
    """Launch `sdpa_merged_heads_kernel` on tensors of one device."""
    B, S, H, D = query.shape
    output = query.new_empty((B, S, H, D))
    alike = layouts((query, key, value, key_padding_mask), "sdpa_merged_heads", precision(query))
    if relaunch(alike, query, key, value, key_padding_mask, output):
        return output.view(B, S, D * H)

    expect("query", query, (B, S, H, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, S, H, D), (query.dtype,), query.device)
    expect("value", value, (B, S, H, D), (query.dtype,), query.device)
    key_padding_mask = spread("key_padding_mask", key_padding_mask, (B, S))
    expect("key_padding_mask", key_padding_mask, (B, S), (torch.bool,), query.device)

    hopper = hopper_tile("sdpa_merged_heads", D, S, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sdpa_merged_heads_kernel,
            min(multiprocessors(query.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, key_padding_mask, output),
            (
                *query.stride()[:-1],
                *key.stride()[:-1],
                *value.stride()[:-1],
                *key_padding_mask.stride(),
                *output.stride()[:-1],
                H,
                B,
                S,
            ),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sdpa_merged_heads", query, D, S, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sdpa_merged_heads_kernel,
            -(-S // block_rows) * B * H,
            (query, key, value, key_padding_mask, output),
            (*query.stride(), *key.stride(), *value.stride(), *key_padding_mask.stride(), *output.stride(), S, H),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(query),
            num_warps=warps,
            num_stages=stages,
        )
    return output.view(B, S, D * H)


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


def layouts(tensors, *values):
    """What a launch follows from: how tensors lie in memory, and values; None while `torch.compile` traces it."""
    if torch.compiler.is_compiling():
        return None
    laid = [(t.shape, t.stride(), t.dtype, t.device, t.data_ptr() % 128, t.requires_grad) for t in tensors]
    return (*map(str, values), torch.is_grad_enabled(), *laid)  # as strings: -0.0 equals 0.0, and NaN nothing


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


def number(name, value):
    """A float, also of an int or a tensor of one number."""
    if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError(f"{name} requires grad, and this kernel has no backward: use torch.no_grad()")
    return float(value)


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
