"""Statements without what nothing uses."""

from __future__ import annotations

import re
from collections import Counter

_ASSIGNED = re.compile(r"^\s*(\w+) = ")
_PREAMBLE = frozenset({"rows", "row_offsets", "key_offsets", "row_blocks"})


def without_unused(lines: list[str], also: frozenset[str] = frozenset()) -> list[str]:
    """Drop assignments to positions that nothing uses, and runs of blank lines."""
    changed = True
    while changed:
        changed = False
        text = "\n".join(lines)
        for number, line in enumerate(lines):
            found = _ASSIGNED.match(line)
            plain = "tl.arange" in line or (found and found.group(1) in _PREAMBLE | also) or ".to(tl.int64)" in line
            if found and plain and len(re.findall(rf"\b{found.group(1)}\b", text)) == 1:
                lines = lines[:number] + lines[number + 1 :]
                changed = True
                break
    kept: list[str] = []
    for number, line in enumerate(lines):
        following = next((later for later in lines[number + 1 :] if later), "")
        if not line and (not kept or not kept[-1]):
            continue
        if line.strip().startswith("# ") and (not following or following.strip().startswith("# ")) and "What" in line:
            continue
        kept.append(line)
    return kept


def used(lines: list[str]) -> list[str]:
    """The lines without assignments of what no line reads."""
    while True:
        count = Counter(re.findall(r"\w+", "\n".join(line.partition("#")[0] for line in lines)))
        kept = [line for line in lines if not ((made := re.match(r" *(\w+) = ", line)) and count[made[1]] == 1)]
        if len(kept) == len(lines):
            return lines
        lines = kept
