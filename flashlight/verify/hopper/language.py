"""Gluon as far as generated Hopper kernels are written in it, by PyTorch on a CPU.

The namespaces below stand for the modules that such a kernel imports. Only what has a meaning beside its speed is
kept: layouts of registers are not, and products have float32 accumulators whatever the instruction. What leaves the
memory of a tensor is an error, which on a GPU it need not be.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from flashlight.verify.hopper.machine import Machine, Place, Race
from flashlight.verify.hopper.values import Operand, Pointer, Value, together, value

_machine: Machine | None = None


def machine() -> Machine:
    """What runs now: one program at a time does."""
    assert _machine is not None, "no kernel is running"
    return _machine


# --- kernels ---------------------------------------------------------------------------------------------------------


class Kernel:
    """A function of a kernel file: called by others, or launched with a grid."""

    seed = 0
    """Of the order in which groups of warps go on, for launches to come."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = self.fn = function
        self.__name__ = function.__name__

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.function(*arguments, **named)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, num_warps: int, **named: Any) -> None:
            global _machine
            bound = inspect.signature(self.function).bind(*arguments, **named)
            constant = {name for name, p in bound.signature.parameters.items() if p.annotation is constexpr}
            given = {name: one if name in constant else _argument(one) for name, one in bound.arguments.items()}
            for program in range(math.prod(grid)):
                _machine = Machine(program, math.prod(grid), self.seed)
                try:
                    self.function(**given)
                finally:
                    _machine = None

        return launch


def _argument(given: Any) -> Value | Pointer:
    return Pointer.to(given) if isinstance(given, torch.Tensor) else value(given)


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    return Kernel if function is None else Kernel(function)


def constexpr(number: Any) -> Any:
    return number


def counted(*ends: Operand) -> Iterator[Value]:
    """`range`, of which each number is a value, with as many bits as the widest end."""
    dtype = together(*ends)[0].dtype
    return (Value(torch.tensor(number, dtype=dtype)) for number in range(*(int(end) for end in ends)))


def _static_assert(condition: bool) -> None:
    assert condition


def warp_specialize(groups: Sequence[tuple[Any, tuple[Any, ...]]], warps: list[int], registers: list[int]) -> None:
    assert len(groups) == len(warps) + 1 == len(registers) + 1
    machine().run(groups)


# --- shared memory ---------------------------------------------------------------------------------------------------


class Shared:
    """A tile in shared memory."""

    def __init__(self, data: torch.Tensor, place: Place, layout: Any) -> None:
        self.data = data
        self.place = place
        self.layout = layout

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def shape(self) -> list[int]:
        return list(self.data.shape)

    def index(self, place: Operand) -> Shared:
        number = int(place)
        if not 0 <= number < len(self.data):
            raise IndexError(f"stage {number} of {len(self.data)}")
        return Shared(self.data[number], (self.place[0], number), self.layout)

    def reshape(self, shape: Sequence[int]) -> Shared:
        return Shared(self.data.view(*shape), self.place, self.layout)

    def permute(self, order: Sequence[int]) -> Shared:
        return Shared(self.data.permute(*order), self.place, self.layout)

    def load(self, layout: Any) -> Value:
        if not self.dtype.is_floating_point:
            machine().asked(self.place)
        else:
            machine().loaded(self.place)
        return Value(self.data.clone())

    def store(self, tile: Value) -> None:
        assert tile.dtype == self.dtype and tile.shape == self.shape
        if not self.dtype.is_floating_point:
            machine().noted(self.place)
        else:
            machine().stored(self.place)
        self.data.copy_(tile.data)


class Barrier:
    """Its phase ends when all have arrived and all bytes that were expected are there."""

    def __init__(self) -> None:
        self.count = 0
        self.missing = 0
        self.bytes = 0
        self.phase = 0

    def arrive(self, expected: int = 0) -> None:
        if self.missing == 0:
            raise Race("more arrive at a barrier than it was made for")
        self.bytes += expected
        self.missing -= 1
        self._end()

    def received(self, count: int) -> None:
        self.bytes -= count
        self._end()

    def _end(self) -> None:
        if self.missing == 0 and self.bytes == 0:
            self.missing = self.count
            self.phase += 1


class Barriers:
    def __init__(self, count: int) -> None:
        self.barriers = [Barrier() for _ in range(count)]

    def index(self, place: Operand) -> Barrier:
        number = int(place)
        if not 0 <= number < len(self.barriers):
            raise IndexError(f"barrier {number} of {len(self.barriers)}")
        return self.barriers[number]


def allocate_shared_memory(dtype: torch.dtype, shape: Sequence[int], layout: Any) -> Shared | Barriers:
    if isinstance(layout, _BarrierLayout):
        return Barriers(shape[0])
    # numbers are for warps alone, everything else is for the copy engine, too
    unknown = math.nan if dtype.is_floating_point else torch.iinfo(dtype).min
    return Shared(torch.full(list(shape), unknown, dtype=dtype), (machine().allocation(), 0), layout)


class _BarrierLayout:
    pass


def _init(barrier: Barrier, count: int) -> None:
    barrier.count = barrier.missing = count


def _wait(barrier: Barrier, parity: Operand) -> None:
    """Until the phase of that parity has ended: that before the first counts as of parity 1."""
    wanted = int(parity)
    machine().meet(lambda: barrier.phase % 2 != wanted)


def _expect(barrier: Barrier, count: int) -> None:
    barrier.arrive(count)
    machine().meet()


def _arrive(barrier: Barrier) -> None:
    machine().arriving()
    barrier.arrive()
    machine().meet()


# --- the copy engine -------------------------------------------------------------------------------------------------


class Descriptor:
    """A tensor as the copy engine reads and writes it, in blocks; beyond its end there are zeros."""

    def __init__(
        self, base: Pointer, shape: Sequence[Operand], strides: Sequence[Operand], block: Sequence[int], layout: Any
    ) -> None:
        self.shape = [int(size) for size in shape]
        self.strides = [int(step) for step in strides]
        self.block = list(block)
        size = base.memory.element_size()
        assert len(self.shape) == len(self.strides) == len(self.block) <= 5
        assert base.address % 16 == 0 and self.strides[-1] == 1
        assert all(step > 0 and step * size % 16 == 0 for step in self.strides[:-1]), f"strides {self.strides}"
        assert all(1 <= width <= 256 for width in self.block) and self.block[-1] * size % 16 == 0
        self.tensor = torch.as_strided(base.memory, self.shape, self.strides, int(base.offset))
        self.block_type = SimpleNamespace(nbytes=math.prod(self.block) * size)

    def inside(self, place: Sequence[int]) -> tuple[torch.Tensor, tuple[slice, ...]]:
        """The part of a block that exists, and where in the block it lies."""
        ends = zip(place, self.block, self.shape, strict=True)
        spans = [(max(start, 0), max(0, start, min(start + width, size))) for start, width, size in ends]
        within = tuple(slice(low - start, high - start) for (low, high), start in zip(spans, place, strict=True))
        return self.tensor[tuple(slice(low, high) for low, high in spans)], within


def _numbers(place: Sequence[Operand]) -> list[int]:
    for index in place:
        assert not isinstance(index, Value) or index.dtype == torch.int32, "coordinates have 32 bits"
    return [int(index) for index in place]


def async_load(source: Descriptor, place: Sequence[Operand], barrier: Barrier, into: Shared) -> None:
    start = _numbers(place)
    assert into.shape == source.block and into.dtype == source.tensor.dtype
    machine().fill(into.place)
    into.data.fill_(math.nan)  # until it arrives

    def arrives() -> None:
        machine().fill(into.place)
        part, within = source.inside(start)
        into.data.zero_()
        into.data[within] = part
        barrier.received(source.block_type.nbytes)

    machine().copies.append(arrives)
    machine().meet()


def async_store(target: Descriptor, place: Sequence[Operand], tile: Shared) -> None:
    start = _numbers(place)
    assert tile.shape == target.block and tile.dtype == target.tensor.dtype
    machine().sending(tile.place)

    def leaves() -> None:
        part, within = target.inside(start)
        part.copy_(tile.data[within])

    running = machine().running
    leaves.sender = running  # type: ignore[attr-defined]
    machine().copies.append(leaves)
    machine().meet()


def store_wait(pending: int) -> None:
    """Until what the running group sent has left, which is more than that it was read."""
    assert pending == 0
    group = machine().running
    machine().meet(lambda: not any(getattr(copy, "sender", None) is group for copy in machine().copies))
    machine().awaited()


def fence_async_shared() -> None:
    if machine().groups:
        machine().fenced()


def synchronise() -> None:
    machine().synchronised()


# --- products --------------------------------------------------------------------------------------------------------


class Product:
    """A product that is under way: its operands in shared memory must stay until it is waited for."""

    def __init__(self, left: Value | Shared, right: Shared, accumulator: torch.Tensor) -> None:
        assert left.dtype == right.dtype and left.dtype in (torch.float16, torch.bfloat16)
        self.operands = (left, right)
        self.accumulator = accumulator
        self.places = [one.place for one in self.operands if isinstance(one, Shared)]
        machine().hold(self.places, 1)

    def done(self) -> Value:
        left, right = (one.data.float() for one in self.operands)
        machine().hold(self.places, -1)
        return Value(self.accumulator + left @ right)


def warpgroup_mma(
    left: Value | Shared, right: Shared, accumulator: Value, use_acc: bool = True, is_async: bool = False
) -> Value | Product:
    assert accumulator.dtype == torch.float32
    start = accumulator.data if use_acc else torch.zeros_like(accumulator.data)
    product = Product(left, right, start)
    machine().meet()
    return product if is_async else product.done()


def warpgroup_mma_wait(pending: int, products: Sequence[Product]) -> Any:
    assert pending == 0
    machine().meet()
    values = [product.done() for product in products]
    return values[0] if len(values) == 1 else tuple(values)


# --- functions of values ---------------------------------------------------------------------------------------------


def load(pointer: Pointer, mask: Operand = None, other: Operand = None) -> Value:
    """What is not loaded and has no other value is NaN, or the least integer: it may be anything."""
    exists = torch.tensor(True) if mask is None else value(mask).data
    offset, exists = _spread(pointer.offset, exists)
    _check_inside(pointer, offset, exists)
    loaded = pointer.memory[torch.where(exists, offset, 0)]
    return Value(torch.where(exists, loaded, _fill(other, loaded.dtype)))


def _spread(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.broadcast_tensors(*tensors))  # type: ignore[no-untyped-call, unused-ignore]


def _check_inside(pointer: Pointer, offset: torch.Tensor, exists: torch.Tensor) -> None:
    if bool((exists & ((offset < 0) | (offset >= len(pointer.memory)))).any()):
        raise IndexError("an access out of bounds")


def _fill(other: Operand, dtype: torch.dtype) -> torch.Tensor:
    if other is not None:
        return value(other).data.to(dtype)
    if dtype == torch.bool:
        return torch.tensor(True)
    return torch.tensor(math.nan if dtype.is_floating_point else torch.iinfo(dtype).min, dtype=dtype)


def store(pointer: Pointer, tile: Operand, mask: Operand = None) -> None:
    exists = torch.tensor(True) if mask is None else value(mask).data
    offset, exists, data = _spread(pointer.offset, exists, value(tile).data)
    _check_inside(pointer, offset, exists)
    pointer.memory[offset[exists]] = data[exists].to(pointer.memory.dtype)


def atomic_add(pointer: Pointer, number: Operand) -> Value:
    """What was there before; other groups and programs add before or after."""
    machine().meet()
    before = load(pointer)
    store(pointer, before + number)
    return before


def where(condition: Operand, yes: Operand, no: Operand) -> Value:
    one, other = together(yes, no)
    return Value(torch.where(value(condition).data, one, other))


def _extreme(plain: Any, keeping_nan: Any) -> Any:
    """A maximum or minimum: GPUs take the number where one of two is NaN, unless they are told to keep that."""

    def chosen(left: Operand, right: Operand, propagate_nan: Any = None) -> Value:
        left, right = together(left, right)
        return Value((plain if propagate_nan is None else keeping_nan)(left, right))

    return chosen


def _reduced(tile: Value, axis: int, function: Callable[[Any, Any], Any]) -> Value:
    """Halves are joined until one is left, so that any number of values takes few steps."""
    data = tile.data.movedim(axis, 0)
    while len(data) > 1:
        assert len(data) % 2 == 0
        left, right = data.chunk(2)
        data = value(function(Value(left), Value(right))).data
    return Value(data[0])


def _sum(tile: Value, axis: int) -> Value:
    return Value(tile.data.sum(axis, dtype=tile.data.dtype))


def _float(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Operand], Value]:
    def applied(operand: Operand) -> Value:
        data = value(operand).data
        assert data.is_floating_point()
        return Value(function(data))

    return applied


def cast(operand: Operand, dtype: torch.dtype) -> Value:
    return value(operand).to(dtype)


def cdiv(left: Operand, right: Operand) -> Value:
    return value((value(left) + (right - 1)) // right)


def inline_asm_elementwise(asm: str, constraints: str, arguments: Sequence[Value], **options: Any) -> Value:
    """The instructions of the approximate paths, exactly."""
    (argument,) = arguments
    name = asm.split()[0]
    return Value(_INSTRUCTIONS[name](argument.data))


_INSTRUCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh.approx.f32": torch.tanh,
    "rcp.approx.ftz.f32": torch.reciprocal,
    "lg2.approx.f32": torch.log2,
}


def _layout(*arguments: Any, **named: Any) -> None:
    return None


# --- as kernels import it --------------------------------------------------------------------------------------------

_maximum, _minimum = _extreme(torch.fmax, torch.maximum), _extreme(torch.fmin, torch.minimum)

GL = SimpleNamespace(
    constexpr=constexpr,
    int1=torch.bool,
    int8=torch.int8,
    int32=torch.int32,
    int64=torch.int64,
    float16=torch.float16,
    bfloat16=torch.bfloat16,
    float32=torch.float32,
    static_range=range,
    static_assert=_static_assert,
    program_id=lambda axis: value(machine().program),
    num_programs=lambda axis: value(machine().programs),
    warp_specialize=warp_specialize,
    thread_barrier=synchronise,
    allocate_shared_memory=allocate_shared_memory,
    arange=lambda start, stop, layout: Value(torch.arange(start, stop, dtype=torch.int32)),
    zeros=lambda shape, dtype, layout: Value(torch.zeros(list(shape), dtype=dtype)),
    full=lambda shape, number, dtype, layout: Value(value(number).data.to(dtype).expand(*shape).clone()),
    load=load,
    store=store,
    atomic_add=atomic_add,
    where=where,
    maximum=_maximum,
    minimum=_minimum,
    max=lambda tile, axis: _reduced(tile, axis, _maximum),
    min=lambda tile, axis: _reduced(tile, axis, _minimum),
    sum=_sum,
    reduce=_reduced,
    cast=cast,
    cdiv=cdiv,
    convert_layout=lambda tile, layout, assert_trivial=False: tile,
    reshape=lambda tile, shape: Value(tile.data.reshape(*shape)),
    expand_dims=lambda tile, axis: Value(tile.data.unsqueeze(axis)),
    inline_asm_elementwise=inline_asm_elementwise,
    abs=lambda operand: Value(value(operand).data.abs()),
    **{
        name: _float(getattr(torch, name))
        for name in ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "erf", "sin", "cos", "floor", "ceil", "sigmoid")
    },
    BlockedLayout=_layout,
    SwizzledSharedLayout=_layout,
    NVMMASharedLayout=SimpleNamespace(get_default_for=_layout),
    NVMMADistributedLayout=_layout,
    SliceLayout=_layout,
    DotOperandLayout=_layout,
)
GLUON = SimpleNamespace(jit=jit, constexpr_function=lambda function: function)
TMA = SimpleNamespace(
    make_tensor_descriptor=Descriptor, async_load=async_load, async_store=async_store, store_wait=store_wait
)
MBARRIER = SimpleNamespace(MBarrierLayout=_BarrierLayout, init=_init, wait=_wait, expect=_expect, arrive=_arrive)
NAMESPACES: dict[str, Any] = {
    # `import a.b as c` takes b from what stands for a
    "triton.language": SimpleNamespace(language=SimpleNamespace(PropagateNan=SimpleNamespace(ALL="ALL"))),
    "triton.experimental": SimpleNamespace(gluon=GLUON),
    "triton.experimental.gluon": SimpleNamespace(language=GL),
    "triton.experimental.gluon.language.nvidia.hopper": SimpleNamespace(
        fence_async_shared=fence_async_shared,
        mbarrier=MBARRIER,
        tma=TMA,
        warpgroup_mma=warpgroup_mma,
        warpgroup_mma_wait=warpgroup_mma_wait,
    ),
}
"""What takes the place of the modules that kernels import."""
