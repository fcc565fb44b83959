"""Triton kernels for invariant_point.py.

Written by flashlight 0.1.0 from examples/invariant_point.py (sha256 24027c6d587370eb)
with `flashlight transpile examples/invariant_point.py`; change the source and run that again.
"""

import functools
import math
import os

import torch
import triton
import triton.language as tl

# Tiles that `flashlight tune` found: function, architecture, padded head dimension, bytes an element, keys;
# rows and keys of a tile, warps, pipeline stages, descriptors. `tile_for` serves without an entry.
TILES = {}


@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile


LN_2 = tl.constexpr(0.6931471805599453)  # log(2) = 1 / log2(e)


LOG2_E = tl.constexpr(1.4426950408889634)  # log2(e)


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


@triton.jit(do_not_specialize=["N", "H"])
def invariant_point_attention_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, q_points_ptr, k_points_ptr, v_points_ptr, pair_bias_ptr, pair_ptr, head_weights_ptr,
    mask_ptr, o_scalar_ptr, o_points_ptr, o_pair_ptr,
    # their strides, in elements
    q_stride_b, q_stride_n, q_stride_h, q_stride_c,
    k_stride_b, k_stride_n, k_stride_h, k_stride_c,
    v_stride_b, v_stride_n, v_stride_h, v_stride_c,
    q_points_stride_b, q_points_stride_n, q_points_stride_h, q_points_stride_p,
    k_points_stride_b, k_points_stride_n, k_points_stride_h, k_points_stride_p,
    v_points_stride_b, v_points_stride_n, v_points_stride_h, v_points_stride_r,
    pair_bias_stride_b, pair_bias_stride_1, pair_bias_stride_2, pair_bias_stride_h,
    pair_stride_b, pair_stride_1, pair_stride_2, pair_stride_z,
    head_weights_stride_h,
    mask_stride_b, mask_stride_n,
    o_scalar_stride_b, o_scalar_stride_n, o_scalar_stride_h, o_scalar_stride_c,
    o_points_stride_b, o_points_stride_n, o_points_stride_h, o_points_stride_r,
    o_pair_stride_b, o_pair_stride_n, o_pair_stride_h, o_pair_stride_z,
    # sizes: one compiled kernel serves them all
    N, H,
    # numbers
    scale,  # math.sqrt(1.0 / (P * 3 * 9.0 / 2.0)) * 0.5 * math.log2(math.e)
    scale_2,  # math.sqrt(1.0 / (C * 3)) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    P: tl.constexpr, R: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr, Z: tl.constexpr,
    BLOCK_Z: tl.constexpr, BLOCK_P_3: tl.constexpr, BLOCK_R_3: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_H: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr,
    VECTOR: tl.constexpr, PRECISION: tl.constexpr, EXPAND: tl.constexpr,
    # fmt: on
):
    """invariant_point_attention:

        scalar[b, i, j, h] = (Σ_c q[b, i, h, c] * k[b, j, h, c]) * sqrt(1 / float32(C * 3))
        gamma[h] = where(head_weights[h] > 20, head_weights[h], max(head_weights[h], 0) +
            log(exp(-abs(head_weights[h])) + 1)) * sqrt(1 / (float32(P * 3) * 9 / 2))
        t[b, i, j, h, n3, p] = q_points[b, i, h, p, n3] - k_points[b, j, h, p, n3]
        distance[b, i, j, h] = Σ_p (Σ_n3 t[b, i, j, h, n3, p] * t[b, i, j, h, n3, p])
        logits[b, i, j, h] = scalar[b, i, j, h] - gamma[h] * 0.5 * distance[b, i, j, h]
        logits_2[b, i, j, h] = logits[b, i, j, h] + pair_bias[b, i, j, h] * 0.577350269
        logits_3[b, i, j, h] = logits_2[b, i, j, h] + (mask[b, j] * mask[b, i] - 1) * 100000
        t_2[b, i, j, h] = exp(logits_3[b, i, j, h] - (max_j logits_3[b, i, j, h]))
        attn[b, i, j, h] = t_2[b, i, j, h] / (Σ_j t_2[b, i, j, h])
        o_scalar[b, i, h, c] = Σ_j attn[b, i, j, h] * v[b, j, h, c]
        o_points[b, i, h, r, n3] = Σ_j attn[b, i, j, h] * v_points[b, j, h, r, n3]
        o_pair[b, i, h, z] = Σ_j attn[b, i, j, h] * pair[b, i, j, z]

    One program for each b and block of h and i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)
    scale_2 = tl.cast(scale_2, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    head_blocks = tl.cdiv(H, BLOCK_H)
    head_start = (program % head_blocks) * BLOCK_H
    row_blocks = tl.cdiv(N, BLOCK_ROWS)
    row_start = (program // head_blocks % row_blocks) * BLOCK_ROWS
    batch = (program // head_blocks // row_blocks).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    heads = head_start + tl.arange(0, BLOCK_H)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    head_offsets = tl.arange(0, BLOCK_H).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    c = tl.arange(0, BLOCK_C).to(tl.int64)
    z = tl.arange(0, BLOCK_Z).to(tl.int64)
    pn3_2 = tl.arange(0, BLOCK_P_3).to(tl.int64)
    rn3 = tl.arange(0, BLOCK_R_3).to(tl.int64)

    # These strides are multiples of VECTOR; said so, they let the compiler read vectors
    k_stride_b = k_stride_b // VECTOR * VECTOR
    k_stride_n = k_stride_n // VECTOR * VECTOR
    k_stride_h = k_stride_h // VECTOR * VECTOR
    k_points_stride_b = k_points_stride_b // VECTOR * VECTOR
    k_points_stride_n = k_points_stride_n // VECTOR * VECTOR
    k_points_stride_h = k_points_stride_h // VECTOR * VECTOR
    v_stride_b = v_stride_b // VECTOR * VECTOR
    v_stride_n = v_stride_n // VECTOR * VECTOR
    v_stride_h = v_stride_h // VECTOR * VECTOR
    v_points_stride_b = v_points_stride_b // VECTOR * VECTOR
    v_points_stride_n = v_points_stride_n // VECTOR * VECTOR
    v_points_stride_h = v_points_stride_h // VECTOR * VECTOR
    pair_stride_b = pair_stride_b // VECTOR * VECTOR
    pair_stride_1 = pair_stride_1 // VECTOR * VECTOR
    pair_stride_2 = pair_stride_2 // VECTOR * VECTOR

    # Read once: the rows, and what is the same for every block of keys
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_n
        + tl.cast(head_start, tl.int64) * q_stride_h
        + row_offsets[None, :, None] * q_stride_n
        + head_offsets[:, None, None] * q_stride_h
        + c[None, None, :] * q_stride_c,
        mask=(heads < H)[:, None, None] & (rows < N)[None, :, None] & (c < C)[None, None, :],
        other=0,
    )
    existing_heads = tl.minimum(head_offsets, H - 1 - head_start)  # heads past the end read the last one
    k_block = (
        k_ptr
        + batch * k_stride_b
        + tl.cast(head_start, tl.int64) * k_stride_h
        + key_offsets[None, :, None] * k_stride_n
        + existing_heads[:, None, None] * k_stride_h
        + c[None, None, :] * k_stride_c
    )
    q_points = tl.load(
        q_points_ptr
        + batch * q_points_stride_b
        + tl.cast(row_start, tl.int64) * q_points_stride_n
        + tl.cast(head_start, tl.int64) * q_points_stride_h
        + row_offsets[None, :, None] * q_points_stride_n
        + head_offsets[:, None, None] * q_points_stride_h
        + pn3_2[None, None, :] * q_points_stride_p,
        mask=(heads < H)[:, None, None] & (rows < N)[None, :, None] & (pn3_2 < P * 3)[None, None, :],
        other=0,
    )
    k_points_block = (
        k_points_ptr
        + batch * k_points_stride_b
        + tl.cast(head_start, tl.int64) * k_points_stride_h
        + key_offsets[None, :, None] * k_points_stride_n
        + existing_heads[:, None, None] * k_points_stride_h
        + pn3_2[None, None, :] * k_points_stride_p
    )
    q_points_square = tl.sum(q_points.to(tl.float32) * q_points.to(tl.float32), 2)
    head_weights = tl.load(
        head_weights_ptr + tl.cast(head_start, tl.int64) * head_weights_stride_h + head_offsets * head_weights_stride_h,
        mask=(heads < H),
        other=0,
    )
    head_weights_term = tl.where(
        head_weights.to(tl.float32) > 20.0,
        head_weights.to(tl.float32) * scale,
        nan_max(head_weights.to(tl.float32), 0.0) * scale
        + log2_1p(tl.exp2(-(tl.abs(head_weights.to(tl.float32)) * LOG2_E)), False) * LN_2 * scale,
    )
    existing_rows = tl.minimum(row_offsets, N - 1 - row_start)  # rows past the end read the last one
    pair_bias_block = (
        pair_bias_ptr
        + batch * pair_bias_stride_b
        + tl.cast(row_start, tl.int64) * pair_bias_stride_1
        + tl.cast(head_start, tl.int64) * pair_bias_stride_h
        + existing_rows[None, :, None] * pair_bias_stride_1
        + key_offsets[None, None, :] * pair_bias_stride_2
        + existing_heads[:, None, None] * pair_bias_stride_h
    )
    row_mask = tl.load(
        mask_ptr + batch * mask_stride_b + tl.cast(row_start, tl.int64) * mask_stride_n + row_offsets * mask_stride_n,
        mask=(rows < N),
        other=0,
    )
    mask_block = mask_ptr + batch * mask_stride_b + key_offsets * mask_stride_n
    v_block = (
        v_ptr
        + batch * v_stride_b
        + tl.cast(head_start, tl.int64) * v_stride_h
        + key_offsets[None, :, None] * v_stride_n
        + existing_heads[:, None, None] * v_stride_h
        + c[None, None, :] * v_stride_c
    )
    v_points_block = (
        v_points_ptr
        + batch * v_points_stride_b
        + tl.cast(head_start, tl.int64) * v_points_stride_h
        + key_offsets[None, :, None] * v_points_stride_n
        + existing_heads[:, None, None] * v_points_stride_h
        + rn3[None, None, :] * v_points_stride_r
    )
    pair_block = (
        pair_ptr
        + batch * pair_stride_b
        + tl.cast(row_start, tl.int64) * pair_stride_1
        + existing_rows[:, None, None] * pair_stride_1
        + key_offsets[None, :, None] * pair_stride_2
        + z[None, None, :] * pair_stride_z
    )

    running_max = tl.full([BLOCK_H, BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_H, BLOCK_ROWS, BLOCK_C], tl.float32)
    running_sum = tl.zeros([BLOCK_H, BLOCK_ROWS], tl.float32)
    accumulator_2 = tl.zeros([BLOCK_H, BLOCK_ROWS, BLOCK_R_3], tl.float32)
    accumulator_3 = tl.zeros([BLOCK_ROWS, BLOCK_H, BLOCK_Z], tl.float32)

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
            # All that the scores are made of, before the first product
            k = load_tile(
                k_block + tl.cast(key_start, tl.int64) * k_stride_n,
                (keys < N)[None, :, None] & (c < C)[None, None, :],
                part > 0 or BLOCK_C != C,
            )
            k_points = load_tile(
                k_points_block + tl.cast(key_start, tl.int64) * k_points_stride_n,
                (keys < N)[None, :, None] & (pn3_2 < P * 3)[None, None, :],
                part > 0 or BLOCK_P_3 != P * 3,
            )
            pair_bias = load_tile(
                pair_bias_block + tl.cast(key_start, tl.int64) * pair_bias_stride_2, (keys < N)[None, None, :], part > 0
            )
            key_mask = load_tile(mask_block + tl.cast(key_start, tl.int64) * mask_stride_n, (keys < N), part > 0)
            scalar = tl.dot(q, tl.permute(k, (0, 2, 1)), input_precision=PRECISION) * scale_2  # invariant_point.py:23
            if EXPAND:
                squares = (
                    q_points_square[:, :, None]
                    + tl.sum(k_points.to(tl.float32) * k_points.to(tl.float32), 2)[:, None, :]
                )
                distance = tl.where(
                    squares == float("inf"),
                    float("inf"),
                    nan_max(
                        squares - tl.dot(q_points, tl.permute(k_points, (0, 2, 1)), input_precision=PRECISION) * 2.0,
                        0.0,
                    ),
                )  # invariant_point.py:24
            else:
                difference = q_points.to(tl.float32)[:, :, None, :] - k_points.to(tl.float32)[:, None, :, :]
                distance = tl.sum(difference * difference, 3)  # invariant_point.py:24
            scores = (
                scalar
                - distance * head_weights_term[:, None, None]
                + pair_bias.to(tl.float32) * 0.8329403702157812
                + (
                    row_mask.to(tl.float32)[:, None] * (key_mask.to(tl.float32) * 144269.50408889633)[None, :]
                    - 144269.50408889633
                )[None, :, :]
            )
            if part > 0:
                scores = tl.where((keys < N)[None, None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 2))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2(running_max - finite_max)
            attn = tl.exp2(scores - finite_max[:, :, None])  # invariant_point.py:29
            v = load_tile(
                v_block + tl.cast(key_start, tl.int64) * v_stride_n,
                (keys < N)[None, :, None] & (c < C)[None, None, :],
                part > 0 or BLOCK_C != C,
            )
            accumulator = tl.dot(attn.to(v.dtype), v, accumulator * rescale[:, :, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(attn, 2)
            v_points = load_tile(
                v_points_block + tl.cast(key_start, tl.int64) * v_points_stride_n,
                (keys < N)[None, :, None] & (rn3 < R * 3)[None, None, :],
                part > 0 or BLOCK_R_3 != R * 3,
            )
            accumulator_2 = tl.dot(
                attn.to(v_points.dtype), v_points, accumulator_2 * rescale[:, :, None], input_precision=PRECISION
            )
            pair = load_tile(
                pair_block + tl.cast(key_start, tl.int64) * pair_stride_2,
                (keys < N)[None, :, None] & (z < Z)[None, None, :],
                part > 0 or BLOCK_Z != Z,
            )
            accumulator_3 = tl.dot(
                tl.permute(attn.to(pair.dtype), (1, 0, 2)),
                pair,
                accumulator_3 * tl.trans(rescale)[:, :, None],
                input_precision=PRECISION,
            )
            running_max = new_max

    inverse = 1.0 / running_sum
    o_scalar = accumulator * inverse[:, :, None]  # invariant_point.py:30
    tl.store(
        o_scalar_ptr
        + batch * o_scalar_stride_b
        + tl.cast(row_start, tl.int64) * o_scalar_stride_n
        + tl.cast(head_start, tl.int64) * o_scalar_stride_h
        + row_offsets[None, :, None] * o_scalar_stride_n
        + head_offsets[:, None, None] * o_scalar_stride_h
        + c[None, None, :] * o_scalar_stride_c,
        o_scalar.to(o_scalar_ptr.dtype.element_ty),
        mask=(rows < N)[None, :, None] & (heads < H)[:, None, None] & (c < C)[None, None, :],
    )
    o_points = accumulator_2 * inverse[:, :, None]  # invariant_point.py:31
    tl.store(
        o_points_ptr
        + batch * o_points_stride_b
        + tl.cast(row_start, tl.int64) * o_points_stride_n
        + tl.cast(head_start, tl.int64) * o_points_stride_h
        + row_offsets[None, :, None] * o_points_stride_n
        + head_offsets[:, None, None] * o_points_stride_h
        + rn3[None, None, :] * o_points_stride_r,
        o_points.to(o_points_ptr.dtype.element_ty),
        mask=(rows < N)[None, :, None] & (heads < H)[:, None, None] & (rn3 < R * 3)[None, None, :],
    )
    o_pair = tl.permute(accumulator_3, (1, 0, 2)) * inverse[:, :, None]  # invariant_point.py:32
    tl.store(
        o_pair_ptr
        + batch * o_pair_stride_b
        + tl.cast(row_start, tl.int64) * o_pair_stride_n
        + tl.cast(head_start, tl.int64) * o_pair_stride_h
        + row_offsets[None, :, None] * o_pair_stride_n
        + head_offsets[:, None, None] * o_pair_stride_h
        + z[None, None, :] * o_pair_stride_z,
        o_pair.to(o_pair_ptr.dtype.element_ty),
        mask=(rows < N)[None, :, None] & (heads < H)[:, None, None] & (z < Z)[None, None, :],
    )


def invariant_point_attention(q, k, v, q_points, k_points, v_points, pair_bias, pair, head_weights, mask):
    """Launch `invariant_point_attention_kernel` on tensors of one device."""
    B, N, H, C = q.shape
    _, _, _, P, _ = q_points.shape
    _, _, _, R, _ = v_points.shape
    _, _, _, Z = pair.shape
    expect("q", q, (B, N, H, C), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, N, H, C), (q.dtype,), q.device)
    expect("v", v, (B, N, H, C), (q.dtype,), q.device)
    expect("q_points", q_points, (B, N, H, P, 3), (q.dtype,), q.device)
    expect("k_points", k_points, (B, N, H, P, 3), (q.dtype,), q.device)
    expect("v_points", v_points, (B, N, H, R, 3), (q.dtype,), q.device)
    expect("pair_bias", pair_bias, (B, N, N, H), (q.dtype,), q.device)
    expect("pair", pair, (B, N, N, Z), (q.dtype,), q.device)
    head_weights = spread("head_weights", head_weights, (H,))
    expect("head_weights", head_weights, (H,), (q.dtype,), q.device)
    mask = spread("mask", mask, (B, N))
    expect("mask", mask, (B, N), (q.dtype,), q.device)

    q_points = q_points.flatten(3, 4)
    k_points = k_points.flatten(3, 4)
    v_points = v_points.flatten(3, 4)
    o_scalar = q.new_empty((B, N, H, C))
    o_points = q.new_empty((B, N, H, R * 3))
    o_pair = q.new_empty((B, N, H, Z))
    P_3 = P * 3
    R_3 = R * 3
    expand = expandable(q)
    block_h = batch_size(H, (padded(C) + padded(P_3) + padded(C) + padded(R_3)) * q.element_size())
    block_rows, block_keys, warps, stages, _ = batch_configuration(
        "invariant_point_attention", q, max(C, Z, P_3, R_3), N, block_h, depth=1 if expand else padded(P_3)
    )
    launch(
        invariant_point_attention_kernel,
        -(-N // block_rows) * -(-H // block_h) * B,
        (q, k, v, q_points, k_points, v_points, pair_bias, pair, head_weights, mask, o_scalar, o_points, o_pair),
        (
            *q.stride(),
            *k.stride(),
            *v.stride(),
            *q_points.stride(),
            *k_points.stride(),
            *v_points.stride(),
            *pair_bias.stride(),
            *pair.stride(),
            head_weights.stride(0),
            *mask.stride(),
            *o_scalar.stride(),
            *o_points.stride(),
            *o_pair.stride(),
            N,
            H,
        ),
        (math.sqrt(1.0 / (P * 3 * 9.0 / 2.0)) * 0.5 * math.log2(math.e), math.sqrt(1.0 / (C * 3)) * math.log2(math.e)),
        P=P,
        R=R,
        C=C,
        BLOCK_C=padded(C),
        Z=Z,
        BLOCK_Z=padded(Z),
        BLOCK_P_3=padded(P_3),
        BLOCK_R_3=padded(R_3),
        BLOCK_H=block_h,
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        WHOLE=N % block_keys == 0,
        PRECISION=precision(q),
        EXPAND=expand,
        VECTOR=vector_width(k, k_points, v, v_points, pair),
        num_warps=warps,
        num_stages=stages,
    )
    return (
        o_scalar,
        o_points.view(B, N, H, R, 3),
        o_pair,
    )


@triton.jit(do_not_specialize=["N", "H"])
def point_attention_kernel(
    # fmt: off
    # tensors
    q_points_ptr, k_points_ptr, v_ptr, gamma_ptr, output_ptr,
    # their strides, in elements
    q_points_stride_b, q_points_stride_h, q_points_stride_n, q_points_stride_c,
    k_points_stride_b, k_points_stride_h, k_points_stride_n, k_points_stride_c,
    v_stride_b, v_stride_h, v_stride_n, v_stride_d,
    gamma_stride_h,
    output_stride_b, output_stride_h, output_stride_n, output_stride_d,
    # sizes: one compiled kernel serves them all
    N, H,
    # head dimensions and the widths of their tiles
    C: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr, EXPAND: tl.constexpr,
    # fmt: on
):
    """point_attention:

        t[b, h, i, j, c] = q_points[b, h, i, c] - k_points[b, h, j, c]
        distance[b, h, i, j] = Σ_c t[b, h, i, j, c] * t[b, h, i, j, c]
        t_2[b, h, i, j] = gamma[h] * -0.5 * distance[b, h, i, j]
        t_3[b, h, i, j] = exp(t_2[b, h, i, j] - (max_j t_2[b, h, i, j]))
        attn[b, h, i, j] = t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])
        output[b, h, i, d] = Σ_j attn[b, h, i, j] * v[b, h, j, d]

    One program for each b, h and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(N, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    head = (program // row_blocks % H).to(tl.int64)
    batch = (program // row_blocks // H).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    c = tl.arange(0, BLOCK_C).to(tl.int64)
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q_points = tl.load(
        q_points_ptr
        + batch * q_points_stride_b
        + head * q_points_stride_h
        + tl.cast(row_start, tl.int64) * q_points_stride_n
        + row_offsets[:, None] * q_points_stride_n
        + c[None, :] * q_points_stride_c,
        mask=(rows < N)[:, None] & (c < C)[None, :],
        other=0,
    )
    k_points_base = k_points_ptr + batch * k_points_stride_b + head * k_points_stride_h
    if DESCRIPTORS:
        k_points_blocks = tl.make_tensor_descriptor(
            k_points_base, [N, C], [k_points_stride_n, 1], [BLOCK_KEYS, BLOCK_C]
        )
    else:
        k_points_blocks = k_points_base + key_offsets[:, None] * k_points_stride_n + c[None, :] * k_points_stride_c
    q_points_square = tl.sum(q_points.to(tl.float32) * q_points.to(tl.float32), 1)
    gamma = tl.load(gamma_ptr + head * gamma_stride_h)
    gamma_scaled = gamma.to(tl.float32) * -0.7213475204444817
    v_base = v_ptr + batch * v_stride_b + head * v_stride_h
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
                k_points = k_points_blocks.load([key_start, 0])
            else:
                k_points = load_tile(
                    k_points_blocks + tl.cast(key_start, tl.int64) * k_points_stride_n,
                    (keys < N)[:, None] & (c < C)[None, :],
                    part > 0 or BLOCK_C != C,
                )
            if EXPAND:
                squares = (
                    q_points_square[:, None] + tl.sum(k_points.to(tl.float32) * k_points.to(tl.float32), 1)[None, :]
                )
                distance = tl.where(
                    squares == float("inf"),
                    float("inf"),
                    nan_max(squares - tl.dot(q_points, tl.trans(k_points), input_precision=PRECISION) * 2.0, 0.0),
                )  # invariant_point.py:43
            else:
                difference = q_points.to(tl.float32)[:, None, :] - k_points.to(tl.float32)[None, :, :]
                distance = tl.sum(difference * difference, 2)  # invariant_point.py:43
            scores = distance * gamma_scaled
            if part > 0:
                scores = tl.where((keys < N)[None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2(running_max - finite_max)
            attn = tl.exp2(scores - finite_max[:, None])  # invariant_point.py:44
            if DESCRIPTORS:
                v = v_blocks.load([key_start, 0])
            else:
                v = load_tile(
                    v_blocks + tl.cast(key_start, tl.int64) * v_stride_n,
                    (keys < N)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(attn.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
            running_sum = running_sum * rescale + tl.sum(attn, 1)
            running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_n
        + row_offsets[:, None] * output_stride_n
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < N)[:, None] & (d < D)[None, :],
    )


def point_attention(q_points, k_points, v, gamma):
    """Launch `point_attention_kernel` on tensors of one device."""
    B, H, N, C = q_points.shape
    _, _, _, D = v.shape
    output = q_points.new_empty((B, H, N, D))
    alike = layouts((q_points, k_points, v, gamma), "point_attention", precision(q_points))
    if relaunch(alike, q_points, k_points, v, gamma, output):
        return output

    expect("q_points", q_points, (B, H, N, C), (torch.float16, torch.bfloat16, torch.float32), q_points.device)
    expect("k_points", k_points, (B, H, N, C), (q_points.dtype,), q_points.device)
    expect("v", v, (B, H, N, D), (q_points.dtype,), q_points.device)
    gamma = spread("gamma", gamma, (H,))
    expect("gamma", gamma, (H,), (q_points.dtype,), q_points.device)

    expand = expandable(q_points)
    block_rows, block_keys, warps, stages, descriptors = configuration(
        "point_attention",
        q_points,
        max(C, D),
        N,
        accumulators=1,
        scores=2,
        depth=1 if expand else padded(C),
        row_count=padded(N),
    )
    descriptors = descriptors and describable(k_points, v)
    launch(
        point_attention_kernel,
        -(-N // block_rows) * B * H,
        (q_points, k_points, v, gamma, output),
        (*q_points.stride(), *k_points.stride(), *v.stride(), gamma.stride(0), *output.stride(), N, H),
        (),
        alike,
        C=C,
        BLOCK_C=padded(C),
        D=D,
        BLOCK_D=padded(D),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        WHOLE=N % block_keys == 0,
        DESCRIPTORS=descriptors,
        PRECISION=precision(q_points),
        EXPAND=expand,
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


def batch_size(count, own):
    """How many of `count` positions a tile has: up to 4, fewer where each has many bytes of every key of its `own`."""
    size = min(4, triton.next_power_of_2(count))
    while size > 1 and size * own > 1024:
        size //= 2
    return size


def batch_configuration(function, tensor, widest, length, batch, depth=1):
    """How to tile where a program has a `batch` of positions beside its rows, each with keys of its own: as `tile_for`.

    Without a tuned tile a few rows and 16 keys: registers hold 16 rows of what a product yields however few there are,
    and all of a tile that has `depth` values for each position, row and key.
    """
    chip, width, size = architecture(tensor.device), padded(widest), tensor.element_size()
    tuned = sorted(key for key in TILES if key[:4] == (function, chip, width, size))
    if tuned:
        return TILES[next((key for key in tuned if key[4] >= padded(length)), tuned[-1])]
    rows = 8 if width * size <= 256 else 4 if width * size <= 512 else 2
    while rows > 1 and depth > 1 and batch * rows * 16 * depth > 4096:
        rows //= 2
    if chip.startswith("gfx"):
        return 16 if width * size <= 128 else rows, 16, 4, 1, False  # 16 rows are the fewest of its matrix instructions
    return rows, 16, 4, 3 if chip == "sm_90" and width * size <= 256 else 2, False


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


def vector_width(*tensors):
    """How many elements, up to 16 bytes, every stride but the last of the tensors is a multiple of."""
    steps = [16 // tensors[0].element_size()]
    for tensor in tensors:
        *outer, inner = tensor.stride()
        steps += outer if inner == 1 else [1]
    return math.gcd(*steps)


def scratch(size, alignment, stream):
    """Memory for a launch, as Triton asks for it: programs write descriptors of tensors to it."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


@functools.lru_cache(maxsize=None)
def padded(size):
    """The width of a tile that holds `size` elements: a power of two, as matrix instructions need."""
    return max(16, triton.next_power_of_2(size))


def expandable(tensor):
    """Whether |a - b|² may be |a|² + |b|² - 2ab: what cancels is less than bfloat16 has rounded the points by."""
    return tensor.dtype == torch.bfloat16


def precision(tensor):
    """How products of float32 values are computed.

    As PyTorch is set to compute those of float32 tensors. What was made of 16-bit tensors is multiplied as sums of
    three bfloat16 numbers each, near exactly and by matrix instructions.
    """
    if tensor.dtype != torch.float32 and tensor.is_cuda:
        return "bf16x6"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
