"""What transpiling costs: ``python -m benchmarks.transpile [EXAMPLE ...]``. Runs on a CPU.

Whole processes, the median of several, beside ``python -c "import torch"``; and the seconds of each phase.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import machine, table

_PHASE = re.compile(r"^\s*(\w+)\s+([\d.]+) s$", re.MULTILINE)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transpile", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("inputs", nargs="*", default=["examples/causal.py:causal", "examples/causal.py"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    torch_seconds, _ = timed([sys.executable, "-c", "import torch"], options.repeats)
    rows: list[dict[str, Any]] = [{"what": 'python -c "import torch"', "seconds": torch_seconds, "phases": {}}]
    with tempfile.TemporaryDirectory() as out:
        for given in options.inputs:
            command = [sys.executable, "-m", "flashlight", "transpile", given, "--out", out, "--verbose"]
            seconds, text = timed(command, options.repeats)
            rows.append({"what": f"flashlight transpile {given}", "seconds": seconds, "phases": phases(text)})
    names = list(dict.fromkeys(name for row in rows for name in row["phases"] if name != "total"))
    cells = [
        [
            row["what"],
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / torch_seconds:.2f}",
            *(f"{row['phases'][name]:.2f}" if name in row["phases"] else "-" for name in names),
        ]
        for row in rows
    ]
    print(table(["seconds of a whole process", "total", "x torch", *names], cells))
    if options.json:
        options.json.write_text(json.dumps({**machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


def timed(command: Sequence[str], repeats: int) -> tuple[float, str]:
    """The median seconds of a process, and what its last run wrote to stderr. One run before is not counted."""
    samples = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        if number:
            samples.append(time.perf_counter() - start)
    return statistics.median(samples), done.stderr


def phases(text: str) -> dict[str, float]:
    """The phases that ``--verbose`` prints."""
    return {name: float(seconds) for name, seconds in _PHASE.findall(text)}


if __name__ == "__main__":
    raise SystemExit(main())
