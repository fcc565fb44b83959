"""Which part every axis plays: grid, rows, streamed keys, or resident in the tile.

Nothing here knows about attention. The streamed axis is the one whose reductions form the chain: they contain other
reductions, or are no plain contraction. The rows are the output axis over which the streamed tensors can be shared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from flashlight.diagnostics import Diagnostic
from flashlight.ir import integers
from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, Scan, walk
from flashlight.ir.order import axis_key
from flashlight.ir.printer import show
from flashlight.ir.program import Program, factors, mapped, rebuilt, scalars, substitute, substituted_names, with_names


@dataclass(frozen=True)
class Roles:
    """The parts that axes play.

    ``grid``: one program each; ``rows``: tiled, one block a program; ``stream``: visited block by block in a loop;
    ``resident``: wholly in the tile (head dimensions), padded to a power of two; ``demoted``: from the grid into the
    tile, a few positions a program, of which each has keys of its own that the rows share.
    """

    grid: tuple[Axis, ...]
    rows: Axis
    stream: Axis
    resident: tuple[Axis, ...]
    demoted: Axis | None = None

    @property
    def tile(self) -> tuple[Axis, ...]:
        """The order of axes in every tile."""
        return (*self.blocked, self.stream, *self.resident)

    @property
    def blocked(self) -> tuple[Axis, ...]:
        """The axes of which a program has some positions: a batch of blocks of rows, or one block."""
        return (self.rows,) if self.demoted is None else (self.demoted, self.rows)


def demoted(program: Program, parts: Roles) -> Roles:
    """Roles by which one program serves several positions of two axes, where each lacks what the other one reads.

    Invariant point attention reads keys of each head that all residues share, and pairs of residues that all heads
    share. With one of the two axes in the grid, what does not depend on it is read anew at each of its positions. So a
    few positions of either lie in the tile: every block is read once for all positions that do not matter to it, and
    every product over the keys is a batch of matrix products. The axis that was tiled becomes the batch, since its
    positions lie next to each other in memory, and the other one has the rows.

    No axis is demoted where rows share all that is read along the keys, as most programs' do: nothing would be saved.
    """
    nodes = list(walk(*(output.expr for output in program.outputs)))
    loads = [node for node in nodes if isinstance(node, Load) and parts.stream in node.axes]
    wide = [load for load in loads if any(axis in load.axes for axis in parts.resident)]
    if not all(_is_plain(load) for load in wide):
        return parts
    common = [axis for axis in parts.grid if all(axis in output.axes for output in program.outputs)]
    tiled = parts.rows
    for axis in common:
        own = [load for load in wide if tiled in load.axes]
        shared = [load for load in wide if tiled not in load.axes]
        if own and shared and not any(axis in load.axes for load in own) and all(axis in load.axes for load in shared):
            grid = tuple(other for other in parts.grid if other is not axis)
            return replace(parts, grid=grid, rows=axis, demoted=tiled)
    return parts


def _is_plain(load: Load) -> bool:
    """Whether each of its dimensions has an axis of its own, or is read at one position."""
    return all(isinstance(index, (Iota, Const)) for index in load.index)


def apart(program: Program) -> Program:
    """The program with no axis both reduced over and an axis of an output: bound ones get names of their own."""
    outputs = {axis for output in program.outputs for axis in output.axes}
    taken = {axis.name for root in program.outputs for node in walk(root.expr) for axis in (*node.axes, *node.bound)}
    taken |= {axis.name for axis in outputs}
    fresh: dict[Axis, Axis] = {}
    done: dict[Expr, Expr] = {}
    names = dict(program.names)
    for node in walk(*(output.expr for output in program.outputs)):
        new = rebuilt(node, tuple(done[child] for child in node.children))
        if isinstance(new, Reduce) and new.axis in outputs:
            axis = new.axis
            if axis not in fresh:
                number = next(n for n in range(2, len(taken) + 3) if f"{axis.name}_{n}" not in taken)
                fresh[axis] = Axis(f"{axis.name}_{number}", axis.extent)
                taken.add(fresh[axis].name)
            moved: dict[Expr, Expr] = {Iota(axis): Iota(fresh[axis])}
            names.update(substituted_names(names, new.arg, moved))
            new = Reduce(new.op, substitute(new.arg, moved), fresh[axis])
        done[node] = new
        if node in names:
            names.setdefault(new, names[node])
    return with_names(mapped(program, done), names)


def called(program: Program, parts: Roles) -> tuple[Program, Roles]:
    """Rows and streamed axis under the names that mathematics gives them, i and j, where those are free."""
    nodes = list(walk(*(output.expr for output in program.outputs)))
    taken = {axis.name for axis in _axes(nodes)} | {axis.name for output in program.outputs for axis in output.axes}
    for axis, name in ((parts.rows, "i"), (parts.stream, "j")):
        if name in taken:
            continue
        new = Axis(name, axis.extent)
        program = _renamed(program, axis, new)
        if axis is parts.rows:
            parts = replace(parts, rows=new)
        else:
            parts = replace(parts, stream=new)
    return program, parts


def legible(program: Program, parts: Roles, scheduled: Program) -> tuple[Program, tuple[Axis, ...]]:
    """A traced program as a reader should see it, and the order in which to name its axes.

    Its rows are called i, and what becomes the streamed axis j (then j_2, where laws have made one axis of several),
    as in the scheduled program, whose ``parts`` they are.
    """
    pairs = [
        (old, new)
        for given, made in zip(program.outputs, scheduled.outputs, strict=True)
        for old, new in _twins(given.axes, made.axes)
    ]
    rows = [old for old, new in pairs if new is parts.rows]
    sizes = _sizes(parts.stream.extent)
    nodes = list(walk(*(output.expr for output in program.outputs)))
    bound = {axis for node in nodes for axis in node.bound} - {old for old, _ in pairs}
    keys = [
        axis
        for axis in sorted(bound, key=lambda axis: (axis is not parts.stream, axis_key(axis)))
        if axis.extent is parts.stream.extent or sizes.intersection(_sizes(axis.extent))
    ]
    taken = {axis.name for axis in _axes(nodes).union(old for old, _ in pairs)}
    letters: dict[str, str] = {}
    for axis, letter in (*((axis, "i") for axis in rows[:1]), *((axis, "j") for axis in keys)):
        numbered = (letter, *(f"{letter}_{number}" for number in range(2, len(keys) + 2)))
        free = (name for name in numbered if name not in taken.union(letters.values()))
        if letter not in taken and axis.name not in letters:
            letters[axis.name] = next(free)
    order = [old for old, new in pairs if new in parts.grid]
    for axis in (*rows[:1], *keys):
        new = Axis(letters.get(axis.name, axis.name), axis.extent)
        program = _renamed(program, axis, new)
        order.append(new)
    return program, tuple(dict.fromkeys(order))


def _twins(given: tuple[Axis, ...], made: tuple[Axis, ...]) -> list[tuple[Axis, Axis]]:
    """The axes of an output as traced and as scheduled: by their places, or by their extents where some were merged."""
    if len(given) == len(made):
        return list(zip(given, made, strict=True))
    return [(old, new) for new in made for old in given if old.extent is new.extent]


def _renamed(program: Program, axis: Axis, new: Axis) -> Program:
    outputs = tuple(
        replace(output, axes=tuple(new if old is axis else old for old in output.axes)) for output in program.outputs
    )
    done: dict[Expr, Expr] = {}
    for node in walk(*(output.expr for output in program.outputs)):
        if isinstance(node, Iota) and node.axis is axis:
            done[node] = Iota(new)
        elif isinstance(node, Reduce) and node.axis is axis:
            done[node] = Reduce(node.op, done[node.arg], new)
        elif isinstance(node, Scan) and node.axis is axis:
            done[node] = Scan(node.op, done[node.arg], new, done[node.at], node.reverse)
        else:
            done[node] = rebuilt(node, tuple(done[child] for child in node.children))
    return mapped(replace(program, outputs=outputs), done)


def unambiguous(program: Program, parts: Roles) -> tuple[Program, Roles]:
    """Resident axes of different extents, and sizes, under different names: they are different variables."""
    # a size may be called d, as the axis is
    taken: dict[str, Expr] = {scalar.name: scalar for scalar in scalars(program)}
    taken |= {node.name: node for axis in parts.resident for node in walk(axis.extent) if isinstance(node, Scalar)}
    sizes = frozenset(taken)
    resident: list[Axis] = []
    for axis in sorted(parts.resident, key=lambda axis: isinstance(axis.extent, Map)):
        if axis.name in sizes or taken.setdefault(axis.name, axis.extent) is not axis.extent:
            names = (f"{extent_name(axis).lower()}", *(f"{axis.name}_{number}" for number in range(2, 99)))
            if axis.name in sizes:
                names = (f"{axis.name}_index", *names)
            others = sizes.union(other.name for other in (*parts.resident, *resident))
            name = next(name for name in names if name not in others)
            new = Axis(name, axis.extent)
            program, axis = _renamed(program, axis, new), new
            taken[name] = axis.extent
        resident.append(axis)
    return program, replace(parts, resident=tuple(resident))


def shared(program: Program, parts: Roles) -> tuple[Program, Roles]:
    """Sums over a resident axis run over another one of its extent where what they add up is then at hand already.

    A norm of the output adds up the very accumulators that are stored; the latent that keys share with values is one
    load. Renaming a bound axis changes nothing as long as the new name is not taken below it.
    """
    nodes = list(walk(*(output.expr for output in program.outputs)))
    streamed = (node for node in nodes if isinstance(node, Reduce) and node.axis is parts.stream)
    known: set[Expr] = {*streamed, *(node for node in nodes if isinstance(node, Load))}
    outputs = [axis for axis in parts.resident if any(axis in output.axes for output in program.outputs)]
    done: dict[Expr, Expr] = {}
    for node in nodes:
        new = rebuilt(node, tuple(done[child] for child in node.children))
        if isinstance(node, Reduce) and isinstance(new, Reduce) and node.axis in parts.resident:
            below = [inner for inner in walk(node.arg) if node.axis in inner.axes]
            for axis in outputs:
                taken = any(axis in inner.axes or axis in inner.bound for inner in below)
                if taken or axis is node.axis or axis.extent is not node.axis.extent:
                    continue
                values: dict[Expr, Expr] = {Iota(node.axis): Iota(axis)}
                if any(substitute(inner, values) in known for inner in below if inner in known):
                    new = Reduce(node.op, substitute(new.arg, values), axis)
                    break
        done[node] = new
    program = mapped(program, done)
    left = _axes(list(walk(*(output.expr for output in program.outputs))))
    left |= {axis for output in program.outputs for axis in output.axes}
    return program, replace(parts, resident=tuple(axis for axis in parts.resident if axis in left))


def assign(program: Program) -> Roles:
    """The roles of the program's axes; a Diagnostic where no axis can be streamed."""
    roots = [output.expr for output in program.outputs]
    nodes = list(walk(*roots))
    reductions = [node for node in nodes if isinstance(node, Reduce)]
    stream = _streamed(program, reductions)
    chain = [node for node in reductions if node.axis is stream]
    loads = [node for root in chain for node in walk(root.arg) if isinstance(node, Load)]
    streamed = [load for load in dict.fromkeys(loads) if stream in load.axes]
    fixed = [load for load in dict.fromkeys(loads) if stream not in load.axes]
    _refuse_second_loops(program, reductions, stream)
    outputs = list(dict.fromkeys(axis for output in program.outputs for axis in output.axes))
    bound = {node.axis for node in reductions} - {stream}
    features = [
        axis
        for axis in outputs
        if _is_feature(axis, streamed, fixed) or _is_of_values(axis, chain) and axis is not stream
    ]
    wide = [load for load in streamed if load.axes & (bound | set(features))] or streamed
    shared = [
        axis
        for axis in outputs
        if axis is not stream and axis not in features and any(axis not in load.axes for load in wide)
    ]
    used = frozenset().union(*(node.arg.axes for node in chain))
    rows = [axis for axis in shared if axis in used] or shared
    if not rows:
        raise Diagnostic(
            "FL402",
            f"no axis of the output shares what is read along {stream.name}, so there are no rows to tile",
            hint="an attention program has a query axis that its keys and values do not have",
        )
    # the more positions they share, the better; of those that share as many, the innermost
    inside = bound.union(features)
    tiled = max(reversed(rows), key=lambda axis: max(len(load.axes - inside) for load in wide if axis not in load.axes))
    resident = [*sorted(bound & _axes(nodes), key=axis_key), *features]
    grid = [axis for axis in outputs if axis is not tiled and axis not in features and axis is not stream]
    _refuse_whole_lengths(program, nodes, (tiled, stream), resident)
    _refuse_bystanders(program, stream, grid)
    return Roles(tuple(grid), tiled, stream, tuple(dict.fromkeys(resident)))


def _refuse_second_loops(program: Program, reductions: list[Reduce], stream: Axis) -> None:
    """Refuse another chain of reductions over pairs: its axis would lie in the tile at full length.

    An axis that what is streamed has too (a head dimension, heads that are mixed) belongs in the tile.
    """
    outputs = {axis for output in program.outputs for axis in output.axes}
    for node in reductions:
        if node.axis is stream or _is_contraction(node) or not _pairs(node, outputs):
            continue
        inner = set(walk(node.arg))
        below = [one for one in inner if isinstance(one, Reduce) and not _is_contraction(one)]
        if not any(one.axis is stream or one.axis.extent is node.axis.extent for one in below):
            continue
        having = [load for load in inner if isinstance(load, Load) and node.axis in load.axes]
        if not any(stream in load.axes for load in having):
            raise _two_loops(program, stream, node.axis)


def _refuse_whole_lengths(program: Program, nodes: list[Expr], tiled: tuple[Axis, Axis], resident: list[Axis]) -> None:
    """Refuse reductions along what rows or keys run along too, alone or merged: it would lie in the tile whole."""
    along: dict[tuple[str, int], set[Axis]] = {}
    for load in (node for node in nodes if isinstance(node, Load)):
        for position, index in enumerate(load.index):
            if isinstance(index, Iota):
                along.setdefault((load.tensor.name, position), set()).add(index.axis)
    lengths = {axis.extent for axis in tiled if not isinstance(axis.extent, Const)}
    for axis in resident:
        long = not lengths.isdisjoint(walk(axis.extent))
        if long or any(axis in axes and not axes.isdisjoint(tiled) for axes in along.values()):
            raise _two_loops(program, tiled[1], axis)


def _refuse_bystanders(program: Program, stream: Axis, grid: list[Axis]) -> None:
    """Refuse outputs that take no part in the loop and have axes of their own: the loop would run for each position."""
    looped = [output for output in program.outputs if _has_loop(output.expr, stream)]
    common = {axis for output in looped for axis in output.axes}
    for output in program.outputs:
        own = [axis for axis in grid if axis in output.axes and axis not in common and not _is_single(axis)]
        if output not in looped and own:
            raise Diagnostic(
                "FL402",
                f"`{program.name}` returns {output.name} along {show(own[0].extent)}, which attention has no part in",
                hint="compute it outside of this function: attention would be computed for each of its positions",
            )


def _is_single(axis: Axis) -> bool:
    return isinstance(axis.extent, Const) and axis.extent.value == 1


def _has_loop(expr: Expr, stream: Axis) -> bool:
    return any(isinstance(node, Reduce) and node.axis is stream for node in walk(expr))


def _two_loops(program: Program, one: Axis, other: Axis) -> Diagnostic:
    cut = integers.sub(one.extent, other.extent)
    if isinstance(cut, Const) and cut.value:
        part, whole = (other, one) if cut.value > 0 else (one, other)
        return Diagnostic(
            "FL402",
            f"`{program.name}` reduces along {show(whole.extent)}, then along only {show(part.extent)} of the same",
            hint="keep all and mask the others: w.masked_fill(torch.arange(n) < 2, 0) rather than w[..., 2:]",
        )
    return Diagnostic(
        "FL402",
        f"`{program.name}` reduces along {show(one.extent)} and apart from that along {show(other.extent)}: two loops",
        hint="write what takes a loop of its own as a function of its own",
    )


def _axes(nodes: list[Expr]) -> set[Axis]:
    return {axis for node in nodes for axis in (*node.axes, *node.bound)}


def _streamed(program: Program, reductions: list[Reduce]) -> Axis:
    for axis in _chains(program, reductions):
        return axis
    for node in (node for node in reductions if not _is_contraction(node)):
        loads = [inner for inner in walk(node.arg) if isinstance(inner, Load)]
        scored = any(isinstance(inner, Reduce) and node.axis in inner.axes for inner in walk(node.arg))
        if scored and any(node.axis not in load.axes for load in loads):
            raise Diagnostic(
                "FL402",
                f"`{program.name}` compares every key along {show(node.axis.extent)} with one query: no rows to tile",
                hint="give queries a length by a name, e.g. [B, H, S, D], which may be 1 when the kernel runs",
            )
    raise Diagnostic(
        "FL402",
        f"`{program.name}` holds no chain of reductions to fuse",
        hint="flashlight fuses attention: a score for every pair of a query and a key, reduced over the keys",
    )


def _chains(program: Program, reductions: list[Reduce]) -> Iterator[Axis]:
    """The axes of the innermost chains: later reductions (a norm of the output, say) only touch the tile."""
    outputs = {axis for output in program.outputs for axis in output.axes}
    chained = [node for node in reductions if not _is_contraction(node) and _pairs(node, outputs)]
    for node in chained:
        inner = {other.axis for other in walk(node.arg) if isinstance(other, Reduce) and other in chained}
        if inner <= {node.axis}:
            yield node.axis


def candidates(program: Program) -> tuple[Axis, ...]:
    """Axes that might be streamed if the products of projections were out of the way.

    First those along which something is reduced that is no polynomial of scores (an exponential, a maximum): the sums
    of products of projections are polynomials too. Then the innermost, as without projections, then all others.
    """
    nodes = walk(*(output.expr for output in program.outputs))
    reductions = [node for node in nodes if isinstance(node, Reduce)]
    outputs = {axis for output in program.outputs for axis in output.axes}
    curved = [node.axis for node in reductions if not is_polynomial(node, node.axis) and _pairs(node, outputs)]
    others = [node.axis for node in reductions if not _is_contraction(node) and _pairs(node, outputs)]
    return tuple(dict.fromkeys((*curved, *_chains(program, reductions), *others)))


def is_polynomial(expr: Expr, axis: Axis) -> bool:
    """Whether the value is a polynomial of sums, as far as it depends on the axis (or binds it)."""
    if axis not in expr.axes and axis not in expr.bound:
        return True
    if not any(isinstance(node, Reduce) for node in walk(expr)):
        return True
    if isinstance(expr, Reduce):
        return expr.op == "sum" and is_polynomial(expr.arg, axis)
    if isinstance(expr, Map) and expr.op == "div":
        return is_polynomial(expr.args[0], axis) and axis not in expr.args[1].axes
    return (
        isinstance(expr, Map)
        and expr.op in ("add", "sub", "mul", "neg", "cast", "where")
        and all(is_polynomial(arg, axis) for arg in expr.args)
    )


def _pairs(node: Reduce, outputs: set[Axis]) -> bool:
    """Whether it reduces over pairs: of a position of an output that one tensor has, and of the axis, that another has.

    A product over a head dimension, or a norm over it, reads tensors that all have that dimension.
    """
    loads = [inner for inner in walk(node.arg) if isinstance(inner, Load)]
    having = [load for load in loads if node.axis in load.axes]
    lacking = frozenset[Axis]().union(*(load.axes for load in loads if node.axis not in load.axes))
    return any(axis not in load.axes for axis in lacking & outputs for load in having)


def _is_contraction(node: Reduce) -> bool:
    """A plain sum of products, with no reduction below it."""
    return node.op == "sum" and not any(isinstance(inner, (Reduce, Scan)) for inner in walk(node.arg))


def _is_feature(axis: Axis, streamed: list[Load], fixed: list[Load]) -> bool:
    if any(axis in load.axes for load in fixed):
        return False
    having = [load for load in streamed if axis in load.axes]
    return bool(having) and len(having) < len(streamed)


def _is_of_values(axis: Axis, chain: list[Reduce]) -> bool:
    """Whether it is a feature by what it is multiplied with, though something beside the keys has it too (a bias).

    One factor of a sum over the keys has it, with a tensor of keys in it that does, and no other factor and no
    statistic; without statistics that factor must be made by sums and products alone, as no weight is.
    """
    statistics = [node for node in chain if any(node in walk(other.arg) for other in chain)]
    if any(axis in node.axes for node in statistics):
        return False
    for node in chain:
        keyed = [factor for factor in factors(node.arg) if node.axis in factor.axes]
        having = [factor for factor in keyed if axis in factor.axes]
        if node.op != "sum" or len(having) != 1 or len(keyed) == 1:
            continue
        inner = list(walk(having[0]))
        linear = all(one.op in ("add", "sub", "mul", "neg", "cast") for one in inner if isinstance(one, Map))
        if (statistics or linear) and any({axis, node.axis} <= one.axes for one in inner if isinstance(one, Load)):
            return True
    return False


def _sizes(extent: Expr) -> frozenset[Expr]:
    return frozenset(node for node in walk(extent) if isinstance(node, Scalar))


def extent_name(axis: Axis) -> str:
    """The extent's own name where it is a plain size, what it is made of (``2 * D``: D_2), or its number (N32)."""
    extent = axis.extent
    if isinstance(extent, Const):
        return f"N{extent.value}"
    return re.sub(r"\W+", "_", show(extent)).strip("_") if isinstance(extent, Map) else str(extent)


def is_size(extent: Expr) -> bool:
    """Whether a kernel is given the extent as a number of its own: a size, or the part of one that each head has."""
    return isinstance(extent, Scalar) or isinstance(extent, Map) and extent.op == "floordiv"
