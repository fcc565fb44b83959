"""Programs as mathematics: what `flashlight explain` shows and what headers of generated files quote."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flashlight.ir.expr import ELEMENT, INTEGERS, Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, Scan, walk
from flashlight.ir.ops import OPS
from flashlight.ir.order import axis_key
from flashlight.ir.program import Name, Program

_SIGNS = {"sum": "Σ", "max": "max", "min": "min", "prod": "Π"}
_MAX_WIDTH = 72


def show(expr: Expr, names: dict[Expr, str] | None = None, *, whole: bool = True) -> str:
    """The expression on one line; subexpressions in ``names`` appear by name (but not the root, if ``whole``)."""
    return _Printer(names or {}).show(expr, 0, top=whole)


def show_program(program: Program, order: Sequence[Axis] = ()) -> str:
    """The program as a list of equations, one for every value that the user named or that is used repeatedly.

    Left sides list their axes as in ``order``, then by name.
    """
    return "\n".join(_equations(program, order)[0])


def labels(program: Program, order: Sequence[Axis] = ()) -> dict[Name, str]:
    """What `show_program` calls the values that the user named: with a number where a name is taken already."""
    return _equations(program, order)[1]


def _equations(program: Program, order: Sequence[Axis]) -> tuple[list[str], dict[Name, str]]:
    places = {axis: number for number, axis in enumerate(order)}
    roots = [output.expr for output in program.outputs]
    uses: dict[Expr, int] = {}
    for node in walk(*roots):
        for child in node.children:
            uses[child] = uses.get(child, 0) + 1
    names: dict[Expr, str] = {}
    taken: set[str] = {output.name for output in program.outputs}
    taken |= {node.tensor.name for node in walk(*roots) if isinstance(node, Load)}
    lines: list[str] = []
    called: dict[Name, str] = {}
    inputs = frozenset(taken)
    known: dict[tuple[object, ...], str] = {}

    def free(expr: Expr) -> list[Axis]:
        return sorted(expr.axes, key=lambda axis: (places.get(axis, len(places)), axis_key(axis)))

    for node in walk(*roots):
        if not isinstance(node, (Map, Reduce, Scan)) or node in roots or node.dtype in INTEGERS or not node.axes:
            continue
        given = program.names.get(node)
        long = uses.get(node, 0) > 1 and len(show(node, names)) > 12
        if given is None and not long:
            continue
        axes, text = free(node), show(node, names)
        index = ", ".join(axis.name for axis in axes)
        # what differs in nothing but where it came from, or what its axes are called, is one equation
        equations = ((text, index), _nameless(text, axes, inputs))
        same = next((known[equation] for equation in equations if equation in known), None)
        if same is not None:
            names[node] = f"{same}[{index}]"
            if given is not None:
                called.setdefault(given, same)
            continue
        wanted = given.name if given is not None else "t"
        name, count = wanted, 2
        while name in taken:
            name, count = f"{wanted}_{count}", count + 1
        taken.add(name)
        if given is not None:
            called.setdefault(given, name)
        known.update(dict.fromkeys(equations, name))
        names[node] = f"{name}[{index}]"
        lines.append(f"{names[node]} = {text}")
    for output in program.outputs:
        index = ", ".join(axis.name for axis in output.axes)
        cast = "" if output.dtype == ELEMENT else f"  ({output.dtype})"
        lines.append(f"{output.name}[{index}] = {show(output.expr, names)}{cast}")
    return lines, called


def _nameless(text: str, axes: list[Axis], inputs: frozenset[str]) -> tuple[object, ...]:
    """The right side of an equation whatever its axes are called, with their extents: what equal equations share."""
    for number, axis in enumerate(axes):
        if axis.name not in inputs:
            text = re.sub(rf"\b{axis.name}\b", f"#{number}", text)
    return (text, *(axis.extent for axis in axes))


class _Printer:
    def __init__(self, names: dict[Expr, str]) -> None:
        self.names = names

    def show(self, expr: Expr, outer: int, *, top: bool = False) -> str:
        if not top and expr in self.names:
            return self.names[expr]
        if isinstance(expr, Const):
            return _number(expr.value)
        if isinstance(expr, Scalar):
            return expr.name
        if isinstance(expr, Iota):
            return expr.axis.name
        if isinstance(expr, Load):
            return f"{expr.tensor.name}[{', '.join(self.show(i, 0) for i in expr.index)}]"
        if isinstance(expr, Reduce):
            inner = self.show(expr.arg, 6)
            sign = _SIGNS.get(expr.op, expr.op)
            return _wrapped(f"{sign}_{expr.axis.name} {inner}", outer > 5)
        if isinstance(expr, Scan):
            inner = self.show(expr.arg, 6)
            sign = _SIGNS.get(expr.op, expr.op)
            name, relation = expr.axis.name, ">=" if expr.reverse else "<="
            if expr.axis in expr.at.axes:
                # the bound axis needs a name of its own
                name, inner = f"{name}'", re.sub(rf"\b{re.escape(name)}\b", f"{name}'", inner)
            return _wrapped(f"{sign}_({name} {relation} {self.show(expr.at, 5)}) {inner}", outer > 4)
        assert isinstance(expr, Map)
        if expr.op == "cast":
            return f"{expr.dtype}({self.show(expr.args[0], 0)})"
        operator = OPS[expr.op]
        if operator.precedence == 0:
            return f"{operator.symbol}({', '.join(self.show(arg, 0) for arg in expr.args)})"
        level = operator.precedence
        if operator.arity == 1:
            return _wrapped(f"{operator.symbol}{self.show(expr.args[0], level)}", outer > level)
        left, right = expr.args
        # a sum reaches as far to the right as it can
        first = max(level, 6) if isinstance(left, Reduce) and level == OPS["add"].precedence else level
        text = f"{self.show(left, first)} {operator.symbol} {self.show(right, level + 1)}"
        return _wrapped(text, outer > level)


def _wrapped(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def _number(value: float | int | bool) -> str:
    if isinstance(value, float) and abs(value) < 1e15 and value == int(value):
        return str(int(value))
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def show_axis(axis: Axis) -> str:
    return f"{axis.name} < {show(axis.extent)}"
