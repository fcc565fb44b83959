"""A program: named outputs, each an expression with the order of its axes and its dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations

from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, Scan, Tensor, walk


@dataclass(frozen=True)
class Name:
    """What the user calls a value, and the line of the statement that computes it."""

    name: str
    line: int


@dataclass(frozen=True)
class Output:
    """``name[axes] = expr``, stored as ``dtype``; an axis of extent 1 or unused by the expression is allowed."""

    name: str
    axes: tuple[Axis, ...]
    expr: Expr
    dtype: str


@dataclass(frozen=True)
class Program:
    """What a target computes.

    ``inputs`` lists tensors in the order of the user's parameters. ``names`` maps expressions to the user's names for
    them; it only serves readers: a program without names computes the same. ``assumptions`` are boolean expressions
    over sizes and scalars under which the program was traced: the wrapper checks them.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Output, ...]
    names: Mapping[Expr, Name] = field(default_factory=dict)
    assumptions: tuple[Expr, ...] = ()

    def __str__(self) -> str:
        from flashlight.ir.printer import show_program

        return show_program(self)


def rebuilt(node: Expr, children: tuple[Expr, ...]) -> Expr:
    """The same node over other children, folded anew."""
    from flashlight.ir import build

    if children == node.children:
        return node
    if isinstance(node, Load):
        return build.load(node.tensor, children)
    if isinstance(node, Map):
        return (
            build.cast(children[0], node.dtype) if node.op == "cast" else build.op(node.op, *children, dtype=node.dtype)
        )
    if isinstance(node, Reduce):
        return build.reduce(node.op, children[0], node.axis)
    assert isinstance(node, Scan)
    return build.scan(node.op, children[0], node.axis, children[1], node.reverse)


def rewrite(program: Program, rule: Callable[[Expr], Expr]) -> Program:
    """Apply ``rule`` to every expression, children first, carrying the user's names along."""
    done: dict[Expr, Expr] = {}
    for node in walk(*(output.expr for output in program.outputs)):
        done[node] = rule(rebuilt(node, tuple(done[child] for child in node.children)))
    return mapped(program, done)


def mapped(program: Program, done: Mapping[Expr, Expr]) -> Program:
    """The program with its outputs replaced as ``done`` says, names following the values that they name."""
    names = {new: program.names[old] for old, new in done.items() if old in program.names}
    outputs = tuple(replace(output, expr=done[output.expr]) for output in program.outputs)
    kept = set(walk(*(output.expr for output in outputs)))
    for old, name in program.names.items():
        if old in kept:
            names.setdefault(old, name)
    return replace(program, outputs=outputs, names={e: n for e, n in names.items() if e in kept})


def substitute(expr: Expr, values: Mapping[Expr, Expr]) -> Expr:
    """Replace subexpressions; an axis is renamed or moved by replacing its Iota (bound occurrences stay)."""
    return _substituted(expr, values, {})


def _substituted(expr: Expr, values: Mapping[Expr, Expr], done: dict[Expr, Expr]) -> Expr:
    if expr in values:
        return values[expr]
    if expr in done:
        return done[expr]
    if isinstance(expr, (Reduce, Scan)):
        hidden = Iota(expr.axis)
        if hidden in values:
            inner: Mapping[Expr, Expr] = {old: new for old, new in values.items() if old is not hidden}
            arg = _substituted(expr.arg, inner, {}) if inner else expr.arg
        else:
            inner = values
            arg = _substituted(expr.arg, inner, done)
        children: tuple[Expr, ...] = (arg,)
        if isinstance(expr, Scan):
            children = (arg, _substituted(expr.at, values, done))
    else:
        children = tuple(_substituted(child, values, done) for child in expr.children)
    result = rebuilt(expr, children)
    done[expr] = result
    return result


def substituted_names(names: Mapping[Expr, Name], expr: Expr, values: Mapping[Expr, Expr]) -> dict[Expr, Name]:
    """The names of subexpressions for what `substitute` makes of them."""
    return {substitute(node, values): names[node] for node in walk(expr) if node in names}


def with_names(program: Program, names: Mapping[Expr, Name]) -> Program:
    """The program with further names, for values in it that have none."""
    nodes = set(walk(*(output.expr for output in program.outputs)))
    return replace(program, names={**{node: name for node, name in names.items() if node in nodes}, **program.names})


def renamed(expr: Expr, old: Axis, new: Axis) -> Expr:
    """Rename a free or bound axis throughout."""
    done: dict[Expr, Expr] = {}
    for node in walk(expr):
        if isinstance(node, Iota) and node.axis is old:
            done[node] = Iota(new)
        elif isinstance(node, Reduce) and node.axis is old:
            done[node] = Reduce(node.op, done[node.arg], new)
        elif isinstance(node, Scan) and node.axis is old:
            done[node] = Scan(node.op, done[node.arg], new, done[node.at], node.reverse)
        else:
            done[node] = rebuilt(node, tuple(done[child] for child in node.children))
    return done[expr]


def scalars(program: Program) -> tuple[Scalar, ...]:
    """Every run-time number that the outputs or the extents of their axes use, by name."""
    roots = [output.expr for output in program.outputs]
    roots += [axis.extent for output in program.outputs for axis in output.axes]
    found = {node for root in roots for node in walk(root) if isinstance(node, Scalar)}
    for node in walk(*roots):
        if isinstance(node, (Reduce, Scan)):
            found |= {inner for inner in walk(node.axis.extent) if isinstance(inner, Scalar)}
    return tuple(sorted(found, key=lambda scalar: scalar.name))


def tensors(*roots: Expr) -> tuple[Tensor, ...]:
    """The tensors that the expressions read, in order of first use."""
    return tuple(dict.fromkeys(node.tensor for node in walk(*roots) if isinstance(node, Load)))


def is_const(expr: Expr, value: float) -> bool:
    return isinstance(expr, Const) and not isinstance(expr.value, bool) and expr.value == value


def factors(expr: Expr) -> list[Expr]:
    """What is multiplied, through nothing but products."""
    if isinstance(expr, Map) and expr.op == "mul":
        return [factor for arg in expr.args for factor in factors(arg)]
    return [expr]


def summed(expr: Expr) -> tuple[Expr, tuple[Axis, ...]]:
    """What sums within sums add up, and their axes from the outermost to the innermost."""
    axes: list[Axis] = []
    while isinstance(expr, Reduce) and expr.op == "sum":
        axes.append(expr.axis)
        expr = expr.arg
    return expr, tuple(axes)


def is_product(expr: Expr) -> bool:
    """A sum of products in which each of two factors has an axis of its own: a matrix product."""
    body, bound = summed(expr)
    return bool(bound) and any(
        (one.axes - other.axes).difference(bound) and (other.axes - one.axes).difference(bound)
        for one, other in combinations(factors(body), 2)
    )
