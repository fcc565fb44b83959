"""Peel: a reduction over concatenated columns is combined from its parts.

    R_(j < E + c) f(j)  =  R_(j < E) f(j)  (+)  f(E)  (+) ... (+)  f(E + c - 1)

for a sum, maximum or minimum R with its operation (+), where f selects by ``j < E`` and c is a small number that is
known. Attention sinks, one more column of scores, become a term of the denominator, and the keys stay E in number.
Associativity of the operation; where the columns end is read off the condition, not off a concatenation.
"""

from __future__ import annotations

from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Const, Expr, Iota, Map, Reduce, walk
from flashlight.ir.program import Program, rewrite, substitute

FEW = 4
_COMBINED = {"sum": "add", "max": "maximum", "min": "minimum"}


def peel(program: Program) -> Program:
    nodes = list(walk(*(output.expr for output in program.outputs)))
    axes = dict.fromkeys(node.axis for node in nodes if isinstance(node, Reduce))

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Reduce) and node.op in _COMBINED):
            return node
        position = Iota(node.axis)
        for condition in walk(node.arg):
            if not (isinstance(condition, Map) and condition.op == "lt" and condition.args[0] is position):
                continue
            rest = integers.sub(node.axis.extent, condition.args[1])
            if not (isinstance(rest, Const) and 0 < rest.value <= FEW):
                continue
            start = condition.args[1]
            axis = next((a for a in axes if a.extent is start and a not in node.arg.axes), None)
            axis = axis or Axis(f"{node.axis.name}_kept", start)
            kept = substitute(substitute(node.arg, {condition: build.true()}), {position: Iota(axis)})
            result: Expr = rule(build.reduce(node.op, kept, axis))
            for number in range(int(rest.value)):
                last = substitute(node.arg, {position: integers.add(start, build.integer(number))})
                result = build.op(_COMBINED[node.op], result, last, dtype=node.dtype)
            return result
        return node

    return rewrite(program, rule)
