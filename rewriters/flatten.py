"""Flatten: two dimensions that are read as one are one dimension of a view.

    T[..., m // B, m % B, ...]  =  T'[..., m, ...]          where B is the extent of the second and T' = T.flatten(...)

in every place where T is read. Tensors whose dimensions lie densely, as coordinates of points do, flatten without a
copy, and a tile of them is read in vectors where two strides would have it gathered. Row-major order, as in `merge`.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir import build, integers
from flashlight.ir.expr import Expr, Load, Map, Tensor, walk
from flashlight.ir.program import Program, rewrite


def flatten(program: Program) -> Program:
    loads: dict[Tensor, list[Load]] = {}
    for node in walk(*(output.expr for output in program.outputs)):
        if isinstance(node, Load):
            loads.setdefault(node.tensor, []).append(node)
    views: dict[Tensor, tuple[Tensor, int]] = {}
    for tensor, reads in loads.items():
        for place in range(len(tensor.shape) - 1):
            if all(_whole(read, place) is not None for read in reads):
                size = integers.mul(tensor.shape[place], tensor.shape[place + 1])
                shape = (*tensor.shape[:place], size, *tensor.shape[place + 2 :])
                views[tensor] = (replace(tensor, shape=shape), place)
                break

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Load) and node.tensor in views):
            return node
        view, place = views[node.tensor]
        whole = _whole(node, place)
        assert whole is not None
        return build.load(view, (*node.index[:place], whole, *node.index[place + 2 :]))

    if not views:
        return program
    inputs = tuple(views[tensor][0] if tensor in views else tensor for tensor in program.inputs)
    return replace(rewrite(program, rule), inputs=inputs)


def _whole(load: Load, place: int) -> Expr | None:
    """``m`` where the dimension and the next are read at ``m // B`` and ``m % B``, B being the extent of the next."""
    first, second = load.index[place : place + 2]
    if not (isinstance(first, Map) and isinstance(second, Map) and (first.op, second.op) == ("floordiv", "mod")):
        return None
    same = first.args == second.args and first.args[1] is load.tensor.shape[place + 1]
    return first.args[0] if same else None
