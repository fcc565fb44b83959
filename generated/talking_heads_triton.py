"""Triton kernels for talking_heads.py.

Written by flashlight 0.1.0 from examples/talking_heads.py (sha256 6038721926536cce)
with `flashlight transpile examples/talking_heads.py`; change the source and run that again.
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
    ("talking_heads", "gfx942", 128, 2, 4096): (64, 16, 4, 2, True),
    ("talking_heads", "sm_100", 128, 2, 4096): (16, 64, 8, 1, True),
    ("talking_heads", "sm_90", 64, 2, 4096): (64, 16, 4, 2, True),
    ("talking_heads", "sm_90", 128, 2, 4096): (16, 64, 8, 1, True),
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


@triton.jit(do_not_specialize=["S"])
def talking_heads_kernel(
    # fmt: off
    # tensors
    q_ptr, k_ptr, v_ptr, proj_l_ptr, proj_w_ptr, output_ptr,
    # their strides, in elements
    q_stride_b, q_stride_1, q_stride_s, q_stride_d,
    k_stride_b, k_stride_1, k_stride_s, k_stride_d,
    v_stride_b, v_stride_1, v_stride_s, v_stride_d,
    proj_l_stride_0, proj_l_stride_1,
    proj_w_stride_0, proj_w_stride_1,
    output_stride_b, output_stride_n, output_stride_s, output_stride_d,
    # sizes: one compiled kernel serves them all
    S,
    # numbers
    scale,  # D ** (-0.5)
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, WHOLE: tl.constexpr, DESCRIPTORS: tl.constexpr,
    PRECISION: tl.constexpr,
    # fmt: on
):
    """talking_heads:

        scores[b, n4, i, j] = Σ_d q[b, n4, i, d] * float32(D) ** -0.5 * k[b, n4, j, d]
        scores_2[b, i, j, n4_2] = Σ_n4 scores[b, n4, i, j] * proj_l[n4_2, n4]
        t[b, i, j, n4_2] = exp(scores_2[b, i, j, n4_2] - (max_j scores_2[b, i, j, n4_2]))
        attn[b, i, j, n4_2] = t[b, i, j, n4_2] / (Σ_j t[b, i, j, n4_2])
        attn_2[b, n4, i, j] = Σ_n4_2 attn[b, i, j, n4_2] * proj_w[n4, n4_2]
        output[b, n4, i, d] = Σ_j attn_2[b, n4, i, j] * v[b, n4, j, d]

    One program for each b, n4 and block of i; one pass over j in blocks.
    Exponentials are taken in base 2: exp(x) is exp2(x * log2(e)).
    """
    # torch.compile passes numbers as float64
    scale = tl.cast(scale, tl.float32)

    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    n4 = (program // row_blocks % 4).to(tl.int64)
    batch = (program // row_blocks // 4).to(tl.int64)
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
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base = k_ptr + batch * k_stride_b
    if DESCRIPTORS:
        k_blocks = tl.make_tensor_descriptor(k_base, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks = k_base + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    proj_l = tl.load(proj_l_ptr)
    proj_l_scaled = scale * proj_l.to(tl.float32) * LOG2_E
    q_2 = tl.load(
        q_ptr
        + batch * q_stride_b
        + 1 * q_stride_1
        + tl.cast(row_start, tl.int64) * q_stride_s
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base_2 = k_ptr + batch * k_stride_b + 1 * k_stride_1
    if DESCRIPTORS:
        k_blocks_2 = tl.make_tensor_descriptor(k_base_2, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks_2 = k_base_2 + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    proj_l_2 = tl.load(proj_l_ptr + 1 * proj_l_stride_1)
    proj_l_scaled_2 = scale * proj_l_2.to(tl.float32) * LOG2_E
    q_3 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(2, tl.int64) * q_stride_1
        + tl.cast(row_start, tl.int64) * q_stride_s
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base_3 = k_ptr + batch * k_stride_b + tl.cast(2, tl.int64) * k_stride_1
    if DESCRIPTORS:
        k_blocks_3 = tl.make_tensor_descriptor(k_base_3, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks_3 = k_base_3 + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    proj_l_3 = tl.load(proj_l_ptr + tl.cast(2, tl.int64) * proj_l_stride_1)
    proj_l_scaled_3 = scale * proj_l_3.to(tl.float32) * LOG2_E
    q_4 = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(3, tl.int64) * q_stride_1
        + tl.cast(row_start, tl.int64) * q_stride_s
        + row_offsets[:, None] * q_stride_s
        + d[None, :] * q_stride_d,
        mask=(rows < S)[:, None] & (d < D)[None, :],
        other=0,
    )
    k_base_4 = k_ptr + batch * k_stride_b + tl.cast(3, tl.int64) * k_stride_1
    if DESCRIPTORS:
        k_blocks_4 = tl.make_tensor_descriptor(k_base_4, [S, D], [k_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        k_blocks_4 = k_base_4 + key_offsets[:, None] * k_stride_s + d[None, :] * k_stride_d
    proj_l_4 = tl.load(proj_l_ptr + tl.cast(3, tl.int64) * proj_l_stride_1)
    proj_l_scaled_4 = scale * proj_l_4.to(tl.float32) * LOG2_E
    v_base = v_ptr + batch * v_stride_b + n4 * v_stride_1
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d[None, :] * v_stride_d
    proj_l_5 = tl.load(proj_l_ptr + 1 * proj_l_stride_0)
    proj_l_scaled_5 = scale * proj_l_5.to(tl.float32) * LOG2_E
    proj_l_6 = tl.load(proj_l_ptr + 1 * proj_l_stride_0 + 1 * proj_l_stride_1)
    proj_l_scaled_6 = scale * proj_l_6.to(tl.float32) * LOG2_E
    proj_l_7 = tl.load(proj_l_ptr + 1 * proj_l_stride_0 + tl.cast(2, tl.int64) * proj_l_stride_1)
    proj_l_scaled_7 = scale * proj_l_7.to(tl.float32) * LOG2_E
    proj_l_8 = tl.load(proj_l_ptr + 1 * proj_l_stride_0 + tl.cast(3, tl.int64) * proj_l_stride_1)
    proj_l_scaled_8 = scale * proj_l_8.to(tl.float32) * LOG2_E
    proj_l_9 = tl.load(proj_l_ptr + tl.cast(2, tl.int64) * proj_l_stride_0)
    proj_l_scaled_9 = scale * proj_l_9.to(tl.float32) * LOG2_E
    proj_l_10 = tl.load(proj_l_ptr + tl.cast(2, tl.int64) * proj_l_stride_0 + 1 * proj_l_stride_1)
    proj_l_scaled_10 = scale * proj_l_10.to(tl.float32) * LOG2_E
    proj_l_11 = tl.load(proj_l_ptr + tl.cast(2, tl.int64) * proj_l_stride_0 + tl.cast(2, tl.int64) * proj_l_stride_1)
    proj_l_scaled_11 = scale * proj_l_11.to(tl.float32) * LOG2_E
    proj_l_12 = tl.load(proj_l_ptr + tl.cast(2, tl.int64) * proj_l_stride_0 + tl.cast(3, tl.int64) * proj_l_stride_1)
    proj_l_scaled_12 = scale * proj_l_12.to(tl.float32) * LOG2_E
    proj_l_13 = tl.load(proj_l_ptr + tl.cast(3, tl.int64) * proj_l_stride_0)
    proj_l_scaled_13 = scale * proj_l_13.to(tl.float32) * LOG2_E
    proj_l_14 = tl.load(proj_l_ptr + tl.cast(3, tl.int64) * proj_l_stride_0 + 1 * proj_l_stride_1)
    proj_l_scaled_14 = scale * proj_l_14.to(tl.float32) * LOG2_E
    proj_l_15 = tl.load(proj_l_ptr + tl.cast(3, tl.int64) * proj_l_stride_0 + tl.cast(2, tl.int64) * proj_l_stride_1)
    proj_l_scaled_15 = scale * proj_l_15.to(tl.float32) * LOG2_E
    proj_l_16 = tl.load(proj_l_ptr + tl.cast(3, tl.int64) * proj_l_stride_0 + tl.cast(3, tl.int64) * proj_l_stride_1)
    proj_l_scaled_16 = scale * proj_l_16.to(tl.float32) * LOG2_E

    running_max = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum = tl.zeros([BLOCK_ROWS], tl.float32)
    running_max_2 = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator_2 = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum_2 = tl.zeros([BLOCK_ROWS], tl.float32)
    running_max_3 = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator_3 = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum_3 = tl.zeros([BLOCK_ROWS], tl.float32)
    running_max_4 = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    accumulator_4 = tl.zeros([BLOCK_ROWS, BLOCK_D], tl.float32)
    running_sum_4 = tl.zeros([BLOCK_ROWS], tl.float32)

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
            total = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            if DESCRIPTORS:
                k_2 = k_blocks_2.load([key_start, 0])
            else:
                k_2 = load_tile(
                    k_blocks_2 + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            total_2 = tl.dot(q_2, tl.trans(k_2), input_precision=PRECISION)
            if DESCRIPTORS:
                k_3 = k_blocks_3.load([key_start, 0])
            else:
                k_3 = load_tile(
                    k_blocks_3 + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            total_3 = tl.dot(q_3, tl.trans(k_3), input_precision=PRECISION)
            if DESCRIPTORS:
                k_4 = k_blocks_4.load([key_start, 0])
            else:
                k_4 = load_tile(
                    k_blocks_4 + tl.cast(key_start, tl.int64) * k_stride_s,
                    (keys < S)[:, None] & (d < D)[None, :],
                    part > 0 or BLOCK_D != D,
                )
            total_4 = tl.dot(q_4, tl.trans(k_4), input_precision=PRECISION)
            scores = (
                total * proj_l_scaled
                + total_2 * proj_l_scaled_2
                + total_3 * proj_l_scaled_3
                + total_4 * proj_l_scaled_4
            )
            if part > 0:
                visible = keys < S
                scores = tl.where(visible[None, :], scores, float("-inf"))
            new_max = tl.maximum(running_max, tl.max(scores, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
            rescale = tl.exp2(running_max - finite_max)
            weights = tl.exp2(scores - finite_max[:, None])
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
            scores_2 = (
                total * proj_l_scaled_5
                + total_2 * proj_l_scaled_6
                + total_3 * proj_l_scaled_7
                + total_4 * proj_l_scaled_8
            )
            if part > 0:
                visible_2 = keys < S
                scores_2 = tl.where(visible_2[None, :], scores_2, float("-inf"))
            new_max_2 = tl.maximum(running_max_2, tl.max(scores_2, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max_2 = tl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
            rescale_2 = tl.exp2(running_max_2 - finite_max_2)
            weights_2 = tl.exp2(scores_2 - finite_max_2[:, None])
            accumulator_2 = tl.dot(
                weights_2.to(v.dtype), v, accumulator_2 * rescale_2[:, None], input_precision=PRECISION
            )
            running_sum_2 = running_sum_2 * rescale_2 + tl.sum(weights_2, 1)
            scores_3 = (
                total * proj_l_scaled_9
                + total_2 * proj_l_scaled_10
                + total_3 * proj_l_scaled_11
                + total_4 * proj_l_scaled_12
            )
            if part > 0:
                visible_3 = keys < S
                scores_3 = tl.where(visible_3[None, :], scores_3, float("-inf"))
            new_max_3 = tl.maximum(running_max_3, tl.max(scores_3, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max_3 = tl.where(new_max_3 == float("-inf"), 0.0, new_max_3)
            rescale_3 = tl.exp2(running_max_3 - finite_max_3)
            weights_3 = tl.exp2(scores_3 - finite_max_3[:, None])
            accumulator_3 = tl.dot(
                weights_3.to(v.dtype), v, accumulator_3 * rescale_3[:, None], input_precision=PRECISION
            )
            running_sum_3 = running_sum_3 * rescale_3 + tl.sum(weights_3, 1)
            scores_4 = (
                total * proj_l_scaled_13
                + total_2 * proj_l_scaled_14
                + total_3 * proj_l_scaled_15
                + total_4 * proj_l_scaled_16
            )
            if part > 0:
                visible_4 = keys < S
                scores_4 = tl.where(visible_4[None, :], scores_4, float("-inf"))
            new_max_4 = tl.maximum(running_max_4, tl.max(scores_4, 1))
            # A row that has seen only -inf subtracts 0: -inf - -inf is NaN
            finite_max_4 = tl.where(new_max_4 == float("-inf"), 0.0, new_max_4)
            rescale_4 = tl.exp2(running_max_4 - finite_max_4)
            weights_4 = tl.exp2(scores_4 - finite_max_4[:, None])
            accumulator_4 = tl.dot(
                weights_4.to(v.dtype), v, accumulator_4 * rescale_4[:, None], input_precision=PRECISION
            )
            running_sum_4 = running_sum_4 * rescale_4 + tl.sum(weights_4, 1)
            running_max = new_max
            running_max_2 = new_max_2
            running_max_3 = new_max_3
            running_max_4 = new_max_4

    proj_w = tl.load(proj_w_ptr + n4 * proj_w_stride_0)
    proj_w_2 = tl.load(proj_w_ptr + n4 * proj_w_stride_0 + 1 * proj_w_stride_1)
    proj_w_3 = tl.load(proj_w_ptr + n4 * proj_w_stride_0 + tl.cast(2, tl.int64) * proj_w_stride_1)
    proj_w_4 = tl.load(proj_w_ptr + n4 * proj_w_stride_0 + tl.cast(3, tl.int64) * proj_w_stride_1)
    output = (
        accumulator * (proj_w.to(tl.float32) * (1.0 / running_sum))[:, None]
        + accumulator_2 * (proj_w_2.to(tl.float32) * (1.0 / running_sum_2))[:, None]
        + accumulator_3 * (proj_w_3.to(tl.float32) * (1.0 / running_sum_3))[:, None]
        + accumulator_4 * (proj_w_4.to(tl.float32) * (1.0 / running_sum_4))[:, None]
    )
    tl.store(
        output_ptr
        + batch * output_stride_b
        + n4 * output_stride_n
        + tl.cast(row_start, tl.int64) * output_stride_s
        + row_offsets[:, None] * output_stride_s
        + d[None, :] * output_stride_d,
        output.to(output_ptr.dtype.element_ty),
        mask=(rows < S)[:, None] & (d < D)[None, :],
    )


def talking_heads(q, k, v, proj_l, proj_w):
    """Launch `talking_heads_kernel` on tensors of one device."""
    B, _, S, D = q.shape
    output = q.new_empty((B, 4, S, D))
    alike = layouts((q, k, v, proj_l, proj_w), "talking_heads", precision(q))
    if relaunch(alike, q, k, v, proj_l, proj_w, output):
        return output

    expect("q", q, (B, 4, S, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, 4, S, D), (q.dtype,), q.device)
    expect("v", v, (B, 4, S, D), (q.dtype,), q.device)
    expect("proj_l", proj_l, (4, 4), (q.dtype,), q.device)
    expect("proj_w", proj_w, (4, 4), (q.dtype,), q.device)

    hopper = hopper_tile("talking_heads", D, S, q, k, v, output)
    if hopper is not None:
        launch(
            hopper_kernels().talking_heads_kernel,
            min(multiprocessors(q.device), -(-S // hopper["BLOCK_ROWS"]) * B * 4),
            (q, k, v, proj_l, proj_w, output),
            (
                *q.stride()[:-1],
                *k.stride()[:-1],
                *v.stride()[:-1],
                *proj_l.stride(),
                *proj_w.stride(),
                *output.stride()[:-1],
                B,
                S,
            ),
            (D ** (-0.5),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            num_warps=4,
            **hopper,
        )
    else:
        block_rows, block_keys, warps, stages, descriptors = configuration(
            "talking_heads", q, D, S, accumulators=4, scores=6, blocks=5
        )
        descriptors = descriptors and describable(k, v)
        launch(
            talking_heads_kernel,
            -(-S // block_rows) * B * 4,
            (q, k, v, proj_l, proj_w, output),
            (*q.stride(), *k.stride(), *v.stride(), *proj_l.stride(), *proj_w.stride(), *output.stride(), S),
            (D ** (-0.5),),
            alike,
            D=D,
            BLOCK_D=padded(D),
            BLOCK_ROWS=block_rows,
            BLOCK_KEYS=block_keys,
            WHOLE=S % block_keys == 0,
            DESCRIPTORS=descriptors,
            PRECISION=precision(q),
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
