"""Inputs for a traced target, drawn with hypothesis: sizes, numbers, dtypes, strides and values.

What hypothesis draws is a `Case`: a small printable description. `build` makes the tensors from it, so that a failing
case shrinks to one that a person can read and repeat. Benchmarks and tests can also make a `Case` by hand.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st

from flashlight.ir.evaluate import evaluate_expr
from flashlight.ir.expr import BOOL, ELEMENT, FLOATS, Const, Expr, Iota, Load, Map, Reduce, Scalar, Tensor, walk
from flashlight.trace.traced import Parameter, Traced
from rewriters.base2 import added_loads

LAYOUTS = ("contiguous", "swapped", "columns", "gaps")
"""How a tensor lies in memory: dense; dimensions 1 and 2 swapped, as a [B, S, H, D] view; the last two swapped;
a slice with gaps in every dimension."""

VALUES = ("normal", "large", "infinities", "lowest", "special")
"""What floats hold: normal; normal times 8; normal with many -inf (a mask's numbers);
normal with many of the lowest number, whole rows too (likewise); normal with a few NaN and inf."""


@dataclass(frozen=True)
class Ranges:
    """The sizes, dtypes and layouts to draw from, the simplest first: hypothesis shrinks towards the front."""

    batch: tuple[int, ...] = (1, 2, 3, 0)
    heads: tuple[int, ...] = (1, 2, 3, 4, 6)
    length: tuple[int, ...] = (1, 2, 3, 17, 33, 64, 65, 70, 31, 128, 0)
    head_dim: tuple[int, ...] = (16, 32, 64, 80, 24, 96, 17)
    largest: int = 2**20
    """The most elements of an input, and of what eager makes of them, such as the scores."""
    dtype: tuple[str, ...] = ("float32", "float16", "bfloat16")
    layout: tuple[str, ...] = LAYOUTS
    broadcast: bool = True
    """Whether a dimension that may be 1 is at times, and leading ones are missing."""


SMALL = Ranges()
"""For Triton's interpreter, where a tile takes milliseconds."""

LARGE = Ranges(
    batch=(1, 2, 3),
    heads=(1, 2, 3, 4, 6, 8),
    length=(1, 17, 127, 128, 129, 300, 513, 1000, 1024, 2047),
    head_dim=(16, 32, 64, 80, 96, 128, 256, 40),
    largest=2**28,
)
"""For a GPU: 2 GiB in float64."""


HOPPER = Ranges(
    batch=(1, 2, 3),
    length=(8, 24, 64, 72, 136, 200, 264, 17, 129),
    head_dim=(16, 32, 64, 80, 24),
    dtype=("bfloat16", "float16"),
    layout=("contiguous", "swapped"),
    broadcast=False,
)
"""For Hopper kernels on a CPU: mostly what the copy engine can read, rows of whole 16 bytes."""


@dataclass(frozen=True)
class Drawn:
    """How one tensor is made; ``ones`` are broadcast dimensions of size 1, ``dropped`` missing leading dimensions."""

    layout: str = "contiguous"
    values: str = "normal"
    ones: tuple[int, ...] = ()
    dropped: int = 0


@dataclass(frozen=True)
class Case:
    """One set of inputs: ``numbers`` holds every size and every int or float parameter by name."""

    numbers: Mapping[str, int | float]
    dtype: str
    tensors: Mapping[str, Drawn]
    seed: int

    def __str__(self) -> str:
        numbers = ", ".join(f"{name}={value}" for name, value in self.numbers.items())
        plain = Drawn()
        tensors = "".join(f"\n  {name}: {drawn}" for name, drawn in self.tensors.items() if drawn != plain)
        return f"{numbers}, {self.dtype}, seed {self.seed}{tensors}"


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


def cases(traced: Traced, ranges: Ranges = SMALL) -> st.SearchStrategy[Case]:
    """Cases that satisfy what the trace assumed of sizes and numbers."""
    kinds = size_kinds(traced)
    names = {name: st.sampled_from(getattr(ranges, kind)) for name, kind in kinds.items()}
    scalars = {p.scalar.name: _number(p.scalar) for p in traced.parameters if p.scalar and p.scalar.name not in names}
    nodes = list(walk(*(output.expr for output in traced.program.outputs)))
    reductions = [node for node in nodes if isinstance(node, Reduce)]
    given = {p.tensor.shape for p in traced.parameters if p.tensor is not None}
    made = given | {tuple(axis.extent for axis in node.axes) for node in reductions}

    def elements(shape: Sequence[Expr], drawn: Mapping[str, int | float]) -> int:
        return math.prod(evaluate(size, drawn) for size in shape)

    def drawable(drawn: Mapping[str, int | float]) -> bool:
        if not admissible(traced, drawn) or any(elements(shape, drawn) > ranges.largest for shape in made):
            return False
        # a slice may leave no keys, and then there is no kernel; what is empty as it is given is left to the original
        empty = any(elements(shape, drawn) == 0 for shape in given)
        return empty or all(evaluate(node.axis.extent, drawn) >= 1 for node in reductions)

    numbers = st.fixed_dictionaries({**names, **scalars}).filter(drawable)
    masks = {
        load.tensor
        for node in nodes
        if isinstance(node, Map) and node.op == "exp"
        for load in added_loads(node.args[0])
    }
    tensors = {
        key(p): _drawn(p, _is_operand(p, kinds), p.tensor in masks, ranges)
        for p in traced.parameters
        if p.tensor is not None
    }
    return st.builds(
        Case,
        numbers=numbers,
        dtype=st.sampled_from(ranges.dtype),
        tensors=st.fixed_dictionaries(tensors),
        seed=st.integers(0, 2**16),
    )


def admissible(traced: Traced, numbers: Mapping[str, int | float]) -> bool:
    """Whether every assumption of the trace holds and every size comes out whole."""
    try:
        shapes = [evaluate(size, numbers) for p in traced.parameters if p.tensor for size in p.tensor.shape]
        return min(shapes, default=0) >= 0 and all(evaluate(a, numbers) for a in traced.program.assumptions)
    except (ZeroDivisionError, RuntimeError):
        return False  # division by a size of 0


def key(parameter: Parameter) -> str:
    """The name of a parameter, with its position where it is an item of a list."""
    return parameter.name if parameter.item is None else f"{parameter.name}[{parameter.item}]"


def evaluate(expr: Expr, numbers: Mapping[str, int | float]) -> int:
    """A size or an assumption as a number."""
    return int(evaluate_expr(expr, {}, numbers).item())


def size_kinds(traced: Traced) -> dict[str, str]:
    """For each size in the tensors' shapes, the range it is drawn from: a field of `Ranges`.

    The last dimension of a floating-point tensor of rank 3 or more is a head dimension unless it is elsewhere another
    dimension too (keys in a mask, say); the first of rank 3 or more is the batch; one between them is a length
    if it is next to last, and heads otherwise, as is the number of points whose coordinates are the last dimension.
    Names that people use for one kind of size come first.
    """
    given = {p.scalar.name for p in traced.parameters if p.scalar is not None and not p.scalar.positive}
    kinds: dict[str, str] = {}
    tensors = [p.tensor for p in traced.parameters if p.tensor is not None]
    inner = {size for tensor in tensors for size in tensor.shape[:-1]}
    for tensor in sorted(tensors, key=lambda tensor: (tensor.dtype != ELEMENT, -len(tensor.shape))):
        rank = len(tensor.shape)
        for dim, size in enumerate(tensor.shape):
            for scalar in (node for node in walk(size) if isinstance(node, Scalar) and node.name not in given):
                counts = dim == rank - 2 and isinstance(tensor.shape[-1], Const)
                kinds.setdefault(scalar.name, _named(scalar.name) or _placed(dim, rank, size in inner, counts))
    used = {node.name for a in traced.program.assumptions for node in walk(a) if isinstance(node, Scalar)}
    for name in sorted(used - given - set(kinds)):
        kinds[name] = _named(name) or "length"
    return kinds


def _named(name: str) -> str | None:
    known = {"B": "batch", "N": "length", "H": "heads", "S": "length", "L": "length", "T": "length", "D": "head_dim"}
    return known.get(name.split("_")[0])


def _placed(dim: int, rank: int, elsewhere: bool, counts: bool) -> str:
    if rank >= 3 and dim == rank - 1 and not elsewhere:
        return "head_dim"
    if rank >= 3 and dim == 0:
        return "batch"
    return "heads" if rank >= 4 and (dim < rank - 2 or counts) else "length"


def _number(scalar: Scalar) -> st.SearchStrategy[int | float]:
    if scalar.dtype in FLOATS:
        return st.sampled_from((1.0, 0.125, 0.3, 5.0, 30.0, -0.5))
    return st.sampled_from((1, 2, 3, 16, 33, 1000, 0, -2))


def _is_operand(parameter: Parameter, kinds: Mapping[str, str]) -> bool:
    """Whether the tensor holds vectors, as query, key and value do, rather than a number for each score."""
    last = parameter.tensor.shape[-1] if parameter.tensor is not None and parameter.tensor.shape else None
    return isinstance(last, Scalar) and kinds.get(last.name) == "head_dim"


def _is_projection(tensor: Tensor, kinds: Mapping[str, str]) -> bool:
    """Whether a tensor has no dimension that is a batch or a length: a matrix that features are multiplied by."""
    sizes = {kinds.get(node.name) for size in tensor.shape for node in walk(size) if isinstance(node, Scalar)}
    return tensor.dtype in FLOATS and len(tensor.shape) >= 2 and sizes <= {"head_dim", "heads"}


def _drawn(parameter: Parameter, operand: bool, added: bool, ranges: Ranges) -> st.SearchStrategy[Drawn]:
    tensor = parameter.tensor
    assert tensor is not None
    rank = len(tensor.shape)
    values: tuple[str, ...] = VALUES if tensor.dtype in FLOATS else ("normal", "normal", "all", "none")
    if operand:
        # half of a vector -inf is no mask: whether 0 * -inf arises would hang on when a weight underflows
        values = tuple(value for value in values if value != "infinities")
    if not added:
        values = tuple(value for value in values if value != "lowest")
    broadcast = parameter.broadcast and ranges.broadcast
    # most tensors are ordinary: what is drawn twice is drawn twice as often
    return st.builds(
        Drawn,
        layout=st.sampled_from(("contiguous", *ranges.layout)),
        values=st.sampled_from(("normal", "normal", "normal", *values)),
        ones=_subsets(rank) if broadcast else st.just(()),
        dropped=st.sampled_from(range(rank + 1)) if broadcast and not parameter.whole else st.just(0),
    )


def _subsets(rank: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.sets(st.sampled_from(range(rank))).map(lambda dims: tuple(sorted(dims))) if rank else st.just(())


# ---------------------------------------------------------------------------------------------------------------------
# Making tensors


def build(traced: Traced, case: Case, device: str = "cpu") -> dict[str, Any]:
    """The arguments of the target by parameter name; a list of tensors where the parameter is one."""
    generator = torch.Generator().manual_seed(case.seed)
    roles, kinds = integer_roles(traced), size_kinds(traced)
    arguments: dict[str, Any] = {}
    for parameter in traced.parameters:
        value: Any
        if parameter.tensor is not None:
            drawn = case.tensors.get(key(parameter), Drawn())
            role = roles.get(parameter.tensor, Role("flag"))
            value = make(parameter.tensor, drawn, case, generator, role)
            if _is_projection(parameter.tensor, kinds):
                # as layers begin: with weights of 1, one key would have all of the attention in every row
                value /= math.sqrt(max(value.shape, default=1) or 1)
            value = value.to(device)
        elif parameter.scalar is not None:
            value = case.numbers[parameter.scalar.name]
        else:
            value = ast.literal_eval(parameter.value) if parameter.value is not None else None
        if parameter.item is not None:
            arguments.setdefault(parameter.name, []).append(value)
        else:
            arguments[parameter.name] = value
    return arguments


@dataclass(frozen=True)
class Role:
    """What an integer tensor means to the program: an "index" below ``bound``, a "position" up to just over it, an
    "identifier" (equal neighbours belong together) or a "flag" of 0 and 1."""

    kind: str
    bound: Expr | None = None


def integer_roles(traced: Traced) -> dict[Tensor, Role]:
    """The role of each integer tensor, by what the program does with what it loads."""
    roles: dict[Tensor, Role] = {}
    for node in walk(*(output.expr for output in traced.program.outputs)):
        if isinstance(node, Load):
            for index, size in zip(node.index, node.tensor.shape, strict=True):
                for inner in walk(index):
                    if isinstance(inner, Load):
                        roles[inner.tensor] = Role("index", size)
        elif node.dtype == BOOL and len(node.children) == 2:
            for one, other in (node.children, node.children[::-1]):
                loaded = [inner for inner in walk(one) if isinstance(inner, Load)]
                against = list(walk(other))
                if len(loaded) != 1 or any(isinstance(inner, Load) and inner.tensor.dtype == BOOL for inner in loaded):
                    continue
                if any(isinstance(inner, Load) for inner in against):
                    roles.setdefault(loaded[0].tensor, Role("identifier"))
                else:
                    iotas = [inner for inner in against if isinstance(inner, Iota)]
                    if iotas:
                        roles.setdefault(loaded[0].tensor, Role("position", iotas[0].axis.extent))
    return roles


def make(tensor: Tensor, drawn: Drawn, case: Case, generator: torch.Generator, role: Role) -> torch.Tensor:
    """One tensor on the CPU, laid out and filled as ``drawn`` says."""
    shape = [evaluate(size, case.numbers) for size in tensor.shape]
    shape = [1 if dim in drawn.ones else size for dim, size in enumerate(shape)][drawn.dropped :]
    if tensor.dtype in FLOATS:
        dtype = getattr(torch, case.dtype if tensor.dtype == ELEMENT else tensor.dtype)
        values = _floats(shape, drawn.values, generator, dtype)
    elif tensor.dtype == BOOL:
        values = _booleans(shape, drawn.values, generator)
    else:
        values = _integers(shape, role, case, generator).to(getattr(torch, tensor.dtype))
    return laid_out(values, drawn.layout)


def _floats(shape: list[int], kind: str, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    values = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    if kind == "large":
        return values * 8
    chance = torch.rand(shape, generator=generator)
    if kind == "infinities":
        return values.masked_fill(chance < 0.5, -math.inf)
    if kind == "lowest":
        # as additive masks have it, for whole rows too
        rows = torch.rand(shape[:-1] + [1] if shape else [], generator=generator)
        return values.masked_fill((chance < 0.5) | (rows < 0.3), torch.finfo(dtype).min)
    if kind == "special":
        for share, special in ((0.03, math.inf), (0.02, -math.inf), (0.01, math.nan)):
            values = values.masked_fill(chance < share, special)
    return values


def _booleans(shape: list[int], kind: str, generator: torch.Generator) -> torch.Tensor:
    if kind in ("all", "none"):
        return torch.full(shape, kind == "all")
    values = torch.rand(shape, generator=generator) < 0.6
    # whole rows of one value are what masks really have, and where kernels go wrong
    rows = torch.rand(shape[:-1] + [1] if shape else [], generator=generator)
    return (values | (rows < 0.15)) & (rows < 0.85)


def _integers(shape: list[int], role: Role, case: Case, generator: torch.Generator) -> torch.Tensor:
    def below(end: int) -> torch.Tensor:
        return torch.randint(0, max(end, 1), shape, generator=generator)

    if role.kind == "index":
        assert role.bound is not None
        return below(evaluate(role.bound, case.numbers))
    if role.kind == "position":
        assert role.bound is not None
        return below(evaluate(role.bound, case.numbers) + 2)
    if role.kind == "identifier":
        ids = below(5) - 2
        how = int(torch.randint(0, 6, (), generator=generator))
        if not shape or not shape[-1] or how == 0:  # nothing to order
            return ids
        ids = ids.sort(dim=-1, descending=how == 1).values
        # as packing makes them, or one that comes twice
        return ids.roll(int(torch.randint(0, shape[-1], (), generator=generator)), -1) if how == 2 else ids
    return below(2)


def laid_out(values: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values with the strides of a layout."""
    rank = values.dim()
    if layout == "swapped" and rank >= 3:
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "columns" and rank >= 2:
        return values.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "gaps" and rank >= 1:
        wide = torch.zeros([2 * size + 1 for size in values.shape], dtype=values.dtype)
        if values.is_floating_point():
            wide.fill_(math.nan)  # a kernel that reads what lies between shows it
        view = wide[tuple(slice(1, None, 2) for _ in values.shape)]
        view.copy_(values)
        return view
    return values
