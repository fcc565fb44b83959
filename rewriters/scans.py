"""Scans: a cumulative sum along an axis, however it is written, is one from an end up to and including a position.

    sum_(s <= E-1-j) f(s)               =  sum_(s >= j) f(E-1-s)              flip, cumsum, flip
    sum_s f(s)  -  sum_(s <= j) f(s)    =  sum_(s >= j) f(s)  -  f(j)         the total without a prefix
    sum_s where(s > j, f(s), 0)         =  sum_(s >= j) f(s)  -  f(j)         a product with a triangular matrix

for s and j that run over E positions, likewise with the two ends exchanged. A sum from one end needs no total: what is
carried along the axis is all it needs, so that one trip over the keys in that direction suffices.

A triangular matrix is taken for a scan only between two axes that are both summed over: a causal mask, whose j is a
row of the output, stays a mask. Terms f(s) are taken to be finite: an infinite one gives NaN in PyTorch too, by the
difference or by the product with zero (docs/semantics.md). Blelloch, Prefix Sums and Their Applications (1990).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flashlight.ir import build, integers
from flashlight.ir.expr import Axis, Expr, Iota, Map, Reduce, Scan, is_float, walk
from flashlight.ir.program import Name, Program, is_const, rewrite, substitute, substituted_names, with_names


class Term(NamedTuple):
    """A term of a sum; not ``positive`` where it is subtracted."""

    value: Expr
    positive: bool


def scans(program: Program) -> Program:
    nodes = list(walk(*(output.expr for output in program.outputs)))
    kept = {axis for output in program.outputs for axis in output.axes}
    summed = {node.axis for node in nodes if isinstance(node, Reduce)} - kept

    names: dict[Expr, Name] = {}

    def rule(node: Expr) -> Expr:
        if isinstance(node, Scan):
            return _forward(node, program, names)
        if isinstance(node, Reduce) and node.op == "sum" and is_float(node):
            return _triangular(node, summed)
        if isinstance(node, Map) and node.op in ("add", "sub") and is_float(node):
            return _without_total(node)
        return node

    return with_names(rewrite(program, rule), names)


def _forward(node: Scan, program: Program, names: dict[Expr, Name]) -> Scan:
    """The scan with a bound that grows with its position: one that falls counts from the other end."""
    terms = integers.polynomial(node.at)
    falling = [axis for axis in node.at.axes if terms.get((Iota(axis),), 0) < 0]
    if not falling:
        return node

    def mirrored(position: Expr) -> Expr:
        return integers.sub(integers.sub(node.axis.extent, build.integer(1)), position)

    values: dict[Expr, Expr] = {Iota(node.axis): mirrored(Iota(node.axis))}
    names.update(substituted_names(program.names, node.arg, values))
    return Scan(node.op, substitute(node.arg, values), node.axis, mirrored(node.at), not node.reverse)


def _exclusive(arg: Expr, axis: Axis, place: Axis, reverse: bool) -> Expr:
    """The sum of ``arg`` over the positions before the one along ``place``; after it, if ``reverse``."""
    own = substitute(arg, {Iota(axis): Iota(place)})
    return build.op("sub", build.scan("sum", arg, axis, Iota(place), reverse), own, dtype=arg.dtype)


def _without_total(node: Map) -> Expr:
    """A sum with a total and, subtracted, a prefix of it: the scan from the other end."""
    terms = _terms(node, True)
    for scan, positive in terms:
        if not (isinstance(scan, Scan) and scan.op == "sum" and isinstance(scan.at, Iota)):
            continue
        for total in terms:
            if total.positive == positive or not _is_total(total.value, scan):
                continue
            rest = [term for term in terms if term is not total and term.value is not scan]
            left = _exclusive(scan.arg, scan.axis, scan.at.axis, not scan.reverse)
            return _sum([*rest, *_terms(left, total.positive)], node.dtype)
        own = substitute(scan.arg, {Iota(scan.axis): scan.at})
        if Term(own, True) in terms and Term(own, False) in terms:
            return _sum(terms, node.dtype)
    return node


def _is_total(value: Expr, scan: Scan) -> bool:
    if not (isinstance(value, Reduce) and value.op == "sum" and value.axis.extent is scan.axis.extent):
        return False
    return substitute(scan.arg, {Iota(scan.axis): Iota(value.axis)}) is value.arg


def _terms(expr: Expr, positive: bool) -> list[Term]:
    if isinstance(expr, Map) and expr.op in ("add", "sub") and is_float(expr):
        return _terms(expr.args[0], positive) + _terms(expr.args[1], positive == (expr.op == "add"))
    return [Term(expr, positive)]


def _sum(terms: list[Term], dtype: str) -> Expr:
    """The sum of the terms, of which some is a scan; a term that is both added and subtracted is left out."""
    for term in terms:
        opposite = Term(term.value, not term.positive)
        if opposite in terms:
            terms = list(terms)
            terms.remove(term)
            terms.remove(opposite)
            return _sum(terms, dtype)
    first = next((term for term in terms if term.positive), terms[0])
    result = first.value if first.positive else build.op("neg", first.value, dtype=dtype)
    for term in terms:
        if term is not first:
            result = build.op("add" if term.positive else "sub", result, term.value, dtype=dtype)
    return result


def _triangular(node: Reduce, summed: set[Axis]) -> Expr:
    """A sum over what a comparison of two positions leaves, as a scan along the axis."""
    found = _selected(node.arg, lambda condition: _relation(condition, node.axis, summed))
    if found is None:
        return node
    (place, reverse, exclusive), body = found
    if place in body.axes:
        return node
    if exclusive:
        return _exclusive(body, node.axis, place, reverse)
    return build.scan("sum", body, node.axis, Iota(place), reverse)


Relation = tuple[Axis, bool, bool]


def _selected(body: Expr, relation: Callable[[Expr], Relation | None]) -> tuple[Relation, Expr] | None:
    """``(r, f)`` where the body is f where r holds and 0 elsewhere: a selection, perhaps times a factor or rounded."""
    if not isinstance(body, Map):
        return None
    if body.op == "where" and is_const(body.args[2], 0.0):
        condition, value, zero = body.args
        parts = _conjuncts(condition)
        for part in parts:
            found = relation(part)
            if found is not None:
                for other in parts:
                    value = value if other is part else build.where(other, value, zero)
                return found, value
        return None
    if body.op == "cast" and is_float(body.args[0]):
        inner = _selected(body.args[0], relation)
        return inner and (inner[0], build.cast(inner[1], body.dtype))
    if body.op == "mul":
        for position, factor in enumerate(body.args):
            inner = _selected(factor, relation)
            if inner is not None:
                return inner[0], build.op("mul", inner[1], body.args[1 - position], dtype=body.dtype)
    return None


def _conjuncts(condition: Expr) -> list[Expr]:
    if isinstance(condition, Map) and condition.op == "and":
        return [part for arg in condition.args for part in _conjuncts(arg)]
    return [condition]


def _relation(condition: Expr, axis: Axis, summed: set[Axis]) -> Relation | None:
    """The condition as ``s <= j`` or ``s < j`` (or the reverse) for the axis s and another one that is summed over."""
    if not (isinstance(condition, Map) and condition.op in ("lt", "le", "gt", "ge")):
        return None
    left, right = condition.args
    if condition.op in ("gt", "ge"):
        left, right = right, left
    # left <= right, or left < right: how far apart they are at s = j
    difference = integers.polynomial(integers.sub(left, right))
    slack = difference.pop((), 0) + (1 if condition.op in ("lt", "gt") else 0)
    place = next((other for other in condition.axes if other is not axis), None)
    own = difference.get((Iota(axis),), 0)
    if place is None or place not in summed or place.extent is not axis.extent or slack not in (0, 1):
        return None
    if len(difference) != 2 or abs(own) != 1 or difference.get((Iota(place),), 0) != -own:
        return None
    return place, own < 0, slack == 1
