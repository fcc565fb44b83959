"""The schedule as plain data: what runs where, in which order, over which keys. It names no Triton call."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.ir.expr import Axis, Expr, Reduce, Scan
from flashlight.ir.printer import show
from flashlight.ir.program import Program
from flashlight.schedule.intervals import Keys, Matched
from flashlight.schedule.prologue import Step
from flashlight.schedule.roles import Roles
from rewriters.expand import Expansion


@dataclass(frozen=True)
class Statistic:
    """A running reduction that others of its pass depend on, with stand-ins for its values before and after a step."""

    reduce: Reduce
    old: Expr
    new: Expr


WIDEST = 96.0
"""By how many powers of two weights may fall short of one where a bound stands in for a maximum.

float32 and bfloat16 have 126 of them, of which the rest is left to the values: less than 2 ** (WIDEST - 126) is lost.
"""


@dataclass(frozen=True)
class Bound:
    """A number that stands in for a running maximum where ``spread`` is at most WIDEST.

    No score exceeds ``value``, and ``spread`` is by how many powers of two the weight of the least falls short of one.
    """

    value: float
    spread: Expr


@dataclass(frozen=True)
class Accumulator:
    """A reduction over the streamed axis, kept while the blocks of keys go by.

    ``correction`` multiplies what has been accumulated when a statistic of the same pass moves (the online law); it is
    an expression over the stand-ins of ``statistics``. ``unsettled`` says that it may be infinite before anything has
    been accumulated. Rows where one of the maxima in ``undefined`` is -inf are NaN. ``bound`` may stand in for a
    maximum.
    """

    reduce: Reduce
    statistics: tuple[Statistic, ...] = ()
    correction: Expr | None = None
    unsettled: bool = False
    undefined: tuple[Reduce, ...] = ()
    bound: Bound | None = None


@dataclass(frozen=True)
class Pass:
    """One trip over the keys.

    ``scans`` are the cumulative sums that it needs, in the order of their dependence. A total for each is carried from
    block to block, so that reversed ones have it walk from the last key to the first.
    """

    accumulators: tuple[Accumulator, ...]
    scans: tuple[Scan, ...] = ()

    @property
    def descending(self) -> bool:
        return any(scan.reverse for scan in self.scans)


@dataclass(frozen=True)
class Ranged:
    """A condition that holds on every full block; it can fail ``before`` those, ``after`` those, or on both sides."""

    condition: Expr
    before: bool
    after: bool


@dataclass(frozen=True)
class Mask:
    """A selection ``where(condition, value, fill)`` in the chain.

    ``ranged`` are the conditions that only partial blocks test, and of those only the ones where each can fail;
    ``tested`` are tested on every block.
    """

    node: Expr
    ranged: tuple[Ranged, ...]
    tested: tuple[Expr, ...]


@dataclass(frozen=True)
class Fill:
    """A finite fill value: its keys count after all in rows that see no live key far enough above it.

    ``weights`` are what a masked key weighs in each sum, by the row's statistics. Where they are zero, as they are when
    the row maximum exceeds ``value`` by more than float32's exponent range, dead blocks add nothing; a tile with a row
    where one is not visits its dead blocks too.
    """

    value: Expr
    weights: tuple[tuple[Reduce, Expr], ...]


@dataclass(frozen=True)
class Schedule:
    """How a program becomes a kernel."""

    program: Program
    roles: Roles
    passes: tuple[Pass, ...]
    masks: tuple[Mask, ...]
    keys: Keys
    matched: tuple[Matched, ...]
    fills: tuple[Fill, ...]
    reasons: tuple[str, ...]
    before: tuple[Step, ...] = ()
    """What PyTorch computes for the kernel to read."""
    expansions: tuple[Expansion, ...] = ()

    @property
    def stream(self) -> Axis:
        return self.roles.stream

    def __str__(self) -> str:
        roles, stream = self.roles, self.stream.name
        lines = [
            f"grid      {', '.join(axis.name for axis in roles.grid) or '-'}; "
            f"one block of {' and '.join(axis.name for axis in roles.blocked)} a program",
            f"stream    {roles.stream.name} (extent {show(roles.stream.extent)}), {len(self.passes)} pass"
            + ("es" if len(self.passes) > 1 else ""),
            f"resident  {', '.join(axis.name for axis in roles.resident) or '-'}",
        ]
        if roles.demoted is not None:
            batch, rows = roles.demoted.name, roles.rows.name
            lines.append(
                f"demoted   {batch} into the tile: blocks of keys depend on {batch} or on {rows}, none on both"
            )
        for number, one in enumerate(self.passes):
            for scan in one.scans:
                order = "last to first" if one.descending else "first to last"
                lines.append(f"pass {number + 1}    {stream} from {order}, carrying {scan.op} of {_short(scan.arg)}")
            for item in one.accumulators:
                lines.append(f"pass {number + 1}    {item.reduce.op} over {stream} of {_short(item.reduce.arg)}")
                if item.bound is not None:
                    lines.append(f"          {item.bound.value} instead, if {show(item.bound.spread)} <= {WIDEST}")
                if item.correction is not None:
                    lines.append(f"          corrected by {show(item.correction)}")
        lines[:0] = [f"before    {step.tensor.name} = {_short(step.value)}" for step in self.before]
        for reason in self.reasons:
            lines.append(f"          {reason}")
        ends = self.keys
        start, stop = roles.stream.extent, roles.stream.extent
        lines.append(f"live      {_end(ends.live_start, '0')} <= {stream} < {_end(ends.live_stop, show(stop))}")
        lines.append(f"full      {_end(ends.full_start, '0')} <= {stream} < {_end(ends.full_stop, show(start))}")
        for ranged in dict.fromkeys(ranged for mask in self.masks for ranged in mask.ranged):
            if ranged.before != ranged.after:
                side = "before" if ranged.before else "after"
                lines.append(f"tested    {_short(ranged.condition)}, {side} the full keys")
        for squared in self.expansions:
            lines.append(f"expanded  {_short(squared.distance)} as a matrix product, in bfloat16")
        for match in self.matched:
            lines.append(f"matched   {show(match.condition)}, by minima and maxima of each block")
        for fill in self.fills:
            lines.append(f"fill      {show(fill.value)}: dead blocks are visited for rows without a live key")
        return "\n".join(lines)


def _short(expr: Expr) -> str:
    text = show(expr)
    return text if len(text) <= 90 else text[:87] + "..."


def _end(bound: Expr | None, default: str) -> str:
    return default if bound is None else show(bound)
