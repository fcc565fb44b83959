"""From a program to its schedule: roles, masks and tile ranges, passes."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import replace
from itertools import permutations

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build
from flashlight.ir.expr import (
    FLOAT,
    Axis,
    Const,
    Expr,
    Iota,
    Load,
    Map,
    Reduce,
    Scan,
    Tensor,
    above,
    is_float,
    unrounded,
    walk,
)
from flashlight.ir.ops import NEUTRAL
from flashlight.ir.program import Program, factors, mapped, rebuilt, substitute
from flashlight.ir.signs import covers, difference, is_positive
from flashlight.schedule import intervals, roles, scans
from flashlight.schedule.bounded import bound_of
from flashlight.schedule.intervals import Keys
from flashlight.schedule.model import Accumulator, Fill, Mask, Pass, Ranged, Schedule, Statistic
from flashlight.schedule.prologue import Step, prologues
from flashlight.schedule.undefined import undefined
from rewriters.dead import vanishes
from rewriters.expand import expansions
from rewriters.flatten import flatten
from rewriters.merge import merge
from rewriters.online import ONE, correction


def schedule(program: Program, before: tuple[Step, ...] = ()) -> Schedule:
    """Plan the kernel of a rewritten program, of which PyTorch computes some inputs ``before``.

    A Diagnostic where there is no plan.
    """
    program, cumulative = prologues(program)
    program = scans.aligned(roles.apart(program))
    parts = roles.assign(program)
    _refuse_matrices(program, parts)
    program, both = scans.one_way(program, parts.stream)
    around = both, (*before, *cumulative)
    demoted = roles.demoted(program, parts)
    if demoted is not parts:
        planned = _planned(program, demoted, *around)
        if _sees_all(planned):
            return planned
    return _planned(program, parts, *around)


def _sees_all(planned: Schedule) -> bool:
    """Whether one trip serves all positions of a tile alike: no end of the keys but the last, and nothing carried."""
    keys = planned.keys
    bounds = (keys.live_start, keys.live_stop, keys.full_start, keys.full_stop)
    return not (any(bounds) or planned.matched or planned.fills or any(one.scans for one in planned.passes))


def _planned(program: Program, parts: roles.Roles, both: tuple[str, ...], before: tuple[Step, ...]) -> Schedule:
    program, parts = roles.unambiguous(*roles.shared(*_merged(*roles.called(program, parts))))
    program = _bounded(program, parts.stream)
    masks, keys, matches, fills = _ranges(program, parts)
    passes, reasons = _passes(program, parts)
    distances = expansions(program, parts.rows, parts.stream)
    return Schedule(program, parts, passes, masks, keys, matches, fills, (*both, *reasons), before, distances)


def _merged(program: Program, parts: roles.Roles) -> tuple[Program, roles.Roles]:
    """One axis for every two of the tile's that always go together."""
    loads = [node for output in program.outputs for node in walk(output.expr) if isinstance(node, Load)]

    def backwards(pair: tuple[Axis, ...]) -> int:
        """In how many tensors the second stands before the first."""
        places = [[n for axis in pair for n, i in enumerate(load.index) if i is Iota(axis)] for load in loads]
        return sum(place != sorted(place) for place in places)

    for outer, inner in sorted(permutations(parts.resident, 2), key=backwards):
        merged = merge(program, outer, inner)
        if merged is not None:
            program, axis = merged
            resident = tuple(axis if old is outer else old for old in parts.resident if old is not inner)
            return _merged(flatten(program), replace(parts, resident=resident))
    return program, _shallow(program, parts)


def _shallow(program: Program, parts: roles.Roles) -> roles.Roles:
    """At most one axis of the values in the tile: where every output has two, the outer one goes to the grid."""
    common = [axis for axis in program.outputs[0].axes if all(axis in output.axes for output in program.outputs)]
    resident = [axis for axis in common if axis in parts.resident]
    moved = set(resident[:-1])
    grid = tuple(axis for axis in common if axis in parts.grid or axis in moved)
    if not moved or len(grid) != len(parts.grid) + len(moved):
        return parts
    return replace(parts, grid=grid, resident=tuple(axis for axis in parts.resident if axis not in moved))


def _refuse_matrices(program: Program, parts: roles.Roles) -> None:
    """Refuse an output with a value for every row and every key."""
    extent = parts.stream.extent
    for output in program.outputs:
        for axis in output.axes:
            if axis is parts.rows or axis.extent is not extent or axis not in output.expr.axes:
                continue
            having = [node for node in walk(output.expr) if axis in node.axes]
            scores = {
                node
                for reduction in chain(program, parts.stream)
                for node in walk(reduction.arg)
                if _is_pairwise(node, parts)
            }
            at_keys: dict[Expr, Expr] = {Iota(axis): Iota(parts.stream)}
            if parts.rows in output.expr.axes and any(substitute(node, at_keys) in scores for node in having):
                raise Diagnostic(
                    "FL401",
                    f"`{output.name}` has a value for every pair of a query and a key: an S×S tensor",
                    hint="return what is reduced over the keys; the weights themselves are never stored",
                )


def _is_pairwise(node: Expr, parts: roles.Roles) -> bool:
    """Whether the value is made of tensors that have the row but not the key, and the key but not the row."""
    if isinstance(node, Load) or not {parts.rows, parts.stream} <= node.axes:
        return False
    loads = [inner for inner in walk(node) if isinstance(inner, Load)]
    pairs = ((parts.rows, parts.stream), (parts.stream, parts.rows))
    return all(any(one in load.axes and other not in load.axes for load in loads) for one, other in pairs)


def chain(program: Program, stream: Axis) -> list[Reduce]:
    """The reductions over the streamed axis, those that others depend on first."""
    nodes = walk(*(output.expr for output in program.outputs))
    return [node for node in nodes if isinstance(node, Reduce) and node.axis is stream]


def _bounded(program: Program, stream: Axis) -> Program:
    """Select ``key < extent``, so that the last block may reach past the keys.

    The selection goes where one suffices: onto the scores, if minus infinity there makes every reduction neutral;
    otherwise onto what each reduction adds up, beside loads that give zeros past the end.
    """
    inside = build.op("lt", Iota(stream), stream.extent)
    anchors: dict[Expr, float] = {}
    own: dict[Reduce, tuple[Expr, float]] = {}  # what only one reduction sees so
    left = chain(program, stream)
    settled: list[Reduce] = []
    for reduction in [node for node in left if node.op == "max"]:
        # of what is settled already, nothing may change
        harmless = all(vanishes(node, reduction.arg, -math.inf) for node in settled if reduction.arg in walk(node.arg))
        if reduction in left and harmless:
            anchors[reduction.arg] = -math.inf
            settled += [node for node in left if vanishes(node, reduction.arg, -math.inf)]
            left = [node for node in left if node not in settled]
    # a weight of zero does not make a value vanish that is infinite where what it is made of reads zeros; and two
    # factors that are no loads are a product still if each has its selection
    for reduction in (node for node in chain(program, stream) if node.op == "sum"):
        keyed = [factor for factor in factors(reduction.arg) if stream in factor.axes]
        if len(keyed) < 2 or (reduction in left and any(map(_is_load, keyed))):
            continue
        for factor in keyed:
            inner = list(walk(factor))
            weighs = any(isinstance(node, Reduce) or node in anchors for node in inner)
            loaded = any(isinstance(node, Load) and stream in node.axes for node in inner) and not _is_load(factor)
            if loaded and not weighs and (reduction in left or not _is_finite(factor, stream)):
                anchors.setdefault(factor, 0.0)
    for reduction in left:
        ending = _hiding(reduction, stream)
        if ending is not None:
            fill = float(ending.args[2].value)  # type: ignore[attr-defined]
            if anchors.setdefault(ending, fill) == fill:
                continue
        target = _beside_load(reduction.arg, stream, anchors) if reduction.op == "sum" else reduction.arg
        if target is not None:
            own[reduction] = (target, NEUTRAL[reduction.op])
    for scan in scans.along(program, stream):
        if scan.reverse:
            # what lies past the end comes first
            anchors[scan.arg] = NEUTRAL[scan.op]
    for target, fill in dict.fromkeys(own.values()):
        # one selection for all where that changes nothing for the others
        reading = [node for node in chain(program, stream) if target in set(walk(node.arg))]
        others = [node for node in reading if own.get(node) != (target, fill)]
        harmless = all(own[node][0] is not target if node in own else vanishes(node, target, fill) for node in others)
        if harmless and target not in anchors:
            anchors[target] = fill
            own = {node: item for node, item in own.items() if item != (target, fill)}
    done: dict[tuple[Expr, tuple[Expr, float] | None], Expr] = {}

    def bounded(node: Expr, special: tuple[Expr, float] | None) -> Expr:
        if (node, special) in done:
            return done[node, special]
        below = own.get(node) if isinstance(node, Reduce) and node.axis is stream else special
        new = rebuilt(node, tuple(bounded(child, below) for child in node.children))
        fill = special[1] if special is not None and node is special[0] else anchors.get(node)
        if fill is not None:
            new = build.where(inside, new, build.const(fill, new.dtype))
        done[node, special] = new
        return new

    plain = {node: bounded(node, None) for node in walk(*(output.expr for output in program.outputs))}
    result = mapped(program, plain)
    names = {bounded(node, item): name for node, name in program.names.items() for item in {None, *own.values()}}
    return replace(result, names={**names, **program.names, **result.names})


def _hiding(reduction: Reduce, stream: Axis) -> Map | None:
    """The selection by keys in an exponent, if one makes the reduction neutral where its condition fails."""
    for node in reversed(list(walk(reduction.arg))):
        if not (isinstance(node, Map) and node.op == "where" and is_float(node) and stream in node.args[0].axes):
            continue
        fill = node.args[2]
        if isinstance(fill, Const) and fill.value < 0 and vanishes(reduction, node, float(fill.value)):
            return node
    return None


def _is_finite(value: Expr, stream: Axis) -> bool:
    """Whether the value is a number past the last key, where everything that is loaded along the keys reads zero."""
    done: dict[Expr, Expr] = {}
    for node in walk(value):
        new = rebuilt(node, tuple(done[child] for child in node.children))
        done[node] = build.const(0.0, node.dtype) if isinstance(node, Load) and stream in node.axes else new
        if isinstance(new, Map) and new.op in ("div", "log", "log2", "exp", "exp2", "sqrt", "rsqrt", "pow"):
            if any(stream in child.axes for child in node.children):
                return False  # not known to be one
        elif isinstance(done[node], Const) and not math.isfinite(float(done[node].value)):  # type: ignore[attr-defined]
            return False
    return True


def _beside_load(body: Expr, stream: Axis, zero: Container[Expr]) -> Expr | None:
    """The factor of a product whose other factor is loaded along the streamed axis (``zero`` past its end)."""
    if isinstance(body, Map) and body.op == "cast":
        return _beside_load(body.args[0], stream, zero)
    if isinstance(body, Map) and body.op == "mul":
        for factor, other in (body.args, body.args[::-1]):
            if (_is_load(other) or other in zero) and stream in other.axes:
                return None if _is_load(factor) or stream not in factor.axes else factor
    return body


def _is_load(expr: Expr) -> bool:
    while isinstance(expr, Map) and expr.op in ("cast", "neg"):
        expr = expr.args[0]
    return isinstance(expr, Load)


def _ranges(
    program: Program, parts: roles.Roles
) -> tuple[tuple[Mask, ...], Keys, tuple[intervals.Matched, ...], tuple[Fill, ...]]:
    stream, rows = parts.stream, parts.rows
    reductions = chain(program, stream)
    carried = scans.along(program, stream)
    chained: tuple[Reduce | Scan, ...] = (*reductions, *carried)
    inside = build.op("lt", Iota(stream), stream.extent)
    masks: list[Mask] = []
    keys = Keys()
    matches: dict[Expr, intervals.Matched] = {}
    fills: list[Fill] = []
    within = {node: set(walk(node.arg)) for node in chained}
    selections = [
        node
        for node in dict.fromkeys(node for reduction in reductions for node in walk(reduction.arg))
        if isinstance(node, Map) and node.op == "where" and stream in node.args[0].axes and is_float(node)
    ]
    # a condition ends the loop where, failing, it makes every reduction neutral, through one selection or several
    hidden: dict[Expr, set[Reduce | Scan]] = {}
    guarded: dict[Expr, set[Reduce | Scan]] = {}
    guards: dict[Expr, Fill] = {}
    for node in selections:
        reaching = [reduction for reduction in chained if node in within[reduction]]
        fill = node.args[2]
        conditions = intervals.conjuncts(node.args[0])
        if isinstance(fill, Const):
            ignoring = {reduction for reduction in reaching if vanishes(reduction, node, float(fill.value))}
            for condition in conditions:
                hidden.setdefault(condition, set()).update(ignoring)
        guard = _guard(node, [reduction for reduction in reaching if isinstance(reduction, Reduce)], inside)
        if guard is not None and not carried:
            guards[node] = guard
            for condition in conditions:
                guarded.setdefault(condition, set()).update(reaching)
    for node in selections:
        ranged: list[Ranged] = []
        tested: list[Expr] = []
        for condition in intervals.conjuncts(node.args[0]):
            if stream not in condition.axes:
                tested.append(condition)
                continue
            ignored = hidden.get(condition, set())
            dead = ignored >= set(reductions)
            almost = not dead and ignored | guarded.get(condition, set()) >= set(reductions)
            still = ignored >= set(carried)
            found = intervals.keys(condition, rows, stream)
            match = intervals.matched(condition, rows, stream) if dead and still and found is None else None
            if condition is inside:
                ranged.append(Ranged(condition, before=False, after=True))  # the loop's own end
            elif found is not None:
                if dead and not still:
                    # dead keys that the scans meet first count in them; those that they meet last do not matter
                    last = {"live_start": found.live_start} if carried[0].reverse else {"live_stop": found.live_stop}
                    found = Keys(full_start=found.full_start, full_stop=found.full_stop, **last)
                elif not dead and not almost:
                    found = Keys(full_start=found.full_start, full_stop=found.full_stop)
                elif almost and node in guards:
                    fills.append(guards[node])
                keys = intervals.both(keys, found)
                ranged.append(Ranged(condition, found.full_start is not None, found.full_stop is not None))
            elif match is not None:
                matches[condition] = match
                ranged.append(Ranged(condition, before=True, after=True))
            else:
                tested.append(condition)
        if any(intervals.within(one.condition, stream) for one in ranged if one.condition is not inside):
            ranged = [one for one in ranged if one.condition is not inside]
        masks.append(Mask(node, tuple(ranged), tuple(tested)))
    fills = list(dict.fromkeys(fills))
    return tuple(masks), keys, tuple(matches.values()), tuple(fills)


def _guard(node: Map, reductions: list[Reduce], inside: Expr) -> Fill | None:
    """The condition under which a finite fill weighs exactly zero, if the masked value feeds a row maximum."""
    fill = node.args[2]
    if fill.axes or (isinstance(fill, Const) and math.isinf(float(fill.value))):
        return None
    if not all(vanishes(reduction, node, -math.inf) for reduction in reductions):
        return None
    maxima = [reduction for reduction in reductions if reduction.op == "max" and _selected(reduction.arg, node)]
    masked: dict[Expr, Expr] = {node: fill, inside: build.true(), **{settled: settled for settled in reductions}}
    weights: list[tuple[Reduce, Expr]] = []
    for reduction in reductions:
        if reduction not in maxima:
            weight = _weight(substitute(reduction.arg, masked), reduction.axis, maxima)
            if weight is None:
                return None
            weights.append((reduction, weight))
    # a maximum alone sees the fill in every row
    return Fill(fill, tuple(weights)) if maxima and weights else None


def _selected(body: Expr, node: Map) -> bool:
    """Whether the values are those of a selection, of which the keys that another hides may be missing."""
    if isinstance(body, Map) and body.op == "where" and body is not node:
        body = body.args[1]
    return body is node


def _weight(summand: Expr, axis: Axis, maxima: list[Reduce]) -> Expr | None:
    """The factor of a summand that is the same for all keys and zero far from the maximum."""
    summand = unrounded(summand)
    if axis not in summand.axes:
        return summand if any(node in maxima for node in walk(summand)) else None
    if isinstance(summand, Map) and summand.op == "mul":
        return next(filter(None, (_weight(factor, axis, maxima) for factor in summand.args)), None)
    return None


def _passes(program: Program, parts: roles.Roles) -> tuple[tuple[Pass, ...], tuple[str, ...]]:
    level: dict[Reduce, int] = {}
    found: dict[Reduce, Accumulator] = {}
    reasons: list[str] = []
    for reduction in chain(program, parts.stream):
        inner = list(walk(reduction.arg))
        needed = [node for node in inner if isinstance(node, Reduce) and node in level]
        # what accumulates along the keys cannot be corrected afterwards: what it depends on is settled before
        settled = [node for scan in inner if isinstance(scan, Scan) for node in walk(scan.arg) if node in level]
        first = max((level[node] + 1 for node in settled if isinstance(node, Reduce)), default=0)
        last = max((level[node] for node in needed), default=0)
        if not needed or last < first:
            level[reduction] = first
            found[reduction] = Accumulator(reduction)
            if settled:
                reasons.append(
                    f"pass {first + 1} for {_called(program, reduction)}: a cumulative sum depends on the pass before"
                )
            continue
        moving = tuple(_statistic(node, list(level).index(node)) for node in needed if level[node] == last)
        factor = None
        if reduction.op == "sum" and all(s.reduce.op != "sum" for s in moving):
            factor = correction(reduction.arg, parts.stream, {s.reduce: (s.old, s.new) for s in moving})
        if factor is not None and not _divides(factor) and _relative(reduction.arg, {s.reduce for s in moving}):
            level[reduction] = last
            found[reduction] = Accumulator(reduction, moving, factor, _unsettled(factor, moving))
        else:
            level[reduction] = last + 1
            found[reduction] = Accumulator(reduction)
            what = _called(program, reduction)
            reasons.append(f"pass {last + 2} for {what}: no factor corrects it when what it depends on moves")
    outputs = [output.expr for output in program.outputs]
    found = {node: replace(item, undefined=undefined(outputs, node)) for node, item in found.items()}
    count = 1 + max(level.values())
    passes = []
    for number in range(count):
        own = [reduction for reduction in level if level[reduction] == number]
        items = tuple(found[reduction] for reduction in own)
        items = tuple(replace(item, bound=bound_of(program, item.reduce, items)) for item in items)
        done = [reduction for reduction in level if level[reduction] < number]
        used = above((reduction.arg for reduction in own), done.__contains__)
        carried = tuple(scan for scan in scans.along(program, parts.stream) if scan in used)
        passes.append(Pass(items, carried))
    return tuple(passes), tuple(reasons)


def _called(program: Program, reduction: Reduce) -> str:
    named = program.names.get(reduction.arg)
    return named.name if named else f"{reduction.op} over {reduction.axis.name}"


def _divides(factor: Expr) -> bool:
    """A quotient of statistics is not used: the old one may be zero while nothing has been seen."""

    def moves(expr: Expr) -> bool:
        return any(isinstance(node, Load) and node.tensor.name.startswith(("old ", "new ")) for node in walk(expr))

    return any(
        isinstance(node, Map)
        and ((node.op == "div" and moves(node.args[1])) or (node.op in ("rsqrt", "pow") and moves(node.args[0])))
        for node in walk(factor)
    )


def _relative(body: Expr, statistics: set[Reduce]) -> bool:
    """Whether every exponent that moves is a difference from the greatest or the least of that very value.

    Else the values so far say nothing about a key: exp(x - old) may overflow, where exp(x - new) does not, and while a
    statistic has seen nothing, what is added up is not zero and yet cannot be corrected.
    """
    if body in statistics or not any(node in statistics for node in walk(body)):
        return True
    if isinstance(body, Map) and body.op in ("exp", "exp2"):
        pair = difference(body.args[0])
        return pair is not None and covers(pair[1], pair[0])
    return all(_relative(child, statistics) for child in body.children)


def _unsettled(factor: Expr, statistics: tuple[Statistic, ...]) -> bool:
    """Whether the factor may exceed one, and so be infinite while the statistics have seen nothing.

    It does not where it is made of exponentials of ``w(old) - w(new)`` and w does not fall: a maximum only grows.
    """
    moved = {statistic.old: statistic.new for statistic in statistics}
    grows = all(statistic.reduce.op == "max" for statistic in statistics)

    def at_most_one(expr: Expr) -> bool:
        if expr is ONE:
            return True
        if not isinstance(expr, Map):
            return False
        if expr.op in ("exp", "exp2"):
            pair = difference(expr.args[0])
            return pair is not None and grows and rises(pair[0]) and substitute(pair[0], moved) is pair[1]
        if expr.op == "pow":
            return at_most_one(expr.args[0]) and is_positive(expr.args[1])
        return expr.op in ("mul", "sqrt", "abs", "cast") and all(map(at_most_one, expr.args))

    def rises(expr: Expr) -> bool:
        if expr in moved or not any(node in moved for node in walk(expr)):
            return True
        if isinstance(expr, Map) and expr.op == "mul":
            return any(rises(x) and is_positive(factor) for x, factor in (expr.args, expr.args[::-1]))
        return isinstance(expr, Map) and expr.op in ("maximum", "minimum", "add", "cast") and all(map(rises, expr.args))

    return not at_most_one(factor)


def _statistic(reduction: Reduce, number: int) -> Statistic:
    axes = tuple(sorted(reduction.axes, key=lambda axis: axis.name))
    shape = tuple(axis.extent for axis in axes)
    index = tuple(Iota(axis) for axis in axes)
    old, new = (Load(Tensor(f"{when} {number}", shape, FLOAT), index) for when in ("old", "new"))
    return Statistic(reduction, old, new)
