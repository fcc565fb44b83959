"""Triton kernels for evoformer.py.

Written by flashlight 0.1.0 from examples/evoformer.py (sha256 48ca79e9eabb27c6)
with `flashlight transpile examples/evoformer.py`; change the source and run that again.
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
    ("column_attention", "sm_90a", 64, 2, 256): (128, 128, 8, 2, True),
    ("column_attention", "sm_90a", 128, 2, 256): (128, 64, 8, 2, True),
    ("row_attention", "sm_100", 64, 2, 4096): (128, 16, 8, 2, True),
    ("row_attention", "sm_90", 64, 2, 4096): (64, 64, 4, 2, False),
    ("row_attention", "sm_90", 128, 2, 4096): (64, 32, 4, 3, False),
    ("row_attention", "sm_90a", 64, 2, 256): (128, 128, 8, 2, True),
    ("row_attention", "sm_90a", 128, 2, 256): (128, 128, 8, 1, True),
    ("row_attention_with_mask", "sm_100", 64, 2, 4096): (64, 32, 4, 2, True),
    ("row_attention_with_mask", "sm_90", 64, 2, 256): (64, 32, 4, 2, True),
    ("row_attention_with_mask", "sm_90", 128, 2, 256): (64, 16, 4, 2, True),
    ("row_attention_with_mask", "sm_90", 128, 2, 4096): (64, 16, 4, 2, True),
    ("triangle_attention_ending_node", "sm_100", 64, 2, 4096): (128, 16, 8, 2, True),
    ("triangle_attention_ending_node", "sm_90", 128, 2, 256): (64, 16, 4, 3, True),
    ("triangle_attention_ending_node", "sm_90", 128, 2, 4096): (64, 16, 4, 3, True),
    ("triangle_attention_ending_node", "sm_90a", 64, 2, 256): (128, 64, 8, 4, True),
    ("triangle_attention_starting_node", "sm_100", 64, 2, 4096): (64, 16, 4, 2, True),
    ("triangle_attention_starting_node", "sm_90", 128, 2, 256): (64, 32, 4, 3, True),
    ("triangle_attention_starting_node", "sm_90a", 64, 2, 256): (128, 64, 8, 4, True),
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
def sigmoid(x, approximate: tl.constexpr):
    """1 / (1 + exp(-x)): a reciprocal in one instruction where a unit in the last place of float32 does not matter."""
    if approximate:
        result = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;",
            "=f,f",
            [1.0 + tl.exp2(x * -1.4426950408889634)],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        result = tl.sigmoid(x)
    return result


@triton.jit(do_not_specialize=["S", "H", "N"])
def row_attention_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr, pair_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_n, q_stride_s, q_stride_h, q_stride_d,
    k_stride_b, k_stride_n, k_stride_s, k_stride_h, k_stride_d,
    v_stride_b, v_stride_n, v_stride_s, v_stride_h, v_stride_d,
    gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h, gate_stride_d,
    mask_bias_stride_b, mask_bias_stride_n, mask_bias_stride_s,
    pair_bias_stride_b, pair_bias_stride_h, pair_bias_stride_3, pair_bias_stride_4,
    output_stride_b, output_stride_n, output_stride_s, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, N,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr, APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """row_attention:

        logits[b, n, h, i, j] = Σ_d q[b, n, i, h, d] / sqrt(float32(D)) * k[b, n, j, h, d]
        logits_2[b, n, h, i, j] = logits[b, n, h, i, j] + mask_bias[b, n, 0, 0, j] + pair_bias[b, 0, h, i, j]
        t[b, n, h, i, j] = exp(logits_2[b, n, h, i, j] - (max_j logits_2[b, n, h, i, j]))
        weights[b, n, h, i, j] = t[b, n, h, i, j] / (Σ_j t[b, n, h, i, j])
        weighted_avg[b, n, h, i, d] = Σ_j weights[b, n, h, i, j] * v[b, n, j, h, d]
        output[b, n, i, h, d] = sigmoid(gate[b, n, i, h, d]) * weighted_avg[b, n, h, i, d]

    One program for each b, n, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    n_index = (program // row_blocks // H % N).to(tl.int64)
    batch = (program // row_blocks // H // N).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + n_index * q_stride_n
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b + n_index * k_stride_n + head * k_stride_h
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    mask_bias_block = (
        mask_bias_ptr + batch * mask_bias_stride_b + n_index * mask_bias_stride_n + key_offsets * mask_bias_stride_s
    )
    existing_rows = tl.minimum(row_offsets, S - 1 - row_start)  # rows past the end read the last one
    pair_bias_block = (
        pair_bias_ptr
        + batch * pair_bias_stride_b
        + head * pair_bias_stride_h
        + tl.cast(row_start, tl.int64) * pair_bias_stride_3
        + existing_rows[:, None] * pair_bias_stride_3
        + key_offsets[None, :] * pair_bias_stride_4
    )
    v_base = v_ptr + batch * v_stride_b + n_index * v_stride_n + head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d[None, :] * v_stride_d

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
                k = k_blocks.load([key_start, 0])
            else:
                k = load_tile(
                    k_blocks + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # evoformer.py:11
            mask_bias = load_tile(
                mask_bias_block + tl.cast(key_start, tl.int64) * mask_bias_stride_s, (keys < S), part > 0
            )
            pair_bias = load_tile(
                pair_bias_block + tl.cast(key_start, tl.int64) * pair_bias_stride_4, (keys < S)[None, :], part > 0
            )
            logits_2 = logits + mask_bias.to(tl.float32)[None, :] + pair_bias.to(tl.float32)  # evoformer.py:13
            if part > 0:
                logits_2 = tl.where((keys < S)[None, :], logits_2, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(logits_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            weights = tl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            running_max = new_max

    gate = tl.load(
        gate_ptr
        + batch * gate_stride_b
        + n_index * gate_stride_n
        + tl.cast(row_start, tl.int64) * gate_stride_s
        + head * gate_stride_h
        + row_offsets[:, None] * gate_stride_s
        + d[None, :] * gate_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    weighted_avg = accumulator * (1.0 / running_sum)[:, None]  # evoformer.py:15
    output = sigmoid(gate.to(tl.float32), APPROXIMATE) * weighted_avg
    tl.store(
        output_ptr
        + batch * output_stride_b
        + n_index * output_stride_n
        + tl.cast(row_start, tl.int64) * output_stride_s
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def row_attention(q, k, v, gate, mask_bias, pair_bias):
    """Launch `row_attention_kernel` on tensors of one device."""
    B, N, S, H, D = q.shape
    output = q.new_empty((B, N, S, H, D))
    alike = layouts((q, k, v, gate, mask_bias, pair_bias), "row_attention", precision(q))
    if relaunch(alike, q, k, v, gate, mask_bias, pair_bias, output):
        return output

    expect("q", q, (B, N, S, H, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, N, S, H, D), (q.dtype,), q.device)
    expect("v", v, (B, N, S, H, D), (q.dtype,), q.device)
    gate = gate.expand(B, N, S, H, D)
    expect("gate", gate, (B, N, S, H, D), (q.dtype,), q.device)
    mask_bias = mask_bias.expand(B, N, 1, 1, S)
    expect("mask_bias", mask_bias, (B, N, 1, 1, S), (q.dtype,), q.device)
    pair_bias = pair_bias.expand(B, 1, H, S, S)
    expect("pair_bias", pair_bias, (B, 1, H, S, S), (q.dtype,), q.device)

    hopper = hopper_tile("row_attention", D, S, q, k, mask_bias, pair_bias, v, gate, output)
    if hopper is not None:
        launch(
            hopper_kernels().row_attention_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * N * H),
            (q, k, v, gate, mask_bias, pair_bias, output),
            (
                *q.stride()[:-1],
                *k.stride()[:-1],
                *v.stride()[:-1],
                *gate.stride()[:-1],
                *mask_bias.stride()[:-1],
                *pair_bias.stride()[:-1],
                *output.stride()[:-1],
                H,
                N,
                B,
                S,
            ),
            (1.0 / math.sqrt(D),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            APPROXIMATE=approximate(q),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "row_attention", q, D, S, accumulators=1, scores=5
        )
        descriptors = descriptors and describable(k, v)
        launch(
            row_attention_kernel,
            -(-S // block_rows) * B * N * H,
            (q, k, v, gate, mask_bias, pair_bias, output),
            (
                *q.stride(),
                *k.stride(),
                *v.stride(),
                *gate.stride(),
                mask_bias.stride(0),
                mask_bias.stride(1),
                mask_bias.stride(4),
                pair_bias.stride(0),
                pair_bias.stride(2),
                pair_bias.stride(3),
                pair_bias.stride(4),
                *output.stride(),
                S,
                H,
                N,
            ),
            (1.0 / math.sqrt(D),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            APPROXIMATE=approximate(q),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S", "H", "N"])
def row_attention_with_mask_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, msa_mask_ptr, pair_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_n, q_stride_s, q_stride_h, q_stride_d,
    k_stride_b, k_stride_n, k_stride_s, k_stride_h, k_stride_d,
    v_stride_b, v_stride_n, v_stride_s, v_stride_h, v_stride_d,
    gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h, gate_stride_d,
    msa_mask_stride_b, msa_mask_stride_n, msa_mask_stride_s,
    pair_bias_stride_b, pair_bias_stride_h, pair_bias_stride_3, pair_bias_stride_4,
    output_stride_b, output_stride_n, output_stride_s, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, N,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr, APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """row_attention_with_mask:

        logits[b, n, h, i, j] = Σ_d q[b, n, i, h, d] / sqrt(float32(D)) * k[b, n, j, h, d]
        mask_bias[b, n, j] = (float32(msa_mask[b, n, j]) - 1) * 1000000000
        logits_2[b, n, h, i, j] = logits[b, n, h, i, j] + mask_bias[b, n, j] + float32(pair_bias[b, 0, h, i, j])
        t[b, n, h, i, j] = exp(logits_2[b, n, h, i, j] - (max_j logits_2[b, n, h, i, j]))
        weights[b, n, h, i, j] = t[b, n, h, i, j] / (Σ_j t[b, n, h, i, j])
        weighted_avg[b, n, h, i, d] = Σ_j weights[b, n, h, i, j] * v[b, n, j, h, d]
        output[b, n, i, h, d] = element(sigmoid(gate[b, n, i, h, d]) * weighted_avg[b, n, h, i, d])

    One program for each b, n, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    n_index = (program // row_blocks // H % N).to(tl.int64)
    batch = (program // row_blocks // H // N).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + n_index * q_stride_n
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b + n_index * k_stride_n + head * k_stride_h
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    msa_mask_block = (
        msa_mask_ptr + batch * msa_mask_stride_b + n_index * msa_mask_stride_n + key_offsets * msa_mask_stride_s
    )
    existing_rows = tl.minimum(row_offsets, S - 1 - row_start)  # rows past the end read the last one
    pair_bias_block = (
        pair_bias_ptr
        + batch * pair_bias_stride_b
        + head * pair_bias_stride_h
        + tl.cast(row_start, tl.int64) * pair_bias_stride_3
        + existing_rows[:, None] * pair_bias_stride_3
        + key_offsets[None, :] * pair_bias_stride_4
    )
    v_base = v_ptr + batch * v_stride_b + n_index * v_stride_n + head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d[None, :] * v_stride_d

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
                k = k_blocks.load([key_start, 0])
            else:
                k = load_tile(
                    k_blocks + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # evoformer.py:11
            msa_mask = load_tile(
                msa_mask_block + tl.cast(key_start, tl.int64) * msa_mask_stride_s, (keys < S), part > 0
            )
            mask_bias = (msa_mask.to(tl.float32) - 1.0) * 1000000000.0  # evoformer.py:40
            pair_bias = load_tile(
                pair_bias_block + tl.cast(key_start, tl.int64) * pair_bias_stride_4, (keys < S)[None, :], part > 0
            )
            logits_2 = logits + mask_bias[None, :] + pair_bias.to(tl.float32)  # evoformer.py:13
            if part > 0:
                logits_2 = tl.where((keys < S)[None, :], logits_2, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(logits_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            weights = tl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(weights, v.to(tl.float32), accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            running_max = new_max

    gate = tl.load(
        gate_ptr
        + batch * gate_stride_b
        + n_index * gate_stride_n
        + tl.cast(row_start, tl.int64) * gate_stride_s
        + head * gate_stride_h
        + row_offsets[:, None] * gate_stride_s
        + d[None, :] * gate_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    weighted_avg = accumulator * (1.0 / running_sum)[:, None]  # evoformer.py:15
    output = sigmoid(gate.to(tl.float32), APPROXIMATE) * weighted_avg
    tl.store(
        output_ptr
        + batch * output_stride_b
        + n_index * output_stride_n
        + tl.cast(row_start, tl.int64) * output_stride_s
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def row_attention_with_mask(q, k, v, gate, msa_mask, pair_bias):
    """Launch `row_attention_with_mask_kernel` on tensors of one device."""
    B, N, S, H, D = q.shape
    output = q.new_empty((B, N, S, H, D))
    alike = layouts((q, k, v, gate, msa_mask, pair_bias), "row_attention_with_mask", precision(q))
    if relaunch(alike, q, k, v, gate, msa_mask, pair_bias, output):
        return output

    expect("q", q, (B, N, S, H, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, N, S, H, D), (q.dtype,), q.device)
    expect("v", v, (B, N, S, H, D), (q.dtype,), q.device)
    gate = gate.expand(B, N, S, H, D)
    expect("gate", gate, (B, N, S, H, D), (q.dtype,), q.device)
    msa_mask = spread("msa_mask", msa_mask, (B, N, S))
    expect("msa_mask", msa_mask, (B, N, S), (q.dtype,), q.device)
    pair_bias = pair_bias.expand(B, 1, H, S, S)
    expect("pair_bias", pair_bias, (B, 1, H, S, S), (q.dtype,), q.device)

    block_rows, block_keys, warps, stages, descriptors = configuration(
        "row_attention_with_mask", q, D, S, accumulators=1, scores=5, exact=True
    )
    descriptors = descriptors and describable(k, v)
    launch(
        row_attention_with_mask_kernel,
        -(-S // block_rows) * B * N * H,
        (q, k, v, gate, msa_mask, pair_bias, output),
        (
            *q.stride(),
            *k.stride(),
            *v.stride(),
            *gate.stride(),
            *msa_mask.stride(),
            pair_bias.stride(0),
            pair_bias.stride(2),
            pair_bias.stride(3),
            pair_bias.stride(4),
            *output.stride(),
            S,
            H,
            N,
        ),
        (1.0 / math.sqrt(D),),
        alike,
        D=D,
        BLOCK_D=padded(D),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        WHOLE=S % block_keys == 0,
        DESCRIPTORS=descriptors,
        PRECISION=precision(q),
        APPROXIMATE=approximate(q),
        num_warps=warps,
        num_stages=stages,
    )
    return output


@triton.jit(do_not_specialize=["N", "H", "S"])
def column_attention_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_n, q_stride_s, q_stride_h, q_stride_d,
    k_stride_b, k_stride_n, k_stride_s, k_stride_h, k_stride_d,
    v_stride_b, v_stride_n, v_stride_s, v_stride_h, v_stride_d,
    gate_stride_b, gate_stride_n, gate_stride_s, gate_stride_h, gate_stride_d,
    mask_bias_stride_b, mask_bias_stride_s, mask_bias_stride_n,
    output_stride_b, output_stride_n, output_stride_s, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    N, H, S,
    # numbers
    scale,  # 1.0 / math.sqrt(D)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr, APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """column_attention:

        logits[b, s, h, i, j] = Σ_d q[b, i, s, h, d] / sqrt(float32(D)) * k[b, j, s, h, d]
        logits_2[b, s, h, i, j] = logits[b, s, h, i, j] + mask_bias[b, s, 0, 0, j]
        t[b, s, h, i, j] = exp(logits_2[b, s, h, i, j] - (max_j logits_2[b, s, h, i, j]))
        weights[b, s, h, i, j] = t[b, s, h, i, j] / (Σ_j t[b, s, h, i, j])
        weighted_avg[b, s, h, i, d] = Σ_j weights[b, s, h, i, j] * v[b, j, s, h, d]
        output[b, i, s, h, d] = sigmoid(gate[b, i, s, h, d]) * weighted_avg[b, s, h, i, d]

    One program for each b, s, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(N, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    s = (program // row_blocks // H % S).to(tl.int64)
    batch = (program // row_blocks // H // S).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_n
        + s * q_stride_s
        + head * q_stride_h
        + row_offsets[:, None] * q_stride_n
        + d[None, :] * q_stride_d,
        mask=(rows < N)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b + s * k_stride_s + head * k_stride_h
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [N, D], [k_stride_n, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_n + d[None, :] * k_stride_d
    mask_bias_block = (
        mask_bias_ptr + batch * mask_bias_stride_b + s * mask_bias_stride_s + key_offsets * mask_bias_stride_n
    )
    v_base = v_ptr + batch * v_stride_b + s * v_stride_s + head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [N, D], [v_stride_n, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_n + d[None, :] * v_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # The last block may reach past the keys
    full_stop = N // BLOCK_KEYS * BLOCK_KEYS

    # Where all blocks are whole, the kernel is compiled without a mask
    for part in tl.static_range(1 if WHOLE else 2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, N
        for key_start in tl.range(start, stop, BLOCK_KEYS):
            keys = key_start + tl.arange(0, BLOCK_KEYS)
            if DESCRIPTORS:
                k = k_blocks.load([key_start, 0])
            else:
                k = load_tile(
                    k_blocks + tl.cast(key_start, tl.int64) * k_stride_n,
                    (keys < N)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # evoformer.py:11
            mask_bias = load_tile(
                mask_bias_block + tl.cast(key_start, tl.int64) * mask_bias_stride_n, (keys < N), part > 0
            )
            logits_2 = logits + mask_bias.to(tl.float32)[None, :]  # evoformer.py:13
            if part > 0:
                logits_2 = tl.where((keys < N)[None, :], logits_2, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(logits_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            weights = tl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_n,
                    (keys < N)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            running_max = new_max

    gate = tl.load(
        gate_ptr
        + batch * gate_stride_b
        + tl.cast(row_start, tl.int64) * gate_stride_n
        + s * gate_stride_s
        + head * gate_stride_h
        + row_offsets[:, None] * gate_stride_n
        + d[None, :] * gate_stride_d,
        mask=(rows < N)[:, None] & (d < D)[None, :],
        other=0,
    )
    weighted_avg = accumulator * (1.0 / running_sum)[:, None]  # evoformer.py:15
    output = sigmoid(gate.to(tl.float32), APPROXIMATE) * weighted_avg
    tl.store(
        output_ptr
        + batch * output_stride_b
        + tl.cast(row_start, tl.int64) * output_stride_n
        + s * output_stride_s
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_n
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < N)[:, None] & (d < D)[None, :],
    )


def column_attention(q, k, v, gate, mask_bias):
    """Launch `column_attention_kernel` on tensors of one device."""
    B, N, S, H, D = q.shape
    output = q.new_empty((B, N, S, H, D))
    alike = layouts((q, k, v, gate, mask_bias), "column_attention", precision(q))
    if relaunch(alike, q, k, v, gate, mask_bias, output):
        return output

    expect("q", q, (B, N, S, H, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, N, S, H, D), (q.dtype,), q.device)
    expect("v", v, (B, N, S, H, D), (q.dtype,), q.device)
    expect("gate", gate, (B, N, S, H, D), (q.dtype,), q.device)
    mask_bias = mask_bias.expand(B, S, 1, 1, N)
    expect("mask_bias", mask_bias, (B, S, 1, 1, N), (q.dtype,), q.device)

    hopper = hopper_tile("column_attention", D, N, q, k, mask_bias, v, gate, output)
    if hopper is not None:
        launch(
            hopper_kernels().column_attention_kernel,
            min(multiprocessors(q.device), -(-N // hopper["BLOCK_ROWS"]) * B * S * H),
            (q, k, v, gate, mask_bias, output),
            (
                *q.stride()[:-1],
                *k.stride()[:-1],
                *v.stride()[:-1],
                *gate.stride()[:-1],
                *mask_bias.stride()[:-1],
                *output.stride()[:-1],
                H,
                S,
                B,
                N,
            ),
            (1.0 / math.sqrt(D),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            APPROXIMATE=approximate(q),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "column_attention", q, D, N, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(k, v)
        launch(
            column_attention_kernel,
            -(-N // block_rows) * B * S * H,
            (q, k, v, gate, mask_bias, output),
            (
                *q.stride(),
                *k.stride(),
                *v.stride(),
                *gate.stride(),
                mask_bias.stride(0),
                mask_bias.stride(1),
                mask_bias.stride(4),
                *output.stride(),
                N,
                H,
                S,
            ),
            (1.0 / math.sqrt(D),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=N % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            APPROXIMATE=approximate(q),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S", "H"])
def triangle_attention_starting_node_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_ptr, triangle_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_1, q_stride_2, q_stride_h, q_stride_d,
    k_stride_b, k_stride_1, k_stride_2, k_stride_h, k_stride_d,
    v_stride_b, v_stride_1, v_stride_2, v_stride_h, v_stride_d,
    gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h, gate_stride_d,
    mask_stride_b, mask_stride_1, mask_stride_2,
    triangle_bias_stride_b, triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h,
    output_stride_b, output_stride_1, output_stride_2, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr, APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """triangle_attention_starting_node:

        logits[b, s, h, i, j] = (Σ_d q[b, s, i, h, d] * k[b, s, j, h, d]) * float32(D) ** -0.5
        logits_2[b, s, h, i, j] = logits[b, s, h, i, j] + triangle_bias[b, i, j, h]
        logits_3[b, s, h, i, j] = where(mask[b, s, j], logits_2[b, s, h, i, j], -1000000000)
        t[b, s, h, i, j] = exp(logits_3[b, s, h, i, j] - (max_j logits_3[b, s, h, i, j]))
        weights[b, s, h, i, j] = t[b, s, h, i, j] / (Σ_j t[b, s, h, i, j])
        output[b, s, i, h, d] = sigmoid(gate[b, s, i, h, d]) * (Σ_j weights[b, s, h, i, j] * v[b, s, j, h, d])

    One program for each b, s, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    s = (program // row_blocks // H % S).to(tl.int64)
    batch = (program // row_blocks // H // S).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    mask_block = mask_ptr + batch * mask_stride_b + s * mask_stride_1 + key_offsets * mask_stride_2
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + s * q_stride_1
        + tl.cast(row_start, tl.int64) * q_stride_2
        + head * q_stride_h
        + row_offsets[:, None] * q_stride_2
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b + s * k_stride_1 + head * k_stride_h
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [S, D], [k_stride_2, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_2 + d[None, :] * k_stride_d
    existing_rows = tl.minimum(row_offsets, S - 1 - row_start)  # rows past the end read the last one
    triangle_bias_block = (
        triangle_bias_ptr
        + batch * triangle_bias_stride_b
        + tl.cast(row_start, tl.int64) * triangle_bias_stride_1
        + head * triangle_bias_stride_h
        + existing_rows[:, None] * triangle_bias_stride_1
        + key_offsets[None, :] * triangle_bias_stride_2
    )
    v_base = v_ptr + batch * v_stride_b + s * v_stride_1 + head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_2, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_2 + d[None, :] * v_stride_d

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
                k = k_blocks.load([key_start, 0])
            else:
                k = load_tile(
                    k_blocks + tl.cast(key_start, tl.int64) * k_stride_2,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # evoformer.py:65
            triangle_bias = load_tile(
                triangle_bias_block + tl.cast(key_start, tl.int64) * triangle_bias_stride_2,
                (keys < S)[None, :],
                part > 0,
            )
            mask = load_tile(mask_block + tl.cast(key_start, tl.int64) * mask_stride_2, (keys < S), part > 0)
            logits_2 = tl.where(mask[None, :], logits + triangle_bias.to(tl.float32), -1000000000.0)  # evoformer.py:67
            if part > 0:
                logits_2 = tl.where((keys < S)[None, :], logits_2, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(logits_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            weights = tl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)  # evoformer.py:68
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_2,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            running_max = new_max

    gate = tl.load(
        gate_ptr
        + batch * gate_stride_b
        + s * gate_stride_1
        + tl.cast(row_start, tl.int64) * gate_stride_2
        + head * gate_stride_h
        + row_offsets[:, None] * gate_stride_2
        + d[None, :] * gate_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    output = sigmoid(gate.to(tl.float32), APPROXIMATE) * (accumulator * (1.0 / running_sum)[:, None])
    tl.store(
        output_ptr
        + batch * output_stride_b
        + s * output_stride_1
        + tl.cast(row_start, tl.int64) * output_stride_2
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_2
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def triangle_attention_starting_node(q, k, v, gate, mask, triangle_bias):
    """Launch `triangle_attention_starting_node_kernel` on tensors of one device."""
    B, S, _, H, D = q.shape
    output = q.new_empty((B, S, S, H, D))
    alike = layouts((q, k, v, gate, mask, triangle_bias), "triangle_attention_starting_node", precision(q))
    if relaunch(alike, q, k, v, gate, mask, triangle_bias, output):
        return output

    expect("q", q, (B, S, S, H, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, S, S, H, D), (q.dtype,), q.device)
    expect("v", v, (B, S, S, H, D), (q.dtype,), q.device)
    gate = gate.expand(B, S, S, H, D)
    expect("gate", gate, (B, S, S, H, D), (q.dtype,), q.device)
    mask = spread("mask", mask, (B, S, S))
    expect("mask", mask, (B, S, S), (torch.bool,), q.device)
    expect("triangle_bias", triangle_bias, (B, S, S, H), (q.dtype,), q.device)

    hopper = hopper_tile("triangle_attention_starting_node", D, S, q, k, v, gate, output)
    if hopper is not None:
        launch(
            hopper_kernels().triangle_attention_starting_node_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * S * H),
            (q, k, v, gate, mask, triangle_bias, output),
            (
                *q.stride()[:-1],
                *k.stride()[:-1],
                *v.stride()[:-1],
                *gate.stride()[:-1],
                *mask.stride(),
                *triangle_bias.stride(),
                *output.stride()[:-1],
                H,
                S,
                B,
            ),
            (D ** (-0.5),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            APPROXIMATE=approximate(q),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "triangle_attention_starting_node", q, D, S, accumulators=1, scores=5
        )
        descriptors = descriptors and describable(k, v)
        launch(
            triangle_attention_starting_node_kernel,
            -(-S // block_rows) * B * S * H,
            (q, k, v, gate, mask, triangle_bias, output),
            (
                *q.stride(),
                *k.stride(),
                *v.stride(),
                *gate.stride(),
                *mask.stride(),
                *triangle_bias.stride(),
                *output.stride(),
                S,
                H,
            ),
            (D ** (-0.5),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            APPROXIMATE=approximate(q),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S", "H"])
def triangle_attention_ending_node_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, gate_ptr, mask_ptr, triangle_bias_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_1, q_stride_2, q_stride_h, q_stride_d,
    k_stride_b, k_stride_1, k_stride_2, k_stride_h, k_stride_d,
    v_stride_b, v_stride_1, v_stride_2, v_stride_h, v_stride_d,
    gate_stride_b, gate_stride_1, gate_stride_2, gate_stride_h, gate_stride_d,
    mask_stride_b, mask_stride_1, mask_stride_2,
    triangle_bias_stride_b, triangle_bias_stride_1, triangle_bias_stride_2, triangle_bias_stride_h,
    output_stride_b, output_stride_1, output_stride_2, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr, APPROXIMATE: tl.constexpr,
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

    One program for each b, s_2, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    s_2 = (program // row_blocks // H % S).to(tl.int64)
    batch = (program // row_blocks // H // S).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    mask_block = mask_ptr + batch * mask_stride_b + s_2 * mask_stride_2 + key_offsets * mask_stride_1
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_1
        + s_2 * q_stride_2
        + head * q_stride_h
        + row_offsets[:, None] * q_stride_1
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b + s_2 * k_stride_2 + head * k_stride_h
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [S, D], [k_stride_1, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_1 + d[None, :] * k_stride_d
    existing_rows = tl.minimum(row_offsets, S - 1 - row_start)  # rows past the end read the last one
    triangle_bias_block = (
        triangle_bias_ptr
        + batch * triangle_bias_stride_b
        + tl.cast(row_start, tl.int64) * triangle_bias_stride_2
        + head * triangle_bias_stride_h
        + key_offsets[None, :] * triangle_bias_stride_1
        + existing_rows[:, None] * triangle_bias_stride_2
    )
    v_base = v_ptr + batch * v_stride_b + s_2 * v_stride_2 + head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_1, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_1 + d[None, :] * v_stride_d

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
                k = k_blocks.load([key_start, 0])
            else:
                k = load_tile(
                    k_blocks + tl.cast(key_start, tl.int64) * k_stride_1,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale  # evoformer.py:81
            triangle_bias = load_tile(
                triangle_bias_block + tl.cast(key_start, tl.int64) * triangle_bias_stride_1,
                (keys < S)[None, :],
                part > 0,
            )
            mask = load_tile(mask_block + tl.cast(key_start, tl.int64) * mask_stride_1, (keys < S), part > 0)
            logits_2 = tl.where(mask[None, :], logits + triangle_bias.to(tl.float32), -1000000000.0)  # evoformer.py:83
            if part > 0:
                logits_2 = tl.where((keys < S)[None, :], logits_2, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(logits_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            weights = tl.exp2((logits_2 - finite_max[:, None]) * LOG2_E)  # evoformer.py:84
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_1,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            running_max = new_max

    gate = tl.load(
        gate_ptr
        + batch * gate_stride_b
        + tl.cast(row_start, tl.int64) * gate_stride_1
        + s_2 * gate_stride_2
        + head * gate_stride_h
        + row_offsets[:, None] * gate_stride_1
        + d[None, :] * gate_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    output = sigmoid(gate.to(tl.float32), APPROXIMATE) * (accumulator * (1.0 / running_sum)[:, None])
    tl.store(
        output_ptr
        + batch * output_stride_b
        + tl.cast(row_start, tl.int64) * output_stride_1
        + s_2 * output_stride_2
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_1
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def triangle_attention_ending_node(q, k, v, gate, mask, triangle_bias):
    """Launch `triangle_attention_ending_node_kernel` on tensors of one device."""
    B, S, _, H, D = q.shape
    output = q.new_empty((B, S, S, H, D))
    alike = layouts((q, k, v, gate, mask, triangle_bias), "triangle_attention_ending_node", precision(q))
    if relaunch(alike, q, k, v, gate, mask, triangle_bias, output):
        return output

    expect("q", q, (B, S, S, H, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, S, S, H, D), (q.dtype,), q.device)
    expect("v", v, (B, S, S, H, D), (q.dtype,), q.device)
    gate = gate.expand(B, S, S, H, D)
    expect("gate", gate, (B, S, S, H, D), (q.dtype,), q.device)
    expect("mask", mask, (B, S, S), (torch.bool,), q.device)
    expect("triangle_bias", triangle_bias, (B, S, S, H), (q.dtype,), q.device)

    hopper = hopper_tile("triangle_attention_ending_node", D, S, q, k, v, gate, output)
    if hopper is not None:
        launch(
            hopper_kernels().triangle_attention_ending_node_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * S * H),
            (q, k, v, gate, mask, triangle_bias, output),
            (
                *q.stride()[:-1],
                *k.stride()[:-1],
                *v.stride()[:-1],
                *gate.stride()[:-1],
                *mask.stride(),
                *triangle_bias.stride(),
                *output.stride()[:-1],
                H,
                S,
                B,
            ),
            (D ** (-0.5),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            APPROXIMATE=approximate(q),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "triangle_attention_ending_node", q, D, S, accumulators=1, scores=5
        )
        descriptors = descriptors and describable(k, v)
        launch(
            triangle_attention_ending_node_kernel,
            -(-S // block_rows) * B * S * H,
            (q, k, v, gate, mask, triangle_bias, output),
            (
                *q.stride(),
                *k.stride(),
                *v.stride(),
                *gate.stride(),
                *mask.stride(),
                *triangle_bias.stride(),
                *output.stride(),
                S,
                H,
            ),
            (D ** (-0.5),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            APPROXIMATE=approximate(q),
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
