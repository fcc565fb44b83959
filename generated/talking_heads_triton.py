"""Triton kernels for talking_heads.py.

Written by flashlight 0.1.0 from examples/talking_heads.py (sha256 6038721926536cce)
with `flashlight transpile examples/talking_heads.py`; change the source and run that again.
"""

import functools

import torch
import triton
import triton.language as tl

# Tiles that `flashlight tune` found: function, architecture, padded head dimension, bytes an element;
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


def deep_tile(rows, keys, warps, stages, row_count, depth, gathered):
    """A tile with `depth` values for each pair of a row and a key, all of which registers must hold.

    Where they are `gathered`, so are their 64-bit addresses, and no copy for a later block is kept.
    """
    rows, depth, stages = min(rows, padded(row_count)), depth * (2 if gathered else 1), 1 if gathered else stages
    while rows * keys * depth > 16384 and max(rows, keys) > 16:
        rows, keys = (rows // 2, keys) if rows > keys else (rows, keys // 2)
    while rows * keys * depth > 4096 * warps and warps < 16:
        warps *= 2
    return rows, keys, warps, stages


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
    # numbers
    scale,
    # sizes: one compiled kernel serves them all
    S,
    # head dimensions and the widths of their tiles
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N4_2: tl.constexpr,
    # rows and keys of a tile, how blocks are read and float32 multiplied
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, DESCRIPTORS: tl.constexpr, PRECISION: tl.constexpr,
    # fmt: on
):
    """talking_heads:

        scores[b, n4, s, s_2] = Σ_d q[b, n4, s, d] * float32(D) ** -0.5 * k[b, n4, s_2, d]
        scores_2[b, n4_2, s, s_2] = Σ_n4 scores[b, n4, s, s_2] * proj_l[n4_2, n4]
        t2[b, n4_2, s, s_2] = exp(scores_2[b, n4_2, s, s_2] - (max_s_2 scores_2[b, n4_2, s, s_2]))
        attn[b, n4_2, s, s_2] = t2[b, n4_2, s, s_2] / (Σ_s_2 t2[b, n4_2, s, s_2])
        attn_2[b, n4, s, s_2] = Σ_n4_2 attn[b, n4_2, s, s_2] * proj_w[n4, n4_2]
        output[b, n4, s, d] = Σ_s_2 attn_2[b, n4, s, s_2] * v[b, n4, s_2, d]

    One program for each b, n4 and block of i; one pass over j in blocks.
    Exponentials are taken in base 2, the factor log2(e) with the scale of the scores.
    """
    # Which tile this program computes
    program = tl.program_id(0)
    row_blocks = tl.cdiv(S, BLOCK_ROWS)
    row_start = (program % row_blocks) * BLOCK_ROWS
    n4 = (program // row_blocks % 4).to(tl.int64)
    batch = (program // row_blocks // 4).to(tl.int64)
    row_offsets = tl.arange(0, BLOCK_ROWS)
    rows = row_start + row_offsets
    key_offsets = tl.arange(0, BLOCK_KEYS)
    d = tl.arange(0, BLOCK_D)
    n4_2 = tl.arange(0, BLOCK_N4_2)

    # What stays in the tile
    q = tl.load(
        q_ptr
        + batch * q_stride_b
        + tl.cast(row_start, tl.int64) * q_stride_s
        + n4_2[None, None, :] * q_stride_1
        + row_offsets[:, None, None] * q_stride_s
        + d[None, :, None] * q_stride_d,
        mask=(rows < S)[:, None, None] & (d < D)[None, :, None] & (n4_2 < 4)[None, None, :],
        other=0,
    )
    k_block = (
        k_ptr
        + batch * k_stride_b
        + n4_2[None, None, :] * k_stride_1
        + key_offsets[:, None, None] * k_stride_s
        + d[None, :, None] * k_stride_d
    )
    proj_l = load_tile(proj_l_ptr + n4_2 * proj_l_stride_1, (n4_2 < 4), BLOCK_N4_2 != 4)
    term = proj_l.to(tl.float32)
    v_base = v_ptr + batch * v_stride_b + n4 * v_stride_1
    if DESCRIPTORS:
        v_blocks = tl.make_tensor_descriptor(v_base, [S, D], [v_stride_s, 1], [BLOCK_KEYS, BLOCK_D])
    else:
        v_blocks = v_base + key_offsets[:, None] * v_stride_s + d[None, :] * v_stride_d
    proj_l_2 = load_tile(proj_l_ptr + 1 * proj_l_stride_0 + n4_2 * proj_l_stride_1, (n4_2 < 4), BLOCK_N4_2 != 4)
    term_2 = proj_l_2.to(tl.float32)
    proj_l_3 = load_tile(proj_l_ptr + 2 * proj_l_stride_0 + n4_2 * proj_l_stride_1, (n4_2 < 4), BLOCK_N4_2 != 4)
    term_3 = proj_l_3.to(tl.float32)
    proj_l_4 = load_tile(proj_l_ptr + 3 * proj_l_stride_0 + n4_2 * proj_l_stride_1, (n4_2 < 4), BLOCK_N4_2 != 4)
    term_4 = proj_l_4.to(tl.float32)

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

    for key_start in tl.range(0, S, BLOCK_KEYS):
        keys = key_start + key_offsets
        partial = key_start >= full_stop
        k = tl.load(
            k_block + tl.cast(key_start, tl.int64) * k_stride_s,
            mask=(keys < S)[:, None, None] & (d < D)[None, :, None] & (n4_2 < 4)[None, None, :],
            other=0,
        )
        total = tl.sum(q.to(tl.float32)[:, None, :, :] * k.to(tl.float32)[None, :, :, :], 2)
        scores = tl.sum(total * term[None, None, :], 2)
        if partial:
            visible = keys < S
            scores = tl.where(visible[None, :], scores, float("-inf"))
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
        rescale = tl.exp2((running_max - finite_max) * scale)
        weights = tl.exp2(scores * scale - (finite_max * scale)[:, None])
        if DESCRIPTORS:
            v = v_blocks.load([key_start, 0])
        else:
            v = tl.load(
                v_blocks + tl.cast(key_start, tl.int64) * v_stride_s,
                mask=(keys < S)[:, None] & (d < D)[None, :],
                other=0,
            )
        accumulator = tl.dot(weights.to(v.dtype), v, accumulator * rescale[:, None], input_precision=PRECISION)
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        scores_2 = tl.sum(total * term_2[None, None, :], 2)
        if partial:
            visible_2 = keys < S
            scores_2 = tl.where(visible_2[None, :], scores_2, float("-inf"))
        new_max_2 = tl.maximum(running_max_2, tl.max(scores_2, 1))
        finite_max_2 = tl.where(new_max_2 == float("-inf"), 0.0, new_max_2)
        rescale_2 = tl.exp2((running_max_2 - finite_max_2) * scale)
        weights_2 = tl.exp2(scores_2 * scale - (finite_max_2 * scale)[:, None])
        accumulator_2 = tl.dot(weights_2.to(v.dtype), v, accumulator_2 * rescale_2[:, None], input_precision=PRECISION)
        running_sum_2 = running_sum_2 * rescale_2 + tl.sum(weights_2, 1)
        scores_3 = tl.sum(total * term_3[None, None, :], 2)
        if partial:
            visible_3 = keys < S
            scores_3 = tl.where(visible_3[None, :], scores_3, float("-inf"))
        new_max_3 = tl.maximum(running_max_3, tl.max(scores_3, 1))
        finite_max_3 = tl.where(new_max_3 == float("-inf"), 0.0, new_max_3)
        rescale_3 = tl.exp2((running_max_3 - finite_max_3) * scale)
        weights_3 = tl.exp2(scores_3 * scale - (finite_max_3 * scale)[:, None])
        accumulator_3 = tl.dot(weights_3.to(v.dtype), v, accumulator_3 * rescale_3[:, None], input_precision=PRECISION)
        running_sum_3 = running_sum_3 * rescale_3 + tl.sum(weights_3, 1)
        scores_4 = tl.sum(total * term_4[None, None, :], 2)
        if partial:
            visible_4 = keys < S
            scores_4 = tl.where(visible_4[None, :], scores_4, float("-inf"))
        new_max_4 = tl.maximum(running_max_4, tl.max(scores_4, 1))
        finite_max_4 = tl.where(new_max_4 == float("-inf"), 0.0, new_max_4)
        rescale_4 = tl.exp2((running_max_4 - finite_max_4) * scale)
        weights_4 = tl.exp2(scores_4 * scale - (finite_max_4 * scale)[:, None])
        accumulator_4 = tl.dot(weights_4.to(v.dtype), v, accumulator_4 * rescale_4[:, None], input_precision=PRECISION)
        running_sum_4 = running_sum_4 * rescale_4 + tl.sum(weights_4, 1)
        running_max = new_max
        running_max_2 = new_max_2
        running_max_3 = new_max_3
        running_max_4 = new_max_4

    proj_w = tl.load(proj_w_ptr + n4 * proj_w_stride_0)
    proj_w_2 = tl.load(proj_w_ptr + n4 * proj_w_stride_0 + 1 * proj_w_stride_1)
    proj_w_3 = tl.load(proj_w_ptr + n4 * proj_w_stride_0 + 2 * proj_w_stride_1)
    proj_w_4 = tl.load(proj_w_ptr + n4 * proj_w_stride_0 + 3 * proj_w_stride_1)
    output = (
        accumulator * proj_w.to(tl.float32) / running_sum[:, None]
        + accumulator_2 * proj_w_2.to(tl.float32) / running_sum_2[:, None]
        + accumulator_3 * proj_w_3.to(tl.float32) / running_sum_3[:, None]
        + accumulator_4 * proj_w_4.to(tl.float32) / running_sum_4[:, None]
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
    expect("q", q, (B, 4, S, D), (torch.float16, torch.bfloat16, torch.float32), q.device)
    expect("k", k, (B, 4, S, D), (q.dtype,), q.device)
    expect("v", v, (B, 4, S, D), (q.dtype,), q.device)
    expect("proj_l", proj_l, (4, 4), (q.dtype,), q.device)
    expect("proj_w", proj_w, (4, 4), (q.dtype,), q.device)

    output = torch.empty((B, 4, S, D), dtype=q.dtype, device=q.device)
    N4_2 = 4
    block_rows, block_keys, warps, stages, descriptors = configuration(
        "talking_heads", q, max(D, N4_2), accumulators=4, scores=5
    )
    block_rows, block_keys, warps, stages = deep_tile(
        block_rows, block_keys, warps, stages, S, max(padded(N4_2), padded(D)), gathered=False
    )
    descriptors = descriptors and describable(v)
    talking_heads_kernel[(-(-S // block_rows) * B * 4,)](
        q,
        k,
        v,
        proj_l,
        proj_w,
        output,
        *q.stride(),
        *k.stride(),
        *v.stride(),
        *proj_l.stride(),
        *proj_w.stride(),
        *output.stride(),
        D ** (-0.5) * 1.4426950408889634,
        S,
        D=D,
        BLOCK_D=padded(D),
        BLOCK_N4_2=padded(N4_2),
        BLOCK_ROWS=block_rows,
        BLOCK_KEYS=block_keys,
        DESCRIPTORS=descriptors,
        PRECISION=precision(q),
        num_warps=warps,
        num_stages=stages,
    )
    return output


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


def configuration(function, tensor, widest, accumulators, scores, float32=False):
    """How to tile for the tensor's device and dtype and the widest head; see `tile_for`."""
    size = tensor.element_size()
    return tile_for(function, architecture(tensor.device), padded(widest), size, accumulators, scores, float32)


@functools.lru_cache(maxsize=None)
def tile_for(function, architecture, width, size, accumulators, scores, float32=False):
    """Rows and keys of a tile, warps, pipeline stages, and whether tensor descriptors read the blocks of keys.

    A tuned tile; without one, a tile that fits registers (255 a thread) and shared memory. Registers hold, for each
    row, `accumulators` times the head's width and `scores` values a key; the keys and values of each stage lie in
    shared memory. Before Hopper the operands of a product lie in registers too, hence fewer keys; AMD's 64 KiB are for
    one stage. Exact products of `float32` values unroll over the head dimension, which only small tiles bear.
    """
    if (function, architecture, width, size) in TILES:
        return TILES[function, architecture, width, size]
    hopper, blackwell = architecture.startswith("sm_9"), architecture.startswith("sm_10")
    amd = architecture.startswith("gfx")
    if size > 2 or float32:
        rows, keys, warps, stages = (32, 16, 4, 2) if width <= 128 else (16, 16, 8, 1)
    elif width > 256:
        rows, keys, warps, stages = 32, 16, 4, 1
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
    lanes = 64 if amd else 32
    while rows * (accumulators * width + scores * keys) > 160 * lanes * warps and max(rows, keys) > 16:
        if keys > 16 and scores * keys > accumulators * width:
            keys //= 2
        elif warps < 8:
            warps *= 2
        elif rows > 16:
            rows //= 2
        else:
            keys //= 2
    return rows, keys, warps, stages, True


@functools.lru_cache(maxsize=None)
def architecture(device):
    """The device's architecture as the table names it, e.g. sm_90."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def describable(*tensors):
    """Whether tensor descriptors can read the tensors: on sm_90 and later, rows dense and 16-byte aligned."""
    if not architecture(tensors[0].device).startswith(("sm_9", "sm_1")):
        return False
    for tensor in tensors:
        size = tensor.element_size()
        *outer, inner = tensor.stride()
        if inner != 1 or tensor.data_ptr() % 16:
            return False
        for step in outer:
            if step * size % 16:
                return False
    triton.set_allocator(scratch)  # descriptors are written to memory by each program
    return True


def scratch(size, alignment, stream):
    """Memory for a launch, as Triton asks for it."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


@functools.lru_cache(maxsize=None)
def padded(size):
    """The width of a tile that holds `size` elements: a power of two, as matrix instructions need."""
    return max(16, triton.next_power_of_2(size))


def precision(tensor):
    """How float32 matrix products are computed, as PyTorch is set to compute them."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
