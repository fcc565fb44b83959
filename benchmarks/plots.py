"""Plots of what ``python -m benchmarks.attention --json FILE`` measured: ``python -m benchmarks.plots FILE``.

For each head dimension two figures, written beside FILE as SVG: time by length, one panel a variant, and the speed-up
over FlexAttention by variant and length. Needs matplotlib (``pip install -e '.[plots]'``), no GPU.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot

from benchmarks.contestants import CONTESTANTS

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "flashlight"  # the same file from the same numbers
COLUMNS = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: the file's own")
    options = parser.parse_args()
    report = json.loads(options.file.read_text(encoding="utf-8"))
    folder = options.out or options.file.parent
    for head_dim in sorted({row["head_dim"] for row in report["rows"]}):
        rows = [row for row in report["rows"] if row["head_dim"] == head_dim and "ours" in row.get("ms", {})]
        title = f"{report['device']}, {report['dtype']}, {report['heads']} heads of {head_dim}"
        for name, figure in (("time", times(rows)), ("speedup", speedups(rows))):
            figure.suptitle(title)
            path = folder / f"{options.file.stem}_{name}_d{head_dim}.svg"
            figure.savefig(path, metadata={"Date": None})
            print(path)
    return 0


def times(rows: list[dict[str, Any]]) -> Any:
    """Milliseconds by length, one panel a variant, one line a contestant; both axes logarithmic."""
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    lines = -(-len(variants) // COLUMNS)
    figure, panels = pyplot.subplots(lines, COLUMNS, figsize=(14, 3.2 * lines), squeeze=False, layout="constrained")
    for panel, variant in zip(panels.flat, variants, strict=False):
        own = sorted((row for row in rows if row["variant"] == variant), key=lambda row: row["length"])
        for contestant in CONTESTANTS:
            points = [(r["length"], r["ms"][contestant]["median"]) for r in own if contestant in r["ms"]]
            if points:
                panel.plot(*zip(*points, strict=True), marker="o", label=contestant)
        panel.set(xscale="log", yscale="log", title=variant, xlabel="length, 16384 tokens in all", ylabel="ms")
        lengths = [row["length"] for row in own]
        panel.set_xticks(lengths, map(str, lengths))
        panel.minorticks_off()
        panel.legend(fontsize="small")
    for panel in panels.flat[len(variants) :]:
        panel.set_visible(False)
    return figure


def speedups(rows: list[dict[str, Any]]) -> Any:
    """FlexAttention's time over ours, bars by variant, one for each length."""
    compared = [row for row in rows if "flex" in row["ms"]]
    variants = list(dict.fromkeys(row["variant"] for row in compared))
    lengths = sorted({row["length"] for row in compared})
    figure, panel = pyplot.subplots(figsize=(12, 4), layout="constrained")
    width = 0.8 / len(lengths)
    for number, length in enumerate(lengths):
        own = {
            r["variant"]: r["ms"]["flex"]["median"] / r["ms"]["ours"]["median"]
            for r in compared
            if r["length"] == length
        }
        places = [variants.index(variant) + (number - (len(lengths) - 1) / 2) * width for variant in own]
        bars = panel.bar(places, list(own.values()), width, label=f"length {length}")
        panel.bar_label(bars, fmt="%.2f", fontsize="small")
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set_xticks(range(len(variants)), variants)
    panel.set_ylabel("times as fast as FlexAttention")
    panel.legend()
    return figure


if __name__ == "__main__":
    raise SystemExit(main())
