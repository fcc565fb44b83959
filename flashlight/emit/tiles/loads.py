"""Tensors to tiles: addresses, the tests under which elements exist, and blocks that a descriptor reads."""

from __future__ import annotations

from flashlight.emit.code import ELEMENT as RAW
from flashlight.emit.code import Code
from flashlight.emit.names import dimension_labels
from flashlight.emit.operators import ATOM
from flashlight.emit.tiles.values import INT_CODE, Values
from flashlight.ir import integers
from flashlight.ir.expr import BOOL, NARROW, Axis, Expr, Iota, Load, is_float, is_int, walk


class Loads(Values):
    """Reads tiles and scalars of tensors."""

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

    # --- where elements exist -----------------------------------------------------------------------------------------

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

    # --- addresses ----------------------------------------------------------------------------------------------------

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

    # --- blocks by descriptor -----------------------------------------------------------------------------------------

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


def _spans(index: Expr, size: Expr) -> bool:
    return isinstance(index, Iota) and index.axis.extent is size
