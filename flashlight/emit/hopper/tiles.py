"""Expressions to statements of the warps that compute: blocks come through rings, products multiply where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flashlight.emit.code import ELEMENT, FLOAT32, Code
from flashlight.emit.hopper.language import Unsuitable
from flashlight.emit.operators import ATOM
from flashlight.emit.tiles.values import INT_CODE
from flashlight.emit.tiles.writer import TileWriter
from flashlight.emit.widths import is_wide
from flashlight.ir import integers
from flashlight.ir.expr import ELEMENT as ELEMENT_TYPE
from flashlight.ir.expr import Axis, Const, Expr, Iota, Load, Map, is_float, is_int
from flashlight.ir.ops import COMPARISONS


class HopperTiles(TileWriter):
    """Expressions to statements where rows and keys that are multiplied lie in shared memory."""

    joint = True
    sided = True
    starts_from_terms = False

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.shared: set[str] = set()  # variables that are blocks in shared memory
        self.rings: dict[Load, str] = {}  # the ring by which a block of keys comes
        self.sources: dict[Load, str] = {}  # the tensor as the copy engine reads it
        self.pairs: set[Load] = set()  # what is read for each row and key, by rings of its own
        self.vectors: set[Load] = set()  # what is read for each key alone
        self.ends: dict[Load, str] = {}  # rows that a result needs, and the ring by which they come
        self.floats: dict[Expr, Code] = {}  # integers for each row and key that are floating-point numbers at once
        self.multiplied = 0

    def width(self, axis: Axis) -> str:
        return "GROUP_ROWS" if axis is self.roles.rows else super().width(axis)

    def _block_of_keys(self, load: Load) -> Code:
        variable = self.names.fresh(load.tensor.name)
        axes = self.tile_axes(load)
        if load in self.pairs or load in self.vectors:
            own, layout = "step, gl.SliceLayout(0, LAYOUT)", "step * GROUPS + GROUP, LAYOUT"
            self.block.add(f"{variable} = taken({self.rings[load]}, {layout if load in self.pairs else own})")
        else:
            self.block.add(f"{variable} = received({self.rings[load]}, step)")
            self.shared.add(variable)
        self.bound[load] = Code(variable, ATOM, axes, ELEMENT)
        return self.bound[load]

    def _describe(self, load: Load) -> None:
        self.rings[load] = self.ring(load)

    def ring(self, load: Load) -> str:
        """The names of a ring, and of the tensor as the copy engine reads it."""
        self.descriptors[load] = self.names.fresh(f"{load.tensor.name}_ring")
        self.sources[load] = self.names.fresh(f"{load.tensor.name}_blocks")
        return self.descriptors[load]

    def advance(self, load: Load) -> None:
        if self.roles.stream in load.axes and any(axis in self.roles.resident for axis in load.axes):
            if not self._is_block(load):
                raise Unsuitable(f"{load.tensor.name} is not read in blocks")
            self.used_tensors.setdefault(load.tensor)
            if load not in self.rings:
                self._describe(load)
            return
        if self._is_read_along(load):
            self.used_tensors.setdefault(load.tensor)
            if load not in self.rings:
                self._describe(load)
                (self.pairs if self.roles.rows in load.axes else self.vectors).add(load)
            return
        if load in self.pointers:
            return
        axes, stream = self.tile_axes(load), self.roles.stream
        if axes == (stream,) and self._moving(load) and self._is_only_matched(load):
            self._read_existing(load)
            return
        super().advance(load)
        if load in self.pointers and self.roles.rows in axes and stream in axes:
            # the addresses of a whole tile would take half of the registers: only those of its rows are kept
            name, moving = self.pointers[load]
            step = moving.rpartition(" * ")[2]
            offsets, keys = (Code(text, ATOM, (stream,), INT_CODE).along(axes) for text in ("key_offsets", "keys"))
            self.block.lines[-1] = self.block.lines[-1].replace(f" + {offsets} * {step}", "")
            self.pointers[load] = (name, f"tl.cast({keys}, tl.int64) * {step}")

    def _is_only_matched(self, load: Load) -> bool:
        """Whether all that is asked of an integer of each key is how it compares with one of each row."""
        rows, readers = self.roles.rows, self.readers.get(load, [])
        return is_int(load) and all(
            isinstance(reader, Map)
            and reader.op in COMPARISONS
            and any(rows in arg.axes for arg in reader.args if arg is not load)
            for reader in readers
        )

    def _read_existing(self, load: Load) -> None:
        """Let keys past the end read the last one: other tests hide them, and zeros would take registers."""
        stream = self.roles.stream
        self.used_tensors.setdefault(load.tensor)
        base, (keys,) = self._address(load, advancing=False)
        name = self.names.fresh(f"{load.tensor.name}_row")
        self.block.add(f"{name} = {base}")
        existing = f"tl.minimum(keys, {self.size(stream.extent)} - 1)"
        self.existing[load, stream] = existing
        self.pointers[load] = (name, f"tl.cast({existing}, tl.int64) * {keys.text.rpartition(' * ')[2]}")

    def _written(self, expr: Expr) -> Code:
        if not (isinstance(expr, Load) and not self.in_loop and self.is_block_of_rows(expr)):
            return super()._written(expr)
        self.used_tensors.setdefault(expr.tensor)
        if expr not in self.ends:
            self._describe(expr)
            self.ends[expr] = self.rings.pop(expr)
        variable, axes = self.names.fresh(expr.tensor.name), self.tile_axes(expr)
        self.block.add(f"{variable} = taken({self.ends[expr]}, done * GROUPS + GROUP, LAYOUT)")
        return Code(variable, ATOM, axes, ELEMENT)

    def _argument(self, expr: Expr, reader: Map) -> Code:
        """Distances of rows and keys that floating-point arithmetic reads are floating-point numbers from the start.

        An integer is two instructions for each score, of which the conversion takes as long as two others.
        """
        stream = self.roles.stream
        reads = is_float(reader) and is_int(expr) and self._is_pairwise(expr) and expr not in self.bound
        found = integers.solved(expr, Iota(stream)) if reads and not is_wide(expr) else None
        if found is None or not (isinstance(found[0], Const) and abs(found[0].value) == 1):
            return super()._argument(expr, reader)
        if expr not in self.floats:
            factor, rest = found
            sign, other = (
                ("", integers.sub(integers.constant(0), rest)) if factor == integers.constant(1) else ("0.0 - ", rest)
            )
            row = self.value(other)
            if row.axes != (self.roles.rows,):
                return super()._argument(expr, reader)
            # 0.0 - x and not -x: a distance of zero has no sign
            text = f"{sign}with_offsets(key_start - {row.within(8)}, BLOCK_KEYS, LAYOUT)"
            code = Code(text, 7 if sign else ATOM, self.tile_axes(expr), FLOAT32)
            before = self.bound.copy()
            self.floats[expr] = self.assign(expr, code)
            self.bound = before  # comparisons are of integers
        return self.floats[expr]

    @contextmanager
    def _only_if(self, flag: str) -> Iterator[None]:
        before = dict(self.floats)
        with super()._only_if(flag):
            yield
        self.floats = before

    def integer_readers(self, expr: Expr) -> list[Expr]:
        return [reader for reader in self.readers.get(expr, []) if not (expr in self.floats and is_float(reader))]

    def is_block_of_rows(self, load: Load) -> bool:
        """Whether the tile is a block of whole rows of a matrix, the other dimensions fixed."""
        last = load.index[-1] if load.index else None
        return (
            load.tensor.dtype == ELEMENT_TYPE
            and isinstance(last, Iota)
            and last.axis in self.roles.resident
            and last.axis.extent is load.tensor.shape[-1]
            and load.index.count(Iota(self.roles.rows)) == 1
            and not any(self.tile_axes(i) for i in load.index[:-1] if i is not Iota(self.roles.rows))
        )

    def _is_read_along(self, load: Load) -> bool:
        """Whether the tile is a block of a matrix of rows by keys, or of a vector of keys, by the last dimension."""
        rows, stream = Iota(self.roles.rows), Iota(self.roles.stream)
        return (
            load.tensor.dtype == ELEMENT_TYPE
            and load.index[-1] is stream
            and stream.axis.extent is load.tensor.shape[-1]
            and load.index.count(rows) <= 1
            and not any(self.tile_axes(i) for i in load.index[:-1] if i is not rows)
        )

    def _product(self, left: Code, right: Code, axes: tuple[Axis, ...], axis: Axis, accumulator: str | None) -> str:
        if left.dtype != ELEMENT or right.dtype != ELEMENT or right.text not in self.shared:
            raise Unsuitable("a product of float32 values, or of keys that are no block as it was loaded")
        self.multiplied += 1
        texts = []
        for code, wanted in ((left, (axes[0], axis)), (right, (axis, axes[1]))):
            if code.text in self.shared:
                texts.append(code.text if code.axes == wanted else f"{code.text}.permute((1, 0))")
            elif code.axes == wanted:
                texts.append(f"gl.convert_layout({code.text}, gl.DotOperandLayout(0, LAYOUT, 2))")
            else:
                raise Unsuitable("weights in another order than the product needs")
        if accumulator is None:
            return f"matmul({', '.join(texts)}, LAYOUT)"
        return f"warpgroup_mma({', '.join(texts)}, {accumulator})"
