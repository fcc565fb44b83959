"""Time every variant beside its peers: ``python -m benchmarks.attention``. See docs/performance.md.

Each row is one variant at one shape: all contestants on the same tensors, checked against the formula in float32, then
timed in turns. TFLOP/s count 4 B H S^2 D times the share of live 128 x 128 blocks of scores. FlexAttention's block mask
is built beforehand and its time given apart.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask

from benchmarks.contestants import CONTESTANTS, SLOW, Absent, block_mask, flex
from benchmarks.measure import Timing, machine, matmul_rate, reason, table, take_turns
from benchmarks.variants import DEFAULT, VARIANTS, Problem, live_share, problem, reference, relative_error

SHAPES = ((4, 4096), (16, 1024), (1, 16384))
"""Batch and length, the most telling first."""
MASK_LIMIT = 2**27
"""Scores above which no block mask comes from a compiled builder: compiling it for a length of 16384 takes minutes."""
TOLERANCE = 1e-2
"""Relative error above which the generated function counts as wrong; a peer's is only reported."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.attention needs a GPU; python -m benchmarks.transpile runs without one")
        return 2
    started = time.monotonic()
    report: dict[str, Any] = {**machine(), "heads": options.heads, "dtype": "bfloat16", "rows": [], "skipped": []}
    report["matmul_tflops"] = matmul_rate()
    print(
        f"{report['device']}, torch {report['torch']}, triton {report['triton']}: "
        f"8192^3 bf16 at {report['matmul_tflops']:.0f} TFLOP/s",
        flush=True,
    )
    planned = [
        (variant, batch, length, head_dim)
        for batch, length in options.shapes
        for head_dim in options.head_dims
        for variant in options.variants
    ]
    dead = False
    for number, (name, batch, length, head_dim) in enumerate(planned, 1):
        label = f"{name} B={batch} S={length} D={head_dim}"
        if dead or time.monotonic() - started > options.budget:
            report["skipped"].append(label)
            continue
        try:
            row = measured(name, batch, length, head_dim, options)
        except Exception as error:  # the other rows are still worth having
            row = {"variant": name, "batch": batch, "length": length, "head_dim": head_dim, "failed": reason(error)}
        dead = not _context_lives()
        report["rows"].append(row)
        print(f"[{number}/{len(planned)} {time.monotonic() - started:4.0f} s] {label}: {brief(row)}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    report["seconds"] = round(time.monotonic() - started, 1)
    report["ratios"] = ratios(report["rows"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{tabulated(report)}\n")
    for key, value in report["ratios"].items():
        print(f"{key}: {value:.2f}")
    if dead:
        print("The CUDA context broke; later rows were not run.")
    if report["skipped"]:
        print(f"Not run: {'; '.join(report['skipped'])}")
    wrong = [row for row in report["rows"] if not row.get("correct")]
    for row in wrong:
        print(f"WRONG: {row['variant']} B={row['batch']} S={row['length']} D={row['head_dim']}: {brief(row)}")
    print(f"{report['seconds']:.0f} s")
    return 1 if wrong or report["skipped"] else 0


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__)
    parser.add_argument("--variants", type=_names, default=DEFAULT, help=f"comma-separated, of {', '.join(VARIANTS)}")
    parser.add_argument("--shapes", type=_shapes, default=SHAPES, help="BxS, comma-separated, e.g. 4x4096,16x1024")
    parser.add_argument("--head-dims", type=_integers, default=(64, 128))
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--contestants", type=lambda text: tuple(text.split(",")), help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--all", action="store_true", help="torch.compile and eager too")
    parser.add_argument("--quick", action="store_true", help="one shape, short timings")
    parser.add_argument("--milliseconds", type=float, default=90, help="time spent measuring each contestant")
    parser.add_argument("--budget", type=float, default=400, metavar="SECONDS", help="start no row after this")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if options.quick:
        options.shapes = options.shapes[:1]
        options.milliseconds = 45
    options.contestants = options.contestants or tuple(c for c in CONTESTANTS if options.all or c not in SLOW)
    for name in options.contestants:
        if name not in CONTESTANTS:
            parser.error(f"no contestant {name}; there are {', '.join(CONTESTANTS)}")
    return options


def measured(name: str, batch: int, length: int, head_dim: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: errors, times and what follows from them."""
    torch._dynamo.reset()
    row: dict[str, Any] = {"variant": name, "batch": batch, "length": length, "head_dim": head_dim}
    with torch.no_grad():
        given = problem(VARIANTS[name], batch, length, head_dim, options.heads)
        expected = reference(given)
        row["live"] = live_share(given)
        masks = mask_times(given, options) if given.mask is not None and "flex" in options.contestants else {}
        row["block_mask_ms"] = masks
        runs, row["absent"], row["error"], row["first_call_s"] = {}, {}, {}, {}
        prebuilt = None
        for contestant in options.contestants:
            started = time.perf_counter()
            try:
                if contestant in ("flex", "flex_fa4"):
                    prebuilt = prebuilt or block_mask(given)
                    run = flex(given, "FLASH" if contestant == "flex_fa4" else None, prebuilt)
                else:
                    run = CONTESTANTS[contestant](given)
                actual = run()
                torch.cuda.synchronize()
            except Absent as absent:
                row["absent"][contestant] = str(absent)
                continue
            except Exception as error:
                row["absent"][contestant] = reason(error)
                if not _context_lives():
                    raise
                continue
            row["first_call_s"][contestant] = time.perf_counter() - started
            row["error"][contestant] = relative_error(actual, expected)
            runs[contestant] = run
            del actual
        del expected
        row["correct"] = row["error"].get("ours", math.nan) <= TOLERANCE
        if not row["correct"]:
            runs.pop("ours", None)
        timings = take_turns(runs, options.milliseconds)
    work = 4 * batch * options.heads * length**2 * head_dim * row["live"]
    row["ms"] = {c: asdict(t) for c, t in timings.items() if isinstance(t, Timing)}
    row["absent"] |= {c: t for c, t in timings.items() if isinstance(t, str)}
    row["tflops"] = {c: work / t.median * 1e-9 for c, t in timings.items() if isinstance(t, Timing)}
    return row


def mask_times(given: Problem, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds to build the block mask; by a compiled builder too where each batch needs another mask."""
    ways = {"eager": lambda: block_mask(given)}
    if given.variant.mask_per_batch and given.query.shape[0] * given.query.shape[2] ** 2 <= MASK_LIMIT:
        builder = torch.compile(create_block_mask, dynamic=False)
        ways["compiled"] = lambda: block_mask(given, builder)
    timings = take_turns(ways, milliseconds=40, rounds=1)
    return {name: timing.median for name, timing in timings.items() if isinstance(timing, Timing)}


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Geometric means of the speed-up over FlexAttention, and what the issue asks for beside it."""
    found: dict[str, float] = {}
    for head_dim in sorted({row["head_dim"] for row in rows}):
        of_dim = [row for row in rows if row["head_dim"] == head_dim and "ours" in row.get("ms", {})]
        speedups = [speedup(row, "flex") for row in of_dim if not row["variant"].startswith("grouped")]
        known = [value for value in speedups if value]
        if known:
            mean = math.exp(sum(map(math.log, known)) / len(known))
            found[f"D={head_dim}: geometric mean over FlexAttention, {len(known)} rows without grouped queries"] = mean
        plain = {(row["batch"], row["length"]): row for row in of_dim if row["variant"] == "vanilla"}
        for row in of_dim:
            peer = plain.get((row["batch"], row["length"]))
            where = f"D={head_dim} B={row['batch']} S={row['length']}"
            if row["variant"] == "grouped_query" and peer:
                ratio = peer["ms"]["ours"]["median"] / row["ms"]["ours"]["median"]
                found[f"{where}: grouped queries against as many key heads"] = ratio
            if row["variant"] == "packed_documents" and row["block_mask_ms"] and "flex" in row["ms"]:
                with_mask = row["ms"]["flex"]["median"] + min(row["block_mask_ms"].values())
                found[f"{where}: packed documents, block mask counted"] = with_mask / row["ms"]["ours"]["median"]
    return found


def speedup(row: dict[str, Any], peer: str) -> float | None:
    """How many times faster ours is than a peer."""
    times = row.get("ms", {})
    if "ours" not in times or peer not in times:
        return None
    return times[peer]["median"] / times["ours"]["median"]


def brief(row: dict[str, Any]) -> str:
    """A row in a line, for watching a run."""
    if "failed" in row:
        return row["failed"]
    parts = [f"{c} {rate:.0f}" for c, rate in row["tflops"].items()]
    problems = [f"{c} {text}" for c, text in row["absent"].items() if c in ("ours", "flex")]
    error = row["error"].get("ours", math.nan)
    return ", ".join([*parts, f"error {error:.1e}{'' if row['correct'] else ' WRONG'}", *problems])


def tabulated(report: dict[str, Any]) -> str:
    """The compact table: TFLOP/s, ratios, share of the matmul rate."""
    rows = sorted(report["rows"], key=lambda r: (list(VARIANTS).index(r["variant"]), r["head_dim"], r["length"]))
    contestants = [c for c in CONTESTANTS if any(c in row.get("ms", {}) for row in rows)]
    header = ["variant", "D", "B", "S", "ours ms", "+-%", *(f"{c} TF/s" if c == "ours" else c for c in contestants)]
    header += ["matmul%", "x flex", "x cudnn", "mask ms", "error"]
    lines = []
    for row in rows:
        ours = row.get("ms", {}).get("ours")
        cells = [row["variant"], str(row["head_dim"]), str(row["batch"]), str(row["length"])]
        cells += [_number(ours and ours["median"], 3), _number(ours and Timing(**ours).spread * 100, 1)]
        rates = row.get("tflops", {})
        cells += [_number(rates.get(c), 0) for c in contestants]
        cells.append(_number(rates["ours"] / report["matmul_tflops"] * 100 if "ours" in rates else None, 0))
        cells += [_number(speedup(row, "flex"), 2), _number(speedup(row, "cudnn"), 2)]
        cells.append(_number(min(row.get("block_mask_ms", {}).values(), default=None), 2))
        error = row.get("error", {}).get("ours")
        cells.append("-" if error is None else f"{error:.0e}" + ("" if row["correct"] else " WRONG"))
        lines.append(cells)
    return table(header, lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _context_lives() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def _names(text: str) -> tuple[str, ...]:
    names = tuple(VARIANTS) if text == "all" else tuple(text.split(","))
    for name in names:
        if name not in VARIANTS:
            raise argparse.ArgumentTypeError(f"no variant {name}; there are {', '.join(VARIANTS)}")
    return names


def _shapes(text: str) -> tuple[tuple[int, int], ...]:
    return tuple((int(b), int(s)) for b, s in (item.split("x") for item in text.split(",")))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(item) for item in text.split(","))


if __name__ == "__main__":
    raise SystemExit(main())
