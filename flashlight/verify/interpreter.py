"""Corrections to Triton's interpreter, for the process that verifies under it.

As of Triton 3.9 the interpreter keeps bfloat16 as the 16 bits that store it. Its dot multiplies those bits as integers,
and its casts from float32 cut bits off where GPUs round to nearest. Both are put right here, so that bfloat16 can be
verified without a GPU; float16 and float32 need nothing. Triton 3.6's takes the integer of an array of one element,
which NumPy has refused since 2.4: no loop over the keys would run. And where a comparison of numbers is spread over a
tile, it becomes one of integers, which no load takes as a mask.

Three things are made faster. Reductions by a kernel's own function, such as a maximum that keeps NaN, go one element at
a time; taken in slices, such kernels are verified in a sixth of the time. Every call of a helper looks for what of the
language is still to be replaced, where the kernel that calls it has replaced everything. And the table of number types
is made anew whenever one is looked up.
"""

from __future__ import annotations

import os
from typing import Any

import torch


def interpreting() -> bool:
    """Whether this process began with TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def repair() -> None:
    """Install the corrections, once; of use only where `interpreting`."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    handle = interpreter.TensorHandle
    cast_impl, create_dot, create_splat = builder.cast_impl, builder.create_dot, builder.create_splat
    patch_tensor, patch_language = interpreter._patch_lang_tensor, interpreter._patch_lang
    one_by_one, get_number_type = interpreter.ReduceOps.generic_reduce, interpreter._get_np_dtype
    if getattr(create_dot, "repaired", False):
        return

    def widened(value: Any) -> Any:
        return handle(_widened(value.data), tl.float32) if value.dtype.scalar == tl.bfloat16 else value

    def cast(self: Any, src: Any, dst_type: Any) -> Any:
        if src.dtype.scalar == tl.bfloat16:
            src = widened(src)
            return src if dst_type.scalar == tl.float32 else cast_impl(self, src, dst_type)
        if dst_type.scalar == tl.bfloat16 and src.dtype.scalar == tl.float32:
            return handle(_rounded(src.data), tl.bfloat16)
        return cast_impl(self, src, dst_type)

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return create_dot(self, widened(a), widened(b), *rest)

    def splat(self: Any, shape: Any, value: Any) -> Any:
        return create_splat(self, shape, handle(value.data, tl.int1) if value.data.dtype == bool else value)

    def patch(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def reduce_by_slices(self: Any, tensors: Any) -> list[Any]:
        if self.keep_dims:  # generated kernels do not ask for that
            return list(one_by_one(self, tensors))
        tensors, axis = self.unravel(tensors, self.axis)
        blocks = [tensor.handle.data for tensor in tensors]
        dtypes = [tensor.dtype for tensor in tensors]

        def at(place: int) -> list[Any]:
            return [self.to_tensor(b.take(place, axis), dtype) for b, dtype in zip(blocks, dtypes, strict=True)]

        total = at(0)
        for place in range(1, blocks[0].shape[axis]):
            combined = self.combine_fn.fn(*total, *at(place))
            total = list(combined) if isinstance(combined, tuple) else [combined]
        return total

    kernel: list[Any] = []
    replaced: set[str] = set()

    def patch_once(function: Any) -> Any:
        if not (kernel and kernel[-1]._changes):  # that of the last kernel is restored
            kernel.clear()
            replaced.clear()
        modules = {value.__name__ for value in function.__globals__.values() if value is tl or value is tl.core}
        if modules <= replaced:
            return interpreter._LangPatchScope()
        scope = patch_language(function)
        kernel[:] = kernel or [scope]
        replaced.update(modules)
        return scope

    number_types: dict[str, Any] = {}

    def number_type(dtype: Any) -> Any:
        name = dtype.scalar.name
        if name not in number_types:
            number_types[name] = get_number_type(dtype)
        return number_types[name]

    dot.repaired = True  # type: ignore[attr-defined]
    interpreter._patch_lang = patch_once
    interpreter._get_np_dtype = number_type
    interpreter._patch_lang_tensor = patch
    interpreter.ReduceOps.generic_reduce = reduce_by_slices
    builder.cast_impl, builder.create_dot, builder.create_splat = cast, dot, splat


def _widened(bits: Any) -> Any:
    """bfloat16 as uint16 to float32: exact."""
    import numpy

    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def _rounded(values: Any) -> Any:
    """float32 to bfloat16 as uint16, to nearest even, by PyTorch."""
    import numpy

    rounded = torch.from_numpy(numpy.ascontiguousarray(values)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(numpy.uint16).reshape(values.shape)
