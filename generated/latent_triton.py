"""Triton kernels for latent.py.

Written by flashlight 0.1.0 from examples/latent.py (sha256 dd78669f4a7ce6b3)
with `flashlight transpile examples/latent.py`; change the source and run that again.
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
TILES = {
    ("latent_attention_decode", "gfx942", 128, 2, 4096): (128, 32, 4, 2, True),
}


@triton.jit
def load_tile(pointers, exists, masked: tl.constexpr):
    """A tile, zero where it does not exist; only tiles that may reach past an end test that."""
    if masked:
        tile = tl.load(pointers, mask=exists, other=0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit(do_not_specialize=["S_q", "H", "S_k"])
def latent_attention_kernel(
    # fmt: off
    # tensors
    q_latent_ptr, q_rope_ptr, kv_latent_ptr, k_rope_ptr, output_ptr,
    # their strides, in elements
    q_latent_stride_b, q_latent_stride_h, q_latent_stride_s, q_latent_stride_c,
    q_rope_stride_b, q_rope_stride_h, q_rope_stride_s, q_rope_stride_r,
    kv_latent_stride_b, kv_latent_stride_s, kv_latent_stride_c,
    k_rope_stride_b, k_rope_stride_s, k_rope_stride_r,
    output_stride_b, output_stride_h, output_stride_s, output_stride_c,
    # sizes: one compiled kernel serves them all
    S_q, H, S_k,
    # numbers
    scale,  # softmax_scale * math.log2(math.e)
    # head dimensions and the widths of their tiles
    R: tl.constexpr, BLOCK_R: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """latent_attention:

        scores[b, h, i, j] = (Σ_c q_latent[b, h, i, c] * kv_latent[b, j, c]) + (Σ_r q_rope[b, h, i, r] *
            k_rope[b, j, r])
        t[b, h, i, j] = float32(scores[b, h, i, j] * softmax_scale)
        t_2[b, h, i, j] = exp(t[b, h, i, j] - (max_j t[b, h, i, j]))
        scores_2[b, h, i, j] = element(t_2[b, h, i, j] / (Σ_j t_2[b, h, i, j]))
        output[b, h, i, c] = Σ_j scores_2[b, h, i, j] * kv_latent[b, j, c]

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
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    c = tl.arange(0, BLOCK_C).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q_latent = tl.load(
        q_latent_ptr
        + batch * q_latent_stride_b
        + head * q_latent_stride_h
        + tl.cast(row_start, tl.int64) * q_latent_stride_s
        + row_offsets[:, None] * q_latent_stride_s
        + c[None, :] * q_latent_stride_c,
        mask=(rows < S_q)[:, None] & (c < C)[None, :],
        other=0,
    )
    kv_latent_base = kv_latent_ptr + batch * kv_latent_stride_b
    if DESCRIPTORS:
        kv_latent_blocks = tl.make_tensor_descriptor(
            kv_latent_base, [S_k, C], [kv_latent_stride_s, 1], [BLOCK_KEYS, BLOCK_C]
        )
    else:
        kv_latent_blocks = kv_latent_base + key_offsets[:, None] * kv_latent_stride_s + c[None, :] * kv_latent_stride_c
    q_rope = tl.load(
        q_rope_ptr
        + batch * q_rope_stride_b
        + head * q_rope_stride_h
        + tl.cast(row_start, tl.int64) * q_rope_stride_s
        + row_offsets[:, None] * q_rope_stride_s
        + r[None, :] * q_rope_stride_r,
        mask=(rows < S_q)[:, None] & (r < R)[None, :],
        other=0,
    )
    k_rope_base = k_rope_ptr + batch * k_rope_stride_b
    if DESCRIPTORS:
        k_rope_blocks = tl.make_tensor_descriptor(k_rope_base, [S_k, R], [k_rope_stride_s, 1], [BLOCK_KEYS, BLOCK_R])
    else:
        k_rope_blocks = k_rope_base + key_offsets[:, None] * k_rope_stride_s + r[None, :] * k_rope_stride_r

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_C], tl.float32)
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
                kv_latent = kv_latent_blocks.load([key_start, 0])
            else:
                kv_latent = load_tile(
                    kv_latent_blocks + tl.cast(key_start, tl.int64) * kv_latent_stride_s,
                    (keys < S_k)[:, None] & (c < C)[None, :],
                    part > 0 or BLOCK_C != C,
                )
            if DESCRIPTORS:
                k_rope = k_rope_blocks.load([key_start, 0])
            else:
                k_rope = load_tile(
                    k_rope_blocks + tl.cast(key_start, tl.int64) * k_rope_stride_s,
                    (keys < S_k)[:, None] & (r < R)[None, :],
                    part > 0 or BLOCK_R != R,
                )
            scores = (
                tl.dot(
                    q_rope,
                    tl.trans(k_rope),
                    tl.dot(q_latent, tl.trans(kv_latent), input_precision=PRECISION),
                    input_precision=PRECISION,
                )
                * scale
            )  # latent.py:15
            if part > 0:
                scores = tl.where((keys < S_k)[None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2(running_max - finite_max)
            scores_2 = tl.exp2(scores - finite_max[:, None])  # latent.py:16
            accumulator = tl.dot(
                scores_2.to(kv_latent.dtype), kv_latent, accumulator * rescale[:, None], input_precision=PRECISION
            )
            running_sum = running_sum * rescale + tl.sum(scores_2, 1)
            running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + head * output_stride_h
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + c[None, :] * output_stride_c,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S_q)[:, None] & (c < C)[None, :],
    )


def latent_attention(q_latent, q_rope, kv_latent, k_rope, softmax_scale):
    """Launch `latent_attention_kernel` on tensors of one device."""
    B, H, S_q, C = q_latent.shape
    _, _, _, R = q_rope.shape
    _, S_k, _ = kv_latent.shape
    softmax_scale = number("softmax_scale", softmax_scale)
    output = q_latent.new_empty((B, H, S_q, C))
    alike = layouts((q_latent, q_rope, kv_latent, k_rope), "latent_attention", softmax_scale, precision(q_latent))
    if relaunch(alike, q_latent, q_rope, kv_latent, k_rope, output):
        return output

    expect("q_latent", q_latent, (B, H, S_q, C), (torch.float16, torch.bfloat16, torch.float32), q_latent.device)
    expect("q_rope", q_rope, (B, H, S_q, R), (q_latent.dtype,), q_latent.device)
    expect("kv_latent", kv_latent, (B, S_k, C), (q_latent.dtype,), q_latent.device)
    expect("k_rope", k_rope, (B, S_k, R), (q_latent.dtype,), q_latent.device)

    hopper = hopper_tile("latent_attention", max(R, C), S_k, q_latent, q_rope, kv_latent, k_rope, output)
    if hopper is not None:
        launch(
            hopper_kernels().latent_attention_kernel,
            min(multiprocessors(q_latent.device), -(-S_q // hopper["BLOCK_ROWS"]) * B * H),
            (q_latent, q_rope, kv_latent, k_rope, output),
            (
                *q_latent.stride()[:-1],
                *q_rope.stride()[:-1],
                *kv_latent.stride()[:-1],
                *k_rope.stride()[:-1],
                *output.stride()[:-1],
                H,
                B,
                S_k,
                S_q,
            ),
            (softmax_scale * math.log2(math.e),),
            alike,
            R=R,
            BLOCK_R=padded(R),
            C=C,
            BLOCK_C=padded(C),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "latent_attention", q_latent, max(R, C), S_k, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(kv_latent, k_rope)
        launch(
            latent_attention_kernel,
            -(-S_q // block_rows) * B * H,
            (q_latent, q_rope, kv_latent, k_rope, output),
            (
                *q_latent.stride(),
                *q_rope.stride(),
                *kv_latent.stride(),
                *k_rope.stride(),
                *output.stride(),
                S_q,
                H,
                S_k,
            ),
            (softmax_scale * math.log2(math.e),),
            alike,
            R=R,
            BLOCK_R=padded(R),
            C=C,
            BLOCK_C=padded(C),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S_k % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q_latent),
            num_warps=warps,
            num_stages=stages,
        )
    return output


@triton.jit(do_not_specialize=["H", "S_q", "S_k"])
def latent_attention_decode_kernel(
    # fmt: off
    # tensors
    q_nope_ptr, q_pe_ptr, kv_cache_ptr, pe_cache_ptr, output_ptr,
    # their strides, in elements
    q_nope_stride_b, q_nope_stride_s, q_nope_stride_h, q_nope_stride_c,
    q_pe_stride_b, q_pe_stride_s, q_pe_stride_h, q_pe_stride_r,
    kv_cache_stride_b, kv_cache_stride_s, kv_cache_stride_c,
    pe_cache_stride_b, pe_cache_stride_s, pe_cache_stride_r,
    output_stride_b, output_stride_s, output_stride_h, output_stride_c,
    # sizes: one compiled kernel serves them all
    H, S_q, S_k,
    # numbers
    scale,  # (C + R) ** (-0.5) * math.log2(math.e)
    # head dimensions and the widths of their tiles
    R: tl.constexpr, BLOCK_R: tl.constexpr, C: tl.constexpr, BLOCK_C: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """latent_attention_decode:

        hidden[s_q, j] = j > s_q + S_k - S_q
        scores[b, s_q, i, j] = ((Σ_c q_nope[b, s_q, i, c] * kv_cache[b, j, c]) + (Σ_r q_pe[b, s_q, i, r] *
            pe_cache[b, j, r])) * float32(C + R) ** -0.5
        scores_2[b, s_q, i, j] = where(hidden[s_q, j], -inf, scores[b, s_q, i, j])
        t[b, s_q, i, j] = exp(scores_2[b, s_q, i, j] - (max_j scores_2[b, s_q, i, j]))
        weights[b, s_q, i, j] = t[b, s_q, i, j] / (Σ_j t[b, s_q, i, j])
        output[b, s_q, i, c] = Σ_j weights[b, s_q, i, j] * kv_cache[b, j, c]

    One program for each b, s_q and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(H, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    s_q = (program // row_blocks % S_q).to(tl.int64)
    batch = (program // row_blocks // S_q).to(tl.int64)
    rows = row_start + tl.arange(0, BLOCK_ROWS)
    # Offsets of addresses have 64 bits: neighbours may lie far apart
    row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)
    key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)
    r = tl.arange(0, BLOCK_R).to(tl.int64)
    c = tl.arange(0, BLOCK_C).to(tl.int64)

    # Read once: the rows, and what is the same for every block of keys
    q_nope = tl.load(
        q_nope_ptr
        + batch * q_nope_stride_b
        + s_q * q_nope_stride_s
        + tl.cast(row_start, tl.int64) * q_nope_stride_h
        + row_offsets[:, None] * q_nope_stride_h
        + c[None, :] * q_nope_stride_c,
        mask=(rows < H)[:, None] & (c < C)[None, :],
        other=0,
    )
    kv_cache_base = kv_cache_ptr + batch * kv_cache_stride_b
    if DESCRIPTORS:
        kv_cache_blocks = tl.make_tensor_descriptor(
            kv_cache_base, [S_k, C], [kv_cache_stride_s, 1], [BLOCK_KEYS, BLOCK_C]
        )
    else:
        kv_cache_blocks = kv_cache_base + key_offsets[:, None] * kv_cache_stride_s + c[None, :] * kv_cache_stride_c
    q_pe = tl.load(
        q_pe_ptr
        + batch * q_pe_stride_b
        + s_q * q_pe_stride_s
        + tl.cast(row_start, tl.int64) * q_pe_stride_h
        + row_offsets[:, None] * q_pe_stride_h
        + r[None, :] * q_pe_stride_r,
        mask=(rows < H)[:, None] & (r < R)[None, :],
        other=0,
    )
    pe_cache_base = pe_cache_ptr + batch * pe_cache_stride_b
    if DESCRIPTORS:
        pe_cache_blocks = tl.make_tensor_descriptor(
            pe_cache_base, [S_k, R], [pe_cache_stride_s, 1], [BLOCK_KEYS, BLOCK_R]
        )
    else:
        pe_cache_blocks = pe_cache_base + key_offsets[:, None] * pe_cache_stride_s + r[None, :] * pe_cache_stride_r

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_C], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)

    # Keys that some row of this tile sees (live), and whole blocks that all of its rows see (full)
    live_stop = tl.cast(tl.maximum(0, tl.minimum(s_q + S_k + 1 - S_q, S_k)), tl.int32)
    full_stop = tl.cast(tl.maximum(0, tl.minimum(s_q + S_k + 1 - S_q, S_k)), tl.int32) // BLOCK_KEYS * BLOCK_KEYS

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
                    kv_cache = kv_cache_blocks.load([key_start, 0])
                else:
                    kv_cache = load_tile(
                        kv_cache_blocks + tl.cast(key_start, tl.int64) * kv_cache_stride_s,
                        (keys < S_k)[:, None] & (c < C)[None, :],
                        part > 0 or BLOCK_C != C,
                    )
                if DESCRIPTORS:
                    pe_cache = pe_cache_blocks.load([key_start, 0])
                else:
                    pe_cache = load_tile(
                        pe_cache_blocks + tl.cast(key_start, tl.int64) * pe_cache_stride_s,
                        (keys < S_k)[:, None] & (r < R)[None, :],
                        part > 0 or BLOCK_R != R,
                    )
                scores = (
                    tl.dot(
                        q_pe,
                        tl.trans(pe_cache),
                        tl.dot(q_nope, tl.trans(kv_cache), input_precision=PRECISION),
                        input_precision=PRECISION,
                    )
                    * scale
                )  # latent.py:31
                if part > 0:
                    scores = tl.where((keys <= s_q + S_k - S_q)[None, :], scores, float("-inf"))
                new_max = tl.maximum(running_max, tl.max(scores, 1))
                # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
                finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
                rescale = tl.exp2(running_max - finite_max)
                weights = tl.exp2(scores - finite_max[:, None])  # latent.py:32
                accumulator = tl.dot(
                    weights.to(kv_cache.dtype), kv_cache, accumulator * rescale[:, None], input_precision=PRECISION
                )
                running_sum = running_sum * rescale + tl.sum(weights, 1)
                running_max = new_max

    output = accumulator * (1.0 / running_sum)[:, None]
    tl.store(
        output_ptr
        + batch * output_stride_b
        + s_q * output_stride_s
        + tl.cast(row_start, tl.int64) * output_stride_h
        + row_offsets[:, None] * output_stride_h
        + c[None, :] * output_stride_c,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < H)[:, None] & (c < C)[None, :],
    )


def latent_attention_decode(q_nope, q_pe, kv_cache, pe_cache):
    """Launch `latent_attention_decode_kernel` on tensors of one device."""
    B, S_q, H, C = q_nope.shape
    _, _, _, R = q_pe.shape
    _, S_k, _ = kv_cache.shape
    output = q_nope.new_empty((B, S_q, H, C))
    alike = layouts((q_nope, q_pe, kv_cache, pe_cache), "latent_attention_decode", precision(q_nope))
    if relaunch(alike, q_nope, q_pe, kv_cache, pe_cache, output):
        return output

    expect("q_nope", q_nope, (B, S_q, H, C), (torch.float16, torch.bfloat16, torch.float32), q_nope.device)
    expect("q_pe", q_pe, (B, S_q, H, R), (q_nope.dtype,), q_nope.device)
    expect("kv_cache", kv_cache, (B, S_k, C), (q_nope.dtype,), q_nope.device)
    expect("pe_cache", pe_cache, (B, S_k, R), (q_nope.dtype,), q_nope.device)

    hopper = hopper_tile("latent_attention_decode", max(R, C), S_k, q_nope, q_pe, kv_cache, pe_cache, output)
    if hopper is not None:
        launch(
            hopper_kernels().latent_attention_decode_kernel,
            min(multiprocessors(q_nope.device), -(-H // hopper["BLOCK_ROWS"]) * B * S_q),
            (q_nope, q_pe, kv_cache, pe_cache, output),
            (
                *q_nope.stride()[:-1],
                *q_pe.stride()[:-1],
                *kv_cache.stride()[:-1],
                *pe_cache.stride()[:-1],
                *output.stride()[:-1],
                S_q,
                B,
                S_k,
                H,
            ),
            ((C + R) ** (-0.5) * math.log2(math.e),),
            alike,
            R=R,
            BLOCK_R=padded(R),
            C=C,
            BLOCK_C=padded(C),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "latent_attention_decode", q_nope, max(R, C), S_k, accumulators=1, scores=2
        )
        descriptors = descriptors and describable(kv_cache, pe_cache)
        launch(
            latent_attention_decode_kernel,
            -(-H // block_rows) * B * S_q,
            (q_nope, q_pe, kv_cache, pe_cache, output),
            (*q_nope.stride(), *q_pe.stride(), *kv_cache.stride(), *pe_cache.stride(), *output.stride(), H, S_q, S_k),
            ((C + R) ** (-0.5) * math.log2(math.e),),
            alike,
            R=R,
            BLOCK_R=padded(R),
            C=C,
            BLOCK_C=padded(C),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q_nope),
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
