"""Bound axes by what they run along, where one number is the extent of several: 64 rows of 64 features.

Axes are shared by their extents (`flashlight.trace.value.bind`), which is what makes a softmax and its product with the
values one chain. Where rows and features are as many by a constant, one axis comes to run along both, and the same
score over two axes is two scores. Here reductions get one axis if they run along the same dimension of a
tensor, and different ones if not. Renaming a bound axis changes nothing that is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Reduce, Scan, walk
from flashlight.ir.program import Name, Program, rebuilt

Dimension = tuple[Expr, object, int]
"""An extent, and the tensor and the position at which it is read."""


def told_apart(program: Program) -> Program:
    """The program with an axis for each dimension that is reduced over, if one has several axes that have others."""
    nodes = walk(*(output.expr for output in program.outputs))
    binders = [node for node in nodes if isinstance(node, (Reduce, Scan))]
    dimensions = _Dimensions(binders)
    along: dict[Axis, set[Dimension]] = {}
    for node in binders:
        along.setdefault(node.axis, set()).add(dimensions.of(node))
    shared = {axis for axis, found in along.items() if len(found) > 1 and isinstance(axis.extent, Const)}
    if not any(len({axis for axis in shared if one in along[axis]}) > 1 for one in set().union(*along.values())):
        return program
    taken = {axis.name for axis in along} | {axis.name for output in program.outputs for axis in output.axes}
    renaming = _Renaming(program, dimensions, taken)
    outputs = tuple(replace(output, expr=renaming.of(output.expr, {})) for output in program.outputs)
    return replace(program, outputs=outputs, names=renaming.names)


class _Dimensions:
    """The dimensions along which reductions run; those along which one does are the same."""

    def __init__(self, binders: list[Reduce | Scan]) -> None:
        self.same: dict[Dimension, Dimension] = {}
        self.first: dict[Expr, Dimension] = {}
        self.usual: dict[Axis, Dimension] = {}
        """For reductions that read nothing at just their position (but beside it, or nothing at all)."""
        for node in binders:
            found = list(_read(node))
            if not found:
                continue
            self.first[node] = found[0]
            self.usual.setdefault(node.axis, found[0])
            for other in found[1:]:
                self.same[self._root(other)] = self._root(found[0])

    def of(self, node: Reduce | Scan) -> Dimension:
        usual = self.usual.get(node.axis, (node.axis.extent, node.axis, 0))
        return self._root(self.first.get(node, usual))

    def _root(self, dimension: Dimension) -> Dimension:
        while self.same.get(dimension, dimension) != dimension:
            dimension = self.same[dimension]
        return dimension


def _read(node: Reduce | Scan) -> Iterator[Dimension]:
    """Where tensors are read at just the position along the axis that the reduction binds."""
    waiting, seen = [node.arg], {node.arg}
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, Load):
            for position, index in enumerate(inner.index):
                if index is Iota(node.axis):
                    yield node.axis.extent, inner.tensor, position
        for child in inner.children:
            bound = isinstance(inner, (Reduce, Scan)) and inner.axis is node.axis and child is inner.arg
            if child not in seen and node.axis in child.axes and not bound:
                seen.add(child)
                waiting.append(child)


class _Renaming:
    def __init__(self, program: Program, dimensions: _Dimensions, taken: set[str]) -> None:
        self.given = program.names
        self.names: dict[Expr, Name] = {}
        self.dimensions = dimensions
        self.taken = taken
        self.made: dict[tuple[Dimension, int], Axis] = {}
        self.done: dict[tuple[Expr, frozenset[tuple[Axis, Axis]]], Expr] = {}

    def of(self, node: Expr, scope: dict[Axis, Axis]) -> Expr:
        """The expression, where the free axes of ``scope`` are called otherwise."""
        scope = {axis: new for axis, new in scope.items() if axis in node.axes}
        key = (node, frozenset(scope.items()))
        if key in self.done:
            return self.done[key]
        new: Expr
        if isinstance(node, Iota):
            new = Iota(scope.get(node.axis, node.axis))
        elif isinstance(node, (Reduce, Scan)):
            outer = {old: kept for old, kept in scope.items() if old is not node.axis and old in node.arg.axes}
            axis = self._axis(node, outer)
            arg = self.of(node.arg, {**outer, node.axis: axis})
            if isinstance(node, Reduce):
                new = Reduce(node.op, arg, axis)
            else:
                new = Scan(node.op, arg, axis, self.of(node.at, scope), node.reverse)
        else:
            new = rebuilt(node, tuple(self.of(child, scope) for child in node.children))
        if node in self.given:
            self.names.setdefault(new, self.given[node])
        self.done[key] = new
        return new

    def _axis(self, node: Reduce | Scan, outer: dict[Axis, Axis]) -> Axis:
        """The axis of the dimension, the first that what is reduced does not use already."""
        dimension, number = self.dimensions.of(node), 0
        while self.made.get((dimension, number)) in outer.values():
            number += 1
        if (dimension, number) not in self.made:
            name = next(n for n in (f"{node.axis.name}_{count}" for count in range(2, 999)) if n not in self.taken)
            self.taken.add(name)
            self.made[dimension, number] = Axis(name, node.axis.extent)
        return self.made[dimension, number]
