"""Numbers and tiles in registers, and pointers, with the types that Triton's arithmetic gives them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

Operand = Any
"""A `Value`, or a number as Python has it."""
_WIDTHS = (torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Value:
    """A number or a tile. Layouts are not kept: whether they fit is what the compiler checks."""

    __slots__ = ("data",)

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    @property
    def shape(self) -> list[int]:
        return list(self.data.shape)

    @property
    def type(self) -> Any:
        """Values lie nowhere in particular."""
        return SimpleNamespace(layout=None)

    def to(self, dtype: torch.dtype) -> Value:
        return Value(self.data.to(dtype))

    def __getitem__(self, index: Any) -> Value:
        return Value(self.data[index])

    def __index__(self) -> int:
        return int(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __neg__(self) -> Value:
        return Value(-self.data)

    def __invert__(self) -> Value:
        return Value(~self.data)

    def __add__(self, other: Operand) -> Any:
        return NotImplemented if isinstance(other, Pointer) else _apply(operator.add, self, other)

    def __radd__(self, other: Operand) -> Value:
        return _apply(operator.add, other, self)

    def __sub__(self, other: Operand) -> Value:
        return _apply(operator.sub, self, other)

    def __rsub__(self, other: Operand) -> Value:
        return _apply(operator.sub, other, self)

    def __mul__(self, other: Operand) -> Value:
        return _apply(operator.mul, self, other)

    def __rmul__(self, other: Operand) -> Value:
        return _apply(operator.mul, other, self)

    def __truediv__(self, other: Operand) -> Value:
        return _apply(_divided, self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return _apply(_divided, other, self)

    def __floordiv__(self, other: Operand) -> Value:
        return _apply(_quotient, self, other)

    def __rfloordiv__(self, other: Operand) -> Value:
        return _apply(_quotient, other, self)

    def __mod__(self, other: Operand) -> Value:
        return _apply(torch.fmod, self, other)

    def __rmod__(self, other: Operand) -> Value:
        return _apply(torch.fmod, other, self)

    def __and__(self, other: Operand) -> Value:
        return _apply(operator.and_, self, other)

    __rand__ = __and__

    def __or__(self, other: Operand) -> Value:
        return _apply(operator.or_, self, other)

    __ror__ = __or__

    def __xor__(self, other: Operand) -> Value:
        return _apply(operator.xor, self, other)

    __rxor__ = __xor__

    def __lt__(self, other: Operand) -> Value:
        return _apply(operator.lt, self, other)

    def __le__(self, other: Operand) -> Value:
        return _apply(operator.le, self, other)

    def __gt__(self, other: Operand) -> Value:
        return _apply(operator.gt, self, other)

    def __ge__(self, other: Operand) -> Value:
        return _apply(operator.ge, self, other)

    def __eq__(self, other: Operand) -> Value:  # type: ignore[override]
        return _apply(operator.eq, self, other)

    def __ne__(self, other: Operand) -> Value:  # type: ignore[override]
        return _apply(operator.ne, self, other)

    __hash__ = None  # type: ignore[assignment]


class Pointer:
    """Places in the memory of a tensor, as offsets from its start, in elements."""

    def __init__(self, memory: torch.Tensor, offset: torch.Tensor) -> None:
        self.memory = memory
        self.offset = offset

    @classmethod
    def to(cls, tensor: torch.Tensor) -> Pointer:
        """To a tensor's first element; what can be reached is all of its storage."""
        count = tensor.untyped_storage().nbytes() // tensor.element_size()
        memory = torch.as_strided(tensor, (count,), (1,), 0)
        return cls(memory, torch.tensor(tensor.storage_offset()))

    @property
    def dtype(self) -> Any:
        return _PointerType(self.memory.dtype)

    def __add__(self, offset: Operand) -> Pointer:
        return Pointer(self.memory, self.offset + value(offset).data.to(torch.int64))

    __radd__ = __add__

    def __getitem__(self, index: Any) -> Pointer:
        return Pointer(self.memory, self.offset[index])

    @property
    def address(self) -> int:
        """In bytes; for pointers to one place."""
        return self.memory.data_ptr() + int(self.offset) * self.memory.element_size()


class _PointerType:
    def __init__(self, element_ty: torch.dtype) -> None:
        self.element_ty = element_ty


def value(operand: Operand, beside: torch.dtype | None = None) -> Value:
    """An operand as a value; a literal has the type of what it stands beside, if that can hold its kind."""
    if isinstance(operand, Value):
        return operand
    if isinstance(operand, bool):
        return Value(torch.tensor(operand))
    if isinstance(operand, float):
        return Value(torch.tensor(operand, dtype=beside if beside in _FLOATS else torch.float32))
    assert isinstance(operand, int), f"{operand!r} is neither a number nor a tile"
    own = torch.int32 if -(2**31) <= operand < 2**31 else torch.int64
    return Value(torch.tensor(operand, dtype=beside if beside in (*_FLOATS, torch.int64) else own))


def together(*operands: Operand) -> list[torch.Tensor]:
    """Operands as tensors of one type, as Triton promotes them."""
    known = [operand.dtype for operand in operands if isinstance(operand, Value)]
    beside = _common(known) if known else None
    tensors = [value(operand, beside).data for operand in operands]
    dtype = _common([tensor.dtype for tensor in tensors])
    return [tensor.to(dtype) for tensor in tensors]


def _common(dtypes: Sequence[torch.dtype]) -> torch.dtype:
    floats = {dtype for dtype in dtypes if dtype in _FLOATS}
    if {torch.bfloat16, torch.float16} <= floats:
        return torch.float32
    return max(floats, key=_FLOATS.index) if floats else max(dtypes, key=_WIDTHS.index)


def _apply(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], left: Operand, right: Operand) -> Value:
    return Value(function(*together(left, right)))


def _divided(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left / right if left.is_floating_point() else left.float() / right.float()


def _quotient(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Towards zero, unlike Python's."""
    assert not left.is_floating_point()
    return torch.div(left, right, rounding_mode="trunc")
