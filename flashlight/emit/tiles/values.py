"""Values in a kernel: which of them get a variable, what it is called, and along which axes tiles lie."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from flashlight.emit.code import FLOAT32, Block, Code
from flashlight.emit.host import python
from flashlight.emit.names import Names, block_names, described, grid_names, of_number
from flashlight.emit.operators import ATOM, CONSTANTS
from flashlight.ir.expr import (
    BOOL,
    INT,
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
from flashlight.ir.order import axis_key
from flashlight.ir.program import Name
from flashlight.schedule.model import Mask, Schedule
from flashlight.schedule.roles import extent_name, is_size
from rewriters.expand import Expansion

INT_CODE = "int"
MASKED = "part > 0"
"""True in the loops over blocks that are not full, the full ones being the first part."""
EARLY, LATE = "key_start < full_start", "key_start >= full_stop"
"""Where one loop serves all blocks: whether one begins before the full ones, and whether it ends after them."""


class Values(ABC):
    """What has been given a variable, and the statements that gave it, in `block`."""

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

    # --- axes ---------------------------------------------------------------------------------------------------------

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

    # --- values -------------------------------------------------------------------------------------------------------

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
            return Code(constant or literal(expr), ATOM if _is_nonnegative(expr) else 9, (), code_dtype(expr))
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

    # --- how a value is computed: the layers above --------------------------------------------------------------------

    @abstractmethod
    def _written(self, expr: Expr) -> Code:
        """The expression as code, whatever has been computed before."""

    @abstractmethod
    def _masked(self, mask: Mask) -> Code:
        """A masked value, as a variable."""

    @abstractmethod
    def _distances(self, one: Expansion) -> Code:
        """Squared distances that are computed by a matrix product where the dtype bears it, as a variable."""

    @abstractmethod
    def _block_of_keys(self, load: Load) -> Code:
        """A block of whole rows that a descriptor may read, as a variable."""


def representative(axis: Axis, axes: tuple[Axis, ...]) -> Axis:
    """The one of the axes of equal extent that positions along them are named after."""
    same = (other for other in axes if other.extent is axis.extent)
    return min(same, key=lambda other: (len(other.name), other.name))


def literal(const: Const) -> str:
    value = const.value
    if isinstance(value, float) and (math.isinf(value) or math.isnan(value)):
        return f'float("{value}")'
    return repr(value)


def _is_nonnegative(const: Const) -> bool:
    return isinstance(const.value, bool) or math.isnan(const.value) or math.isinf(const.value) or const.value >= 0


def code_dtype(expr: Expr) -> str:
    if expr.dtype == BOOL:
        return BOOL
    return INT_CODE if is_int(expr) else FLOAT32
