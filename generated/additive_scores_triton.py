"""Triton kernels for additive_scores.py.

Written by flashlight 0.1.0 from examples/additive_scores.py (sha256 4fb453f16ea0f2ac)
with `flashlight transpile examples/additive_scores.py`; change the source and run that again.
"""

import functools
import importlib.util
import os

import torch
import triton
import triton.language as tl

# Tiles that `flashlight tune` found: function, architecture, padded head dimension, bytes an element, keys;
# rows and keys of a tile, warps, pipeline stages, descriptors. `tile_for` serves without an entry.
TILES = {
    ("bahdanau", "sm_100", 64, 2, 4096): (8, 16, 8, 2, True),
    ("bahdanau", "sm_90", 64, 2, 4096): (16, 16, 4, 3, False),
    ("graph_attention_scores", "sm_90", 64, 2, 4096): (64, 16, 4, 2, True),
    ("graph_attention_scores", "sm_90", 128, 2, 4096): (64, 32, 4, 3, True),
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
def tanh(x, approximate: tl.constexpr):
    """tanh(x): one instruction of 11 good bits where that is enough, else 1 - 2 / (exp(2x) + 1); a series near 0."""
    if approximate:
        result = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        square = x * x
        near = x * (1.0 - square * (0.3333333333333333 - square * 0.13333333333333333))
        result = tl.where(square < 0.01, near, 1.0 - 2.0 / (tl.exp2(x * 2.885390081777927) + 1.0))
    return result


@triton.jit(do_not_specialize=["S_q", "S_k"])
def bahdanau_kernel(
    # fmt: off
    # tensors
    query_ptr, key_ptr, value_ptr, w_v_ptr, output_ptr,
    # their strides, in elements
    query_stride_b, query_stride_s, query_stride_d,
    key_stride_b, key_stride_s, key_stride_d,
    value_stride_b, value_stride_s, value_stride_d,
    w_v_stride_d,
    output_stride_b, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S_q, S_k,
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, D_v: tl.constexpr, BLOCK_D_v: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr, APPROXIMATE: tl.constexpr,
    # fmt: on
):
    """bahdanau:

        features[b, i, j, d] = tanh(query[b, i, d] + key[b, j, d])
        scores[b, i, j] = Σ_d features[b, i, j, d] * w_v[d]
        t[b, i, j] = exp(scores[b, i, j] - (max_j scores[b, i, j]))
        attention_weights[b, i, j] = t[b, i, j] / (Σ_j t[b, i, j])
        output[b, i, d_v] = Σ_j attention_weights[b, i, j] * value[b, j, d_v]

    One program for each b and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S_q, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    batch = (program // row_blocks).to(tl.int64)
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
        + tl.cast(row_start, tl.int64) * query_stride_s
        + row_offsets[:, None] * query_stride_s
        + d[None, :] * query_stride_d,
        mask=(rows < S_q)[:, None] & (d < D)[None, :],
        other=0,
    )
    key_base = key_ptr + batch * key_stride_b
    if DESCRIPTORS:
        key_blocks = tl.make_tensor_descriptor(key_base, [S_k, D], [key_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        key_blocks = key_base + key_offsets[:, None] * key_stride_s + d[None, :] * key_stride_d
    w_v = load_tile(w_v_ptr + d * w_v_stride_d, (d < D), BLOCK_D != D)
    w_v_float = w_v.to(tl.float32)
    value_base = value_ptr + batch * value_stride_b
    if DESCRIPTORS:
        value_blocks = tl.make_tensor_descriptor(value_base, [S_k, D_v], [value_stride_s, 1], [BLOCK_KEYS, BLOCK_D_v])
    else:
        value_blocks = value_base + key_offsets[:, None] * value_stride_s + d_v[None, :] * value_stride_d

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D_v], tl.float32)
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
            features = tanh(
                query.to(tl.float32)[:, None, :] + key.to(tl.float32)[None, :, :], APPROXIMATE
            )  # additive_scores.py:15
            scores = tl.sum(features * w_v_float[None, None, :], 2)  # additive_scores.py:16
            if part > 0:
                scores = tl.where((keys < S_k)[None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            attention_weights = tl.exp2(scores * LOG2_E - (finite_max * LOG2_E)[:, None])  # additive_scores.py:17
            if DESCRIPTORS:
                value = value_blocks.load([key_start, 0])
            else:
                value = load_tile(
                    value_blocks + tl.cast(key_start, tl.int64) * value_stride_s,
                    (keys < S_k)[:, None] & (d_v < D_v)[None, :],
                    part > 0 or BLOCK_D_v != D_v,
                )
            accumulator = tl.dot(
                attention_weights.to(value.dtype), value, accumulator * rescale[:, None], input_precision=PRECISION
            )
            running_sum = running_sum * rescale + tl.sum(attention_weights, 1)
            running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d_v[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S_q)[:, None] & (d_v < D_v)[None, :],
    )


def bahdanau(query, key, value, w_v):
    """Launch `bahdanau_kernel` on tensors of one device."""
    B, S_q, D = query.shape
    _, S_k, _ = key.shape
    _, _, D_v = value.shape
    output = query.new_empty((B, S_q, D_v))
    alike = layouts((query, key, value, w_v), "bahdanau", precision(query))
    if relaunch(alike, query, key, value, w_v, output):
        return output

    expect("query", query, (B, S_q, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, S_k, D), (query.dtype,), query.device)
    expect("value", value, (B, S_k, D_v), (query.dtype,), query.device)
    expect("w_v", w_v, (D,), (query.dtype,), query.device)

    block_rows, block_keys, warps, stages, descriptors = configuration(
        "bahdanau", query, max(D, D_v), S_k, accumulators=1, scores=4, depth=padded(D), row_count=padded(S_q)
    )
    descriptors = descriptors and describable(key, value)
    launch(
        bahdanau_kernel,
        -(-S_q // block_rows) * B,
        (query, key, value, w_v, output),
        (*query.stride(), *key.stride(), *value.stride(), w_v.stride(0), *output.stride(), S_q, S_k),
        (),
        alike,
        D=D,
        BLOCK_D=padded(D),
        D_v=D_v,
        BLOCK_D_v=padded(D_v),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        WHOLE=S_k % block_keys == 0,
        DESCRIPTORS=descriptors,
        PRECISION=precision(query),
        APPROXIMATE=approximate(query),
        num_warps=warps,
        num_stages=stages,
    )
    return output


@triton.jit(do_not_specialize=["N", "H"])
def graph_attention_kernel(
    # fmt: off
    # tensors
    h_ptr, adjacency_ptr, a_source_ptr, a_target_ptr, output_ptr,
    # their strides, in elements
    h_stride_b, h_stride_n, h_stride_h, h_stride_d,
    adjacency_stride_b, adjacency_stride_1, adjacency_stride_2,
    a_source_stride_h, a_source_stride_d,
    a_target_stride_h, a_target_stride_d,
    output_stride_b, output_stride_n, output_stride_h, output_stride_d,
    # sizes: one compiled kernel serves them all
    N, H,
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """graph_attention:

        source[b, h, i] = Σ_d h[b, i, h, d] * a_source[h, d]
        target[b, h, j] = Σ_d h[b, j, h, d] * a_target[h, d]
        t[b, h, i, j] = source[b, h, i] + target[b, h, j]
        e[b, h, i, j] = where(t[b, h, i, j] > 0, t[b, h, i, j], t[b, h, i, j] * 0.2)
        e_2[b, h, i, j] = where(adjacency[b, i, j], e[b, h, i, j], -1000000000)
        t_2[b, h, i, j] = exp(e_2[b, h, i, j] - (max_j e_2[b, h, i, j]))
        attention[b, h, i, j] = t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j])
        output[b, i, h, d] = Σ_j attention[b, h, i, j] * h[b, j, h, d]

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
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    existing_rows = tl.minimum(row_offsets, N - 1 - row_start)  # rows past the end read the last one
    adjacency_block = (
        adjacency_ptr
        + batch * adjacency_stride_b
        + tl.cast(row_start, tl.int64) * adjacency_stride_1
        + existing_rows[:, None] * adjacency_stride_1
        + key_offsets[None, :] * adjacency_stride_2
    )
    h = tl.load(
        h_ptr
        + batch * h_stride_b
        + tl.cast(row_start, tl.int64) * h_stride_n
        + head * h_stride_h
        + row_offsets[:, None] * h_stride_n
        + d[None, :] * h_stride_d,
        mask=(rows < N)[:, None] & (d < D)[None, :],
        other=0,
    )
    a_source = load_tile(a_source_ptr + head * a_source_stride_h + d * a_source_stride_d, (d < D), BLOCK_D != D)
    source = tl.sum(h.to(tl.float32) * a_source.to(tl.float32)[None, :], 1)  # additive_scores.py:28
    h_base = h_ptr + batch * h_stride_b + head * h_stride_h
    if DESCRIPTORS:
        h_blocks = tl.make_tensor_descriptor(h_base, [N, D], [h_stride_n, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        h_blocks = h_base + key_offsets[:, None] * h_stride_n + d[None, :] * h_stride_d
    a_target = load_tile(a_target_ptr + head * a_target_stride_h + d * a_target_stride_d, (d < D), BLOCK_D != D)
    a_target_float = a_target.to(tl.float32)
    factor = source * LOG2_E
    factor_2 = source * 0.2885390081777927

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
                h_2 = h_blocks.load([key_start, 0])
            else:
                h_2 = load_tile(
                    h_blocks + tl.cast(key_start, tl.int64) * h_stride_n,
                    (keys < N)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            target = tl.sum(h_2.to(tl.float32) * a_target_float[None, :], 1)  # additive_scores.py:29
            e = tl.where(
                source[:, None] + target[None, :] > 0.0,
                factor[:, None] + (target * LOG2_E)[None, :],
                factor_2[:, None] + (target * 0.2885390081777927)[None, :],
            )  # additive_scores.py:30
            adjacency = load_tile(
                adjacency_block + tl.cast(key_start, tl.int64) * adjacency_stride_2, (keys < N)[None, :], part > 0
            )
            e_2 = tl.where(adjacency, e, -1442695040.8889635)  # additive_scores.py:31
            if part > 0:
                e_2 = tl.where((keys < N)[None, :], e_2, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(e_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2(running_max - finite_max)
            attention = tl.exp2(e_2 - finite_max[:, None])  # additive_scores.py:32
            accumulator = tl.dot(
                attention.to(h_2.dtype), h_2, accumulator * rescale[:, None], input_precision=PRECISION
            )
            running_sum = running_sum * rescale + tl.sum(attention, 1)
            running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + tl.cast(row_start, tl.int64) * output_stride_n
        + head * output_stride_h
        + row_offsets[:, None] * output_stride_n
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < N)[:, None] & (d < D)[None, :],
    )


def graph_attention(h, adjacency, a_source, a_target):
    """Launch `graph_attention_kernel` on tensors of one device."""
    B, N, H, D = h.shape
    output = h.new_empty((B, N, H, D))
    alike = layouts((h, adjacency, a_source, a_target), "graph_attention", precision(h))
    if relaunch(alike, h, adjacency, a_source, a_target, output):
        return output

    expect("h", h, (B, N, H, D), (torch.float16, torch.bfloat16, torch.float32), h.device)
    adjacency = spread("adjacency", adjacency, (B, N, N))
    expect("adjacency", adjacency, (B, N, N), (torch.bool,), h.device)
    a_source = a_source.expand(H, D)
    expect("a_source", a_source, (H, D), (h.dtype,), h.device)
    a_target = a_target.expand(H, D)
    expect("a_target", a_target, (H, D), (h.dtype,), h.device)

    block_rows, block_keys, warps, stages, descriptors = configuration(
        "graph_attention", h, D, N, accumulators=1, scores=7
    )
    descriptors = descriptors and describable(h)
    launch(
        graph_attention_kernel,
        -(-N // block_rows) * B * H,
        (h, adjacency, a_source, a_target, output),
        (*h.stride(), *adjacency.stride(), *a_source.stride(), *a_target.stride(), *output.stride(), N, H),
        (),
        alike,
        D=D,
        BLOCK_D=padded(D),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        WHOLE=N % block_keys == 0,
        DESCRIPTORS=descriptors,
        PRECISION=precision(h),
        num_warps=warps,
        num_stages=stages,
    )
    return output


@triton.jit(do_not_specialize=["N", "H"])
def graph_attention_scores_kernel(
    # fmt: off
    # tensors
    source_ptr, target_ptr, features_ptr, output_ptr,
    # their strides, in elements
    source_stride_b, source_stride_h, source_stride_n,
    target_stride_b, target_stride_h, target_stride_n,
    features_stride_b, features_stride_h, features_stride_n, features_stride_d,
    output_stride_b, output_stride_h, output_stride_n, output_stride_d,
    # sizes: one compiled kernel serves them all
    N, H,
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """graph_attention_scores:

        pairs[b, h, i, j] = source[b, h, i] + target[b, h, j]
        scores[b, h, i, j] = where(pairs[b, h, i, j] > 0, pairs[b, h, i, j], pairs[b, h, i, j] * 0.2)
        t[b, h, i, j] = exp(scores[b, h, i, j] - (max_j scores[b, h, i, j]))
        output[b, h, i, d] = Σ_j t[b, h, i, j] / (Σ_j t[b, h, i, j]) * features[b, h, j, d]

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
    d = tl.arange(0, BLOCK_D).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    source = tl.load(
        source_ptr
        + batch * source_stride_b
        + head * source_stride_h
        + tl.cast(row_start, tl.int64) * source_stride_n
        + row_offsets * source_stride_n,
        mask=(rows < N),
        other=0,
    )
    target_block = target_ptr + batch * target_stride_b + head * target_stride_h + key_offsets * target_stride_n
    features_base = features_ptr + batch * features_stride_b + head * features_stride_h
    if DESCRIPTORS:
        features_blocks = tl.make_tensor_descriptor(
            features_base, [N, D], [features_stride_n, 1], [BLOCK_KEYS, BLOCK_D]
        )
    else:
        features_blocks = features_base + key_offsets[:, None] * features_stride_n + d[None, :] * features_stride_d

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
            target = load_tile(target_block + tl.cast(key_start, tl.int64) * target_stride_n, (keys < N), part > 0)
            pairs = source.to(tl.float32)[:, None] + target.to(tl.float32)[None, :]  # additive_scores.py:43
            scores = tl.where(pairs > 0.0, pairs, pairs * 0.2)  # additive_scores.py:44
            if part > 0:
                scores = tl.where((keys < N)[None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2((running_max - finite_max) * LOG2_E)
            weights = tl.exp2((scores - finite_max[:, None]) * LOG2_E)
            if DESCRIPTORS:
                features = features_blocks.load([key_start, 0])
            else:
                features = load_tile(
                    features_blocks + tl.cast(key_start, tl.int64) * features_stride_n,
                    (keys < N)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            accumulator = tl.dot(
                weights.to(features.dtype), features, accumulator * rescale[:, None], input_precision=PRECISION
            )
            running_sum = running_sum * rescale + tl.sum(weights, 1)
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


def graph_attention_scores(source, target, features):
    """Launch `graph_attention_scores_kernel` on tensors of one device."""
    B, H, N = source.shape
    _, _, _, D = features.shape
    output = source.new_empty((B, H, N, D))
    alike = layouts((source, target, features), "graph_attention_scores", precision(source))
    if relaunch(alike, source, target, features, output):
        return output

    expect("source", source, (B, H, N), (torch.float16, torch.bfloat16, torch.float32), source.device)
    expect("target", target, (B, H, N), (source.dtype,), source.device)
    expect("features", features, (B, H, N, D), (source.dtype,), source.device)

    hopper = hopper_tile("graph_attention_scores", D, N, target, features, output)
    if hopper is not None:
        launch(
            hopper_kernels().graph_attention_scores_kernel,
            min(multiprocessors(source.device), -(-N // hopper["BLOCK_ROWS"]) * B * H),
            (source, target, features, output),
            (*source.stride(), *target.stride()[:-1], *features.stride()[:-1], *output.stride()[:-1], H, B, N),
            (),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "graph_attention_scores", source, D, N, accumulators=1, scores=4
        )
        descriptors = descriptors and describable(features)
        launch(
            graph_attention_scores_kernel,
            -(-N // block_rows) * B * H,
            (source, target, features, output),
            (*source.stride(), *target.stride(), *features.stride(), *output.stride(), N, H),
            (),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=N % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(source),
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
