"""Programs that are no single softmax of one score, beside what their users have: ``python -m benchmarks.chains``.

Differential attention stands beside two calls of FlexAttention and of cuDNN (which leave the subtraction to do), row
attention of the Evoformer beside FlexAttention and SDPA, and every program beside torch.compile of itself. Both leave
the gate to do, and SDPA takes one bias, so that the sum of the two is a step before it: what they leave is counted in
the rows that name it, and left out of those that say "alone". Outputs are checked against the user's program in float32
on the very inputs; medians in milliseconds. Needs torch and triton alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from benchmarks.measure import machine
from benchmarks.variants import _import as module

Call = Callable[[], Any]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def differential(batch: int, length: int) -> tuple[Call, Call, dict[str, Call]]:
    heads, width = 16, 64
    q, k = randn(batch, 2 * heads, length, width), randn(batch, 2 * heads, length, width)
    v = randn(batch, heads, length, 2 * width)
    generated = module("generated.differential")
    parts = (slice(None, heads), slice(heads, None))
    halves = [(q[:, part].contiguous(), k[:, part].contiguous()) for part in parts]
    flex = torch.compile(flex_attention, dynamic=False)

    def two_cudnn() -> list[torch.Tensor]:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return [F.scaled_dot_product_attention(a, b, v) for a, b in halves]

    peers: dict[str, Call] = {
        "two cudnn": two_cudnn,
        "two flex": lambda: [flex(a, b, v) for a, b in halves],
        "compile": lambda: compiled(q, k, v, 0.8),
    }
    compiled = torch.compile(generated._diff_attn_pytorch, dynamic=False)
    if length > 8192:
        del peers["compile"]
    reference = lambda: generated._diff_attn_pytorch(*(x[:1, :, :2048].float() for x in (q, k, v)), 0.8)  # noqa: E731
    ours = lambda: generated.diff_attn(q, k, v, 0.8)  # noqa: E731
    small = lambda: generated.diff_attn(*(x[:1, :, :2048] for x in (q, k, v)), 0.8)  # noqa: E731
    return ours, lambda: (small(), reference()), peers


def row_attention(width: int) -> tuple[Call, Call, dict[str, Call]]:
    batch, rows, length, heads = 4, 256, 256, 4
    q, k, v, gate = (randn(batch, rows, length, heads, width) for _ in range(4))
    mask_bias = torch.where(torch.rand(batch, rows, 1, 1, length, device="cuda") < 0.1, -1e4, 0.0).bfloat16()
    pair_bias = randn(batch, 1, heads, length, length)
    generated = module("generated.evoformer")
    arguments = (q, k, v, gate, mask_bias, pair_bias)
    views = [x.flatten(0, 1).transpose(1, 2) for x in (q, k, v)]  # [B * N, H, S, D], as both peers take them
    mask, pair = mask_bias.reshape(batch * rows, length), pair_bias.reshape(batch, heads, length, length)

    def gated(attended: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(gate) * attended.transpose(1, 2).unflatten(0, (batch, rows))

    def summed() -> torch.Tensor:
        return (mask_bias + pair_bias).flatten(0, 1)

    def score(s: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        return s + mask[b, j] + pair[b // rows, h, i, j]

    bias = summed()
    sdpa, flex = F.scaled_dot_product_attention, torch.compile(flex_attention, dynamic=False)
    peers: dict[str, Call] = {
        # the whole program, with what the peers leave to do compiled by Inductor
        "flex and the gate": torch.compile(lambda: gated(flex_attention(*views, score_mod=score)), dynamic=False),
        "sdpa with the sum and the gate": torch.compile(lambda: gated(sdpa(*views, attn_mask=summed())), dynamic=False),
        "compile": lambda: compiled(*arguments),
        # less than the program
        "flex alone": lambda: flex(*views, score_mod=score),
        "sdpa with the sum": lambda: sdpa(*views, attn_mask=summed()),
        "sdpa alone": lambda: sdpa(*views, attn_mask=bias),
    }
    compiled = torch.compile(generated._row_attention_pytorch, dynamic=False)
    ours = lambda: generated.row_attention(*arguments)  # noqa: E731
    reference = lambda: generated._row_attention_pytorch(*(x.float() for x in arguments))  # noqa: E731
    return ours, lambda: (ours(), reference()), peers


def invariant_point() -> tuple[Call, Call, dict[str, Call]]:
    batch, length, heads, channels, points, values, pairs = 1, 512, 12, 16, 4, 8, 128
    generated = module("generated.invariant_point")
    arguments = (
        *(randn(batch, length, heads, channels) for _ in range(3)),
        randn(batch, length, heads, points, 3),
        randn(batch, length, heads, points, 3),
        randn(batch, length, heads, values, 3),
        randn(batch, length, length, heads),
        randn(batch, length, length, pairs),
        randn(heads),
        torch.ones(batch, length, device="cuda", dtype=torch.bfloat16),
    )
    compiled = torch.compile(generated._invariant_point_attention_pytorch, dynamic=False)
    eager = generated._invariant_point_attention_pytorch
    ours = lambda: generated.invariant_point_attention(*arguments)  # noqa: E731
    peers: dict[str, Call] = {"compile": lambda: compiled(*arguments), "eager": lambda: eager(*arguments)}
    return ours, lambda: (ours(), eager(*(x.float() for x in arguments))), peers


PROGRAMS: dict[str, Callable[[], tuple[Call, Call, dict[str, Call]]]] = {
    "differential B=4 S=4096 D=64": lambda: differential(4, 4096),
    "differential B=1 S=16384 D=64": lambda: differential(1, 16384),
    "evoformer row D=64": lambda: row_attention(64),
    "evoformer row D=128": lambda: row_attention(128),
    "invariant point N=512": invariant_point,
}


def error(pair: Any) -> float:
    """The largest relative error, in norm, of the outputs."""
    outputs, references = ((x,) if isinstance(x, torch.Tensor) else x for x in pair)
    return max(float((a.float() - b).norm() / b.norm()) for a, b in zip(outputs, references, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--budget", type=float, default=300.0, help="start no program after this many seconds")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    start, rows = time.time(), []
    for name, build in PROGRAMS.items():
        if time.time() - start > chosen.budget:
            print(f"{name}: not run")
            continue
        row: dict[str, Any] = {"program": name}
        try:
            ours, check, peers = build()
            row["error"] = error(check())
        except Exception as problem:
            row["failed"] = f"{type(problem).__name__}: {problem}"[:300]
            rows.append(row)
            print(name, row["failed"], flush=True)
            continue
        times: dict[str, float] = {}
        for who, call in {"ours": ours, **peers}.items():
            try:
                call()
                times[who] = triton.testing.do_bench(call, warmup=20, rep=60, return_mode="median")
            except Exception as problem:
                row[f"{who} failed"] = f"{type(problem).__name__}: {problem}"[:200]
        row["milliseconds"] = times
        rows.append(row)
        shown = "  ".join(f"{who} {ms:.3f} ({ms / times['ours']:.2f}x)" for who, ms in times.items())
        print(f"{name}: error {row['error']:.1e}  {shown}", flush=True)
        if chosen.json:
            command = " ".join(["python", "-m", "benchmarks.chains", *sys.argv[1:]])
            record = {"command": command, **machine(), "rows": rows}
            chosen.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
