"""Triton kernels for differential.py.

Written by flashlight 0.1.0 from examples/differential.py (sha256 33347bba358bb960)
with `flashlight transpile examples/differential.py`; change the source and run that again.
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
    ("diff_attn", "sm_90", 128, 2, 4096): (64, 64, 4, 3, True),
    ("diff_attn", "sm_90", 256, 2, 4096): (64, 32, 8, 2, True),
    ("diff_attn_chunk", "sm_100", 128, 2, 1024): (64, 64, 4, 2, True),
    ("diff_attn_chunk", "sm_80", 64, 2, 4096): (128, 32, 8, 3, True),
    ("diff_attn_chunk", "sm_80", 128, 2, 4096): (128, 16, 8, 2, True),
    ("diff_attn_chunk", "sm_90", 64, 2, 4096): (64, 64, 4, 2, True),
    ("diff_attn_chunk", "sm_90", 128, 2, 4096): (128, 64, 8, 3, True),
    ("diff_attn_chunk", "sm_90a", 64, 2, 4096): (128, 128, 8, 2, True),
    ("diff_attn_norm", "sm_80", 64, 2, 4096): (128, 32, 8, 2, True),
    ("diff_attn_norm", "sm_90a", 64, 2, 4096): (192, 64, 12, 2, True),
    ("multihead_diff_attn", "sm_80", 64, 2, 4096): (128, 32, 8, 2, True),
    ("multihead_diff_attn", "sm_90a", 64, 2, 4096): (192, 64, 12, 2, True),
}


@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit(do_not_specialize=["S", "H"])
def diff_attn_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s, q_stride_d,
    k_stride_b, k_stride_h, k_stride_s, k_stride_d,
    v_stride_b, v_stride_h, v_stride_s, v_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    lam,
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_D_2: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
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

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)
    lam = tl.cast(lam, tl.float32)

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
    d_2 = tl.arange(0, BLOCK_D_2).to(tl.int64)

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
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D * 2], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D_2])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d_2[None, :] * v_stride_d
    q_head = head + H
    q_2 = tl.load(
        q_ptr
        + batch * q_stride_b
        + q_head * q_stride_h
        + tl.cast(row_start, tl.int64) * q_stride_s
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base_2 = k_ptr + batch * k_stride_b + q_head * k_stride_h
    if DESCRIPTORS:
        k_blocks_2 = tl.make_tensor_descriptor(k_base_2, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks_2 = k_base_2 + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_2], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    running_max_2 = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator_2 = tl.zeros([BLOCK_ROWS, BLOCK_D_2], tl.float32)
    running_sum_2 = tl.zeros([BLOCK_ROWS], tl.float32)

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
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            if part > 0:
                visible = keys < S
                scores = tl.where(visible[None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * scale)
            attn1 = tl.exp2(scores * scale - (finite_max * scale)[:, None])  # differential.py:19
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                    (keys < S)[:, None] & (d_2 < D * 2)[None, :],
                    part > 0 or BLOCK_D_2 != D * 2,
                )
            accumulator = tl.dot(attn1.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(attn1, 1)
            if DESCRIPTORS:
                k_2 = k_blocks_2.load([key_start, 0])
            else:
                k_2 = load_tile(
                    k_blocks_2 + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            scores_2 = tl.dot(q_2, tl.trans(k_2), input_precision=PRECISION)
            if part > 0:
                visible_2 = keys < S
                scores_2 = tl.where(visible_2[None, :], scores_2, float("-inf"))
            new_max_2 = tl.maximum(running_max_2, tl.max(scores_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max_2 = tl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
            rescale_2 = tl.exp2((running_max_2 - finite_max_2) * scale)
            attn2 = tl.exp2(scores_2 * scale - (finite_max_2 * scale)[:, None])  # differential.py:20
            accumulator_2 = tl.dot(attn2.to(v.dtype), v, accumulator_2 * rescale_2[:, None], input_precision=PRECISION)
            running_sum_2 = running_sum_2 * rescale_2 + tl.sum(attn2, 1)
            running_max = new_max
            running_max_2 = new_max_2

    output = accumulator * (1.0 / running_sum)[:, None] - accumulator_2 * (1.0 / running_sum_2 * lam)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d_2[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d_2 < D * 2)[None, :],
    )


def diff_attn(q, k, v, lam):
    """Launch `diff_attn_kernel` on tensors of one device."""
    B, _, S, D = q.shape
    _, H, _, _ = v.shape
    lam = number("lam", lam)
    output = q.new_empty((B, H, S, D * 2))
    alike = layouts((q, k, v), "diff_attn", lam, precision(q))
    if relaunch(alike, q, k, v, output):
        return output

    expect("q", q, (B, H * 2, S, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, H * 2, S, D), (q.dtype,), q.device)
    expect("v", v, (B, H, S, D * 2), (q.dtype,), q.device)

    D_2 = D * 2
    hopper = hopper_tile("diff_attn", max(D, D_2), S, q, k, v, output)
    if hopper is not None:
        launch(
            hopper_kernels().diff_attn_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (q, k, v, output),
            (*q.stride()[:-1], *k.stride()[:-1], *v.stride()[:-1], *output.stride()[:-1], H, B, S),
            (D ** (-0.5) * math.log2(math.e), lam),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_D_2=padded(D_2),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "diff_attn", q, max(D, D_2), S, accumulators=2, scores=2, blocks=3
        )
        descriptors = descriptors and describable(k, v)
        launch(
            diff_attn_kernel,
            -(-S // block_rows) * B * H,
            (q, k, v, output),
            (*q.stride(), *k.stride(), *v.stride(), *output.stride(), S, H),
            (D ** (-0.5) * math.log2(math.e), lam),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_D_2=padded(D_2),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S", "H"])
def diff_attn_chunk_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, lambda_full_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s, q_stride_d,
    k_stride_b, k_stride_h, k_stride_s, k_stride_d,
    v_stride_b, v_stride_h, v_stride_s, v_stride_d,
    lambda_full_stride_h,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, D_v: tl.constexpr, BLOCK_D_v: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
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
    q_head = head + H
    q_2 = tl.load(
        q_ptr
        + batch * q_stride_b
        + q_head * q_stride_h
        + tl.cast(row_start, tl.int64) * q_stride_s
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base_2 = k_ptr + batch * k_stride_b + q_head * k_stride_h
    if DESCRIPTORS:
        k_blocks_2 = tl.make_tensor_descriptor(k_base_2, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks_2 = k_base_2 + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    running_max_2 = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator_2 = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum_2 = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S, BLOCK_ROWS + row_start)
    full_stop = tl.minimum(S, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for key_start in tl.range(0, live_stop, BLOCK_KEYS):
        keys = key_start + tl.arange(0, BLOCK_KEYS)
        partial = key_start >= full_stop
        if DESCRIPTORS:
            k = k_blocks.load([key_start, 0])
        else:
            k = tl.load(
                k_blocks + tl.cast(key_start, tl.int64) * k_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if partial:
            scores = tl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        attn1 = tl.exp2(scores * scale - (finite_max * scale)[:, None])  # differential.py:37
        if DESCRIPTORS:
            v = v_blocks.load([key_start, 0])
        else:
            v = tl.load(
                v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                mask=(keys < S)[:, None] & (d_v < D_v)[None, :],
                other=0,
            )
        accumulator = tl.dot(attn1.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
        running_sum = running_sum * rescale + tl.sum(attn1, 1)
        if DESCRIPTORS:
            k_2 = k_blocks_2.load([key_start, 0])
        else:
            k_2 = tl.load(
                k_blocks_2 + tl.cast(key_start, tl.int64) * k_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores_2 = tl.dot(q_2, tl.trans(k_2), input_precision=PRECISION)
        if partial:
            scores_2 = tl.where(keys[None, :] <= rows[:, None], scores_2, float("-inf"))
        new_max_2 = tl.maximum(running_max_2, tl.max(scores_2, 1))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max_2 = tl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
        rescale_2 = tl.exp2((running_max_2 - finite_max_2) * scale)
        attn2 = tl.exp2(scores_2 * scale - (finite_max_2 * scale)[:, None])  # differential.py:38
        accumulator_2 = tl.dot(attn2.to(v.dtype), v, accumulator_2 * rescale_2[:, None], input_precision=PRECISION)
        running_sum_2 = running_sum_2 * rescale_2 + tl.sum(attn2, 1)
        running_max = new_max
        running_max_2 = new_max_2

    lambda_full = tl.load(lambda_full_ptr + head * lambda_full_stride_h)
    output = (
        accumulator * (1.0 / running_sum)[:, None]
        - accumulator_2 * (1.0 / running_sum_2 * lambda_full.to(tl.float32))[:, None]
    )
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


def diff_attn_chunk(q, k, v, lambda_full):
    """Launch `diff_attn_chunk_kernel` on tensors of one device."""
    B, _, S, D = q.shape
    _, H, _, D_v = v.shape
    output = q.new_empty((B, H, S, D_v))
    alike = layouts((q, k, v, lambda_full), "diff_attn_chunk", precision(q))
    if relaunch(alike, q, k, v, lambda_full, output):
        return output

    expect("q", q, (B, H * 2, S, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, H * 2, S, D), (q.dtype,), q.device)
    expect("v", v, (B, H, S, D_v), (q.dtype,), q.device)
    lambda_full = spread("lambda_full", lambda_full, (H,))
    expect("lambda_full", lambda_full, (H,), (q.dtype,), q.device)

    hopper = hopper_tile("diff_attn_chunk", max(D, D_v), S, q, k, v, output)
    if hopper is not None:
        launch(
            hopper_kernels().diff_attn_chunk_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (q, k, v, lambda_full, output),
            (
                *q.stride()[:-1],
                *k.stride()[:-1],
                *v.stride()[:-1],
                lambda_full.stride(0),
                *output.stride()[:-1],
                H,
                B,
                S,
            ),
            (D ** (-0.5) * math.log2(math.e),),
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
            "diff_attn_chunk", q, max(D, D_v), S, accumulators=2, scores=2, blocks=3
        )
        descriptors = descriptors and describable(k, v)
        launch(
            diff_attn_chunk_kernel,
            -(-S // block_rows) * B * H,
            (q, k, v, lambda_full, output),
            (*q.stride(), *k.stride(), *v.stride(), lambda_full.stride(0), *output.stride(), S, H),
            (D ** (-0.5) * math.log2(math.e),),
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


@triton.jit(do_not_specialize=["S", "H"])
def diff_attn_norm_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, weight_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_h, q_stride_s, q_stride_d,
    k_stride_b, k_stride_h, k_stride_s, k_stride_d,
    v_stride_b, v_stride_h, v_stride_s, v_stride_d,
    weight_stride_d,
    output_stride_b, output_stride_h, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    lam,
    scale_2,  # 1.0 / D_v
    scale_3,  # 1.0 - lambda_init
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, D_v: tl.constexpr, BLOCK_D_v: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
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

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)
    lam = tl.cast(lam, tl.float32)
    scale_2 = tl.cast(scale_2, tl.float32)
    scale_3 = tl.cast(scale_3, tl.float32)

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
    q_head = head + H
    q_2 = tl.load(
        q_ptr
        + batch * q_stride_b
        + q_head * q_stride_h
        + tl.cast(row_start, tl.int64) * q_stride_s
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base_2 = k_ptr + batch * k_stride_b + q_head * k_stride_h
    if DESCRIPTORS:
        k_blocks_2 = tl.make_tensor_descriptor(k_base_2, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks_2 = k_base_2 + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    running_max_2 = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator_2 = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum_2 = tl.zeros([BLOCK_ROWS], tl.float32)

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
            scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            if part > 0:
                visible = keys < S
                scores = tl.where(visible[None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * scale)
            attn1 = tl.exp2(scores * scale - (finite_max * scale)[:, None])  # differential.py:55
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                    (keys < S)[:, None] & (d_v < D_v)[None, :],
                    part > 0 or BLOCK_D_v != D_v,
                )
            accumulator = tl.dot(attn1.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(attn1, 1)
            if DESCRIPTORS:
                k_2 = k_blocks_2.load([key_start, 0])
            else:
                k_2 = load_tile(
                    k_blocks_2 + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            scores_2 = tl.dot(q_2, tl.trans(k_2), input_precision=PRECISION)
            if part > 0:
                visible_2 = keys < S
                scores_2 = tl.where(visible_2[None, :], scores_2, float("-inf"))
            new_max_2 = tl.maximum(running_max_2, tl.max(scores_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max_2 = tl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
            rescale_2 = tl.exp2((running_max_2 - finite_max_2) * scale)
            attn2 = tl.exp2(scores_2 * scale - (finite_max_2 * scale)[:, None])  # differential.py:56
            accumulator_2 = tl.dot(attn2.to(v.dtype), v, accumulator_2 * rescale_2[:, None], input_precision=PRECISION)
            running_sum_2 = running_sum_2 * rescale_2 + tl.sum(attn2, 1)
            running_max = new_max
            running_max_2 = new_max_2

    out = (
        accumulator * (1.0 / running_sum)[:, None] - accumulator_2 * (1.0 / running_sum_2 * lam)[:, None]
    )  # differential.py:57
    normed = (
        out * tl.rsqrt(tl.sum(tl.where((d_v < D_v)[None, :], out * out, 0.0), 1) * scale_2 + 1e-05)[:, None]
    )  # differential.py:58
    weight = load_tile(weight_ptr + d_v * weight_stride_d, (d_v < D_v), BLOCK_D_v != D_v)
    output = normed * (weight.to(tl.float32) * scale_3)[None, :]
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


def diff_attn_norm(q, k, v, weight, lam, lambda_init):
    """Launch `diff_attn_norm_kernel` on tensors of one device."""
    B, _, S, D = q.shape
    _, H, _, D_v = v.shape
    lam = number("lam", lam)
    lambda_init = number("lambda_init", lambda_init)
    output = q.new_empty((B, H, S, D_v))
    alike = layouts((q, k, v, weight), "diff_attn_norm", lam, lambda_init, precision(q))
    if relaunch(alike, q, k, v, weight, output):
        return output

    expect("q", q, (B, H * 2, S, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, H * 2, S, D), (q.dtype,), q.device)
    expect("v", v, (B, H, S, D_v), (q.dtype,), q.device)
    weight = weight.expand(
        D_v,
    )
    expect("weight", weight, (D_v,), (q.dtype,), q.device)

    hopper = hopper_tile("diff_attn_norm", max(D, D_v), S, q, k, v, output)
    if hopper is not None:
        launch(
            hopper_kernels().diff_attn_norm_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (q, k, v, weight, output),
            (*q.stride()[:-1], *k.stride()[:-1], *v.stride()[:-1], weight.stride(0), *output.stride()[:-1], H, B, S),
            (D ** (-0.5) * math.log2(math.e), lam, 1.0 / D_v, 1.0 - lambda_init),
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
            "diff_attn_norm", q, max(D, D_v), S, accumulators=2, scores=2, blocks=3
        )
        descriptors = descriptors and describable(k, v)
        launch(
            diff_attn_norm_kernel,
            -(-S // block_rows) * B * H,
            (q, k, v, weight, output),
            (*q.stride(), *k.stride(), *v.stride(), weight.stride(0), *output.stride(), S, H),
            (D ** (-0.5) * math.log2(math.e), lam, 1.0 / D_v, 1.0 - lambda_init),
            alike,
            D=D,
            BLOCK_D=padded(D),
            D_v=D_v,
            BLOCK_D_v=padded(D_v),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["S", "H"])
def multihead_diff_attn_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, lambda_full_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_s, q_stride_h, q_stride_d,
    k_stride_b, k_stride_s, k_stride_h, k_stride_d,
    v_stride_b, v_stride_s, v_stride_h, v_stride_d,
    output_stride_b, output_stride_s, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H,
    # numbers
    scale,  # D ** (-0.5) * math.log2(math.e)
    scale_2,  # 1.0 / D_v
    scale_3,  # 1.0 - lambda_init
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, D_v: tl.constexpr, BLOCK_D_v: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
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

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)
    scale_2 = tl.cast(scale_2, tl.float32)
    scale_3 = tl.cast(scale_3, tl.float32)

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
    q_head = head * 2
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + q_head * q_stride_h
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b + q_head * k_stride_h
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D_v], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D_v])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d_v[None, :] * v_stride_d
    q_head_2 = q_head + 1
    q_2 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + q_head_2 * q_stride_h
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base_2 = k_ptr + batch * k_stride_b + q_head_2 * k_stride_h
    if DESCRIPTORS:
        k_blocks_2 = tl.make_tensor_descriptor(k_base_2, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks_2 = k_base_2 + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    running_max_2 = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator_2 = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
    running_sum_2 = tl.zeros([BLOCK_ROWS], tl.float32)

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
            attn_weights = tl.dot(q, tl.trans(k), input_precision=PRECISION)  # differential.py:72
            if part > 0:
                visible = keys < S
                attn_weights = tl.where(visible[None, :], attn_weights, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(attn_weights, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * scale)
            weights = tl.exp2(attn_weights * scale - (finite_max * scale)[:, None])
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                    (keys < S)[:, None] & (d_v < D_v)[None, :],
                    part > 0 or BLOCK_D_v != D_v,
                )
            accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(weights, 1)
            if DESCRIPTORS:
                k_2 = k_blocks_2.load([key_start, 0])
            else:
                k_2 = load_tile(
                    k_blocks_2 + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            attn_weights_2 = tl.dot(q_2, tl.trans(k_2), input_precision=PRECISION)  # differential.py:72
            if part > 0:
                visible_2 = keys < S
                attn_weights_2 = tl.where(visible_2[None, :], attn_weights_2, float("-inf"))
            new_max_2 = tl.maximum(running_max_2, tl.max(attn_weights_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max_2 = tl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
            rescale_2 = tl.exp2((running_max_2 - finite_max_2) * scale)
            weights_2 = tl.exp2(attn_weights_2 * scale - (finite_max_2 * scale)[:, None])
            accumulator_2 = tl.dot(
                weights_2.to(v.dtype), v, accumulator_2 * rescale_2[:, None], input_precision=PRECISION
            )
            running_sum_2 = running_sum_2 * rescale_2 + tl.sum(weights_2, 1)
            running_max = new_max
            running_max_2 = new_max_2

    lambda_full = tl.load(lambda_full_ptr)
    attn = (
        accumulator * (1.0 / running_sum)[:, None]
        - accumulator_2 * (1.0 / running_sum_2 * lambda_full.to(tl.float32))[:, None]
    )  # differential.py:76
    attn_2 = (
        attn
        * (tl.rsqrt(tl.sum(tl.where((d_v < D_v)[None, :], attn * attn, 0.0), 1) * scale_2 + 1e-05) * scale_3)[:, None]
    )  # differential.py:77
    tl.store(
        output_ptr
        + batch * output_stride_b
        + tl.cast(row_start, tl.int64) * output_stride_s
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_s
        + d_v[None, :] * output_stride_d,
        attn_2.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d_v < D_v)[None, :],
    )


def multihead_diff_attn(q, k, v, lambda_full, lambda_init):
    """Launch `multihead_diff_attn_kernel` on tensors of one device."""
    B, S, _, D = q.shape
    _, _, H, D_v = v.shape
    lambda_init = number("lambda_init", lambda_init)
    output = q.new_empty((B, S, H, D_v))
    alike = layouts((q, k, v, lambda_full), "multihead_diff_attn", lambda_init, precision(q))
    if relaunch(alike, q, k, v, lambda_full, output):
        return output.view(B, S, D_v * H)

    expect("q", q, (B, S, H * 2, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, S, H * 2, D), (q.dtype,), q.device)
    expect("v", v, (B, S, H, D_v), (q.dtype,), q.device)
    lambda_full = lambda_full.expand(())
    expect("lambda_full", lambda_full, (), (torch.float32,), q.device)

    hopper = hopper_tile("multihead_diff_attn", max(D, D_v), S, q, k, v, output)
    if hopper is not None:
        launch(
            hopper_kernels().multihead_diff_attn_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * H),
            (q, k, v, lambda_full, output),
            (*q.stride()[:-1], *k.stride()[:-1], *v.stride()[:-1], *output.stride()[:-1], H, B, S),
            (D ** (-0.5) * math.log2(math.e), 1.0 / D_v, 1.0 - lambda_init),
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
            "multihead_diff_attn", q, max(D, D_v), S, accumulators=2, scores=2, blocks=3
        )
        descriptors = descriptors and describable(k, v)
        launch(
            multihead_diff_attn_kernel,
            -(-S // block_rows) * B * H,
            (q, k, v, lambda_full, output),
            (*q.stride(), *k.stride(), *v.stride(), *output.stride(), S, H),
            (D ** (-0.5) * math.log2(math.e), 1.0 / D_v, 1.0 - lambda_init),
            alike,
            D=D,
            BLOCK_D=padded(D),
            D_v=D_v,
            BLOCK_D_v=padded(D_v),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
            num_warps=warps,
            num_stages=stages,
        )
    return output.view(B, S, D_v * H)


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
