"""Guesses which functions of a file compute attention, for when the user names none."""

from __future__ import annotations

import libcst as cst

from flashlight.source.model import Source, Target
from flashlight.source.shapes import stated

NORMALISERS = frozenset({"softmax", "Softmax", "log_softmax", "logsumexp", "sigmoid", "exp"})
PRODUCTS = frozenset({"matmul", "bmm", "baddbmm", "einsum", "mm", "dot", "inner", "linear"})
WHOLE = frozenset({"scaled_dot_product_attention", "flex_attention"})


def chosen(source: Source) -> list[Target]:
    """The public functions that contain attention; not those that are only parts of others: called, and of no shape."""
    return [
        target
        for target in source.targets
        if contains_attention(source, target) and (states_shapes(source, target) or not _is_called(source, target))
    ]


def states_shapes(source: Source, target: Target) -> bool:
    """Whether the function states a shape of a parameter; that q, k and v have theirs by convention does not count."""
    shapes = [stated(parameter, {}, source.path) for parameter in target.parameters]
    return any(shape is not None and not getattr(shape, "conventional", False) for shape in shapes)


def _is_called(source: Source, target: Target) -> bool:
    """Whether another function of the file has the name of this one in it."""
    for function in source.functions:
        if function is not target:
            found = _Words()
            function.node.body.visit(found)
            if target.name in found.words:
                return True
    return False


def contains_attention(source: Source, target: Target) -> bool:
    """Whether the function, or a helper of the same file that it calls, holds SDPA, a softmax or two products."""
    helpers = {function.name: function for function in source.functions}
    seen: set[str] = set()
    waiting = [target]
    whole = normalises = False
    products = 0
    while waiting:
        function = waiting.pop()
        if function.name in seen:
            continue
        seen.add(function.name)
        found = _Words()
        function.node.body.visit(found)
        whole |= bool(found.words & WHOLE)
        normalises |= bool(found.words & NORMALISERS)
        products += found.products
        waiting += [helpers[word] for word in sorted(found.words) if word in helpers]
    return whole or products >= 2 or (normalises and products >= 1)


class _Words(cst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.words: set[str] = set()
        self.products = 0

    def visit_Name(self, node: cst.Name) -> None:
        self.words.add(node.value)
        self.products += node.value in PRODUCTS

    def visit_MatrixMultiply(self, node: cst.MatrixMultiply) -> None:
        self.products += 1
