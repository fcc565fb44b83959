"""Peel: a reduction over concatenated columns is combined from its parts.

    R_(j < E + c) f(j)  =  R_(j < E) f(j)  (+)  f(E)  (+) ... (+)  f(E + c - 1)
    R_(j < c + E) f(j)  =  f(0)  (+) ... (+)  f(c - 1)  (+)  R_(j < E) f(j + c)

for a sum, maximum or minimum R with its operation (+), where f selects by ``j < E`` or by ``j < c`` and c is a small
number that is known. Attention sinks, one more column of scores, become a term of the denominator, a learned key and
value in front of the others a term of either sum, and the keys stay E in number.
Associativity of the operation; where the columns end is read off the condition, not off a concatenation.
"""

from __future__ import annotations

from typing import TypeGuard

from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Const, Expr, Iota, Map, Reduce, walk
from flashlight.ir.program import Program, rewrite, substitute, substituted_names, with_names

FEW = 4
_COMBINED = {"sum": "add", "max": "maximum", "min": "minimum"}


def peel(program: Program) -> Program:
    nodes = list(walk(*(output.expr for output in program.outputs)))
    axes = dict.fromkeys(node.axis for node in nodes if isinstance(node, Reduce))
    names = dict(program.names)

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Reduce) and node.op in _COMBINED):
            return node
        position = Iota(node.axis)
        for condition in walk(node.arg):
            if not (isinstance(condition, Map) and condition.op == "lt" and condition.args[0] is position):
                continue
            bound = condition.args[1]
            rest = integers.sub(node.axis.extent, bound)
            if _is_few(rest):
                kept, first, extent = build.true(), build.integer(0), bound
                columns = [integers.add(bound, build.integer(number)) for number in range(int(rest.value))]
            elif _is_few(bound):
                kept, first, extent = build.false(), bound, rest
                columns = [build.integer(number) for number in range(int(bound.value))]
            else:
                continue
            axis = next((a for a in axes if a.extent is extent and a not in node.arg.axes), None)
            axis = axis or Axis(f"{node.axis.name}_kept", extent)
            moved: dict[Expr, Expr] = {position: integers.add(Iota(axis), first)}
            selected = substitute(node.arg, {condition: kept})
            names.update(substituted_names(names, selected, moved))
            result: Expr = rule(build.reduce(node.op, _decided(substitute(selected, moved)), axis))
            for column in columns:
                one = _decided(substitute(node.arg, {position: column}))
                result = build.op(_COMBINED[node.op], result, one, dtype=node.dtype)
            return result
        return node

    return with_names(rewrite(program, rule), names)


def _decided(expr: Expr) -> Expr:
    """The expression without conditions that the extents of its axes decide."""
    conditions = {node: integers.simplified(node) for node in walk(expr)}
    return substitute(expr, {node: value for node, value in conditions.items() if value is not node})


def _is_few(size: Expr) -> TypeGuard[Const]:
    return isinstance(size, Const) and 0 < size.value <= FEW
