"""Operators on tiles: how they are spelled, where they round, and comparisons of positions."""

from __future__ import annotations

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import FLOAT32, Code
from flashlight.emit.operators import ATOM, FUNCTIONS, INFIX
from flashlight.emit.tiles.products import Products
from flashlight.emit.tiles.values import INT_CODE, code_dtype
from flashlight.emit.widths import GROWING, is_wide, magnitude
from flashlight.ir import build, integers
from flashlight.ir.expr import BOOL, ELEMENT, FLOATS, Axis, Const, Expr, Iota, Load, Map, Reduce, is_float, is_int, walk
from flashlight.ir.ops import COMPARISONS


class Arithmetic(Products):
    """Computes element by element."""

    def _mapped(self, expr: Map) -> Code:
        axes = self.tile_axes(expr)
        self.note_depth(axes)
        above = _above_one(expr)
        if above is not None:
            self.helpers.add("log2_1p")
            # what is computed once has time to be exact: it may become a factor, of which each digit counts
            text = f"log2_1p({self.value(above).widened().along(axes)}, {'APPROXIMATE' if self.in_loop else False})"
            form, level = ("{}", ATOM) if expr.op == "log2" else ("{} * LN_2", 8)
            self.helpers |= {"LN_2"} if expr.op == "log" else set()
            return Code(form.format(text), level, axes, FLOAT32)
        summed = self._added_to(expr, axes)
        if summed is not None:
            return summed
        expr = self._apart(self._subtracted(expr))
        args = [self._argument(arg, expr) for arg in expr.args]
        if expr.op == "cast":
            return self._cast(expr, args[0])
        if is_float(expr) or any(map(is_float, expr.args)):
            args = [arg.widened() for arg in args]
        dtype = code_dtype(expr)
        if expr.op in GROWING and is_wide(expr) and not any(map(is_wide, expr.args)):
            # positions have 32 bits, which the result may not fit
            first = next(number for number, arg in enumerate(expr.args) if not isinstance(arg, Const))
            args[first] = Code(f"tl.cast({args[first].text}, tl.int64)", ATOM, args[first].axes, INT_CODE)
        if expr.op in ("floordiv", "mod") and is_int(expr):
            return self._divided(expr, args, axes)
        if expr.op in INFIX:
            spelling = INFIX[expr.op]
            level = spelling.precedence
            # comparisons chain in Python, and the right operand of - and / must not regroup
            first = level + 1 if level == 2 else level
            texts = [arg.along(axes, first if n == 0 else level + 1) for n, arg in enumerate(args)]
            return Code(spelling.form.format(*texts), level, axes, dtype)
        if expr.op == "isnan":
            text = args[0].within(3)
            return Code(f"{text} != {text}", 2, axes, BOOL)
        if expr.op not in FUNCTIONS:
            raise Diagnostic("FL404", f"`{expr.op}` has no form in a kernel", hint="write it with simpler operators")
        if expr.op in ("tanh", "sigmoid", "pow"):
            self.helpers.add(expr.op if expr.op != "pow" else "integer_power" if is_int(expr) else "power")
        if expr.op in ("maximum", "minimum") and is_float(expr):
            # as in PyTorch, a NaN stays one
            self.helpers.add(f"nan_{expr.op[:3]}")
            return Code(f"nan_{expr.op[:3]}({', '.join(arg.along(axes) for arg in args)})", ATOM, axes, dtype)
        if expr.op == "pow" and is_int(expr):
            return Code(f"integer_power({', '.join(arg.along(axes) for arg in args)})", ATOM, axes, INT_CODE)
        return Code(FUNCTIONS[expr.op].format(*(arg.along(axes) for arg in args)), ATOM, axes, dtype)

    def _argument(self, expr: Expr, reader: Map) -> Code:
        return self.value(expr)

    def _divided(self, expr: Map, args: list[Code], axes: tuple[Axis, ...]) -> Code:
        """Quotients round down in the program and towards zero in Triton: they agree from zero up."""
        left, right = args
        positive = integers.known_size(expr.args[1])
        if positive and integers.known_nonnegative(expr.args[0]):
            symbol = "//" if expr.op == "floordiv" else "%"
            return Code(f"{left.along(axes, 8)} {symbol} {right.along(axes, 9)}", 8, axes, INT_CODE)
        helper = "floor_divide" if positive else "floor_divide_signed"
        self.helpers.add(helper)
        quotient = f"{helper}({left.along(axes)}, {right.along(axes)})"
        if expr.op == "floordiv":
            return Code(quotient, ATOM, axes, INT_CODE)
        return Code(f"{left.along(axes, 7)} - {quotient} * {right.along(axes, 9)}", 7, axes, INT_CODE)

    def _cast(self, expr: Map, arg: Code) -> Code:
        source = expr.args[0]
        if expr.dtype in FLOATS:
            if is_float(source):
                # roundings are kept only where a matrix product or an output makes them real: more exact than asked
                return arg.widened() if expr.dtype != ELEMENT else arg
            if arg.dtype == FLOAT32:
                return arg
            return (
                Code(f"{arg.within(ATOM)}.to(tl.float32)", ATOM, arg.axes, FLOAT32)
                if arg.axes
                else Code(f"{arg.within(8)} * 1.0", 8, arg.axes, FLOAT32)
            )
        return Code(f"{arg.widened().within(ATOM)}.to(tl.int32)", ATOM, arg.axes, INT_CODE)

    # --- sums with a product ------------------------------------------------------------------------------------------

    def _added_to(self, expr: Map, axes: tuple[Axis, ...]) -> Code | None:
        """A matrix product that is added to a tile, as one that starts from the tile.

        Not from distances: they may exceed the products by far, whose last digits matrix instructions would cut off.
        """
        if expr.op != "add" or not is_float(expr):
            return None
        for product, tile in (expr.args[::-1], expr.args):
            free = product not in self.bound and not self.deserves_variable(product)
            if isinstance(product, Reduce) and free and self.tile_axes(tile) == axes == self.order(product):
                if self._is_of_positions(tile):
                    return None
                started = self.value(tile).widened()
                if started.axes == axes and product.op == "sum":
                    return self.dot(product.arg, product.axis, started.text)
        return None

    def _is_of_positions(self, tile: Expr) -> bool:
        """Whether no value of a tile comes from memory or a product: positions are all that it is made of."""
        return not any(isinstance(node, (Load, Reduce)) and self.tile_axes(node) for node in walk(tile))

    def _subtracted(self, expr: Map) -> Map:
        """A product plus multiples of distances, as the product less their negatives.

        Triton has a product start from what is added to it, also where that exceeds it by far (`_added_to`).
        """
        if not self.starts_from_terms or expr.op != "add" or not is_float(expr):
            return expr
        for product, tile in (expr.args[::-1], expr.args):
            if not (isinstance(product, Reduce) and product.op == "sum" and self._sides(product.arg, product.axis)):
                continue
            if self._is_of_positions(tile) and self.tile_axes(tile) == self.order(product):
                less = build.op("sub", product, _negated(tile), dtype=expr.dtype)
                assert isinstance(less, Map)
                if not any(map(_is_negative, (tile, *tile.children))):
                    self.block.comment("Subtracted: a sum would start from the distances, and round at their size")
                return less
        return expr

    # --- comparisons --------------------------------------------------------------------------------------------------

    def _apart(self, expr: Map) -> Map:
        """A comparison that needs arithmetic for each pair of a row and a key, with the key alone on one side.

        One comparison a score is left of ``row - key < window``. Not where the difference has a variable anyway, and
        not where it is compared twice in one test, which takes more of registers than it saves.
        """
        alone = self._isolated(expr)
        pairs = [arg for arg in expr.args if self._is_pairwise(arg)]
        if expr not in self.flags and any(self._is_compared_twice(pair) for pair in pairs):
            return expr
        return alone if alone is not None and pairs and all(map(self._is_only_compared, pairs)) else expr

    def _isolated(self, expr: Expr) -> Map | None:
        """The comparison of integers with the key alone on its left, if its other side fits 32 bits."""
        if not (isinstance(expr, Map) and expr.op in COMPARISONS and all(map(is_int, expr.args))):
            return None
        alone = integers.isolated(expr, Iota(self.roles.stream))
        return alone if alone is not None and magnitude(alone.args[1]) < 2**31 else None

    def _is_pairwise(self, expr: Expr) -> bool:
        return {self.roles.rows, self.roles.stream} <= expr.axes

    def _is_compared_twice(self, expr: Expr) -> bool:
        return sum(self._isolated(reader) is not None for reader in self.integer_readers(expr)) > 1

    def integer_readers(self, expr: Expr) -> list[Expr]:
        """What reads an integer as such."""
        return self.readers.get(expr, [])

    def _is_only_compared(self, expr: Expr) -> bool:
        """Whether nothing reads the integer, or what is made of it, but comparisons with the key on one side."""
        return expr not in self.bound and all(
            self._isolated(reader) is not None
            or (isinstance(reader, Map) and reader.op in GROWING and self._is_only_compared(reader))
            for reader in self.integer_readers(expr)
        )


def _above_one(expr: Map) -> Expr | None:
    """``x`` where the expression is the logarithm of 1 + x, which loses the digits of a small x if it is taken so."""
    inner = expr.args[0]
    if expr.op not in ("log", "log2") or not (isinstance(inner, Map) and inner.op == "add" and is_float(inner)):
        return None
    left, right = inner.args
    return next((x for x, one in ((left, right), (right, left)) if isinstance(one, Const) and one.value == 1), None)


def _is_negative(expr: Expr) -> bool:
    return isinstance(expr, Map) and expr.op == "neg"


def _negated(expr: Expr) -> Expr:
    """-x; of a product, one factor is negated."""
    if not (isinstance(expr, Map) and expr.op == "mul"):
        return build.op("neg", expr)
    # one that is a negative already, or the one with the fewest axes
    factor = min(expr.args, key=lambda arg: (not _is_negative(arg), len(arg.axes)))
    return build.op("mul", *(build.op("neg", arg) if arg is factor else arg for arg in expr.args), dtype=expr.dtype)
