"""Reductions within a tile, and matrix products: those sums whose factors have an axis each of the result."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import ELEMENT as RAW
from flashlight.emit.code import FLOAT32, Code
from flashlight.emit.operators import ATOM
from flashlight.emit.padding import zero_padded
from flashlight.emit.tiles.loads import Loads
from flashlight.emit.tiles.values import literal
from flashlight.ir.expr import BOOL, ELEMENT, Axis, Const, Expr, Load, Map, Reduce, is_float, walk
from flashlight.ir.ops import NEUTRAL
from flashlight.ir.program import tensors
from flashlight.ir.signs import is_relative


class Products(Loads):
    """Reduces over axes that lie within the tile."""

    def reduction(self, node: Reduce) -> Code:
        """A reduction over an axis that lies within the tile."""
        if node.op == "sum" and is_float(node):
            product = self.dot(node.arg, node.axis)
            if product is not None:
                return product
        return self.reduced(node.op, node.arg, node.axis)

    def reduced(self, op: str, arg: Expr, axis: Axis) -> Code:
        code = self.value(arg).widened() if is_float(arg) else self.value(arg)
        axes = tuple(a for a in self.roles.tile if a in arg.axes or a is axis)
        text = code.along(axes)
        if axis in self.roles.resident and not (op == "sum" and zero_padded(arg, axis)):
            inside = Code(f"{self.position(axis)} < {self.size(axis.extent)}", 2, (axis,), BOOL)
            text = f"tl.where({inside.along(axes)}, {text}, {literal(Const(NEUTRAL[op], 'float32'))})"
        function = {"sum": "tl.sum", "max": "tl.max", "min": "tl.min"}.get(op)
        if function is None:
            raise Diagnostic("FL404", f"a reduction by `{op}` has no form in a kernel", hint="use sum, max or min")
        kept = tuple(a for a in axes if a is not axis)
        if self.keeps_nan(op, arg, axis):
            self.helpers.add(f"nan_{op}")
            return Code(f"tl.reduce({text}, {axes.index(axis)}, nan_{op})", ATOM, kept, code.dtype)
        return Code(f"{function}({text}, {axes.index(axis)})", ATOM, kept, code.dtype)

    def keeps_nan(self, op: str, arg: Expr, axis: Axis) -> bool:
        """Whether an extreme must be NaN where a value is: it is used beside the sums that would show it anyway."""
        if op not in ("max", "min"):
            return False
        node = Reduce(op, arg, axis)
        chained = [item.reduce for one in self.schedule.passes for item in one.accumulators if item.reduce.op == "sum"]
        reading = [reduction.arg for reduction in chained if node in set(walk(reduction.arg))]
        shown = bool(reading) and all(_reads_beside(body, node) for body in reading)
        return is_float(arg) and (not shown or node in set(_above(self._roots(), chained)))

    # --- matrix products ----------------------------------------------------------------------------------------------

    def dot(self, body: Expr, axis: Axis, accumulator: str | None = None) -> Code | None:
        """``tl.dot`` if the body is a product of one factor a side: rows by axis and axis by columns."""
        found = self._sides(body, axis)
        if found is None:
            return None
        axes, sides = found
        whole, rounded = body, False
        while isinstance(body, Map) and body.op == "cast" and is_float(body.args[0]):
            body, rounded = body.args[0], True
        left, right = (self._zeroed(self._operand(side, body.dtype), side, axis) for side in sides)
        if left.dtype == right.dtype == RAW and _loaded(sides[0]) != _loaded(sides[1]):
            left, right = left.widened(), right.widened()  # one is stated to be float32
        if (left.dtype == RAW) != (right.dtype == RAW):
            narrow, wide = (left, right) if left.dtype == RAW else (right, left)
            if accumulator and wide is left and self._leaves_range(whole, sides[0], axis):
                self.helpers.add("dot_in_range")
                texts = self._sided(left, right, axes, axis)
                return Code(f"dot_in_range({', '.join(texts)}, {accumulator}, PRECISION)", ATOM, axes, FLOAT32)
            if body.dtype == ELEMENT or rounded or self._is_element(sides[0 if wide is left else 1]):
                wide = Code(f"{wide.within(ATOM)}.to({self._element(narrow)})", ATOM, wide.axes, RAW)
            else:
                narrow = narrow.widened()
            left, right = (narrow, wide) if left.dtype == RAW else (wide, narrow)
        elif left.dtype != RAW and body.dtype == ELEMENT:
            element = self._element(None)
            left, right = (Code(f"{c.within(ATOM)}.to({element})", ATOM, c.axes, RAW) for c in (left, right))
        self.float32 = self.float32 or left.dtype != RAW
        return Code(self._product(left, right, axes, axis, accumulator), ATOM, axes, FLOAT32)

    def _sides(self, body: Expr, axis: Axis) -> tuple[tuple[Axis, ...], tuple[list[Expr], list[Expr]]] | None:
        """The axes of a matrix product and the factors of its sides; a batch of products, if both sides have its axis.

        The axis of the batch comes first: a demoted one, or the rows where something is the same at all its positions.
        """
        while isinstance(body, Map) and body.op == "cast" and is_float(body.args[0]):
            body = body.args[0]
        axes = tuple(a for a in self.roles.tile if a in body.axes and a is not axis)
        if len(axes) == 2:
            batches: list[tuple[Axis, ...]] = [()]
        elif len(axes) == 3 and self.roles.demoted is not None:
            batches = [(a,) for a in self.roles.blocked if a in axes]
        else:
            return None
        for batch in batches:
            columns = tuple(a for a in axes if a not in batch)
            sides: tuple[list[Expr], list[Expr]] = ([], [])
            for factor in _factors(body):
                own = [a for a in columns if a in factor.axes]
                if axis not in factor.axes or len(own) != 1:
                    break
                sides[columns.index(own[0])].append(factor)
            else:
                if all(side and all(any(a in f.axes for f in side) for a in batch) for side in sides):
                    return (*batch, *columns), sides
        return None

    def order(self, node: Reduce) -> tuple[Axis, ...]:
        """The tile axes of a reduction as it is computed: a batch of matrix products has that of the batch first."""
        found = self._sides(node.arg, node.axis) if node.op == "sum" and is_float(node) else None
        return found[0] if found is not None else self.tile_axes(node)

    def _product(self, left: Code, right: Code, axes: tuple[Axis, ...], axis: Axis, accumulator: str | None) -> str:
        """A matrix product over ``axis``, added to the accumulator if there is one."""
        texts = self._sided(left, right, axes, axis)
        added = f", {accumulator}" if accumulator else ""
        return f"tl.dot({', '.join(texts)}{added}, input_precision=PRECISION)"

    def _sided(self, left: Code, right: Code, axes: tuple[Axis, ...], axis: Axis) -> list[str]:
        """The sides of a product over ``axis``: rows by it and it by columns, each behind the axis of a batch."""
        *batch, rows, columns = axes
        return [left.along((*batch, rows, axis)), right.along((*batch, axis, columns))]

    def _leaves_range(self, body: Expr, weights: list[Expr], axis: Axis) -> bool:
        """Whether the weights may be out of float16's range because they are normalised after the product.

        They are not where the greatest of them is one: weights relative to their maximum, and nothing that may single
        others out, as a mask after the softmax does.
        """
        return Reduce("sum", body, axis) in self.normalised and not (len(set(weights)) == 1 and is_relative(weights[0]))

    def _zeroed(self, code: Code, side: list[Expr], axis: Axis) -> Code:
        """One side of a dot, zero past the end of the axis, where a function of what is loaded need not be."""
        if axis not in self.roles.resident or zero_padded(functools.reduce(_times, side), axis):
            return code
        inside = Code(f"{self.position(axis)} < {self.size(axis.extent)}", 2, (axis,), BOOL)
        return Code(f"tl.where({inside.along(code.axes)}, {code.text}, 0.0)", ATOM, code.axes, code.dtype)

    def _is_element(self, side: list[Expr]) -> bool:
        return all(factor.dtype == ELEMENT for factor in side)

    def _element(self, code: Code | None) -> str:
        """The element type as text: that of a loaded tile, or of the first tensor of it that the kernel reads."""
        if code is not None and code.text.isidentifier():
            return f"{code.text}.dtype"
        program = self.schedule.program
        read = tensors(*(output.expr for output in program.outputs))
        tensor = next(t for t in program.inputs if t.dtype == ELEMENT and t in read)
        return f"{tensor.name}_ptr.dtype.element_ty"

    def _operand(self, side: list[Expr], dtype: str) -> Code:
        """One side of a dot: a loaded tile stays as it is (a widening cast changes nothing exact products need)."""
        if len(side) == 1:
            factor = side[0]
            while isinstance(factor, Map) and factor.op == "cast" and is_float(factor.args[0]):
                inner = factor.args[0]
                if not (isinstance(inner, Load) or (isinstance(inner, Map) and inner.op == "cast")):
                    break
                factor = inner
            return self.value(factor)
        product: Code | None = None
        for factor in side:
            code = self.value(factor).widened()
            axes = tuple(a for a in self.roles.tile if a in code.axes or (product is not None and a in product.axes))
            if product is None:
                product = code
            else:
                product = Code(f"{product.along(axes, 8)} * {code.along(axes, 9)}", 8, axes, FLOAT32)
        assert product is not None
        return product


def _above(roots: list[Expr], stops: list[Reduce]) -> Iterator[Expr]:
    """The nodes that are reached from the roots without passing through one of ``stops``."""
    seen: set[Expr] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node in seen or node in stops:
            continue
        seen.add(node)
        yield node
        waiting.extend(node.children)


def _loaded(side: list[Expr]) -> set[str]:
    """The dtypes of the tensors that a side of a product reads."""
    return {node.tensor.dtype for node in walk(*side) if isinstance(node, Load) and is_float(node)}


def _factors(body: Expr) -> list[Expr]:
    if isinstance(body, Map) and body.op == "mul":
        return [factor for arg in body.args for factor in _factors(arg)]
    return [body]


def _times(left: Expr, right: Expr) -> Expr:
    return Map("mul", (left, right), left.dtype)


def _reads_beside(body: Expr, extreme: Reduce) -> bool:
    """Whether the body reads the values of which it has the extreme."""
    if body is extreme.arg:
        return True
    return body is not extreme and any(_reads_beside(child, extreme) for child in body.children)
