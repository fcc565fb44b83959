"""Runs the user's function on tensors that only know their shapes, and turns every operator into values.

PyTorch's pre-dispatch key sees operators before autograd and before composite ones fall apart: softmax, matmul and
einsum arrive whole. The slot for modes on that key is open to a closed list of classes; ours stands in for the one
that `make_fx` uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from flashlight.ir import build
from flashlight.ir.expr import Expr, Load, Reduce, Scan, walk
from flashlight.modes import Uncompiled
from flashlight.trace import operators
from flashlight.trace.context import Context
from flashlight.trace.frames import Names, located
from flashlight.trace.guise import DTYPE, GRADIENTS, LAYOUT, MEMORY, Aspect
from flashlight.trace.numbers import messages, wrap, written_by_user
from flashlight.trace.operators.creation import of_data
from flashlight.trace.problems import Unsupported
from flashlight.trace.value import Index, Value, View

CONTROL_FLOW = frozenset({"_local_scalar_dense", "is_nonzero", "item", "equal", "allclose"})


_TEXT = ("FL301", "the text of a tensor is that of its values", "leave out what reads it")


class NotTraced(Unsupported):
    """PyTorch's own code asks a tensor for what is not there, such as sizes that are plain numbers."""


class TracedTensor(torch.Tensor):
    """A tensor without data. A view holds its base and is read through it, so that writes are seen on both sides."""

    _value: Value
    _base_tensor: TracedTensor | None
    _view: View | None
    _seen: int
    _parameter: str | None

    @staticmethod
    def __new__(cls, shape: list[Any], dtype: torch.dtype) -> TracedTensor:
        made: TracedTensor = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotTraced("FL302", f"{func} was called outside of the trace")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        if not messages.depth and written_by_user():
            raise Unsupported(*_TEXT)
        return f"TracedTensor(shape={list(self._value.shape)}, dtype={self._value.dtype})"

    @property
    def version(self) -> int:
        return self._seen if self._base_tensor is None else self._base_tensor.version

    @property
    def value(self) -> Value:
        if self._base_tensor is not None and self._view is not None and self._seen != self._base_tensor.version:
            self._value = self._view.read(self._base_tensor.value)
            self._seen = self._base_tensor.version
        return self._value

    def assign(self, value: Value) -> None:
        """Replace what the tensor holds, in the tensors that it is a view of too."""
        if self._base_tensor is None:
            if self._parameter is not None:
                raise Unsupported(
                    "FL304",
                    f"the parameter {self._parameter} is changed in place",
                    "work on a copy: clone it, or use the operator without the underscore",
                )
            self._value = value
            self._seen += 1
            return
        assert self._view is not None
        if self._view.backward is None:
            raise Unsupported("FL302", "an expanded tensor is written to", "clone it first")
        self._base_tensor.assign(self._view.write(self._base_tensor.value, value))
        self._value = value
        self._seen = self._base_tensor.version


class Capture(Uncompiled, ProxyTorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """The mode in which every operator gives a `TracedTensor`."""

    def __init__(self, context: Context, names: Names) -> None:
        TorchDispatchMode.__init__(self, torch._C.DispatchKey.PreDispatch)  # type: ignore[no-untyped-call, unused-ignore]
        self.enter_stack = []
        self.pre_dispatch = True
        self._mode_key = torch._C._TorchDispatchModeKey.PROXY
        self.context = context
        self.names = names
        self.used: set[tuple[frozenset[str], Index]] = set()
        self.whole: set[str] = set()
        self.table = operators.table()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        name = func.overloadpacket.__name__
        real = [tensor for tensor in tensors if not isinstance(tensor, TracedTensor)]
        if tensors and len(real) == len(tensors) and not (_symbolic(args, kwargs) or self.is_generic(args, kwargs)):
            return func(*args, **kwargs)
        if func.namespace == "prim" and name == "device":
            return torch.device("cpu")
        try:
            return self._applied(func, name, args, kwargs)
        except Unsupported as problem:
            raise located(problem, self.names.source) from None

    @staticmethod
    def _number(tensor: Any) -> Expr | None:
        """The one element of a tensor, if it is made of constants and sizes and so is no value of a tensor."""
        value = tensor.value
        element = value.at((build.integer(0),) * value.rank)
        return None if any(isinstance(node, (Load, Reduce, Scan)) for node in walk(element)) else element

    def is_generic(self, args: Any, kwargs: Any) -> bool:
        """Whether the dtype that stands for others is involved: a number must not be rounded to that one."""
        element = self.context.dtypes.element
        involved = any(getattr(leaf, "dtype", leaf) == element for leaf in tree_leaves((args, kwargs)))
        return self.names.inquiry.keep(involved)

    def _applied(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name in CONTROL_FLOW:
            number = self._number(args[0]) if name in ("_local_scalar_dense", "item") else None
            if number is not None:
                return wrap(self.context.sizes, number)
            raise Unsupported(
                "FL301",
                "the program's course depends on the values of a tensor",
                "use torch.where, or pass the decision as a Python argument",
            )
        changes = name.endswith("_") and not name.endswith("__")
        base = name[:-1] if changes else name
        if base == "copy":
            return self._copied(*args)
        if changes and base == "set_data":
            raise Unsupported("FL302", "assigning .data has no rule")
        rule = self.table.get(base)
        if rule is None:
            return self._fallen_back(func, args, kwargs)
        if any(isinstance(arg, torch.Tensor) for arg in (kwargs.get("out"),)):
            raise Unsupported("FL302", f"{name} with out= has no rule", "use what it returns")
        return self.call(base, rule, args, kwargs, changes=changes)

    def call(self, name: str, rule: Callable[..., Any], args: Any, kwargs: Any, *, changes: bool = False) -> Any:
        """Apply a rule; ``changes``: the result goes into the first argument."""
        given = (args, {k: v for k, v in kwargs.items() if k not in _IGNORED})
        values, named = tree_map(self._as_value, given)
        place, spread = operators.SPREAD.get(name, (len(values), ""))
        used = (values[:place], values[place + 1 :], {k: v for k, v in named.items() if k != spread})
        self._note_uses(name, [leaf for leaf in tree_leaves(used) if isinstance(leaf, Value)])
        if name == "unsqueeze" and (values[1:] or [named.get("dim")])[0] > 0:
            self.whole |= values[0].origins
        try:
            result = rule(self.context, *values, **named)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise
            raise Unsupported("FL302", f"{name} with these arguments has no rule: {error}") from None
        origins = self._origins(name, [leaf for leaf in tree_leaves((values, named)) if isinstance(leaf, Value)])
        if changes:
            return self._changed(args[0], result)
        if isinstance(result, (list, tuple)):
            return type(result)(self._as_tensor(part, args[0], origins) for part in result)
        return self._as_tensor(result, args[0] if args else None, origins)

    def tensor(self, value: Value, parameter: str | None = None) -> TracedTensor:
        """A new tensor that holds a value."""
        made = TracedTensor([wrap(self.context.sizes, size) for size in value.shape], value.dtype)
        made._value, made._base_tensor, made._view, made._seen = value, None, None, 0
        made._parameter = parameter
        return made

    def _as_value(self, leaf: Any) -> Any:
        if isinstance(leaf, TracedTensor):
            return leaf.value
        return of_data(self.context, leaf) if isinstance(leaf, torch.Tensor) else leaf

    def _as_tensor(self, result: Any, base: Any, origins: frozenset[str]) -> Any:
        if isinstance(result, View):
            while isinstance(base, (list, tuple)):
                base = base[0]
            traced = base if isinstance(base, TracedTensor) else self.tensor(self._as_value(base))
            value = result.read(traced.value)
            made = self.tensor(value)
            made._base_tensor, made._view, made._seen = traced, result, traced.version
        elif isinstance(result, Value):
            value = Value(result.shape, result.dtype, result.at) if result.label or result.origins else result
            made = self.tensor(value)
        else:
            return result
        value.origins = origins
        self.names.claim(value)
        return made

    def _changed(self, target: Any, result: Any) -> Any:
        assert isinstance(target, TracedTensor)
        old = target.value
        if isinstance(result, View):
            raise Unsupported("FL302", "changing a shape in place has no rule", "use the operator without underscore")
        value = self.context.expanded(self.context.cast(result, old.dtype), old.shape)
        value = Value(value.shape, value.dtype, value.at, old.origins)
        self.names.claim(value)
        target.assign(value)
        return target

    def _copied(self, target: Any, source: Any, non_blocking: bool = False) -> Any:
        value = self._as_value(source)
        self._note_uses("copy", [value])
        return self._changed(target, value)

    def _fallen_back(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Operators without a rule that PyTorch itself writes in terms of others."""
        with self, contextlib.suppress(NotTraced):
            result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            from torch._decomp import decomposition_table

            written = decomposition_table.get(func)
            if written is not None:
                return written(*args, **kwargs)
        raise Unsupported(
            "FL302", f"the operator {func.overloadpacket} has no rule", "compute this outside and pass it in"
        )

    # which parameters may be smaller than they are stated to be
    def _note_uses(self, name: str, values: list[Value]) -> None:
        if name not in operators.broadcasting():
            self.used |= {(value.origins, value.shape) for value in values if value.origins}

    def note_question(self, tensor: TracedTensor, dim: int | None = None) -> None:
        """The program has asked how large a tensor is, or is in a dimension: it may count on the answer."""
        value = tensor.value
        sizes = value.shape if dim is None or not value.shape else (value.shape[dim],)
        if value.origins:
            self.used.add((value.origins, sizes))

    def _origins(self, name: str, values: list[Value]) -> frozenset[str]:
        """Of a result: none where it has its sizes from elsewhere, too."""
        origins = [value.origins for value in values if value.rank or value.origins]
        full = name not in operators.broadcasting() or not all(origins)
        return frozenset() if full else frozenset().union(*origins)


_IGNORED = frozenset({"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy", "requires_grad"})


def _symbolic(args: Any, kwargs: Any) -> bool:
    kinds = (torch.SymInt, torch.SymFloat, torch.SymBool)
    return any(isinstance(leaf, kinds) for leaf in tree_leaves((args, kwargs)))


@cache
def _pinning() -> dict[Any, str]:
    """Functions whose C++ signatures want plain numbers where ours may be symbolic, by the name of their rule."""
    functional = torch.nn.functional
    return {
        functional.scaled_dot_product_attention: "scaled_dot_product_attention",
        functional.pad: "pad",
        functional.one_hot: "one_hot",
        torch.linspace: "linspace",
        torch.diagonal: "diagonal",
        torch.Tensor.diagonal: "diagonal",
        torch.Tensor.unfold: "unfold",
        torch.tril: "tril",
        torch.triu: "triu",
        torch.Tensor.tril: "tril",
        torch.Tensor.triu: "triu",
        torch.roll: "roll",
        torch.Tensor.roll: "roll",
    }


@cache
def _questions() -> dict[Any, Aspect]:
    """Functions that tell of a tensor what its shape does not say."""
    kind: Any = torch.Tensor
    dtype = (kind.element_size, kind.is_floating_point, kind.is_complex, kind.is_signed, torch.is_floating_point)
    dtypes = (kind.dtype, kind.itemsize, kind.nbytes)
    layout = (kind.stride, kind.is_contiguous, kind.storage_offset, kind.dim_order)
    memory = (kind.data_ptr, kind.untyped_storage, kind.storage, kind.type, kind.get_device)
    return {
        **dict.fromkeys((*dtype, torch.is_complex, torch.is_signed, torch.result_type, torch.can_cast), DTYPE),
        **{getter.__get__: DTYPE for getter in dtypes},
        **dict.fromkeys(layout, LAYOUT),
        kind.requires_grad.__get__: GRADIENTS,
        **dict.fromkeys(memory, MEMORY),
    }


@cache
def _certain() -> dict[Any, bool]:
    """What is asked of where tensors lie: kernels run for those on a GPU."""
    kind: Any = torch.Tensor
    return {kind.is_cuda.__get__: True, kind.is_cpu.__get__: False}


@cache
def _of_sizes() -> frozenset[Any]:
    """What is asked of the sizes of tensors."""
    kind: Any = torch.Tensor
    return frozenset((kind.shape.__get__, kind.size, kind.numel, kind.nelement, kind.__len__))


_MAKING = (torch.tensor, torch.as_tensor, torch.asarray)


class Intercept(TorchFunctionMode):
    """Catches the few functions whose C++ schemas would pin symbolic numbers."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            name = _pinning().get(func)
            if name == "scaled_dot_product_attention" or (name is not None and _symbolic(args[1:], kwargs)):
                return self.capture.call(name, self.capture.table[name], args, kwargs)
            if func is torch.einsum and isinstance(args[0], str):
                # torch.einsum would look for the best order of several operands, by their sizes
                operands = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
                return self.capture.call("einsum", self.capture.table["einsum"], (args[0], list(operands)), {})
            if func in _MAKING and _symbolic(args[:1], {}):
                return self._tensor(*args, **kwargs)
            if func in (*_MAKING, torch.Tensor.new_tensor) and self.capture.is_generic(args, kwargs):
                return self._unrounded(args[1:] if func is torch.Tensor.new_tensor else args, kwargs)
            if func == torch.Tensor.__format__ and isinstance(args[0], TracedTensor):
                if not messages.depth:
                    raise Unsupported(*_TEXT)
                return repr(args[0])
            if func in _certain():
                return _certain()[func]
            if func in _of_sizes() and isinstance(args[0], TracedTensor):
                self.capture.note_question(args[0], *args[1:], **kwargs)
            if func in _questions() and any(isinstance(leaf, TracedTensor) for leaf in tree_leaves(args)):
                return self._answer(_questions()[func], func, args, kwargs)
        except Unsupported as problem:
            raise located(problem, self.capture.names.source) from None
        return func(*args, **kwargs)

    def _unrounded(self, args: Any, kwargs: Any) -> Any:
        """Numbers in a dtype that stands for others, as exact as they are given."""
        context = self.capture.context
        data = args[0] if args else kwargs.get("data", kwargs.get("obj"))
        dtypes = [leaf for leaf in tree_leaves((args[1:], kwargs)) if isinstance(leaf, torch.dtype)]
        dtype = dtypes[0] if dtypes else context.dtypes.element
        if isinstance(data, TracedTensor):
            return data.to(dtype)
        return self.capture.tensor(context.cast(of_data(context, torch.as_tensor(data, dtype=torch.float64)), dtype))

    def _answer(self, aspect: Aspect, func: Any, args: Any, kwargs: Any) -> Any:
        """What the arguments are like in the guise that they have here."""
        if func == torch.Tensor.type and (len(args) > 1 or kwargs):  # a conversion
            return func(*args, **kwargs)
        if aspect is MEMORY:
            raise Unsupported("FL308", f"the program depends on {aspect.what}", aspect.instead)
        guise = self.capture.names.inquiry.ask(aspect, self.capture.names.place())
        if func == getattr(torch.Tensor.nbytes, "__get__", None):  # it knows no symbolic sizes
            return args[0].numel() * args[0].element_size()
        answer = func(*args, **kwargs)
        if aspect is LAYOUT and not guise.dense:
            answer = not answer if isinstance(answer, bool) else tree_map(lambda number: 2 * number + 1, answer)
        return guise.differentiable if aspect is GRADIENTS else answer

    def _tensor(self, data: Any, **kwargs: Any) -> Any:
        if isinstance(data, (list, tuple)):
            return torch.stack([self._tensor(item, **kwargs) for item in data])
        return torch.full((), data, dtype=kwargs.get("dtype"))
