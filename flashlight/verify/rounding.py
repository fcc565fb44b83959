"""PyTorch in float64 of which every result is one that float32 can hold: one of the nearest, by chance.

What such a run gives is what some algorithm in float32 could have given for the same operations, and how far it lies
from the run without is how far the program's own roundings carry. Moving the inputs does not show that:
`1e5 * (x - 1)` rounds x to a multiple of 6e-8 however small it is. (Stochastic rounding; D. Stott Parker, Monte Carlo
Arithmetic, 1997.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from flashlight.modes import Uncompiled


class Rounded(Uncompiled, TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """The mode in which results are rounded to float32, up or down as ``seed`` has it (`rounded`).

    Also those that are float32 because the program says so, as `.float()` does: they are computed in float64 first.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        exact: Any = None
        if func._schema.is_mutable and _is_single(args[0]):
            exact = self._in_double(func, args, kwargs)  # before the numbers change in place
        result = func(*args, **kwargs)
        if exact is None and any(map(_is_single, tree_leaves(result))) and not func.is_view:
            exact = self._in_double(func, args, kwargs)
        for tensor, numbers in zip(tree_leaves(result), tree_leaves(result if exact is None else exact), strict=True):
            if isinstance(tensor, torch.Tensor) and tensor.dtype in (torch.float32, torch.float64):
                stored = rounded(numbers.double(), self._generator(tensor.device))
                if not torch.equal(stored.nan_to_num(), tensor.double().nan_to_num()):  # a view has nothing to round
                    tensor.copy_(stored)
        return result

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]

    @staticmethod
    def _in_double(func: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = tree_map(_doubled, (args, kwargs))
        return func(*args, **kwargs)


def _is_single(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _doubled(value: Any) -> Any:
    return value.double() if _is_single(value) else torch.float64 if value is torch.float32 else value


def rounded(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each number as it is where float32 holds it or cannot reach it; else moved by up to eps and rounded to float32.

    Rounding alone moves by eps/2. The rest is for algorithms that compute with a multiple of the number: log2(e) times
    as much, for exp2 in place of exp, may lie where neighbours are twice as far apart.
    """
    chance = torch.rand(tensor.shape, generator=generator, device=generator.device, dtype=torch.float64)
    by = (chance.to(tensor.device) * 2 - 1).mul_(torch.finfo(torch.float32).eps).add_(1)
    stored = by.mul_(tensor).float().double()
    return torch.where((tensor.float() == tensor) | ~stored.isfinite(), tensor, stored)
