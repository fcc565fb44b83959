"""Triton kernels for stick_breaking.py.

Written by flashlight 0.1.0 from examples/stick_breaking.py (sha256 aaac9d1ef550c28d)
with `flashlight transpile examples/stick_breaking.py`; change the source and run that again.
"""

import functools
import math
import os

import torch
import triton
import triton.language as tl

# Tiles that `flashlight tune` found: function, architecture, padded head dimension, bytes an element, keys;
# rows and keys of a tile, warps, pipeline stages, descriptors. `tile_for` serves without an entry.
TILES = {
    ("stick_breaking", "sm_90", 64, 2, 4096): (64, 32, 4, 4, False),
    ("stick_breaking", "sm_90", 128, 2, 4096): (64, 32, 4, 4, False),
}


@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def log2_1p(x, approximate: tl.constexpr):
    """log2(1 + x): one instruction where an error of 2**-22 is small enough, else with what 1 + x rounds away."""
    above = 1.0 + x
    if approximate:
        result = tl.inline_asm_elementwise(
            "lg2.approx.f32 $0, $1;", "=f,f", [above], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        # Kahan: log(1 + x) / ((1 + x) - 1) is exact to a few roundings, however much of a small x is lost in 1 + x
        lost = tl.where(x < 1.0, x / (above - 1.0), 1.0)
        result = tl.where(above == 1.0, x * 1.4426950408889634, tl.log2(above) * lost)
    return result


@triton.jit
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def nan_min(a, b):
    """The lesser of two numbers; NaN if either is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["S", "H"])
def stick_breaking_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """stick_breaking:

        logits[b, h, i, j] = float32(Σ_d query[b, h, i, d] * key[b, h, j, d]) / sqrt(float32(D))
        t[b, h, i, j] = log(exp(-abs(logits[b, h, i, j])) + 1)
        log_beta[b, h, i, j] = min(0, logits[b, h, i, j]) - t[b, h, i, j]
        logits_2[b, h, i, j] = float32(Σ_d query[b, h, i, d] * key[b, h, S - j - 1, d]) / sqrt(float32(D))
        log_left[b, h, i, j] = where(S - j - 1 >= i, 0, min(0, -logits_2[b, h, i, j]) - log(exp(-abs(logits_2[b,
            h, i, j])) + 1))
        log_left_2[b, h, i, j] = where(j >= i, 0, min(0, -logits[b, h, i, j]) - t[b, h, i, j])
        between[b, h, i, j] = (Σ_(j' <= S - j - 1) log_left[b, h, i, j']) - log_left_2[b, h, i, j]
        weights[b, h, i, j] = where(j >= i, 0, element(exp(log_beta[b, h, i, j] + between[b, h, i, j])))
        output[b, h, i, d] = Σ_j weights[b, h, i, j] * value[b, h, j, d]

    One program for each b, h and block of i; one pass over j in blocks, the last one first.
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

    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_log_left = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S, tl.maximum(0, BLOCK_ROWS + row_start - 1))
    full_stop = tl.minimum(S, row_start) // BLOCK_KEYS * BLOCK_KEYS

    for part in tl.static_range(2):
        if part == 0:
            # the blocks at the end of the range
            start, stop = full_stop, live_stop
        else:
            # blocks that need no mask
            start, stop = 0, full_stop
        if start < stop:
            # From the last block to the first
            last = start + (tl.cdiv((stop - start), BLOCK_KEYS) - 1) * BLOCK_KEYS
            for key_start in tl.range(last, start - BLOCK_KEYS, -BLOCK_KEYS):
                keys = key_start + tl.arange(0, BLOCK_KEYS)
                if DESCRIPTORS:
                    key = key_blocks.load([key_start, 0])
                else:
                    key = load_tile(
                        key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                        (keys < S)[:, None] & (d < D)[None, :],
                        part == 0 or BLOCK_D != D,
                    )
                logits = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale  # stick_breaking.py:20
                logarithm = log2_1p(tl.exp2(-tl.abs(logits)), APPROXIMATE)
                log_left = nan_min(0.0, -logits) - logarithm  # stick_breaking.py:24
                if part == 0:
                    log_left = tl.where(keys[None, :] < rows[:, None], log_left, 0.0)
                cumulative = running_log_left[:, None] + tl.cumsum(log_left, 1, reverse=True)
                running_log_left = running_log_left + tl.sum(log_left, 1)
                log_beta = nan_min(0.0, logits) - logarithm  # stick_breaking.py:23
                between = cumulative - log_left  # stick_breaking.py:25
                weights = tl.exp2(log_beta + between)  # stick_breaking.py:26
                if part == 0:
                    weights = tl.where(keys[None, :] < rows[:, None], weights, 0.0)
                if DESCRIPTORS:
                    value = value_blocks.load([key_start, 0])
                else:
                    value = load_tile(
                        value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                        (keys < S)[:, None] & (d < D)[None, :],
                        part == 0 or BLOCK_D != D,
                    )
                accumulator = tl.dot(weights.to(value.dtype), value, accumulator, input_precision=PRECISION)

    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        accumulator.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def stick_breaking(query, key, value):
    """Launch `stick_breaking_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    output = query.new_empty((B, H, S, D))
    alike = layouts((query, key, value), "stick_breaking", precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S, D), (query.dtype,), query.device)

    block_rows, block_keys, warps, stages, descriptors = configuration(
        "stick_breaking", query, D, S, accumulators=1, scores=5
    )
    descriptors = descriptors and describable(key, value)
    launch(
        stick_breaking_kernel,
        -(-S // block_rows) * B * H,
        (query, key, value, output),
        (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S, H),
        (1.0 / math.sqrt(D) * math.log2(math.e),),
        alike,
        D=D,
        BLOCK_D=padded(D),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        DESCRIPTORS=descriptors,
        PRECISION=precision(query),
        APPROXIMATE=approximate(query),
        num_warps=warps,
        num_stages=stages,
    )
    return output


@triton.jit(do_not_specialize=["S", "H"])
def stickbreaking_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, output_ptr, rem_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s, q_stride_d,
    k_stride_b, k_stride_h, k_stride_s, k_stride_d,
    v_stride_b, v_stride_h, v_stride_s, v_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    rem_stride_b, rem_stride_h, rem_stride_s,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # 1.0 / math.sqrt(D) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """stickbreaking:

        mask[i, j] = j >= i
        logits[b, h, i, j] = (Σ_d q[b, h, i, d] * k[b, h, j, d]) / sqrt(float32(D))
        logits_2[b, h, i, j] = float32(logits[b, h, i, j])
        log_z[b, h, i, j] = where(mask[i, j], -100000, element(min(0, logits_2[b, h, i, j]) -
            log(exp(-abs(logits_2[b, h, i, j])) + 1)))
        log_om_beta[b, h, i, j_2] = where(mask[i, j_2], 0, element(min(0, -logits_2[b, h, i, j_2]) -
            log(exp(-abs(logits_2[b, h, i, j_2])) + 1)))
        re_cum_log_om_beta[b, h, i, j] = Σ_j_2 log_om_beta[b, h, i, j_2] * where(j < j_2, 1, 0)
        log_att[b, h, i, j] = log_z[b, h, i, j] + re_cum_log_om_beta[b, h, i, j]
        att[b, h, i, j] = exp(log_att[b, h, i, j])
        output[b, h, i, d] = Σ_j att[b, h, i, j] * v[b, h, j, d]
        rem[b, h, i] = 1 - (Σ_j att[b, h, i, j])

    One program for each b, h and block of i; one pass over j in blocks, the last one first.
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
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d[None, :] * v_stride_d

    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    running_log_om_beta = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S, tl.maximum(0, BLOCK_ROWS + row_start - 1))
    full_stop = tl.minimum(S, row_start) // BLOCK_KEYS * BLOCK_KEYS

    for part in tl.static_range(2):
        if part == 0:
            # the blocks at the end of the range
            start, stop = full_stop, live_stop
        else:
            # blocks that need no mask
            start, stop = 0, full_stop
        if start < stop:
            # From the last block to the first
            last = start + (tl.cdiv((stop - start), BLOCK_KEYS) - 1) * BLOCK_KEYS
            for key_start in tl.range(last, start - BLOCK_KEYS, -BLOCK_KEYS):
                keys = key_start + tl.arange(0, BLOCK_KEYS)
                if DESCRIPTORS:
                    k = k_blocks.load([key_start, 0])
                else:
                    k = load_tile(
                        k_blocks + tl.cast(key_start, tl.int64) * k_stride_s,
                        (keys < S)[:, None] & (d < D)[None, :],
                        part == 0 or BLOCK_D != D,
                    )
                logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # stick_breaking.py:39
                logarithm = log2_1p(tl.exp2(-tl.abs(logits)), APPROXIMATE)
                log_om_beta = nan_min(0.0, -logits) - logarithm  # stick_breaking.py:43
                if part == 0:
                    log_om_beta = tl.where(keys[None, :] < rows[:, None], log_om_beta, 0.0)
                cumulative = running_log_om_beta[:, None] + tl.cumsum(log_om_beta, 1, reverse=True)
                running_log_om_beta = running_log_om_beta + tl.sum(log_om_beta, 1)
                log_z = nan_min(0.0, logits) - logarithm  # stick_breaking.py:42
                if part == 0:
                    log_z = tl.where(keys[None, :] < rows[:, None], log_z, -144269.50408889633)
                re_cum_log_om_beta = cumulative - log_om_beta  # stick_breaking.py:44
                log_att = log_z + re_cum_log_om_beta  # stick_breaking.py:45
                att = tl.exp2(log_att)  # stick_breaking.py:46
                if DESCRIPTORS:
                    v = v_blocks.load([key_start, 0])
                else:
                    v = load_tile(
                        v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                        (keys < S)[:, None] & (d < D)[None, :],
                        part == 0 or BLOCK_D != D,
                    )
                accumulator = tl.dot(att.to(v.dtype), v, accumulator, input_precision=PRECISION)
                running_sum = running_sum + tl.sum(att, 1)

    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        accumulator.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )
    rem = 1.0 - running_sum  # stick_breaking.py:47
    tl.store(
        rem_ptr
        + batch * rem_stride_b
        + head * rem_stride_h
        + tl.cast(row_start, tl.int64) * rem_stride_s
        + row_offsets * rem_stride_s,
        rem.to(rem_ptr.dtype.element_ty),
        mask=(rows < S),
    )


def stickbreaking(q, k, v):
    """Launch `stickbreaking_kernel` on tensors of one device."""
    B, H, S, D = q.shape
    output = q.new_empty((B, H, S, D))
    rem = q.new_empty((B, H, S))
    alike = layouts((q, k, v), "stickbreaking", precision(q))
    if relaunch(alike, q, k, v, output, rem):
        return (
            output,
            rem,
        )

    expect("q", q, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, H, S, D), (q.dtype,), q.device)
    expect("v", v, (B, H, S, D), (q.dtype,), q.device)

    block_rows, block_keys, warps, stages, descriptors = configuration(
        "stickbreaking", q, D, S, accumulators=1, scores=5
    )
    descriptors = descriptors and describable(k, v)
    launch(
        stickbreaking_kernel,
        -(-S // block_rows) * B * H,
        (q, k, v, output, rem),
        (*q.stride(), *k.stride(), *v.stride(), *output.stride(), *rem.stride(), S, H),
        (1.0 / math.sqrt(D) * math.log2(math.e),),
        alike,
        D=D,
        BLOCK_D=padded(D),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        DESCRIPTORS=descriptors,
        PRECISION=precision(q),
        APPROXIMATE=approximate(q),
        num_warps=warps,
        num_stages=stages,
    )
    return (
        output,
        rem,
    )


@triton.jit(do_not_specialize=["S", "H"])
def stick_breaking_softplus_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_h, query_stride_s, query_stride_d,
    key_stride_b, key_stride_h, key_stride_s, key_stride_d,
    value_stride_b, value_stride_h, value_stride_s, value_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """stick_breaking_softplus:

        hidden[i, j] = j >= i
        scores[b, h, i, j] = float32(Σ_d query[b, h, i, d] * key[b, h, j, d]) * float32(D) ** -0.5
        log_left[b, h, i, j] = -where(hidden[i, j], 0, where(scores[b, h, i, j] > 20, scores[b, h, i, j],
            max(scores[b, h, i, j], 0) + log(exp(-abs(scores[b, h, i, j])) + 1)))
        total[b, h, i] = Σ_j log_left[b, h, i, j]
        log_weights[b, h, i, j] = scores[b, h, i, j] + log_left[b, h, i, j] + (total[b, h, i] - (Σ_(j' <= j)
            log_left[b, h, i, j']))
        weights[b, h, i, j] = exp(where(hidden[i, j], -inf, log_weights[b, h, i, j]))
        output[b, h, i, d] = Σ_j element(weights[b, h, i, j]) * value[b, h, j, d]

    One program for each b, h and block of i; one pass over j in blocks, the last one first.
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

    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_log_left = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S, tl.maximum(0, BLOCK_ROWS + row_start - 1))
    full_stop = tl.minimum(S, row_start) // BLOCK_KEYS * BLOCK_KEYS

    for part in tl.static_range(2):
        if part == 0:
            # the blocks at the end of the range
            start, stop = full_stop, live_stop
        else:
            # blocks that need no mask
            start, stop = 0, full_stop
        if start < stop:
            # From the last block to the first
            last = start + (tl.cdiv((stop - start), BLOCK_KEYS) - 1) * BLOCK_KEYS
            for key_start in tl.range(last, start - BLOCK_KEYS, -BLOCK_KEYS):
                keys = key_start + tl.arange(0, BLOCK_KEYS)
                if DESCRIPTORS:
                    key = key_blocks.load([key_start, 0])
                else:
                    key = load_tile(
                        key_blocks + tl.cast(key_start, tl.int64) * key_stride_s,
                        (keys < S)[:, None] & (d < D)[None, :],
                        part == 0 or BLOCK_D != D,
                    )
                scores = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale  # stick_breaking.py:57
                scores_2 = tl.where(
                    scores > 28.85390081777927,
                    scores,
                    nan_max(scores, 0.0) + log2_1p(tl.exp2(-tl.abs(scores)), APPROXIMATE),
                )  # stick_breaking.py:57
                log_left = -scores_2  # stick_breaking.py:60
                if part == 0:
                    log_left = tl.where(keys[None, :] < rows[:, None], log_left, 0.0)
                cumulative = running_log_left[:, None] + tl.cumsum(log_left, 1, reverse=True)
                running_log_left = running_log_left + tl.sum(log_left, 1)
                log_weights = scores + cumulative  # stick_breaking.py:62
                if part == 0:
                    log_weights = tl.where(keys[None, :] < rows[:, None], log_weights, float("-inf"))
                weights = tl.exp2(log_weights)  # stick_breaking.py:63
                if DESCRIPTORS:
                    value = value_blocks.load([key_start, 0])
                else:
                    value = load_tile(
                        value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                        (keys < S)[:, None] & (d < D)[None, :],
                        part == 0 or BLOCK_D != D,
                    )
                accumulator = tl.dot(weights.to(value.dtype), value, accumulator, input_precision=PRECISION)

    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        accumulator.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def stick_breaking_softplus(query, key, value):
    """Launch `stick_breaking_softplus_kernel` on tensors of one device."""
    B, H, S, D = query.shape
    output = query.new_empty((B, H, S, D))
    alike = layouts((query, key, value), "stick_breaking_softplus", precision(query))
    if relaunch(alike, query, key, value, output):
        return output

    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H, S, D), (query.dtype,), query.device)
    expect("value", value, (B, H, S, D), (query.dtype,), query.device)

    block_rows, block_keys, warps, stages, descriptors = configuration(
        "stick_breaking_softplus", query, D, S, accumulators=1, scores=3
    )
    descriptors = descriptors and describable(key, value)
    launch(
        stick_breaking_softplus_kernel,
        -(-S // block_rows) * B * H,
        (query, key, value, output),
        (*query.stride(), *key.stride(), *value.stride(), *output.stride(), S, H),
        (D ** (-0.5) * math.log2(math.e),),
        alike,
        D=D,
        BLOCK_D=padded(D),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        DESCRIPTORS=descriptors,
        PRECISION=precision(query),
        APPROXIMATE=approximate(query),
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


def approximate(tensor):
    """Whether approximate instructions, of 11 good bits or more, are enough: results are rounded to bfloat16, of 8."""
    return tensor.dtype == torch.bfloat16 and architecture(tensor.device).startswith("sm_")


def precision(tensor):
    """How products of float32 values are computed.

    As PyTorch is set to compute those of float32 tensors. What was made of 16-bit tensors is multiplied as sums of
    three bfloat16 numbers each, near exactly and by matrix instructions.
    """
    if tensor.dtype != torch.float32 and tensor.is_cuda:
        return "bf16x6"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
