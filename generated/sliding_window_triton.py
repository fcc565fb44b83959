"""Triton kernels for sliding_window.py.

Written by flashlight 0.1.0 from examples/sliding_window.py (sha256 55a2cf0bbe0a7de8)
with `flashlight transpile examples/sliding_window.py`; change the source and run that again.
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
    ("sliding_window", "sm_80", 128, 2, 1024): (64, 16, 4, 2, True),
    ("sliding_window", "sm_90", 64, 2, 1024): (64, 64, 4, 3, False),
    ("sliding_window", "sm_90", 64, 2, 4096): (64, 64, 4, 3, False),
    ("sliding_window", "sm_90", 64, 2, 16384): (64, 64, 4, 3, False),
    ("sliding_window", "sm_90", 128, 2, 4096): (64, 32, 4, 2, True),
    ("sliding_window", "sm_90a", 64, 2, 16384): (192, 64, 12, 6, True),
    ("sliding_window", "sm_90a", 128, 2, 1024): (128, 64, 8, 4, True),
    ("sliding_window", "sm_90a", 128, 2, 4096): (128, 64, 8, 4, True),
    ("sliding_window", "sm_90a", 128, 2, 16384): (128, 64, 8, 4, True),
    ("sliding_window_band", "sm_90a", 64, 2, 4096): (192, 64, 12, 4, True),
    ("sliding_window_band", "sm_90a", 128, 2, 4096): (128, 64, 8, 4, True),
    ("sliding_window_bottom_right", "sm_90a", 64, 2, 4096): (192, 64, 12, 4, True),
    ("sliding_window_bottom_right", "sm_90a", 128, 2, 4096): (128, 64, 8, 4, True),
    ("sliding_window_symmetric", "sm_90", 64, 2, 4096): (64, 64, 4, 2, True),
    ("sliding_window_symmetric", "sm_90", 128, 2, 4096): (64, 32, 4, 2, True),
}


@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit(do_not_specialize=["S", "H", "window"])
def sliding_window_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, window,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """sliding_window:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        scores_2[b, h, i, j] = where(i - j < 0 or i - j >= window, -inf, scores[b, h, i, j])
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
        attn_weights[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d] = Σ_j attn_weights[b, h, i, j] * value[b, h, j, d]

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
    live_start = tl.maximum(0, row_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS
    live_stop = tl.minimum(S, BLOCK_ROWS + row_start)
    full_start = tl.cdiv(tl.maximum(0, BLOCK_ROWS + row_start - window), BLOCK_KEYS) * BLOCK_KEYS
    full_stop = tl.minimum(S, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(live_start, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = (key_start < full_start) | (key_start >= full_stop)
        if DESCRIPTORS:
            key = key_blocks.load([key_start, 0])
        else:
            key = tl.load(
                key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)  # sliding_window.py:21
        if partial:
            distance = rows[:, None] - keys[None, :]  # sliding_window.py:18
            scores = tl.where((distance >= 0) & (distance < window), scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        attn_weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])  # sliding_window.py:22
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


def sliding_window(query, key, value, window):
    """Launch `sliding_window_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    window = integer("window", window)
    output = query.new_empty((B, H, S, D))
    alike = layouts((query, key, value), "sliding_window", window, precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S, D), (query.dtype,), query.device)

    hopper = hopper_tile("sliding_window", D, S, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sliding_window_kernel,
            min(multiprocessors(query.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, output),
            (*query.stride()[:-1], *key.stride()[:-1], *value.stride()[:-1], *output.stride()[:-1], H, B, S, window),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sliding_window", query, D, S, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sliding_window_kernel,
            -(-S // block_rows) * B * H,
            (query, key, value, output),
            (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S, H, window),
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


@triton.jit(do_not_specialize=["S", "H", "radius"])
def sliding_window_symmetric_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, radius,
    # numbers
    fill,  # max(finfo(dtype).min * math.log2(math.e), -3.3895e+38)
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """sliding_window_symmetric:

        far[i, j] = abs(j - i) > radius
        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) * float32(D) ** -0.5
        scores_2[b, h, i, j] = where(far[i, j], element(finfo_min), scores[b, h, i, j])
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
        probs[b, h, i, j] = t[b, h, i, j] / (Σ_j t[b, h, i, j])
        output[b, h, i, d] = Σ_j probs[b, h, i, j] * value[b, h, j, d]

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    fill = tl.cast(fill, tl.float32)
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
    live_start = tl.maximum(0, row_start - radius) // BLOCK_KEYS * BLOCK_KEYS
    live_stop = tl.maximum(live_start, tl.minimum(S, tl.maximum(0, BLOCK_ROWS + radius + row_start)))
    full_start = tl.minimum(
        tl.cdiv(tl.maximum(0, BLOCK_ROWS + row_start - radius - 1), BLOCK_KEYS) * BLOCK_KEYS, live_stop
    )
    full_stop = tl.maximum(full_start, tl.minimum(S, tl.maximum(0, radius + row_start + 1)) // BLOCK_KEYS * BLOCK_KEYS)

    for part in tl.static_range(5):
        if part == 0:
            # blocks that need no mask
            start, stop = full_start, full_stop
        elif part == 1:
            # the blocks at the end of the range
            start, stop = full_stop, live_stop
        elif part == 2:
            # the blocks at its start
            start, stop = live_start, full_start
        elif part == 3:
            # a row that sees no key weighs all alike: the fill is finite, so the masked keys count
            unseen = tl.max(((rows < S) & (tl.exp2(fill - running_max) != 0.0)).to(tl.int32)) > 0
            start = tl.cdiv(live_stop, BLOCK_KEYS) * BLOCK_KEYS
            stop = tl.where(unseen, S, start)
        else:
            # likewise before the range
            start = 0
            stop = tl.where(unseen, live_start, 0)
        if start < stop:
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
                scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale  # sliding_window.py:36
                if part > 0:
                    scores = tl.where(tl.abs(keys[None, :] - rows[:, None]) <= radius, scores, fill)
                if part > 0:
                    scores = tl.where((keys < S)[None, :], scores, float("-inf"))
                new_max = tl.maximum(running_max, tl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = tl.exp2(running_max - finite_max)
                probs = tl.exp2(scores - finite_max[:, None])  # sliding_window.py:37
                if DESCRIPTORS:
                    value = value_blocks.load([key_start, 0])
                else:
                    value = load_tile(
                        value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                        (keys < S)[:, None] & (d < D)[None, :],
                        part > 0 or BLOCK_D != D,
                    )
                accumulator = tl.dot(
                    probs.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
                )
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


def sliding_window_symmetric(query, key, value, radius):
    """Launch `sliding_window_symmetric_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    radius = integer("radius", radius)
    output = query.new_empty((B, H, S, D))
    alike = layouts((query, key, value), "sliding_window_symmetric", radius, precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S, D), (query.dtype,), query.device)

    block_rows, block_keys, warps, stages, descriptors = configuration(
        "sliding_window_symmetric", query, D, S, accumulators=1, scores=2
    )
    descriptors = descriptors and describable(key, value)
    launch(
        sliding_window_symmetric_kernel,
        -(-S // block_rows) * B * H,
        (query, key, value, output),
        (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S, H, radius),
        (max(torch.finfo(query.dtype).min * math.log2(math.e), -3.3895e38), D ** (-0.5) * math.log2(math.e)),
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


@triton.jit(do_not_specialize=["S", "H", "window"])
def sliding_window_band_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s, q_stride_d,
    k_stride_b, k_stride_h, k_stride_s, k_stride_d,
    v_stride_b, v_stride_h, v_stride_s, v_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, window,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, D_v: tl.constexpr, BLOCK_D_v: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """sliding_window_band:

        band[i, j] = j > i - window and j <= i
        att[b, h, i, j] = (Σ_d q[b, h, i, d] * k[b, h, j, d]) / sqrt(float32(D))
        att_2[b, h, i, j] = where(band[i, j], att[b, h, i, j], -inf)
        t[b, h, i, j] = exp(att_2[b, h, i, j] - (max_j att_2[b, h, i, j]))
        output[b, h, i, d_v] = Σ_j t[b, h, i, j] / (Σ_j t[b, h, i, j]) * v[b, h, j, d_v]

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
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + head * q_stride_h
        + tl.cast(row_start, tl.int64) * q_stride_s
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b + head * k_stride_h
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D_v], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D_v])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d_v[None, :] * v_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_start = tl.maximum(0, row_start + 1 - window) // BLOCK_KEYS * BLOCK_KEYS
    live_stop = tl.minimum(S, BLOCK_ROWS + row_start)
    full_start = tl.cdiv(tl.maximum(0, BLOCK_ROWS + row_start - window), BLOCK_KEYS) * BLOCK_KEYS
    full_stop = tl.minimum(S, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(live_start, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = (key_start < full_start) | (key_start >= full_stop)
        if DESCRIPTORS:
            k = k_blocks.load([key_start, 0])
        else:
            k = tl.load(
                k_blocks + tl.cast(key_start, tl.int64) * k_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        att = tl.dot(q, tl.trans(k), input_precision=PRECISION)  # sliding_window.py:46
        if partial:
            att = tl.where(
                (keys[None, :] > (rows - window)[:, None]) & (keys[None, :] <= rows[:, None]), att, float("-inf")
            )
        new_max = tl.maximum(running_max, tl.max(att, 1))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        weights = tl.exp2(att * scale - (finite_max * scale)[:, None])
        if DESCRIPTORS:
            v = v_blocks.load([key_start, 0])
        else:
            v = tl.load(
                v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                mask=(keys < S)[:, None] & (d_v < D_v)[None, :],
                other=0,
            )
        accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
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


def sliding_window_band(q, k, v, window):
    """Launch `sliding_window_band_kernel` on tensors of one device."""
    B, H, S, D = q.shape
    _, _, _, D_v = v.shape
    window = integer("window", window)
    output = q.new_empty((B, H, S, D_v))
    alike = layouts((q, k, v), "sliding_window_band", window, precision(q))
    if relaunch(alike, q, k, v, output):
        return output

    expect("q", q, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, H, S, D), (q.dtype,), q.device)
    expect("v", v, (B, H, S, D_v), (q.dtype,), q.device)

    hopper = hopper_tile("sliding_window_band", max(D, D_v), S, q, k, v, output)
    if hopper is not None:
        launch(
            hopper_kernels().sliding_window_band_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (q, k, v, output),
            (*q.stride()[:-1], *k.stride()[:-1], *v.stride()[:-1], *output.stride()[:-1], H, B, S, window),
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
            "sliding_window_band", q, max(D, D_v), S, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(k, v)
        launch(
            sliding_window_band_kernel,
            -(-S // block_rows) * B * H,
            (q, k, v, output),
            (*q.stride(), *k.stride(), *v.stride(), *output.stride(), S, H, window),
            (1.0 / math.sqrt(D) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            D_v=D_v,
            BLOCK_D_v=padded(D_v),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S_q", "H", "S_k"])
def sliding_window_bottom_right_kernel(
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
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """sliding_window_bottom_right:

        scores[b, h, i, j] = (Σ_d query[b, h, i, d] * key[b, h, j, d]) * float32(D) ** -0.5
        scores_2[b, h, i, j] = where(i + S_k - j - S_q >= 0 and i + S_k - j - S_q < 128, scores[b, h, i, j],
            -inf)
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
        output[b, h, i, d] = Σ_j t[b, h, i, j] / (Σ_j t[b, h, i, j]) * value[b, h, j, d]

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
    value_base = value_ptr + batch * value_stride_b + head * value_stride_h
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S_k, D], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_start = tl.maximum(0, S_k + row_start - S_q - 127) // BLOCK_KEYS * BLOCK_KEYS
    live_stop = tl.minimum(S_k, tl.maximum(0, BLOCK_ROWS + S_k + row_start - S_q))
    full_start = tl.cdiv(tl.maximum(0, BLOCK_ROWS + S_k + row_start - S_q - 128), BLOCK_KEYS) * BLOCK_KEYS
    full_stop = tl.minimum(S_k, tl.maximum(0, S_k + row_start + 1 - S_q)) // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(live_start, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = (key_start < full_start) | (key_start >= full_stop)
        if DESCRIPTORS:
            key = key_blocks.load([key_start, 0])
        else:
            key = tl.load(
                key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                mask=(keys < S_k)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(query, tl.trans(key), input_precision=PRECISION)  # sliding_window.py:61
        if partial:
            distance = (rows + S_k)[:, None] - keys[None, :] - S_q  # sliding_window.py:59
            scores = tl.where((distance >= 0) & (distance < 128), scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
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

    output = accumulator * (1.0 / running_sum)[:, None]
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


def sliding_window_bottom_right(query, key, value):
    """Launch `sliding_window_bottom_right_kernel` on tensors of one device."""
    B, H, S_q, D = query.shape
    _, _, S_k, _ = key.shape
    output = query.new_empty((B, H, S_q, D))
    alike = layouts((query, key, value), "sliding_window_bottom_right", precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S_q, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S_k, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S_k, D), (query.dtype,), query.device)

    hopper = hopper_tile("sliding_window_bottom_right", D, S_k, query, key, value, output)
    if hopper is not None:
        launch(
            hopper_kernels().sliding_window_bottom_right_kernel,
            min(multiprocessors(query.device), -(-S_q // hopper["BLOCK_ROWS"]) * B * H),
            (query, key, value, output),
            (*query.stride()[:-1], *key.stride()[:-1], *value.stride()[:-1], *output.stride()[:-1], H, B, S_k, S_q),
            (D ** (-0.5) * math.log2(math.e),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "sliding_window_bottom_right", query, D, S_k, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(key, value)
        launch(
            sliding_window_bottom_right_kernel,
            -(-S_q // block_rows) * B * H,
            (query, key, value, output),
            (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S_q, H, S_k),
            (D ** (-0.5) * math.log2(math.e),),
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


def integer(name, value):
    """An integer that positions can be added to in 32 bits."""
    if not (-(2**30) < value < 2**30 and int(value) == value):
        raise ValueError(f"{name} is {value}, expected an integer between -2**30 and 2**30")
    return int(value)


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
