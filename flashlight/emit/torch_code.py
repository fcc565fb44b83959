"""Expressions as PyTorch on whole tensors: what a launcher computes before its kernel."""

from __future__ import annotations

from flashlight.diagnostics import Diagnostic
from flashlight.emit.host import python
from flashlight.ir.expr import ELEMENT, Axis, Const, Expr, Iota, Load, Map, Scalar
from flashlight.schedule.prologue import Prologue

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "and": "&", "or": "|", "floordiv": "//"}
_INFIX |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def prologue_lines(one: Prologue, first: str) -> list[str]:
    """The statement that computes a prologue's tensor; ``first`` is a tensor of the element dtype."""
    value = torch_code(one.value, one.axes, first)
    if one.reverse:
        return [f"{one.tensor.name} = torch.cum{one.op}({value}.flip(-1), dim=-1).flip(-1)"]
    return [f"{one.tensor.name} = torch.cum{one.op}({value}, dim=-1)"]


def rows_code(expr: Expr, axes: tuple[Axis, ...], last: Axis, first: str) -> str:
    """The expression as a tensor of two dimensions: ``axes`` as one, then ``last`` (of size 1 if without)."""
    code = torch_code(expr, (*axes, last), first)
    if not expr.axes:
        code = f"torch.full(({'1, ' * len(axes)}1,), {code}, device={first}.device)"
    if not axes:
        return f"{code}[None]"
    if any(axis not in expr.axes for axis in axes):
        code += f".expand({', '.join(python(axis.extent) for axis in axes)}, -1)"
    return code if len(axes) == 1 else f"{code}.flatten(0, {len(axes) - 1})"


_SAME_NAME = set(
    "exp exp2 log log2 sqrt rsqrt abs tanh sigmoid where maximum minimum isnan erf sin cos floor ceil".split()
)


def torch_code(expr: Expr, axes: tuple[Axis, ...], first: str) -> str:
    """The expression with one dimension for each of ``axes`` (of size 1 where it does not depend on one)."""
    if isinstance(expr, (Const, Scalar)):
        return python(expr)
    if isinstance(expr, Load):
        return _loaded(expr, axes)
    if isinstance(expr, Iota):
        after = "".join(", None" for _ in axes[axes.index(expr.axis) + 1 :])
        return f"torch.arange({python(expr.axis.extent)}, device={first}.device)" + (f"[:{after}]" if after else "")
    if isinstance(expr, Map):
        args = [torch_code(arg, axes, first) for arg in expr.args]
        if expr.op == "cast":
            return f"{args[0]}.to({f'{first}.dtype' if expr.dtype == ELEMENT else f'torch.{expr.dtype}'})"
        if expr.op in _INFIX:
            return f"({args[0]} {_INFIX[expr.op]} {args[1]})"
        if expr.op == "neg":
            return f"(-{args[0]})"
        if expr.op == "not":
            return f"(~{args[0]})"
        if expr.op in ("maximum", "minimum") and any(not arg.axes for arg in expr.args):
            tensor, bound = args if expr.args[0].axes else args[::-1]
            return f"{tensor}.clamp({'min' if expr.op == 'maximum' else 'max'}={bound})"
        if expr.op in _SAME_NAME:
            return f"torch.{expr.op}({', '.join(args)})"
    raise Diagnostic("FL403", f"`{expr}` cannot be computed before the kernel", hint="compute it before the attention")


def _loaded(load: Load, axes: tuple[Axis, ...]) -> str:
    own = [index.axis for index in load.index if isinstance(index, Iota)]
    order = [own.index(axis) for axis in axes if axis in own]
    text = load.tensor.name
    if order != sorted(order):
        text += f".permute({', '.join(map(str, order))})"
    if len(own) < len(axes):
        text += f"[{', '.join(':' if axis in own else 'None' for axis in axes)}]"
    return text
