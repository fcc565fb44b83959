"""What Triton's automatic warp specialisation makes of attention: is it right, and what does it gain?

    python -m benchmarks.warp_specialisation [--json FILE]

A plain attention kernel is run with and without ``tl.range(..., warp_specialize=True)``, over tiles and stages,
at (B, H, S) = (4, 16, 4096) in bfloat16. Each result is compared, five times at each of three lengths, with the kernel
without it. On Hopper the pass asks for four warps and for every tensor to be read by descriptors.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from benchmarks.measure import machine


class Tile(NamedTuple):
    rows: int
    keys: int
    warps: int
    stages: int
    specialise: bool


BASELINES = (Tile(64, 64, 4, 3, False), Tile(128, 64, 8, 3, False))
LENGTHS = (512, 1024, 4096)
BATCH, HEADS = 4, 16


@triton.jit
def attention_kernel(
    query_ptr, key_ptr, value_ptr, output_ptr, scale, S, stride_h, stride_s,
    D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, SPECIALISE: tl.constexpr,
):  # fmt: skip
    """softmax(query keyᵀ) value for one head and block of rows of contiguous tensors."""
    program = tl.program_id(0)
    blocks = tl.cdiv(S, ROWS)
    row_start = program % blocks * ROWS
    head = (program // blocks).to(tl.int64) * stride_h
    queries = tl.make_tensor_descriptor(query_ptr + head, [S, D], [stride_s, 1], [ROWS, D])
    keys = tl.make_tensor_descriptor(key_ptr + head, [S, D], [stride_s, 1], [KEYS, D])
    values = tl.make_tensor_descriptor(value_ptr + head, [S, D], [stride_s, 1], [KEYS, D])
    outputs = tl.make_tensor_descriptor(output_ptr + head, [S, D], [stride_s, 1], [ROWS, D])
    query = queries.load([row_start, 0])
    running_max = tl.full([ROWS], float("-inf"), tl.float32)
    running_sum = tl.zeros([ROWS], tl.float32)
    accumulator = tl.zeros([ROWS, D], tl.float32)
    for key_start in tl.range(0, S, KEYS, warp_specialize=SPECIALISE):
        scores = tl.dot(query, tl.trans(keys.load([key_start, 0]))) * scale
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        rescale = tl.exp2(running_max - new_max)
        weights = tl.exp2(scores - new_max[:, None])
        value = values.load([key_start, 0])
        accumulator = tl.dot(weights.to(value.dtype), value, accumulator * rescale[:, None])
        running_sum = running_sum * rescale + tl.sum(weights, 1)
        running_max = new_max
    outputs.store([row_start, 0], (accumulator / running_sum[:, None]).to(output_ptr.dtype.element_ty))


def launch(tensors: list[torch.Tensor], tile: Tile) -> torch.Tensor:
    output = tensors[-1]
    batch, heads, length, width = output.shape
    attention_kernel[(triton.cdiv(length, tile.rows) * batch * heads,)](
        *tensors,
        math.log2(math.e) / math.sqrt(width),
        length,
        output.stride(1),
        output.stride(2),
        D=width,
        ROWS=tile.rows,
        KEYS=tile.keys,
        SPECIALISE=tile.specialise,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return output


def drawn(length: int, width: int) -> list[torch.Tensor]:
    shape = (BATCH, HEADS, length, width)
    return [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4)]


def wrong_rows(width: int, tile: Tile, length: int, times: int = 5) -> float:
    """The share of rows that differ from the kernel without specialisation, or were not written."""
    tensors = drawn(length, width)
    expected = launch(tensors, BASELINES[0]).float().clone()
    wrong = 0.0
    for _ in range(times):
        tensors[-1].fill_(math.nan)
        given = launch(tensors, tile).float()
        bad = given.isnan() | ((given - expected).abs() > 0.05)
        wrong += bad.any(-1).float().mean().item() / times
    return wrong


def row(width: int, tile: Tile) -> dict[str, Any]:
    result: dict[str, Any] = {"head_dim": width, **tile._asdict()}
    try:
        result["wrong_rows"] = [wrong_rows(width, tile, length) for length in LENGTHS]
        tensors = drawn(LENGTHS[-1], width)
        result["ms"] = triton.testing.do_bench(lambda: launch(tensors, tile), rep=50, return_mode="median")
    except Exception as error:  # what does not compile or fit is a finding too
        result["error"] = f"{type(error).__name__}: {str(error)[:100]}"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
    specialised = [Tile(*sizes, True) for sizes in itertools.product((128,), (64, 128), (4,), (1, 2, 3))]
    rows = []
    for width in (64, 128):
        for tile in (*BASELINES, *specialised):
            rows.append(row(width, tile))
            print(json.dumps(rows[-1]), flush=True)
    if options.json:
        result = {**machine(), "rows": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
