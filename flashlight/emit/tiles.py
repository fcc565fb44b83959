"""Expressions to Triton: which values get a variable, how tiles broadcast, loads, contractions and masks.

Everything here is driven by the axes of an expression. A product summed over an axis becomes ``tl.dot`` because of
which axes its factors have, not because of where in an attention program it stands.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import ELEMENT as RAW
from flashlight.emit.code import FLOAT32, Block, Code
from flashlight.emit.host import python
from flashlight.emit.names import Names, block_names, described, dimension_labels, grid_names, of_number
from flashlight.emit.operators import ATOM, CONSTANTS, FUNCTIONS, INFIX
from flashlight.emit.padding import zero_padded
from flashlight.emit.widths import GROWING, is_wide, magnitude
from flashlight.ir import build, integers
from flashlight.ir.expr import (
    BOOL,
    ELEMENT,
    FLOATS,
    INT,
    NARROW,
    Axis,
    Const,
    Expr,
    Iota,
    Load,
    Map,
    Reduce,
    Scalar,
    Tensor,
    is_float,
    is_int,
    unrounded,
    walk,
)
from flashlight.ir.ops import COMPARISONS, NEUTRAL
from flashlight.ir.order import axis_key
from flashlight.ir.program import Name, tensors
from flashlight.ir.signs import is_relative
from flashlight.schedule.model import Mask, Schedule
from flashlight.schedule.roles import extent_name, is_size
from rewriters.expand import Expansion

INT_CODE = "int"
MASKED = "part > 0"
"""True in the loops over blocks that are not full, the full ones being the first part."""
EARLY, LATE = "key_start < full_start", "key_start >= full_stop"
"""Where one loop serves all blocks: whether one begins before the full ones, and whether it ends after them."""


class TileWriter:
    """Writes expressions as statements into `block`, remembering what has been given a variable."""

    sided = False
    """Whether conditions are tested only on the side of the full blocks where they can fail."""
    starts_from_terms = True
    """Whether the compiler has a product start from what is added to it."""

    def __init__(self, schedule: Schedule, names: Names, source_name: str) -> None:
        self.schedule = schedule
        self.roles = schedule.roles
        self.grid = grid_names(schedule.roles.grid, names)
        self.names = names
        # of the axes of which a program has a block: where that starts, offsets from there, positions
        self.blocks = {
            self.roles.rows: ("row_start", "row_offsets", "rows"),
            self.roles.stream: ("key_start", "key_offsets", "keys"),
        }
        if self.roles.demoted is not None:
            self.blocks[self.roles.demoted] = block_names(self.roles.demoted, names)
        self.source_name = source_name
        self.block = Block()
        self.bound: dict[Expr, Code] = {}
        self.masks: dict[Expr, Mask] = {mask.node: mask for mask in schedule.masks}
        self.pointers: dict[Load, tuple[str, str]] = {}
        self.descriptors: dict[Load, str] = {}
        self.existing: dict[tuple[Load, Axis], str] = {}
        self.helpers: set[str] = set()
        self.expansions = {one.distance: one for one in schedule.expansions}
        self.deep: dict[Axis, None] = {}
        self.deep_exact: dict[Axis, None] = {}
        self.gathers: dict[Tensor, None] = {}
        self.in_loop = False
        self.joint = False
        self.float32 = False
        self.masked = MASKED
        self.flags: dict[Expr, str] = {}  # conditions that are tested in other blocks than `masked` says
        self.used_tensors: dict[Tensor, None] = {}
        self.sizes: dict[Scalar, None] = {}
        self.numbers: dict[Expr, str] = {}
        self.uses: dict[Expr, int] = {}
        self.readers: dict[Expr, list[Expr]] = {}
        program = schedule.program
        self.rounded: dict[Expr, Name] = {}
        for node, name in program.names.items():
            if isinstance(node, Map) and node.op == "cast" and is_float(node) and is_float(node.args[0]):
                self.rounded.setdefault(node.args[0], name)
        self.normalised: set[Expr] = set()
        self.chosen: set[Expr] = set()  # what a condition chooses between
        for node in walk(*self._roots()):
            if isinstance(node, Map) and node.op == "where":
                self.chosen.update(node.args[1:])
            for child in node.children:
                self.uses[child] = self.uses.get(child, 0) + 1
                self.readers.setdefault(child, []).append(node)
            if isinstance(node, Map) and node.op in ("mul", "div"):
                self.normalised.update(sum_ for sum_ in map(unrounded, node.args) if isinstance(sum_, Reduce))

    # --- axes -------------------------------------------------------------------------------------------------------

    def tile_axes(self, expr: Expr) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.roles.tile if axis in expr.axes)

    def position(self, axis: Axis) -> str:
        """The variable that holds the positions along an axis."""
        if axis in self.blocks:
            return self.blocks[axis][2]
        if axis in self.roles.resident:
            return representative(axis, self.roles.resident).name
        return self.grid[axis]

    def offsets(self, axis: Axis) -> str:
        """The positions along a tile axis counted from the start of the block."""
        return self.blocks[axis][1] if axis in self.blocks else self.position(axis)

    def width(self, axis: Axis) -> str:
        """How many positions of the axis a tile has."""
        if axis is self.roles.rows:
            return "BLOCK_ROWS"
        return "BLOCK_KEYS" if axis is self.roles.stream else f"BLOCK_{extent_name(axis)}"

    def note_depth(self, axes: tuple[Axis, ...]) -> None:
        """Remember the axes of a tile that holds more than one value for each pair of a row and a key."""
        if all(axis in axes for axis in (*self.roles.blocked, self.roles.stream)):
            self.deep.update(dict.fromkeys(axis for axis in axes if axis in self.roles.resident))

    def size(self, expr: Expr, outer: int = 3) -> str:
        """An extent as code, in parentheses where an operator of the precedence ``outer`` binds more tightly."""
        return self.value(expr).within(outer)

    # --- values -----------------------------------------------------------------------------------------------------

    def value(self, expr: Expr, *, bind: bool | None = None) -> Code:
        """The expression as code; given a variable where that reads better or saves work."""
        known = self.bound.get(expr)
        if known is not None:
            return known
        if expr in self.masks:
            return self._masked(self.masks[expr])
        if expr in self.expansions:
            return self._distances(self.expansions[expr])
        if isinstance(expr, Load) and expr in self.descriptors and self.in_loop:
            return self._block_of_keys(expr)
        number = self._number(expr)
        if number is not None:
            return number
        if isinstance(expr, Map) and is_size(expr):
            width = next((axis for axis in self.roles.resident if axis.extent is expr), None)
            if width is not None:
                return Code(extent_name(width), ATOM, (), INT_CODE)
        code = self._written(expr)
        wanted = self.deserves_variable(expr) if bind is None else bind
        return self.assign(expr, code) if wanted else code

    def assign(self, expr: Expr, code: Code, name: str | None = None) -> Code:
        """Give the code a variable, named as the user named the value."""
        given = self._name(expr)
        if code.text.isidentifier():
            self.bound[expr] = code
            return code
        if name is None and given is not None:
            variable = self.names.of(given)
        else:
            variable = self.names.fresh(name or self._default_name(expr))
        line = f"{variable} = {code.text}"
        if given is not None and given.line:
            line += f"  # {self.source_name}:{given.line}"
        self.block.add(line)
        bound = Code(variable, ATOM, code.axes, code.dtype)
        self.bound[expr] = bound
        return bound

    def _block_of_keys(self, load: Load) -> Code:
        """A block by descriptor (zeros past the end by itself) or by pointers; always a variable."""
        variable = self.names.fresh(load.tensor.name)
        pointers = self.load(load)
        self.block.add("if DESCRIPTORS:")
        self.block.add(f"    {variable} = {self.descriptors[load]}.load([key_start, 0])")
        self.block.add("else:")
        self.block.add(f"    {variable} = {pointers.text}")
        code = Code(variable, ATOM, pointers.axes, pointers.dtype)
        self.bound[load] = code
        return code

    def deserves_variable(self, expr: Expr) -> bool:
        """Whether a variable saves work, or shows a name that the user gave."""
        if isinstance(expr, (Const, Scalar, Iota)):
            return False
        if isinstance(expr, Load):
            return True
        shared = self.uses.get(expr, 0) > 1
        if not self.tile_axes(expr):
            return shared and not isinstance(expr, Map) or (shared and bool(expr.axes))
        return shared or self._name(expr) is not None

    def _name(self, expr: Expr) -> Name | None:
        """The user's name for a value; a rounding of it does not change what it is called."""
        names = self.schedule.program.names
        return names.get(expr) or self.rounded.get(expr)

    def _default_name(self, expr: Expr) -> str:
        if isinstance(expr, Load):
            loads = [n for n in walk(*self._roots()) if isinstance(n, Load) and n.tensor is expr.tensor]
            if len({self.tile_axes(load) for load in loads}) > 1:
                if self.tile_axes(expr) == (self.roles.rows,):
                    return f"row_{expr.tensor.name}"
                if self.tile_axes(expr) == (self.roles.stream,):
                    return f"key_{expr.tensor.name}"
            return expr.tensor.name
        if isinstance(expr, Reduce):
            return {"sum": "total", "max": "highest", "min": "lowest"}.get(expr.op, expr.op)
        if isinstance(expr, Map) and is_int(expr):
            if self.tile_axes(expr):
                return "position"
            reader = next((n for n in walk(*self._roots()) if isinstance(n, Load) and expr in n.index), None)
            place = next((self.grid[axis] for axis in sorted(expr.axes, key=axis_key)), "index")
            return f"{reader.tensor.name}_{place}" if reader else place
        if expr.dtype == BOOL:
            return "visible"
        return described(expr, self.roles.stream)

    def _roots(self) -> list[Expr]:
        return [output.expr for output in self.schedule.program.outputs]

    def _number(self, expr: Expr) -> Code | None:
        """Numbers that the host knows are computed there and passed in."""
        if isinstance(expr, Const):
            constant = CONSTANTS.get(expr.value) if is_float(expr) else None
            if constant is not None:
                self.helpers.add(constant)
            return Code(constant or _literal(expr), ATOM if _is_nonnegative(expr) else 9, (), _code_dtype(expr))
        if isinstance(expr, Scalar) and expr.dtype == INT:
            self.sizes.setdefault(expr)
            return Code(expr.name, ATOM, (), INT_CODE)
        rounded = isinstance(expr, Map) and expr.op == "cast" and expr.dtype == INT and is_float(expr.args[0])
        if expr.axes or not (is_float(expr) or rounded) or any(isinstance(node, (Load, Reduce)) for node in walk(expr)):
            return None
        if expr not in self.numbers:
            # roundings of numbers are not kept: what the host computes alike is one number
            same = next((name for other, name in self.numbers.items() if python(other) == python(expr)), None)
            own = expr.name if isinstance(expr, Scalar) else None  # no other variable has the name of a parameter
            self.numbers[expr] = same or own or self.names.fresh("fill" if expr in self.chosen else of_number(expr))
        return Code(self.numbers[expr], ATOM, (), INT_CODE if rounded else FLOAT32)

    def _written(self, expr: Expr) -> Code:
        if isinstance(expr, Iota):
            axes = self.tile_axes(expr)
            return Code(self.position(expr.axis), ATOM, axes, INT_CODE)
        if isinstance(expr, Load):
            return self.load(expr)
        if isinstance(expr, Reduce):
            return self.reduction(expr)
        if isinstance(expr, Map):
            return self._mapped(expr)
        raise Diagnostic("FL403", f"`{expr}` cannot be computed within a tile", hint="compute it before the attention")

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
        dtype = _code_dtype(expr)
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

    # --- distances --------------------------------------------------------------------------------------------------

    def settle(self, one: Expansion) -> None:
        """Before a loop: the term of the rows."""
        load = next(node for node in walk(one.row_term) if isinstance(node, Load))
        if one.row_term not in self.bound:
            self.assign(one.row_term, self.value(one.row_term, bind=False), f"{load.tensor.name}_square")

    def _distances(self, one: Expansion) -> Code:
        """Squared distances by a matrix product where the dtype bears it, else from the differences themselves."""
        axes = self.tile_axes(one.distance)
        for load in walk(one.product):
            if isinstance(load, Load):
                self.value(load)
        given = self._name(one.distance)
        variable = self.names.of(given) if given else self.names.fresh("distance")
        line = f"  # {self.source_name}:{given.line}" if given and given.line else ""
        outer, before, deep = self.block, dict(self.bound), dict(self.deep)
        for test, expr in (("if EXPAND:", one.expanded), ("else:", one.distance)):
            outer.add(test)
            self.block = outer.nested()
            if expr is not one.distance:
                self.assign(one.squares, self.value(one.squares, bind=False), "squares")
            code = self._written(expr)
            self.block.add(f"{variable} = {code.along(axes)}{line}")
            outer.close(self.block)
            self.bound = dict(before)
        self.deep_exact.update(self.deep)
        self.block, self.deep = outer, deep
        bound = Code(variable, ATOM, axes, FLOAT32)
        self.bound[one.distance] = bound
        return bound

    # --- masks ------------------------------------------------------------------------------------------------------

    def _masked(self, mask: Mask) -> Code:
        node = mask.node
        assert isinstance(node, Map)
        _, yes, fill = node.args
        axes = self.tile_axes(node)
        single = self.uses.get(yes, 0) <= 1 and yes not in self.bound and yes not in self.masks
        inner = (self._written(yes) if self._number(yes) is None and single else self.value(yes)).widened()
        fill_code = self.value(fill)
        if inner.axes != axes:
            widths = ", ".join(map(self.width, axes))
            # Triton spreads tiles of the same rank; a number is no tile
            spread = "tl.broadcast_to({}, [{}])" if inner.axes else "tl.full([{1}], {0}, tl.float32)"
            inner = Code(spread.format(inner.along(axes), widths), ATOM, axes, inner.dtype)
        for condition in mask.tested:
            test = self.value(condition)
            inner = Code(f"tl.where({test.along(axes)}, {inner.text}, {fill_code.text})", ATOM, axes, FLOAT32)
        names = self.schedule.program.names
        given = self._name(node) or self._name(yes)
        if self._is_shared(inner):
            # the mask must not change what others read
            variable = self.names.of(given) if given else self.names.fresh("scores")
            self.block.add(f"{variable} = {inner.text}")
            inner = Code(variable, ATOM, inner.axes, inner.dtype)
        called = yes if node not in names and yes in names else node
        unmasked = self.bound.get(yes)
        bound = self.assign(called, inner, None if given else "scores")
        self.bound[node] = bound
        if single:
            self.bound.pop(yes, None)
        elif unmasked is not None:
            self.bound[yes] = unmasked
        tests: dict[str, list[Expr]] = {}
        for one in mask.ranged:
            tests.setdefault(self.flags.get(one.condition, self.masked), []).append(one.condition)
        select = f"{bound.text} = tl.where({{}}, {bound.text}, {fill_code.text})"
        around = dict.fromkeys(self.masked if flag in (EARLY, LATE) else flag for flag in tests)
        several = self.sided and len(tests) > 1
        if several:
            self.block.comment("Full blocks skip both tests by one branch")
        with self._only_if(" | ".join(around)) if several else nullcontext():
            for flag in sorted(tests, key=lambda flag: (flag != EARLY, flag != LATE)):
                with self._only_if(flag):
                    self.block.add(select.format(self._conjunction(tests[flag]).along(axes)))
        return bound

    @contextmanager
    def _only_if(self, flag: str) -> Iterator[None]:
        """Write into a block that is entered where the flag is true, and whose variables end with it."""
        self.block.add(f"if {flag}:")
        outer, before = self.block, dict(self.bound)
        self.block = outer.nested()
        yield
        outer.close(self.block)
        self.block, self.bound = outer, before

    def _is_shared(self, code: Code) -> bool:
        """Whether the code is a variable whose value more than one expression needs."""
        owners = (expr for expr, bound in self.bound.items() if bound.text == code.text)
        return code.text.isidentifier() and any(self.uses.get(expr, 0) > 1 for expr in owners)

    def _conjunction(self, conditions: Sequence[Expr]) -> Code:
        parts = [self.value(condition) for condition in conditions]
        axes = tuple(axis for axis in self.roles.tile if any(axis in part.axes for part in parts))
        if len(parts) == 1:
            return parts[0]
        return Code(" & ".join(f"{part.along(axes, 6)}" for part in parts), 5, axes, BOOL)

    # --- loads ------------------------------------------------------------------------------------------------------

    def load(self, load: Load) -> Code:
        """A tile or a scalar of a tensor, zero outside it."""
        axes = self.tile_axes(load)
        self.note_depth(axes)
        deep = any(axis in self.roles.resident for axis in axes) or self.roles.demoted is None
        if deep and len(axes) > 2 and self.roles.stream in axes and any(axis in axes for axis in self.roles.blocked):
            self.gathers.setdefault(load.tensor)
        self.used_tensors.setdefault(load.tensor)
        tests, always = self._bounds(load)
        if load in self.pointers:
            base, advance = self.pointers[load]
            pointer = f"{base} + {advance}" if advance else base
        else:
            pointer = self._pointer(load, axes)
        dtype = RAW if is_float(load) else BOOL if load.dtype == BOOL else INT_CODE
        # arithmetic of few bits would wrap where the program says so itself
        widened = ".to(tl.int32)" * (load.tensor.dtype in NARROW)
        if not tests:
            return Code(f"tl.load({pointer}){widened}", ATOM, axes, dtype)
        test = " & ".join(code.along(axes, 6) for code in tests)
        if always:
            return Code(f"tl.load({pointer}, mask={test}, other=0){widened}", ATOM, axes, dtype)
        self.helpers.add("load_tile")
        resident = [axis for axis in axes if axis in self.roles.resident]
        padded = [f"{self.width(axis)} != {self.value(axis.extent).text}" for axis in resident]
        masked = " or ".join([self.masked, *padded] if self.in_loop and self.roles.stream in axes else padded)
        return Code(f"load_tile({pointer}, {test}, {masked}){widened}", ATOM, axes, dtype)

    def _bounds(self, load: Load) -> tuple[list[Code], bool]:
        """The tests under which the elements exist, and whether they are needed whatever the block."""
        tests: list[Code] = []
        always = self.joint or not (self.in_loop and self.roles.stream in load.axes)
        plain: set[Axis] = set()
        for index, extent in zip(load.index, load.tensor.shape, strict=True):
            if isinstance(index, Iota) and index.axis.extent is extent:
                plain.add(index.axis)
                continue
            if integers.is_nonnegative_below(integers.polynomial(index), extent):
                plain |= {axis for axis in self.tile_axes(index)}
                continue
            code = self.value(index)
            size = self.value(extent)
            if not integers.known_nonnegative(index):
                tests.append(Code(f"{code.within(3)} >= 0", 2, code.axes, BOOL))
            tests.append(Code(f"{code.within(3)} < {size.within(3)}", 2, code.axes, BOOL))
            always = True
            plain |= {axis for axis in self.tile_axes(index)}
        plain -= {axis for axis in self.roles.tile if (load, axis) in self.existing}
        for axis in self.roles.tile:
            if axis in plain:
                tests.append(Code(f"{self.position(axis)} < {self.size(axis.extent)}", 2, (axis,), BOOL))
                always = always or axis in self.roles.blocked
        resident = [axis for axis in plain if axis in self.roles.resident]
        if resident and len(resident) == len(tests) and not self.in_loop:
            always = False
        return tests, always

    def _pointer(self, load: Load, axes: tuple[Axis, ...]) -> str:
        base, vectors = self._address(load)
        parts = [base, *(vector.along(axes, 7) for vector in vectors)]
        return " + ".join(parts)

    def _address(self, load: Load, advancing: bool = True) -> tuple[str, list[Code]]:
        """The address as a 64-bit scalar (the tensor's start, the block's) and small offsets within the tile."""
        tensor = load.tensor
        scalars = [f"{tensor.name}_ptr"]
        vectors: list[Code] = []
        for label, index in zip(dimension_labels(tensor), load.index, strict=True):
            stride = f"{tensor.name}_stride_{label}"
            fixed: integers.Polynomial = {}
            loose: integers.Polynomial = {}
            for monomial, coefficient in integers.polynomial(index).items():
                tiled = [atom for atom in monomial if self.tile_axes(atom)]
                if not tiled:
                    fixed[monomial] = coefficient
                    continue
                rest = [atom for atom in monomial if not self.tile_axes(atom)]
                if len(tiled) == 1 and isinstance(tiled[0], Iota):
                    axis = tiled[0].axis
                    factor = self.value(integers.expression({tuple(rest): coefficient}))
                    step = stride if factor.text == "1" else f"{factor.within(8)} * {stride}"
                    offsets = self.offsets(axis)
                    offsets = self.existing.get((load, axis), offsets)
                    vectors.append(Code(offsets, ATOM, (axis,), step))
                    if axis in self.roles.blocked or axis is self.roles.stream and advancing:
                        scalars.append(f"tl.cast({self.blocks[axis][0]}, tl.int64) * {step}")
                else:
                    loose[monomial] = coefficient
            if fixed:
                place = self.value(integers.expression(fixed)).within(9)
                if place.isdecimal() and place not in ("0", "1"):
                    place = f"tl.cast({place}, tl.int64)"  # a stride has 32 bits where it fits them
                scalars.append(f"{place} * {stride}")
            if loose:
                code = self.value(integers.expression(loose))
                vectors.append(Code(f"{code.within(ATOM)}.to(tl.int64)", ATOM, code.axes, stride))
        shaped = []
        axes = self.tile_axes(load)
        for vector in vectors:
            text = f"{vector.along(axes, ATOM)} * {vector.dtype}"
            shaped.append(Code(text, 8, axes, INT_CODE))
        return " + ".join(scalars), shaped

    def advance(self, load: Load) -> None:
        """Before a loop: the address of the first block of keys; in it, only the start of the block is added."""
        if load in self.pointers or any(isinstance(node, Load) for index in load.index for node in walk(index)):
            return
        self.used_tensors.setdefault(load.tensor)
        label = self._moving(load)
        if label is None:
            return
        if self._is_block(load):
            self._describe(load)
            return
        for axis in self.roles.blocked:
            self._clamp(load, axis)
        base, vectors = self._address(load, advancing=False)
        axes = self.tile_axes(load)
        name = self.names.fresh(f"{load.tensor.name}_block")
        self.block.add(f"{name} = " + " + ".join([base, *(vector.along(axes, 7) for vector in vectors)]))
        self.pointers[load] = (name, f"tl.cast(key_start, tl.int64) * {load.tensor.name}_stride_{label}")

    def _moving(self, load: Load) -> str | None:
        """The label of the dimension along which the key block moves, if it moves along one and by whole steps."""
        terms = [
            (label, monomial, coefficient)
            for label, index in zip(dimension_labels(load.tensor), load.index, strict=True)
            for monomial, coefficient in integers.polynomial(index).items()
            if any(self.roles.stream in atom.axes for atom in monomial)
        ]
        single = len(terms) == 1 and terms[0][1:] == ((Iota(self.roles.stream),), 1)
        return terms[0][0] if single else None

    def _clamp(self, load: Load, axis: Axis) -> None:
        """Let rows past the end read the last one, whose result nothing stores; so with a demoted axis.

        A full block then needs no mask, so that it is read in whole vectors, and ahead of time. (Not indices: what is
        gathered by them waits for them at once.)
        """
        if is_int(load):
            return
        having = [
            (index, size) for index, size in zip(load.index, load.tensor.shape, strict=True) if axis in index.axes
        ]
        if len(having) != 1 or not (having[0][0] is Iota(axis) and axis.extent is having[0][1]):
            return
        start, offsets, positions = self.blocks[axis]
        name = next((name for (_, clamped), name in self.existing.items() if clamped is axis), None)
        if name is None:
            name = self.names.fresh(f"existing_{positions}")
            last = f"{self.size(axis.extent)} - 1 - {start}"
            self.block.add(f"{name} = tl.minimum({offsets}, {last})  # {positions} past the end read the last one")
        self.existing[load, axis] = name

    def _is_block(self, load: Load) -> bool:
        """Whether the tile is a block of whole rows of a matrix: keys by a last dimension, the rest fixed."""
        stream = self.roles.stream
        *outer, last = load.index
        if not (is_float(load) and isinstance(last, Iota) and last.axis in self.roles.resident):
            return False
        plain = [i for i, size in zip(load.index, load.tensor.shape, strict=True) if _spans(i, size)]
        return (
            len(self.tile_axes(load)) == 2
            and last in plain
            and Iota(stream) in plain
            and not any(self.tile_axes(index) for index in outer if index is not Iota(stream))
        )

    def _describe(self, load: Load) -> None:
        """Before a loop: the matrix as a tensor descriptor where the copy engine can read it, and as pointers."""
        stream, tensor = self.roles.stream, load.tensor
        base, _ = self._address(load, advancing=False)
        axes = self.tile_axes(load)
        label = next(
            label for label, index in zip(dimension_labels(tensor), load.index, strict=True) if index is Iota(stream)
        )
        step, inner = f"{tensor.name}_stride_{label}", f"{tensor.name}_stride_{dimension_labels(tensor)[-1]}"
        start = self.names.fresh(f"{tensor.name}_base")
        blocks = self.names.fresh(f"{tensor.name}_blocks")
        self.block.add(f"{start} = {base}")
        self.block.add("if DESCRIPTORS:")
        shape = ", ".join(self.value(axis.extent).text for axis in axes)
        widths = ", ".join(self.width(axis) for axis in axes)
        self.block.add(f"    {blocks} = tl.make_tensor_descriptor({start}, [{shape}], [{step}, 1], [{widths}])")
        vectors = [Code(self.offsets(axis), ATOM, (axis,), INT_CODE).along(axes) for axis in axes]
        self.block.add("else:")
        self.block.add(f"    {blocks} = {start} + {vectors[0]} * {step} + {vectors[1]} * {inner}")
        self.pointers[load] = (blocks, f"tl.cast(key_start, tl.int64) * {step}")
        self.descriptors[load] = blocks

    # --- reductions within the tile ---------------------------------------------------------------------------------

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
            text = f"tl.where({inside.along(axes)}, {text}, {_literal(Const(NEUTRAL[op], 'float32'))})"
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


def representative(axis: Axis, axes: tuple[Axis, ...]) -> Axis:
    """The one of the axes of equal extent that positions along them are named after."""
    same = (other for other in axes if other.extent is axis.extent)
    return min(same, key=lambda other: (len(other.name), other.name))


def _loaded(side: list[Expr]) -> set[str]:
    """The dtypes of the tensors that a side of a product reads."""
    return {node.tensor.dtype for node in walk(*side) if isinstance(node, Load) and is_float(node)}


def _spans(index: Expr, size: Expr) -> bool:
    return isinstance(index, Iota) and index.axis.extent is size


def _factors(body: Expr) -> list[Expr]:
    if isinstance(body, Map) and body.op == "mul":
        return [factor for arg in body.args for factor in _factors(arg)]
    return [body]


def _times(left: Expr, right: Expr) -> Expr:
    return Map("mul", (left, right), left.dtype)


def _above_one(expr: Map) -> Expr | None:
    """``x`` where the expression is the logarithm of 1 + x, which loses the digits of a small x if it is taken so."""
    inner = expr.args[0]
    if expr.op not in ("log", "log2") or not (isinstance(inner, Map) and inner.op == "add" and is_float(inner)):
        return None
    left, right = inner.args
    return next((x for x, one in ((left, right), (right, left)) if isinstance(one, Const) and one.value == 1), None)


def _literal(const: Const) -> str:
    value = const.value
    if isinstance(value, float) and (math.isinf(value) or math.isnan(value)):
        return f'float("{value}")'
    return repr(value)


def _is_nonnegative(const: Const) -> bool:
    return isinstance(const.value, bool) or math.isnan(const.value) or math.isinf(const.value) or const.value >= 0


def _is_negative(expr: Expr) -> bool:
    return isinstance(expr, Map) and expr.op == "neg"


def _negated(expr: Expr) -> Expr:
    """-x; of a product, one factor is negated."""
    if not (isinstance(expr, Map) and expr.op == "mul"):
        return build.op("neg", expr)
    # one that is a negative already, or the one with the fewest axes
    factor = min(expr.args, key=lambda arg: (not _is_negative(arg), len(arg.axes)))
    return build.op("mul", *(build.op("neg", arg) if arg is factor else arg for arg in expr.args), dtype=expr.dtype)


def _code_dtype(expr: Expr) -> str:
    if expr.dtype == BOOL:
        return BOOL
    return INT_CODE if is_int(expr) else FLOAT32


def _reads_beside(body: Expr, extreme: Reduce) -> bool:
    """Whether the body reads the values of which it has the extreme."""
    if body is extreme.arg:
        return True
    return body is not extreme and any(_reads_beside(child, extreme) for child in body.children)
