"""Timing on a GPU: medians with spread, contestants taking turns, so that a chip at its power limit favours none."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median and the 20th and 80th percentiles of all samples."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """The half width of the middle 60%, relative to the median."""
        return (self.high - self.low) / 2 / self.median


def take_turns(
    runs: Mapping[str, Callable[[], Any]], milliseconds: float = 60, rounds: int = 3
) -> dict[str, Timing | str]:
    """Time each run in `rounds` turns by CUDA events, the L2 cache flushed before every call; a failure's text."""
    from triton.testing import do_bench

    samples: dict[str, list[float]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    for turn in range(rounds):
        for name, run in runs.items():
            if name in failed:
                continue
            try:
                times = do_bench(run, warmup=20 if turn == 0 else 5, rep=milliseconds / rounds, return_mode="all")
                samples[name] += times
            except Exception as error:  # a contestant that fails must not end the run
                failed[name] = reason(error)
    return {name: failed.get(name) or summarised(times) for name, times in samples.items()}


def summarised(samples: list[float]) -> Timing:
    """The median and spread of samples."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Timing(statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)])


def matmul_rate(size: int = 8192) -> float:
    """Measured bf16 TFLOP/s of a square matrix product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    timing = take_turns({"matmul": lambda: a @ b}, milliseconds=200)["matmul"]
    assert isinstance(timing, Timing), timing
    return 2 * size**3 / timing.median * 1e-9


def reason(error: BaseException) -> str:
    """One line for an exception."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:200]


def machine() -> dict[str, Any]:
    """Versions, and the device if there is one."""
    facts: dict[str, Any] = {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "triton": _version("triton"),
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name()
        facts["architecture"] = "sm_{}{}".format(*torch.cuda.get_device_capability())
    return facts


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def table(header: list[str], rows: list[list[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
