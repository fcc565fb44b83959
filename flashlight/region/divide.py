"""Divides a program between the kernel and PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import replace

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Expr, Iota, Load, Map, Reduce, Scalar, Tensor, above, is_float, unrounded, walk
from flashlight.ir.halves import halves
from flashlight.ir.order import axis_key
from flashlight.ir.program import (
    Name,
    Output,
    Program,
    factors,
    is_product,
    mapped,
    rebuilt,
    rewrite,
    scalars,
    substitute,
    substituted_names,
    summed,
    with_names,
)
from flashlight.region.model import Region
from flashlight.region.steps import Steps
from flashlight.region.whole import Whole, as_whole, free
from flashlight.schedule import roles
from flashlight.schedule.prologue import Step
from flashlight.trace.value import base_name
from rewriters.flatten import flatten
from rewriters.merge import merge


def region(program: Program) -> Region:
    """The program divided; the whole of it to the kernel where there is nothing that PyTorch should compute."""
    named_apart = _unmerged(roles.apart(program))
    found: list[Region] = []
    for stream in roles.candidates(named_apart):
        rows = _rows(named_apart, stream)
        divided = _divided(named_apart, stream, rows) if rows else None
        if divided is not None and (divided.before or divided.after):
            try:
                parts = roles.assign(roles.apart(divided.program))
            except Diagnostic:
                continue
            if parts.stream is stream:
                found.append(divided)
    # what leaves the least to the kernel has found what the kernel is for
    return min(
        found, key=lambda one: sum(isinstance(node, Reduce) for node in _nodes(one.program)), default=Region(program)
    )


def _nodes(program: Program) -> list[Expr]:
    return list(walk(*(output.expr for output in program.outputs)))


def _divided(program: Program, stream: Axis, rows: frozenset[Axis]) -> Region:
    steps = Steps(_taken(program))
    cut = _products(program, steps, stream, rows)
    cut = _keys(steps.viewed(cut), steps, stream, rows)
    cut, after = _after(cut, stream, rows, steps)
    before = tuple(steps.found.values())
    return Region(replace(cut, inputs=(*program.inputs, *(step.tensor for step in before))), before, after)


def _rows(program: Program, stream: Axis) -> frozenset[Axis]:
    """The axes of the scores that not all values have: queries, by all appearances.

    Statistics have the axes of the scores but the keys. What the sums have beyond those are features, and the factors
    with features are the values. Where there is no statistic, the values are the factor that is a product of loads.
    """
    chain = [node for node in _nodes(program) if isinstance(node, Reduce) and node.axis is stream]
    common = frozenset[Axis].intersection(*(node.axes for node in chain)) if chain else frozenset()
    values: list[Expr] = []
    for node in chain:
        keyed = [factor for factor in factors(node.arg) if stream in factor.axes]
        features = node.axes - common
        if node.op == "sum" and len(keyed) > 1:
            found = [factor for factor in keyed if factor.axes & features]
            values += found or [factor for factor in keyed if roles.is_polynomial(factor, stream)]
    if not values:
        return frozenset()
    return common - frozenset[Axis].intersection(*(value.axes for value in values))


def _products(program: Program, steps: Steps, stream: Axis, rows: frozenset[Axis]) -> Program:
    """The program with its products that are no scores read from tensors."""
    lengths = {axis.extent for axis in (stream, *rows)}
    names = _names(program)
    nodes = _nodes(program)
    inner = {node.arg for node in nodes if isinstance(node, Reduce)}
    wholes: dict[Expr, Whole] = {}
    for node in nodes:
        along = isinstance(node, Reduce) and node.axis is not stream and node.axis.extent in lengths
        wanted = along or (is_product(node) and node not in inner) or _is_biased(node, wholes)
        if (
            wanted
            and _is_small(node, lengths)
            and not _needs(node, stream)
            and not _is_attention(node)
            and _is_bounded(node, program, stream, rows)
        ):
            whole = as_whole(node, names)
            if whole is not None:
                wholes[node] = whole
    called: dict[Expr, set[str]] = {}
    for node, whole in wholes.items():
        called.setdefault(whole.value, set()).update({names[node]} if node in names else ())
    steps.called.update({value: found.pop() for value, found in called.items() if len(found) == 1})
    return _read(program, wholes, steps)


def _keys(program: Program, steps: Steps, stream: Axis, rows: frozenset[Axis]) -> Program:
    """The program with what is made of such tensors for each key alone (a rotation, a norm) read from tensors as well.

    In the kernel it would be computed again for every block of rows.
    """
    lengths = {axis.extent for axis in (stream, *rows)}
    names = _names(program)
    nodes = _nodes(program)
    made = {step.tensor for step in steps.found.values()}
    keyed: set[Expr] = set()
    for node in nodes:
        if isinstance(node, (Map, Reduce)) and is_float(node) and stream in node.axes and rows.isdisjoint(node.axes):
            loads = {inner for inner in walk(node) if isinstance(inner, Load) and stream in inner.axes}
            scaled = len(loads) == 1 and all(_is_scaling(inner) for inner in walk(node) if isinstance(inner, Map))
            of_made = any(load.tensor in made for load in loads)
            if of_made and not scaled and _is_small(node, lengths) and not _needs(node, stream):
                keyed.add(node)
    top = {child for node in nodes if node not in keyed for child in node.children if child in keyed}
    wholes = {node: whole for node in top if (whole := as_whole(node, names, True)) is not None}
    steps.called.update({whole.value: names.get(node, "keys") for node, whole in wholes.items()})
    return _read(program, wholes, steps)


def _is_scaling(node: Map) -> bool:
    return node.op in ("cast", "neg") or (node.op in ("mul", "div") and sum(bool(arg.axes) for arg in node.args) == 1)


def _read(program: Program, wholes: Mapping[Expr, Whole], steps: Steps) -> Program:
    """The program with those values read from tensors, and steps for these."""
    kept = above((output.expr for output in program.outputs), wholes.__contains__)
    used = {child for node in kept for child in node.children} | {output.expr for output in program.outputs}
    done: dict[Expr, Expr] = {}
    for node in _nodes(program):
        if node in wholes:
            done[node] = steps.load(wholes[node]) if node in used else node
        else:
            done[node] = rebuilt(node, tuple(done[child] for child in node.children)) if node in kept else node
    return mapped(program, done)


def _is_small(value: Expr, lengths: Container[Expr]) -> bool:
    """Whether nothing in it has a value for every two positions."""
    return all(sum(axis.extent in lengths for axis in part.axes) <= 1 for part in walk(value))


def _is_bounded(value: Expr, program: Program, stream: Axis, rows: frozenset[Axis]) -> bool:
    """Whether its products hold no more than users' own tensors may: of a weight, or as large as an output."""
    leading = {output.axes[0] for output in program.outputs if output.axes}
    for node in (node for node in walk(value) if is_product(node)):
        body, _ = summed(node)
        if any(leading.isdisjoint(factor.axes) for factor in factors(body)):
            continue
        made = Counter(axis.extent for axis in node.axes if axis is not stream)
        for output in program.outputs:
            left = [axis.extent for axis in output.axes if stream not in node.axes or axis not in rows]
            if made <= Counter(left):
                break
        else:
            return False
    return True


def _is_attention(value: Expr) -> bool:
    """Whether scores are reduced in it by more than a product: then it is a program of its own.

    The products of a norm are those of tensors with matrices, which have no axis in common but the one summed over.
    """
    for node in walk(value):
        if isinstance(node, Reduce) and not is_product(node):
            for product in (inner for inner in walk(node.arg) if is_product(inner) and node.axis in inner.axes):
                body, bound = summed(product)
                one, *others = sorted(factors(body), key=lambda factor: node.axis not in factor.axes)
                if any(not one.axes.isdisjoint(other.axes.difference(bound)) for other in others):
                    return True
    return False


def _is_biased(node: Expr, products: Container[Expr]) -> bool:
    """Whether it is the sum of a product and of what is the same at all of its positions: a linear layer's bias."""
    return (
        isinstance(node, Map)
        and node.op == "add"
        and any(
            product in products and isinstance(unrounded(bias), Load) and bias.axes < product.axes
            for product, bias in (node.args, node.args[::-1])
        )
    )


def _after(program: Program, stream: Axis, rows: frozenset[Axis], before: Steps) -> tuple[Program, tuple[Step, ...]]:
    """The program with what its products multiply as outputs, and the steps that make what were its outputs."""
    taken = before.taken
    lengths = {axis.extent for axis in (stream, *rows)}
    outputs: list[Output] = []
    after: list[Output] = []
    called: dict[Expr, Name] = {}
    for output in program.outputs:
        nodes = list(walk(output.expr))
        inner = {node.arg for node in nodes if isinstance(node, Reduce)}
        cuts: dict[Expr, Expr] = {}
        made: list[Output] = []
        for node in nodes:
            operand = None if node in inner else _operand(node, stream, rows)
            # what is multiplied again afterwards is PyTorch's already
            if operand is None or operand in cuts or any(old in cuts for old in walk(operand)):
                continue
            _, bound = summed(node)
            order = [axis for axis in (*output.axes, *bound) if axis in operand.axes]
            axes = (*order, *sorted(operand.axes.difference(order), key=axis_key))
            named = program.names.get(operand)
            name = free(named.name if named else "attention", taken)
            taken.add(name)
            tensor = Tensor(name, tuple(axis.extent for axis in axes), operand.dtype)
            cuts[operand] = build.load(tensor, tuple(Iota(axis) for axis in axes))
            made.append(Output(name, axes, operand, operand.dtype))
        expr = substitute(output.expr, cuts)
        if made and not _needs(expr, stream) and _is_small(expr, lengths):
            outputs += made
            after.append(replace(output, expr=expr))
            called |= substituted_names(program.names, output.expr, cuts)
        else:
            outputs.append(output)
    if not after:
        return program, ()
    rejoined = _rejoined(with_names(replace(program, outputs=tuple(after), names={}), called))
    steps = Steps(taken, before)
    names = _names(rejoined)
    return replace(program, outputs=tuple(outputs)), tuple(
        step for output in rejoined.outputs for step in _final(output, steps, names)
    )


def _final(output: Output, steps: Steps, names: dict[Expr, str]) -> list[Step]:
    """The steps that make an output, the last of them itself."""
    known = len(steps.found)
    whole = as_whole(output.expr, names, True)
    places: dict[Expr, int] = {Iota(axis): place for place, axis in enumerate(output.axes)}
    value = output.expr
    axes = output.axes
    if whole is not None and set(whole.index) == set(places):
        axes = tuple(axis for _, axis in sorted(zip(whole.index, whole.axes, strict=True), key=lambda p: places[p[0]]))
        value = build.cast(steps.within(whole), output.dtype)
    tensor = Tensor(output.name, tuple(axis.extent for axis in output.axes), output.dtype)
    return [*list(steps.found.values())[known:], Step(tensor, axes, value)]


def _operand(node: Expr, stream: Axis, rows: frozenset[Axis]) -> Expr | None:
    """What a matrix product multiplies that the loop over the keys has made: all factors without its own axes."""
    if stream in node.axes or not is_product(node):
        return None
    body, bound = summed(node)
    if rows.union((stream,)).intersection(bound):
        return None
    multiplied = factors(body)
    looped = [factor for factor in multiplied if _needs(factor, stream)]
    axes = frozenset[Axis]().union(*(factor.axes for factor in looped))
    own = [factor for factor in multiplied if factor.axes <= axes]
    if not looped or len(own) == len(multiplied):
        return None
    operand = own[0]
    for factor in own[1:]:
        operand = build.op("mul", operand, factor, dtype=body.dtype)
    return operand


def _needs(expr: Expr, stream: Axis) -> bool:
    """Whether the loop over the keys has to run for the value."""
    return any(isinstance(node, Reduce) and node.axis is stream for node in walk(expr))


def _unmerged(program: Program) -> Program:
    """The program with sums along merged axes as sums of sums: Σ_m f(m // D, m % D) = Σ_h Σ_d f(h, d)."""
    sizes = {scalar.name for scalar in scalars(program)}
    taken = {axis.name for node in _nodes(program) for axis in (*node.axes, *node.bound)}
    names = dict(program.names)
    pairs: dict[tuple[Expr, Expr], tuple[Axis, ...]] = {}

    def axis_of(extent: Expr, letter: str, arg: Expr) -> Axis:
        """That of an output with so many positions, or a new one: h or d, unless the size has a name that says more."""
        for axis in (axis for output in program.outputs for axis in output.axes):
            if axis.extent is extent and axis not in arg.axes and letter == "h":
                return axis
        says = isinstance(extent, Scalar) and base_name(extent) not in sizes
        axis = Axis(free(base_name(extent) if says else letter, taken), extent)
        taken.add(axis.name)
        return axis

    def rule(node: Expr) -> Expr:
        found = halves(node.arg, [node.axis], integers.quotient) if isinstance(node, Reduce) else None
        if found is None or not isinstance(node, Reduce):
            return node
        axis, *extents = found
        pair = pairs.setdefault((extents[0], extents[1]), ())
        if not pair or not node.arg.axes.isdisjoint(pair):
            pair = tuple(axis_of(extent, letter, node.arg) for letter, extent in zip("hd", extents, strict=True))
            pairs[extents[0], extents[1]] = pair
        outer, inner = pair
        position = integers.add(integers.mul(Iota(outer), inner.extent), Iota(inner))
        moved: dict[Expr, Expr] = {Iota(axis): position}
        names.update(substituted_names(names, node.arg, moved))
        return rule(build.reduce(node.op, build.reduce(node.op, substitute(node.arg, moved), inner), outer))

    return with_names(rewrite(program, rule), names)


def _rejoined(program: Program) -> Program:
    """The program with one axis for every two along which it adds up the same tensors, and views of those."""
    for node in _nodes(program):
        if isinstance(node, Reduce) and isinstance(node.arg, Reduce):
            merged = merge(program, node.axis, node.arg.axis)
            if merged is not None:
                return _rejoined(flatten(merged[0]))
    return program


def _taken(program: Program) -> set[str]:
    named = {tensor.name for tensor in program.inputs} | {output.name for output in program.outputs}
    return named | {scalar.name for scalar in scalars(program)}


def _names(program: Program) -> dict[Expr, str]:
    """What the user calls values, also a product of which only a cast or the sum with a bias has the name."""
    names = {node: name.name for node, name in program.names.items()}
    for node, name in program.names.items():
        while isinstance(node, Map) and node.op in ("cast", "add", "mul", "div"):
            node = node.args[0]
            if is_product(node):
                names.setdefault(node, name.name)
    return names
