"""Triton kernels for layers.py.

Written by flashlight 0.1.0 from examples/layers.py (sha256 c658a23514aa7606)
with `flashlight transpile examples/layers.py`; change the source and run that again.
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
TILES = {}


@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def nan_max(a, b):
    """The greater of two numbers; NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["S", "n_head"])
def gpt_layer_kernel(
    # fmt: off
    # tensors
    h_w_qkv_ptr, y_ptr,
    # their strides, in elements
    h_w_qkv_stride_b, h_w_qkv_stride_s, h_w_qkv_stride_n, h_w_qkv_stride_e,
    y_stride_b, y_stride_s, y_stride_n, y_stride_e,
    # sizes: one compiled kernel serves them all
    S, n_head,
    # numbers
    scale,  # quotient(1.0, math.sqrt(E // n_head)) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    E_n_head: tl.constexpr, BLOCK_E_n_head: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """gpt_layer:

        t[b, h, i, j] = where(j > i, -inf, (Σ_g h_w_qkv[b, i, h, g] * h_w_qkv[b, j, h + n_head, g]) /
            sqrt(float32(E // n_head)))
        t_2[b, h, i] = max_j t[b, h, i, j]
        t_3[b, h, i, j] = exp(t[b, h, i, j] - t_2[b, h, i])
        y[b, i, h, d] = Σ_j where(t_2[b, h, i] == -inf, 0, t_3[b, h, i, j] / (Σ_j t_3[b, h, i, j])) * h_w_qkv[b,
            j, h + n_head * 2, d]

    One program for each b, h and block of i; one pass over j in blocks.
    PyTorch computes h_w_qkv beforehand.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes: later rows see more keys, and start first
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (row_blocks - 1 - program % row_blocks) * BLOCK_ROWS
    h = (program // row_blocks % n_head).to(tl.int64)
    batch = (program // row_blocks // n_head).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    d = tl.arange(0, BLOCK_E_n_head).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q = tl.load(
        h_w_qkv_ptr
        + batch * h_w_qkv_stride_b
        + tl.cast(row_start, tl.int64) * h_w_qkv_stride_s
        + h * h_w_qkv_stride_n
        + row_offsets[:, None] * h_w_qkv_stride_s
        + d[None, :] * h_w_qkv_stride_e,
        mask=(rows < S)[:, None] & (d < E_n_head)[None, :],
        other=0,
    )  # layers.py:22
    h_w_qkv_base = h_w_qkv_ptr + batch * h_w_qkv_stride_b + (h + n_head) * h_w_qkv_stride_n
    if DESCRIPTORS:
        h_w_qkv_blocks = tl.make_tensor_descriptor(
            h_w_qkv_base, [S, E_n_head], [h_w_qkv_stride_s, 1], [BLOCK_KEYS, BLOCK_E_n_head]
        )
    else:
        h_w_qkv_blocks = h_w_qkv_base + key_offsets[:, None] * h_w_qkv_stride_s + d[None, :] * h_w_qkv_stride_e
    h_w_qkv_base_2 = h_w_qkv_ptr + batch * h_w_qkv_stride_b + (h + n_head * 2) * h_w_qkv_stride_n
    if DESCRIPTORS:
        h_w_qkv_blocks_2 = tl.make_tensor_descriptor(
            h_w_qkv_base_2, [S, E_n_head], [h_w_qkv_stride_s, 1], [BLOCK_KEYS, BLOCK_E_n_head]
        )
    else:
        h_w_qkv_blocks_2 = h_w_qkv_base_2 + key_offsets[:, None] * h_w_qkv_stride_s + d[None, :] * h_w_qkv_stride_e

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_E_n_head], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S, BLOCK_ROWS + row_start)
    full_stop = tl.minimum(S, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for part in tl.static_range(2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, live_stop
        if start < stop:
            for key_start in tl.range(start, stop, BLOCK_KEYS):
                keys = key_start + tl.arange(0, BLOCK_KEYS)
                if DESCRIPTORS:
                    h_w_qkv = h_w_qkv_blocks.load([key_start, 0])
                else:
                    h_w_qkv = load_tile(
                        h_w_qkv_blocks + tl.cast(key_start, tl.int64) * h_w_qkv_stride_s,
                        (keys < S)[:, None] & (d < E_n_head)[None, :],
                        part > 0 or BLOCK_E_n_head != E_n_head,
                    )
                scores = tl.dot(q, tl.trans(h_w_qkv), input_precision=PRECISION) * scale
                if part > 0:
                    scores = tl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
                new_max = nan_max(running_max, tl.reduce(scores, 1, nan_max))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = tl.exp2(running_max - finite_max)
                weights = tl.exp2(scores - finite_max[:, None])
                if DESCRIPTORS:
                    h_w_qkv_2 = h_w_qkv_blocks_2.load([key_start, 0])
                else:
                    h_w_qkv_2 = load_tile(
                        h_w_qkv_blocks_2 + tl.cast(key_start, tl.int64) * h_w_qkv_stride_s,
                        (keys < S)[:, None] & (d < E_n_head)[None, :],
                        part > 0 or BLOCK_E_n_head != E_n_head,
                    )
                accumulator = tl.dot(
                    weights.to(h_w_qkv_2.dtype), h_w_qkv_2, accumulator * rescale[:, None], input_precision=PRECISION
                )
                running_sum = running_sum * rescale + tl.sum(weights, 1)
                running_max = new_max

    y = tl.where(
        (running_max != float("-inf"))[:, None], accumulator * (1.0 / running_sum)[:, None], 0.0
    )  # layers.py:25
    tl.store(
        y_ptr
        + batch * y_stride_b
        + tl.cast(row_start, tl.int64) * y_stride_s
        + h * y_stride_n
        + row_offsets[:, None] * y_stride_s
        + d[None, :] * y_stride_e,
        y.to(y_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < E_n_head)[None, :],
    )


def gpt_layer(x, w_qkv, b_qkv, w_o, b_o, ln_weight, ln_bias, n_head):
    """Launch `gpt_layer_kernel` on tensors of one device."""
    B, S, E = x.shape
    n_head = integer("n_head", n_head)
    expect("x", x, (B, S, E), (torch.float16, torch.bfloat16, torch.float32), x.device)
    expect("w_qkv", w_qkv, (E * 3, E), (x.dtype,), x.device)
    expect("b_qkv", b_qkv, (E * 3,), (x.dtype,), x.device)
    expect("w_o", w_o, (E, E), (x.dtype,), x.device)
    expect("b_o", b_o, (E,), (x.dtype,), x.device)
    expect("ln_weight", ln_weight, (E,), (x.dtype,), x.device)
    expect("ln_bias", ln_bias, (E,), (x.dtype,), x.device)
    if not (E % n_head == 0):
        raise ValueError("gpt_layer was transpiled for sizes with E % n_head == 0")

    part = x.float() - x.float().mean(-1, keepdim=True)
    h = (part * torch.rsqrt(part.square().mean(-1, keepdim=True) + 1e-05) * ln_weight.float() + ln_bias.float()).to(
        x.dtype
    )
    h_w_qkv = torch.nn.functional.linear(h, w_qkv, b_qkv).unflatten(2, (n_head * 3, E // n_head))
    y = x.new_empty((B, S, n_head, E // n_head))
    E_n_head = E // n_head
    hopper = hopper_tile("gpt_layer", E_n_head, S, h_w_qkv, y)
    if hopper is not None:
        launch(
            hopper_kernels().gpt_layer_kernel,
            min(multiprocessors(x.device), -(-S // hopper["BLOCK_ROWS"]) * B * n_head),
            (h_w_qkv, y),
            (*h_w_qkv.stride()[:-1], *y.stride()[:-1], n_head, B, S),
            (quotient(1.0, math.sqrt(E // n_head)) * math.log2(math.e),),
            E_n_head=E_n_head,
            BLOCK_E_n_head=padded(E_n_head),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "gpt_layer", x, E_n_head, S, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(h_w_qkv)
        launch(
            gpt_layer_kernel,
            -(-S // block_rows) * B * n_head,
            (h_w_qkv, y),
            (*h_w_qkv.stride(), *y.stride(), S, n_head),
            (quotient(1.0, math.sqrt(E // n_head)) * math.log2(math.e),),
            E_n_head=E_n_head,
            BLOCK_E_n_head=padded(E_n_head),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            DESCRIPTORS=descriptors,
            PRECISION=precision(x),
            num_warps=warps,
            num_stages=stages,
        )
    y = y.flatten(2, 3)
    output = x + torch.nn.functional.linear(y, w_o, b_o)
    return output


@triton.jit(do_not_specialize=["S", "H", "H_kv"])
def llama_layer_kernel(
    # fmt: off
    # tensors
    cos_ptr, sin_ptr, q_ptr, v_ptr, k_2_ptr, attn_output_ptr,
    # their strides, in elements
    cos_stride_s, cos_stride_d,
    sin_stride_s, sin_stride_d,
    q_stride_b, q_stride_s, q_stride_h, q_stride_d,
    v_stride_b, v_stride_s, v_stride_h, v_stride_d,
    k_2_stride_b, k_2_stride_s, k_2_stride_h, k_2_stride_d,
    attn_output_stride_b, attn_output_stride_s, attn_output_stride_h, attn_output_stride_d,
    # sizes: one compiled kernel serves them all
    S, H, H_kv,
    # numbers
    scale,  # 1.0 / D ** 0.5 * math.log2(math.e)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """llama_layer:

        q_2[b, h, i, d] = q[b, i, h, d] * cos[i, d] + where(d < D // 2, -q[b, i, h, d + D // 2], q[b, i, h, d -
            D // 2]) * sin[i, d]
        scores[b, h, i, j] = (Σ_d q_2[b, h, i, d] * k_2[b, j, h // (H // H_kv), d]) / float32(D) ** 0.5
        scores_2[b, h, i, j] = scores[b, h, i, j] + where(j > i, -inf, 0)
        t[b, h, i, j] = exp(scores_2[b, h, i, j] - (max_j scores_2[b, h, i, j]))
        attn_weights[b, h, i, j] = element(t[b, h, i, j] / (Σ_j t[b, h, i, j]))
        attn_output[b, i, h, d_2] = Σ_j attn_weights[b, h, i, j] * v[b, j, h // (H // H_kv), d_2]

    One program for each b, h and block of i; one pass over j in blocks.
    PyTorch computes q, v, k_2 beforehand.
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
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )  # layers.py:49
    cos = tl.load(
        cos_ptr
        + tl.cast(row_start, tl.int64) * cos_stride_s
        + row_offsets[:, None] * cos_stride_s
        + d[None, :] * cos_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    q_3 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + (D // 2) * q_stride_d
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(d + D // 2 < D)[None, :] & (rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )  # layers.py:49
    q_4 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + -(D // 2) * q_stride_d
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(d - D // 2 >= 0)[None, :] & (d - D // 2 < D)[None, :] & (rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )  # layers.py:49
    sin = tl.load(
        sin_ptr
        + tl.cast(row_start, tl.int64) * sin_stride_s
        + row_offsets[:, None] * sin_stride_s
        + d[None, :] * sin_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    q_2 = q.to(tl.float32) * cos.to(tl.float32) + tl.where(
        (d < D // 2)[None, :], -q_3.to(tl.float32), q_4.to(tl.float32)
    ) * sin.to(
        tl.float32
    )  # layers.py:52
    k_2_head = head // (H // H_kv)
    k_2_base = k_2_ptr + batch * k_2_stride_b + k_2_head * k_2_stride_h
    if DESCRIPTORS:
        k_2_blocks = tl.make_tensor_descriptor(k_2_base, [S, D], [k_2_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_2_blocks = k_2_base + key_offsets[:, None] * k_2_stride_s + d[None, :] * k_2_stride_d
    v_base = v_ptr + batch * v_stride_b + k_2_head * v_stride_h
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d[None, :] * v_stride_d

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
            k_2 = k_2_blocks.load([key_start, 0])
        else:
            k_2 = tl.load(
                k_2_blocks + tl.cast(key_start, tl.int64) * k_2_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        scores = tl.dot(
            tl.where((d < D)[None, :], q_2, 0.0).to(k_2.dtype), tl.trans(k_2), input_precision=PRECISION
        )  # layers.py:56
        if partial:
            scores = tl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        attn_weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])  # layers.py:58
        if DESCRIPTORS:
            v = v_blocks.load([key_start, 0])
        else:
            v = tl.load(
                v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        accumulator = tl.dot(attn_weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
        running_sum = running_sum * rescale + tl.sum(attn_weights, 1)
        running_max = new_max

    attn_output = accumulator * (1.0 / running_sum)[:, None]  # layers.py:59
    tl.store(
        attn_output_ptr
        + batch * attn_output_stride_b
        + tl.cast(row_start, tl.int64) * attn_output_stride_s
        + head * attn_output_stride_h
        + row_offsets[:, None] * attn_output_stride_s
        + d[None, :] * attn_output_stride_d,
        attn_output.to(attn_output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def llama_layer(hidden_states, w_q, w_k, w_v, w_o, cos, sin, H, H_kv):
    """Launch `llama_layer_kernel` on tensors of one device."""
    B, S, E = hidden_states.shape
    _, D = cos.shape
    H = integer("H", H)
    H_kv = integer("H_kv", H_kv)
    expect(
        "hidden_states", hidden_states, (B, S, E), (torch.float16, torch.bfloat16, torch.float32), hidden_states.device
    )
    expect("w_q", w_q, (D * H, E), (hidden_states.dtype,), hidden_states.device)
    expect("w_k", w_k, (D * H_kv, E), (hidden_states.dtype,), hidden_states.device)
    expect("w_v", w_v, (D * H_kv, E), (hidden_states.dtype,), hidden_states.device)
    expect("w_o", w_o, (E, D * H), (hidden_states.dtype,), hidden_states.device)
    expect("cos", cos, (S, D), (hidden_states.dtype,), hidden_states.device)
    sin = sin.expand(S, D)
    expect("sin", sin, (S, D), (hidden_states.dtype,), hidden_states.device)
    if not (D % 2 == 0):
        raise ValueError("llama_layer was transpiled for sizes with D % 2 == 0")
    if not (H % H_kv == 0):
        raise ValueError("llama_layer was transpiled for sizes with H % H_kv == 0")

    q = (hidden_states @ w_q.T).unflatten(2, (H, D))
    k = (hidden_states @ w_k.T).unflatten(2, (H_kv, D))
    v = (hidden_states @ w_v.T).unflatten(2, (H_kv, D))
    k_2 = k * cos[:, None, :] + torch.cat((-k[:, :, :, D // 2 :], k[:, :, :, : D // 2]), -1) * sin[:, None, :]
    attn_output = hidden_states.new_empty((B, S, H, D))
    block_rows, block_keys, warps, stages, descriptors = configuration(
        "llama_layer", hidden_states, D, S, accumulators=1, scores=2
    )
    descriptors = descriptors and describable(k_2, v)
    launch(
        llama_layer_kernel,
        -(-S // block_rows) * B * H,
        (cos, sin, q, v, k_2, attn_output),
        (*cos.stride(), *sin.stride(), *q.stride(), *v.stride(), *k_2.stride(), *attn_output.stride(), S, H, H_kv),
        (1.0 / D**0.5 * math.log2(math.e),),
        D=D,
        BLOCK_D=padded(D),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        DESCRIPTORS=descriptors,
        PRECISION=precision(hidden_states),
        num_warps=warps,
        num_stages=stages,
    )
    attn_output = attn_output.flatten(2, 3)
    output = attn_output @ w_o.T
    return output


@triton.jit(do_not_specialize=["S", "H"])
def latent_layer_kernel(
    # fmt: off
    # tensors
    cos_ptr, sin_ptr, q_ptr, c_kv_2_w_ukv_ptr, k_rope_ptr, attention_ptr,
    # their strides, in elements
    cos_stride_s, cos_stride_1,
    sin_stride_s, sin_stride_1,
    q_stride_b, q_stride_s, q_stride_h, q_stride_3,
    c_kv_2_w_ukv_stride_b, c_kv_2_w_ukv_stride_s, c_kv_2_w_ukv_stride_h, c_kv_2_w_ukv_stride_3,
    c_kv_2_w_ukv_stride_4,
    k_rope_stride_b, k_rope_stride_s, k_rope_stride_2,
    attention_stride_b, attention_stride_s, attention_stride_h, attention_stride_n,
    # sizes: one compiled kernel serves them all
    S, H,
    # head dimensions and the widths of their tiles
    BLOCK_N128: tl.constexpr, BLOCK_N64: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """latent_layer:

        mask[i, j] = j > i
        q_rope[b, h, i, n64] = q[b, i, h, n64 + 128] * cos[i, n64] + where(n64 < 32, -q[b, i, h, n64 + 160],
            q[b, i, h, n64 + 96]) * sin[i, n64]
        scores[b, h, i, j] = (Σ_n128 q[b, i, h, n128] * c_kv_2_w_ukv[b, j, h, 0, n128]) + (Σ_n64 q_rope[b, h, i,
            n64] * k_rope[b, j, n64])
        t[b, h, i, j] = where(mask[i, j], -inf, scores[b, h, i, j] * 0.0721687836)
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        weights[b, h, i, j] = t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j])
        attention[b, i, h, n128] = Σ_j weights[b, h, i, j] * c_kv_2_w_ukv[b, j, h, 1, n128]

    One program for each b, h and block of i; one pass over j in blocks.
    PyTorch computes q, c_kv_2_w_ukv, k_rope beforehand.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
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
    n128 = tl.arange(0, BLOCK_N128).to(tl.int64)
    n64 = tl.arange(0, BLOCK_N64).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + row_offsets[:, None] * q_stride_s
        + n128[None, :] * q_stride_3,
        mask=(rows < S)[:, None] & (n128 < 128)[None, :],
        other=0,
    )  # layers.py:77
    c_kv_2_w_ukv_base = c_kv_2_w_ukv_ptr + batch * c_kv_2_w_ukv_stride_b + head * c_kv_2_w_ukv_stride_h
    if DESCRIPTORS:
        c_kv_2_w_ukv_blocks = tl.make_tensor_descriptor(
            c_kv_2_w_ukv_base, [S, 128], [c_kv_2_w_ukv_stride_s, 1], [BLOCK_KEYS, BLOCK_N128]
        )
    else:
        c_kv_2_w_ukv_blocks = (
            c_kv_2_w_ukv_base + key_offsets[:, None] * c_kv_2_w_ukv_stride_s + n128[None, :] * c_kv_2_w_ukv_stride_4
        )
    q_2 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + tl.cast(128, tl.int64) * q_stride_3
        + row_offsets[:, None] * q_stride_s
        + n64[None, :] * q_stride_3,
        mask=(rows < S)[:, None] & (n64 < 64)[None, :],
        other=0,
    )  # layers.py:77
    cos = tl.load(
        cos_ptr
        + tl.cast(row_start, tl.int64) * cos_stride_s
        + row_offsets[:, None] * cos_stride_s
        + n64[None, :] * cos_stride_1,
        mask=(rows < S)[:, None] & (n64 < 64)[None, :],
        other=0,
    )
    q_3 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + tl.cast(160, tl.int64) * q_stride_3
        + row_offsets[:, None] * q_stride_s
        + n64[None, :] * q_stride_3,
        mask=(n64 + 160 < 192)[None, :] & (rows < S)[:, None] & (n64 < 64)[None, :],
        other=0,
    )  # layers.py:77
    q_4 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + head * q_stride_h
        + tl.cast(96, tl.int64) * q_stride_3
        + row_offsets[:, None] * q_stride_s
        + n64[None, :] * q_stride_3,
        mask=(rows < S)[:, None] & (n64 < 64)[None, :],
        other=0,
    )  # layers.py:77
    sin = tl.load(
        sin_ptr
        + tl.cast(row_start, tl.int64) * sin_stride_s
        + row_offsets[:, None] * sin_stride_s
        + n64[None, :] * sin_stride_1,
        mask=(rows < S)[:, None] & (n64 < 64)[None, :],
        other=0,
    )
    q_rope = q_2.to(tl.float32) * cos.to(tl.float32) + tl.where(
        (n64 < 32)[None, :], -q_3.to(tl.float32), q_4.to(tl.float32)
    ) * sin.to(
        tl.float32
    )  # layers.py:82
    k_rope_base = k_rope_ptr + batch * k_rope_stride_b
    if DESCRIPTORS:
        k_rope_blocks = tl.make_tensor_descriptor(k_rope_base, [S, 64], [k_rope_stride_s, 1], [BLOCK_KEYS, BLOCK_N64])
    else:
        k_rope_blocks = k_rope_base + key_offsets[:, None] * k_rope_stride_s + n64[None, :] * k_rope_stride_2
    c_kv_2_w_ukv_base_2 = (
        c_kv_2_w_ukv_ptr + batch * c_kv_2_w_ukv_stride_b + head * c_kv_2_w_ukv_stride_h + 1 * c_kv_2_w_ukv_stride_3
    )
    if DESCRIPTORS:
        c_kv_2_w_ukv_blocks_2 = tl.make_tensor_descriptor(
            c_kv_2_w_ukv_base_2, [S, 128], [c_kv_2_w_ukv_stride_s, 1], [BLOCK_KEYS, BLOCK_N128]
        )
    else:
        c_kv_2_w_ukv_blocks_2 = (
            c_kv_2_w_ukv_base_2 + key_offsets[:, None] * c_kv_2_w_ukv_stride_s + n128[None, :] * c_kv_2_w_ukv_stride_4
        )

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_N128], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.minimum(S, BLOCK_ROWS + row_start)
    full_stop = tl.minimum(S, row_start + 1) // BLOCK_KEYS * BLOCK_KEYS

    for part in tl.static_range(2):
        if part == 0:
            # blocks that need no mask
            start, stop = 0, full_stop
        else:
            # the blocks at the end of the range
            start, stop = full_stop, live_stop
        if start < stop:
            for key_start in tl.range(start, stop, BLOCK_KEYS):
                keys = key_start + tl.arange(0, BLOCK_KEYS)
                if DESCRIPTORS:
                    c_kv_2_w_ukv = c_kv_2_w_ukv_blocks.load([key_start, 0])
                else:
                    c_kv_2_w_ukv = load_tile(
                        c_kv_2_w_ukv_blocks + tl.cast(key_start, tl.int64) * c_kv_2_w_ukv_stride_s,
                        (keys < S)[:, None] & (n128 < 128)[None, :],
                        part > 0 or BLOCK_N128 != 128,
                    )
                if DESCRIPTORS:
                    k_rope = k_rope_blocks.load([key_start, 0])
                else:
                    k_rope = load_tile(
                        k_rope_blocks + tl.cast(key_start, tl.int64) * k_rope_stride_s,
                        (keys < S)[:, None] & (n64 < 64)[None, :],
                        part > 0 or BLOCK_N64 != 64,
                    )
                scores = (
                    tl.dot(
                        tl.where((n64 < 64)[None, :], q_rope, 0.0).to(k_rope.dtype),
                        tl.trans(k_rope),
                        tl.dot(q, tl.trans(c_kv_2_w_ukv), input_precision=PRECISION),
                        input_precision=PRECISION,
                    )
                    * 0.10411754627697264
                )  # layers.py:84
                if part > 0:
                    scores = tl.where(keys[None, :] <= rows[:, None], scores, float("-inf"))
                new_max = tl.maximum(running_max, tl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = tl.exp2(running_max - finite_max)
                weights = tl.exp2(scores - finite_max[:, None])  # layers.py:86
                if DESCRIPTORS:
                    c_kv_2_w_ukv_2 = c_kv_2_w_ukv_blocks_2.load([key_start, 0])
                else:
                    c_kv_2_w_ukv_2 = load_tile(
                        c_kv_2_w_ukv_blocks_2 + tl.cast(key_start, tl.int64) * c_kv_2_w_ukv_stride_s,
                        (keys < S)[:, None] & (n128 < 128)[None, :],
                        part > 0 or BLOCK_N128 != 128,
                    )
                accumulator = tl.dot(
                    weights.to(c_kv_2_w_ukv_2.dtype),
                    c_kv_2_w_ukv_2,
                    accumulator * rescale[:, None],
                    input_precision=PRECISION,
                )
                running_sum = running_sum * rescale + tl.sum(weights, 1)
                running_max = new_max

    attention = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        attention_ptr
        + batch * attention_stride_b
        + tl.cast(row_start, tl.int64) * attention_stride_s
        + head * attention_stride_h
        + row_offsets[:, None] * attention_stride_s
        + n128[None, :] * attention_stride_n,
        attention.to(attention_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (n128 < 128)[None, :],
    )


def latent_layer(x, w_dq, q_norm, w_uq, w_dkv, kv_norm, w_ukv, w_o, cos, sin):
    """Launch `latent_layer_kernel` on tensors of one device."""
    B, S, E = x.shape
    _, C_q = w_dq.shape
    _, H, _ = w_uq.shape
    (C,) = kv_norm.shape
    expect("x", x, (B, S, E), (torch.float16, torch.bfloat16, torch.float32), x.device)
    expect("w_dq", w_dq, (E, C_q), (x.dtype,), x.device)
    expect("q_norm", q_norm, (C_q,), (x.dtype,), x.device)
    expect("w_uq", w_uq, (C_q, H, 192), (x.dtype,), x.device)
    expect("w_dkv", w_dkv, (E, C + 64), (x.dtype,), x.device)
    expect("kv_norm", kv_norm, (C,), (x.dtype,), x.device)
    expect("w_ukv", w_ukv, (C, H, 256), (x.dtype,), x.device)
    expect("w_o", w_o, (H, 128, E), (x.dtype,), x.device)
    cos = cos.expand(S, 64)
    expect("cos", cos, (S, 64), (x.dtype,), x.device)
    sin = sin.expand(S, 64)
    expect("sin", sin, (S, 64), (x.dtype,), x.device)

    c_q = x @ w_dq
    c_q_2 = (
        c_q.float() * torch.rsqrt(c_q.float().square().mean(-1, keepdim=True) + 1.1920928955078125e-07) * q_norm.float()
    ).to(x.dtype)
    q = torch.einsum("bsc,chn->bshn", c_q_2, w_uq)
    c_kv = x @ w_dkv
    c_kv_2 = (
        c_kv[:, :, :C].float()
        * torch.rsqrt(c_kv[:, :, :C].float().square().mean(-1, keepdim=True) + 1.1920928955078125e-07)
        * kv_norm.float()
    ).to(x.dtype)
    c_kv_2_w_ukv = torch.einsum("bsc,chn->bshn", c_kv_2, w_ukv).unflatten(3, (2, 128))
    k_rope = c_kv[:, :, C:] * cos + torch.cat((-c_kv[:, :, C + 32 :], c_kv[:, :, C : C + 32]), -1) * sin
    attention = x.new_empty((B, S, H, 128))
    N128 = 128
    N64 = 64
    block_rows, block_keys, warps, stages, descriptors = configuration(
        "latent_layer", x, max(N128, N64), S, accumulators=1, scores=2, blocks=3
    )
    descriptors = descriptors and describable(c_kv_2_w_ukv, k_rope)
    launch(
        latent_layer_kernel,
        -(-S // block_rows) * B * H,
        (cos, sin, q, c_kv_2_w_ukv, k_rope, attention),
        (
            *cos.stride(),
            *sin.stride(),
            *q.stride(),
            *c_kv_2_w_ukv.stride(),
            *k_rope.stride(),
            *attention.stride(),
            S,
            H,
        ),
        (),
        BLOCK_N128=padded(N128),
        BLOCK_N64=padded(N64),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        DESCRIPTORS=descriptors,
        PRECISION=precision(x),
        num_warps=warps,
        num_stages=stages,
    )
    attention = attention.flatten(2, 3)
    w_o = w_o.flatten(0, 1)
    output = attention @ w_o
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


def quotient(a, b):
    """a / b as tensors have it: infinite or NaN where b is zero."""
    return a / b if b else math.copysign(math.inf, a) * math.copysign(1.0, b) if a else math.nan


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
