"""Peel: a reduction over concatenated columns is combined from its parts.

    R_(j < E + c) f(j)  =  R_(j < E) f(j)  (+)  f(E)  (+) ... (+)  f(E + c - 1)
    R_(j < c + E) f(j)  =  f(0)  (+) ... (+)  f(c - 1)  (+)  R_(j < E) f(j + c)

for a sum, maximum or minimum R with its operation (+), where f selects by ``j < E`` or by ``j < c`` and c is a small
number that is known. Attention sinks, one more column of scores, become a term of the denominator, a learned key and
value in front of the others a term of either sum, and the keys stay E in number.

    sum_(d < D + R) f(d)  =  sum_(d < D) f(d)  +  sum_(d < R) f(d + D)

where f holds sums that do not depend on d: features of which some were normalised before others were joined to them.
Each part is then a product that its norm can leave.
Associativity of the operation; where the columns end is read off the condition, not off a concatenation.
"""

from __future__ import annotations

from typing import TypeGuard

from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Const, Expr, Iota, Map, Reduce, Scan, walk
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
        conditions = [one for one in walk(node.arg) if isinstance(one, Map) and one.op in ("lt", "ge")]
        conditions = [condition for condition in conditions if condition.args[0] is position]
        for condition in conditions:
            bound = condition.args[1]
            rest = integers.sub(node.axis.extent, bound)
            if not (integers.known_size(bound) and integers.known_size(rest)):
                continue  # of S keys, the first four may be all
            less, more = (build.true(), build.false()) if condition.op == "lt" else (build.false(), build.true())
            below, above = (less, build.integer(0), bound), (more, bound, rest)
            if _is_few(rest):
                columns = [integers.add(bound, build.integer(number)) for number in range(int(rest.value))]
                result = rule(part(node, condition, *below))
            elif _is_few(bound):
                columns = [build.integer(number) for number in range(int(bound.value))]
                result = rule(part(node, condition, *above))
            elif len(conditions) == 1 and node.op == "sum" and _has_settled_sums(node):
                return build.op("add", *(part(node, condition, *one) for one in (below, above)), dtype=node.dtype)
            else:
                continue
            for column in columns:
                one = _decided(substitute(node.arg, {position: column}))
                result = build.op(_COMBINED[node.op], result, one, dtype=node.dtype)
            return result
        return node

    def part(node: Reduce, condition: Expr, holds: Expr, first: Expr, extent: Expr) -> Expr:
        """The reduction over so many positions from ``first`` on, where it is known whether the condition holds."""
        axis = next((a for a in axes if a.extent is extent and a not in node.arg.axes), None)
        axis = axis or Axis(f"{node.axis.name}_kept", extent)
        moved: dict[Expr, Expr] = {Iota(node.axis): integers.add(Iota(axis), first)}
        selected = substitute(node.arg, {condition: holds})
        names.update(substituted_names(names, selected, moved))
        return build.reduce(node.op, _decided(substitute(selected, moved)), axis)

    return with_names(rewrite(program, rule), names)


def _has_settled_sums(node: Reduce) -> bool:
    """Whether it holds reductions, none of which is along its axis or depends on the position there."""
    below = [inner for inner in walk(node.arg) if isinstance(inner, (Reduce, Scan))]
    own = (inner.axis.extent is node.axis.extent or node.axis in inner.axes for inner in below)
    return bool(below) and not any(own)


def _decided(expr: Expr) -> Expr:
    """The expression without conditions that the extents of its axes decide."""
    conditions = {node: integers.simplified(node) for node in walk(expr)}
    return substitute(expr, {node: value for node, value in conditions.items() if value is not node})


def _is_few(size: Expr) -> TypeGuard[Const]:
    return isinstance(size, Const) and 0 < size.value <= FEW
