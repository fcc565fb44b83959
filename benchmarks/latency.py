"""First call in a fresh process, host time a call, and memory: ``python -m benchmarks.latency``. Needs a GPU.

- first call: a fresh process with empty compilation caches imports torch and the function, makes tensors, and calls
  once; measured from the import of the function to the result, without the start of Python, torch and CUDA.
- host: what a call costs the CPU at a shape so small that the GPU is never waited for; cuDNN's has the choice of the
  back end in it. Contestants take turns for seconds: the speed of a processor that others share changes by half from
  one second to the next.
- memory: what a call allocates beyond its inputs, at its peak.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.contestants import CONTESTANTS, Absent
from benchmarks.measure import machine, reason, table
from benchmarks.variants import VARIANTS, problem

DEFAULT_VARIANTS = ("vanilla", "causal", "packed_documents")
DEFAULT_CONTESTANTS = ("ours", "flex", "cudnn", "compile")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--variants", type=lambda text: tuple(text.split(",")), default=DEFAULT_VARIANTS)
    parser.add_argument("--contestants", type=lambda text: tuple(text.split(",")), default=DEFAULT_CONTESTANTS)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--length", type=int, default=4096, help="of the first call and of the memory")
    parser.add_argument("--long", type=int, default=0, metavar="LENGTH", help="memory of one call at this length too")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a fresh process is asked to do
    options = parser.parse_args(words)
    if options.one is not None:
        variant, contestant = options.one.split(",")
        print(json.dumps({"seconds": first_call(variant, contestant, options.length, options.head_dim)}))
        return 0
    if not torch.cuda.is_available():
        print("benchmarks.latency needs a GPU")
        return 2
    report: dict[str, Any] = {**machine(), "head_dim": options.head_dim, "length": options.length, "rows": []}
    for variant in options.variants:
        hosts = host_microseconds(variant, options.contestants, options.head_dim)
        for contestant in options.contestants:
            row = measured(variant, contestant, options) | hosts.get(contestant, {})
            report["rows"].append(row)
            print(json.dumps(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    cells = [
        [
            f"{row['variant']} {row['contestant']}",
            *(_text(row.get(key), digits) for key, digits in COLUMNS.values()),
            row.get("absent", ""),
        ]
        for row in report["rows"]
    ]
    print(f"\n{report['device']}, D={options.head_dim}\n{table(['', *COLUMNS, ''], cells)}")
    return 0


COLUMNS = {
    "first call s": ("first_call_s", 2),
    "host us": ("host_us", 1),
    "least": ("host_us_least", 1),
    "peak MiB": ("peak_mib", 1),
    "output MiB": ("output_mib", 1),
}


def measured(variant: str, contestant: str, options: argparse.Namespace) -> dict[str, Any]:
    """All other figures of one contestant; the reason where it is absent."""
    row: dict[str, Any] = {"variant": variant, "contestant": contestant}
    try:
        row["output_mib"], row["peak_mib"] = memory(variant, contestant, options.length, options.head_dim)
    except Absent as absent:
        row["absent"] = str(absent)
        return row
    except Exception as error:
        row["absent"] = reason(error)
        return row
    if options.long:
        try:
            sizes = memory(variant, contestant, options.long, options.head_dim, 1)
            row["long"] = dict(zip(("output_mib", "peak_mib"), sizes, strict=True))
        except Exception as error:  # a block mask of that length does not fit, say
            row["long"] = {"absent": reason(error)}
    return row | fresh(variant, contestant, options)


def fresh(variant: str, contestant: str, options: argparse.Namespace) -> dict[str, Any]:
    """First-call seconds in a process of its own, whose caches are empty."""
    with tempfile.TemporaryDirectory() as caches:
        environment = {
            **os.environ,
            "TRITON_CACHE_DIR": f"{caches}/triton",
            "TORCHINDUCTOR_CACHE_DIR": f"{caches}/inductor",
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
        }
        command = [sys.executable, "-m", "benchmarks.latency", "--one", f"{variant},{contestant}"]
        command += ["--length", str(options.length), "--head-dim", str(options.head_dim)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
        except subprocess.TimeoutExpired:
            return {"absent": "the first call took more than 180 s"}
    if done.returncode:
        return {"absent": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    return {"first_call_s": json.loads(done.stdout.splitlines()[-1])["seconds"]}


def first_call(variant: str, contestant: str, length: int, head_dim: int) -> float:
    """Seconds from the import of the function to its first result. CUDA is started before."""
    given = problem(VARIANTS[variant], 4, length, head_dim)
    (given.query[0, 0, :16] @ given.query[0, 0, :16].T).sum().item()
    torch.cuda.synchronize()
    with torch.no_grad():
        start = time.perf_counter()
        CONTESTANTS[contestant](given)()
        torch.cuda.synchronize()
        return time.perf_counter() - start


def host_microseconds(
    variant: str, contestants: Sequence[str], head_dim: int, calls: int = 50, rounds: int = 600
) -> dict[str, dict[str, float]]:
    """Microseconds after which a call returns to the host, at B=1 H=16 S=256: the median of rounds, and the least.

    The GPU's queue never fills.
    """
    torch._dynamo.reset()
    runs: dict[str, Callable[[], Any]] = {}
    with torch.no_grad():
        for contestant in contestants:
            try:
                runs[contestant] = CONTESTANTS[contestant](problem(VARIANTS[variant], 1, 256, head_dim))
                runs[contestant]()
            except Exception:  # `measured` says why
                runs.pop(contestant, None)
        samples: dict[str, list[float]] = {contestant: [] for contestant in runs}
        for _ in range(rounds):
            for contestant, run in runs.items():
                for _ in range(5):
                    run()
                torch.cuda.synchronize()
                start = time.perf_counter()
                for _ in range(calls):
                    run()
                samples[contestant].append((time.perf_counter() - start) / calls * 1e6)
                torch.cuda.synchronize()
    return {
        contestant: {"host_us": statistics.median(times), "host_us_least": min(times)}
        for contestant, times in samples.items()
    }


def memory(variant: str, contestant: str, length: int, head_dim: int, batch: int = 4) -> tuple[float, float]:
    """MiB of the output, and MiB allocated beyond the inputs at the peak of a call (the output's included)."""
    torch._dynamo.reset()
    with torch.no_grad():
        run = CONTESTANTS[contestant](problem(VARIANTS[variant], batch, length, head_dim))
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        output = run()
        torch.cuda.synchronize()
        return output.nbytes / 2**20, (torch.cuda.max_memory_allocated() - before) / 2**20


def _text(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    raise SystemExit(main())
