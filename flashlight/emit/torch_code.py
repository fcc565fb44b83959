"""Expressions as PyTorch on whole tensors: what a launcher computes before and after its kernel."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_lowercase

from flashlight.diagnostics import Diagnostic
from flashlight.emit.host import python
from flashlight.ir import integers
from flashlight.ir.expr import ELEMENT, FLOAT, Axis, Const, Expr, Iota, Load, Map, Reduce, Scalar, Scan, above, walk
from flashlight.ir.halves import both
from flashlight.ir.program import factors, is_product, substitute, summed
from flashlight.schedule.prologue import Step

_INFIX = {
    "or": ("|", 1),
    "and": ("&", 2),
    "lt": ("<", 0),
    "le": ("<=", 0),
    "gt": (">", 0),
    "ge": (">=", 0),
    "eq": ("==", 0),
    "ne": ("!=", 0),
    "add": ("+", 3),
    "sub": ("-", 3),
    "mul": ("*", 4),
    "div": ("/", 4),
    "floordiv": ("//", 4),
    "pow": ("**", 6),
}
"""Operators and how tightly they bind; comparisons bind least, since `&` and `|` of Python bind tighter than they."""
_PRODUCT, _UNARY, _POSTFIX = 4, 5, 7
ZERO = integers.constant(0)


def rows_code(expr: Expr, axes: tuple[Axis, ...], last: Axis, first: str) -> str:
    """The expression as a tensor of two dimensions: ``axes`` as one, then ``last`` (of size 1 if without)."""
    code = torch_code(expr, (*axes, last), first, _POSTFIX)
    if not expr.axes:
        code = f"torch.full(({'1, ' * len(axes)}1,), {torch_code(expr, (), first)}, device={first}.device)"
    if not axes:
        return f"{code}[None]"
    if any(axis not in expr.axes for axis in axes):
        code += f".expand({', '.join(python(axis.extent) for axis in axes)}, -1)"
    return code if len(axes) == 1 else f"{code}.flatten(0, {len(axes) - 1})"


_SAME_NAME = set(
    "exp exp2 log log2 sqrt rsqrt abs tanh sigmoid where maximum minimum isnan erf sin cos floor ceil".split()
)
_REDUCED = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin"}


def step_code(step: Step, first: str) -> str:
    """What a step computes, as the view in which it is read."""
    shape = tuple(axis.extent for axis in step.axes)
    if len(shape) == len(step.tensor.shape):
        return torch_code(step.value, step.axes, first)
    place = next(n for n, (old, new) in enumerate(zip(shape, step.tensor.shape, strict=False)) if old is not new)
    parts = step.tensor.shape[place : place + 1 + len(step.tensor.shape) - len(shape)]
    code = torch_code(step.value, step.axes, first, _POSTFIX)
    return f"{code}.unflatten({place}, ({', '.join(map(python, parts))}))"


def torch_code(expr: Expr, axes: tuple[Axis, ...], first: str, outer: int = 0) -> str:
    """The expression with one dimension for each of ``axes`` (of size 1 where it does not depend on one).

    ``first`` is a tensor of the element dtype, ``outer`` how tightly what stands around the code binds. Raises FL403
    where PyTorch has no such operation on whole tensors.
    """
    if isinstance(expr, Map) and expr.op == "cast" and expr.dtype == FLOAT and _is_composite(expr.args[0]):
        return _Code(first, wide=True).of(expr.args[0], axes, outer)
    if _is_composite(expr):
        narrow = expr.dtype == ELEMENT
        return _Code(first, wide=True).of(expr, axes, _POSTFIX if narrow else outer) + f".to({first}.dtype)" * narrow
    return _Code(first).of(expr, axes, outer)


def _is_composite(expr: Expr) -> bool:
    """Whether eager PyTorch may round once where the expression has several steps (a norm, an activation).

    It does where some of these steps have been taken in float32.
    """
    narrow = [node for node in above([expr], is_product) if node.dtype == ELEMENT]
    rounding = [node for node in narrow if not _is_exact(node)]
    mixed = (node for node in narrow if isinstance(node, Map) and node.op != "cast")
    return (
        len(rounding) > 1
        or any(isinstance(node, Map) for node in rounding)
        or any(child.dtype == FLOAT for node in mixed for child in node.children)
    )


def _is_exact(node: Expr) -> bool:
    """Whether it rounds no more in the element dtype than PyTorch does itself."""
    if isinstance(node, Reduce):
        return is_product(node) or node.op in ("max", "min")
    exact = ("add", "sub", "mul", "neg", "cast", "where", "maximum", "minimum", "abs")
    return not isinstance(node, Map) or node.op in exact


class _Code:
    """Writes expressions; ``wide`` has it compute in float32 what is of the element dtype."""

    def __init__(self, first: str, wide: bool = False) -> None:
        self.first = first
        self.wide = wide

    def of(self, expr: Expr, axes: tuple[Axis, ...], outer: int = 0) -> str:
        if all(isinstance(node, (Const, Scalar, Map)) for node in walk(expr)):
            return python(expr, outer)
        if isinstance(expr, Load):
            return _loaded(expr, axes, self.first) + (".float()" if self.wide and expr.dtype == ELEMENT else "")
        if isinstance(expr, Iota):
            after = "".join(", None" for _ in axes[axes.index(expr.axis) + 1 :])
            positions = f"torch.arange({python(expr.axis.extent)}, device={self.first}.device)"
            return positions + (f"[:{after}]" if after else "")
        if isinstance(expr, Scan):
            value = self.of(expr.arg, axes, _POSTFIX if expr.reverse else 0)
            dim = axes.index(expr.axis) - len(axes)
            if expr.reverse:
                return f"torch.cum{expr.op}({value}.flip({dim}), dim={dim}).flip({dim})"
            return f"torch.cum{expr.op}({value}, dim={dim})"
        if isinstance(expr, Reduce):
            if is_product(expr):
                wide = self.wide and expr.dtype == ELEMENT
                text = self._product(expr, axes, _POSTFIX if wide else outer)
                return text + (".float()" if wide else "")
            return self._reduced(expr, axes, _REDUCED[expr.op])
        if isinstance(expr, Map):
            return self._mapped(expr, axes, outer)
        raise _unknown(expr)

    def _mapped(self, expr: Map, axes: tuple[Axis, ...], outer: int) -> str:
        if expr.op == "cast":
            dtype = f"{self.first}.dtype" if expr.dtype == ELEMENT else f"torch.{expr.dtype}"
            return f"{self.of(expr.args[0], axes, _POSTFIX)}.to({dtype})"
        if expr.op == "add" and expr.dtype == ELEMENT:
            for product, bias in (expr.args, expr.args[::-1]):
                if isinstance(product, Reduce) and isinstance(bias, Load) and is_product(product):
                    matrix = _matrix(product, axes)
                    if matrix is not None and bias.axes == {matrix.own} and axes[-1] is matrix.own:
                        return self._linear(matrix, bias)
        if expr.op == "where":
            joined = self._joined(expr, axes)
            if joined is not None:
                return joined
        if (
            expr.op == "div"
            and isinstance(total := expr.args[0], Reduce)
            and total.op == "sum"
            and not is_product(total)
        ):
            count = expr.args[1]
            if isinstance(count, Map) and count.op == "cast" and count.args[0] is total.axis.extent:
                return self._reduced(total, axes, "mean")
        if expr.op == "mul" and expr.args[0] is expr.args[1]:
            return f"{self.of(expr.args[0], axes, _POSTFIX)}.square()"
        if expr.op in _INFIX:
            symbol, level = _INFIX[expr.op]
            left = self.of(expr.args[0], axes, level + (expr.op == "pow" or not level))
            right = self.of(expr.args[1], axes, level + 1)
            return _wrapped(f"{left} {symbol} {right}", outer > level)
        if expr.op in ("neg", "not"):
            inner = self.of(expr.args[0], axes, _UNARY)
            return _wrapped(("-" if expr.op == "neg" else "~") + inner, outer > _UNARY)
        if expr.op in ("maximum", "minimum") and any(not arg.axes for arg in expr.args):
            tensor, bound = expr.args if expr.args[0].axes else expr.args[::-1]
            limit = f"{'min' if expr.op == 'maximum' else 'max'}={python(bound)}"
            return f"{self.of(tensor, axes, _POSTFIX)}.clamp({limit})"
        if expr.op in _SAME_NAME:
            return f"torch.{expr.op}({', '.join(self.of(arg, axes) for arg in expr.args)})"
        raise _unknown(expr)

    def _reduced(self, expr: Reduce, axes: tuple[Axis, ...], name: str) -> str:
        if expr.axis in axes:
            dim = axes.index(expr.axis) - len(axes)
            return f"{self.of(expr.arg, axes, _POSTFIX)}.{name}({dim}, keepdim=True)"
        if expr.axis not in expr.arg.axes:
            raise _unknown(expr)
        order = _order(expr.arg, (*axes, expr.axis))
        dim = order.index(expr.axis)
        if tuple(axis for axis in order if axis is not expr.axis) != axes:
            order, dim = (*axes, expr.axis), -1
        return f"{self.of(expr.arg, order, _POSTFIX)}.{name}({dim})"

    def _joined(self, expr: Map, axes: tuple[Axis, ...]) -> str | None:
        """What is selected by the position, ``where(d < n, x, y)``, as x up to there joined with y from there on."""
        condition, first, second = expr.args
        if not (isinstance(condition, Map) and condition.op == "lt" and isinstance(condition.args[0], Iota)):
            return None
        axis, count = condition.args[0].axis, condition.args[1]
        others = integers.sub(axis.extent, count)
        if count.axes or not (integers.known_nonnegative(count) and integers.known_nonnegative(others)):
            return None
        if axis not in first.axes or first.axes != second.axes:
            return None
        parts = []
        for part, start, extent in ((first, ZERO, count), (second, count, others)):
            own = Axis(axis.name, extent)
            moved = substitute(part, {Iota(axis): integers.add(Iota(own), start)})
            parts.append(self.of(moved, tuple(own if one is axis else one for one in axes)))
        return f"torch.cat(({', '.join(parts)}), {axes.index(axis) - len(axes)})"

    def _product(self, expr: Reduce, axes: tuple[Axis, ...], outer: int) -> str:
        """A sum of products: `@` where it is one with a matrix, else `torch.einsum`."""
        body, bound = summed(expr)
        made = tuple(axis for axis in axes if axis in expr.axes)
        matrix = _matrix(expr, axes)
        if matrix is not None:
            right = torch_code(matrix.right, matrix.order, self.first, _POSTFIX if matrix.transposed else _UNARY)
            text = f"{torch_code(matrix.left, matrix.rows, self.first, _PRODUCT)} @ {right}{'.T' * matrix.transposed}"
            return _spread(_wrapped(text, outer > _PRODUCT or made != axes), made, axes)
        operands = [(factor, _order(factor, (*axes, *bound))) for factor in factors(body)]
        letters: dict[Axis, str] = {}
        for axis in (*made, *bound):
            wished = (*axis.name[:1].lower(), *ascii_lowercase)
            letters[axis] = next(one for one in wished if one.isalpha() and one not in letters.values())
        terms = ",".join("".join(letters[axis] for axis in order) for _, order in operands)
        values = ", ".join(torch_code(factor, order, self.first) for factor, order in operands)
        return _spread(f'torch.einsum("{terms}->{"".join(letters[axis] for axis in made)}", {values})', made, axes)

    def _linear(self, matrix: _Matrix, bias: Load) -> str:
        """A product with a matrix and what is added to each of its rows, in one: the sum is rounded once."""
        left = torch_code(matrix.left, matrix.rows, self.first)
        right = torch_code(matrix.right, matrix.order, self.first, _POSTFIX)
        text = f"{left}, {right}{'' if matrix.transposed else '.T'}, {_loaded(bias, (matrix.own,), self.first)}"
        return f"torch.nn.functional.linear({text})" + ".float()" * self.wide


@dataclass(frozen=True)
class _Matrix:
    """left[…, c] times right[c, e], or right[e, c] (``transposed``), summed over c; ``own`` is e."""

    left: Expr
    rows: tuple[Axis, ...]
    right: Expr
    order: tuple[Axis, ...]
    own: Axis
    transposed: bool


def _matrix(expr: Reduce, axes: tuple[Axis, ...]) -> _Matrix | None:
    """The sum of products, with one dimension for each of ``axes``, as a product with a matrix, if it is one."""
    body, bound = summed(expr)
    operands = [(factor, _order(factor, (*axes, *bound))) for factor in factors(body)]
    if len(operands) != 2 or len(bound) != 1:
        return None
    (left, rows), (right, order) = operands
    if rows[-1:] != bound or len(order) != 2 or bound[0] not in order:
        return None
    (own,) = set(order) - set(bound)
    made = tuple(axis for axis in axes if axis in expr.axes)
    if own in rows or made != (*rows[:-1], own):
        return None
    return _Matrix(left, rows, right, order, own, order[1] is bound[0])


def _order(factor: Expr, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """The factor's axes as a tensor of its own has them."""
    own = tuple(axis for axis in axes if axis in factor.axes)
    if isinstance(factor, Load):
        return tuple(sorted(own, key=lambda axis: [axis in index.axes for index in factor.index].index(True)))
    return own


def _spread(text: str, own: tuple[Axis, ...], axes: tuple[Axis, ...]) -> str:
    places = [":" if axis in own else "None" for axis in axes]
    while places[:1] == ["None"]:
        places.pop(0)  # broadcasting adds what is missing in front
    return f"{text}[{', '.join(places)}]" if "None" in places else text


def _loaded(load: Load, axes: tuple[Axis, ...], first: str) -> str:
    own: list[Axis] = []
    taken: list[str] = []  # a number where one position is read, a slice where some are
    parts: list[str] = []
    for index, size in zip(load.index, load.tensor.shape, strict=True):
        pair = both(index)
        if not index.axes:
            taken.append(python(index))
        elif pair is not None and integers.mul(pair[0].extent, pair[1].extent) is size:
            parts.append(f".unflatten({len(own)}, ({python(pair[0].extent)}, {python(pair[1].extent)}))")
            own += pair
            taken.append(":")
        elif len(index.axes) == 1:
            (axis,) = index.axes
            start = integers.sub(index, Iota(axis))
            if start.axes:
                raise _unknown(load)
            stop = integers.add(start, axis.extent)
            if axis.extent is size:
                taken.append(":")
                if start is not ZERO:
                    # what is moved around the end is discarded by a selection
                    parts.append(f".roll({python(integers.sub(ZERO, start))}, {len(own)})")
            elif integers.known_nonnegative(start) and integers.known_nonnegative(integers.sub(size, stop)):
                taken.append(f"{python(start) if start is not ZERO else ''}:{'' if stop is size else python(stop)}")
            else:
                positions = f"torch.arange({python(start)}, {python(stop)}, device={first}.device)"
                taken.append(f"{positions}.clamp(0, {python(integers.sub(size, integers.constant(1)))})")
            own.append(axis)
        else:
            raise _unknown(load)
    while taken and taken[-1] == ":":
        taken.pop()
    text = load.tensor.name + (f"[{', '.join(taken)}]" if taken else "") + "".join(parts)
    order = [own.index(axis) for axis in axes if axis in own]
    if len(set(order)) < len(own):
        raise _unknown(load)
    if order != sorted(order):
        text += f".permute({', '.join(map(str, order))})"
    return _spread(text, tuple(axis for axis in axes if axis in own), axes)


def _wrapped(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def _unknown(expr: Expr) -> Diagnostic:
    return Diagnostic("FL403", f"`{expr}` cannot be computed outside of the kernel", "compute it before the attention")
