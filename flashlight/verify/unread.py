"""PyTorch for which nothing counts that a mask hides: zero times anything is zero, and -inf plus anything is -inf.

Eager PyTorch reads what it then weighs by zero, and there 0 * NaN, 0 * inf, NaN + -inf and inf + -inf are NaN. A kernel
need not visit what a mask hides (docs/semantics.md). The original under `Unread` says what such a kernel gives.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flashlight.modes import Uncompiled

aten = torch.ops.aten


class Unread(Uncompiled, TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """The mode in which products and sums are those of this module."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        if packet in (aten.mm, aten.bmm, aten.mv, aten.dot):
            return product(*args)
        if packet in (aten.addmm, aten.baddbmm):
            return _added_product(*args, **kwargs)
        floating = all(isinstance(arg, torch.Tensor) and arg.is_floating_point() for arg in args[:2])
        if floating and len(args) == 2 and not kwargs.get("out"):
            left, right = args
            result = func(left.clone() if func._schema.is_mutable else left, right, **kwargs)
            if packet in (aten.add, aten.add_) and kwargs.get("alpha", 1) == 1:
                result = result.masked_fill(left.isneginf() | right.isneginf(), float("-inf"))
            elif packet in (aten.mul, aten.mul_):
                result = result.masked_fill((left == 0) | (right == 0), 0.0)
            else:
                return func(*args, **kwargs)
            return left.copy_(result) if func._schema.is_mutable else result
        return func(*args, **kwargs)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The matrix product of which zeros annihilate what is not finite."""
    finite = left.masked_fill(~left.isfinite(), 0.0) @ right.masked_fill(~right.isfinite(), 0.0)
    if left.isfinite().all() and right.isfinite().all():
        return finite

    def meets(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return one.to(finite.dtype) @ other.to(finite.dtype) > 0

    nan = meets(left.isnan(), right != 0) | meets(left != 0, right.isnan())
    up = meets(left.isposinf(), right > 0) | meets(left.isneginf(), right < 0)
    up |= meets(left > 0, right.isposinf()) | meets(left < 0, right.isneginf())
    down = meets(left.isposinf(), right < 0) | meets(left.isneginf(), right > 0)
    down |= meets(left < 0, right.isposinf()) | meets(left > 0, right.isneginf())
    result = finite.masked_fill(up, float("inf")).masked_fill(down, float("-inf"))
    return result.masked_fill(nan | (up & down), float("nan"))


def _added_product(
    self: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    result = alpha * product(left, right)
    if beta == 0:
        return result
    hidden = (self.isneginf() | result.isneginf()).expand(result.shape)
    return (beta * self + result).masked_fill(hidden, float("-inf"))
