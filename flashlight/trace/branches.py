"""Decisions of the user's code that make no difference to the program need not be assumed.

``if n_rep == 1: return hidden`` is a short cut: with one head a group, repeating heads changes nothing. The trace goes
one way; a second trace, with the sizes tied so that it goes the other way, shows whether the programs are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build
from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, Scan, Tensor, walk
from flashlight.ir.program import Output, Program, rebuilt
from flashlight.trace.traced import Traced


def discharged(traced: Traced, again: Callable[[Mapping[str, Expr]], Traced]) -> Traced:
    """``traced`` without the assumptions whose opposite gives the same program.

    ``again`` traces with some sizes and numbers, by name, replaced by others.
    """
    program = traced.program
    for condition in traced.program.assumptions:
        tie = _opposite(condition)
        if tie is not None:
            # what follows must not rely on this condition any more
            weaker = replace(program, assumptions=tuple(c for c in program.assumptions if c is not condition))
            if _same_program(weaker, again, tie):
                program = weaker
    return replace(traced, program=program)


def _opposite(condition: Expr) -> tuple[Scalar, Expr] | None:
    """A replacement under which the condition, which says that two numbers differ, fails."""
    if not (isinstance(condition, Map) and condition.op in ("ne", "gt", "lt")):
        return None
    left, right = condition.args if condition.op != "lt" else condition.args[::-1]
    one = isinstance(right, Const) and right.value == 1
    if condition.op != "ne" and not one:
        return None
    if one and isinstance(left, Map) and left.op == "floordiv" and isinstance(left.args[1], Scalar):
        # heads // key_heads is not 1; where it is, and one divides the other, they are equal
        return left.args[1], left.args[0]
    for scalar, other in ((right, left), (left, right)):
        if isinstance(scalar, Scalar) and isinstance(other, (Scalar, Const)):
            return scalar, other
    return None


def _same_program(program: Program, again: Callable[[Mapping[str, Expr]], Traced], tie: tuple[Scalar, Expr]) -> bool:
    values: dict[Scalar, Expr] = dict([tie])
    # what was assumed may tie other sizes in turn: H == H_kv * n_rep does for n_rep = 1
    for condition in program.assumptions:
        inner = _replaced(condition, values)
        if isinstance(inner, Map) and inner.op == "eq" and all(isinstance(arg, Scalar) for arg in inner.args):
            kept, dropped = inner.args
            assert isinstance(dropped, Scalar)
            values[dropped] = kept
    try:
        second = again({scalar.name: other for scalar, other in values.items()}).program
    except Diagnostic:
        return False
    first = [_specialised(output, values) for output in program.outputs]
    assumed = {_replaced(condition, values) for condition in program.assumptions}
    return first == list(second.outputs) and set(second.assumptions) <= assumed


Values = Mapping[Scalar, Expr]


def _specialised(output: Output, values: Values) -> Output:
    axes = tuple(_axis(axis, values) for axis in output.axes)
    return replace(output, expr=_replaced(output.expr, values), axes=axes)


def _axis(axis: Axis, values: Values) -> Axis:
    return Axis(axis.name, _replaced(axis.extent, values))


def _replaced(root: Expr, values: Values) -> Expr:
    """The expression with numbers replaced by others, in extents and shapes as well."""
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        children = tuple(done[child] for child in node.children)
        if isinstance(node, Scalar):
            done[node] = values.get(node, node)
        elif isinstance(node, Iota):
            done[node] = build.iota(_axis(node.axis, values))
        elif isinstance(node, Load):
            shape = tuple(_replaced(size, values) for size in node.tensor.shape)
            done[node] = build.load(Tensor(node.tensor.name, shape, node.tensor.dtype), children)
        elif isinstance(node, Reduce):
            done[node] = build.reduce(node.op, children[0], _axis(node.axis, values))
        elif isinstance(node, Scan):
            done[node] = build.scan(node.op, children[0], _axis(node.axis, values), children[1], node.reverse)
        else:
            done[node] = rebuilt(node, children)
    return done[root]
