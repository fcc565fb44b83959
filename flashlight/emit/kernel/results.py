"""What a kernel stores, and its parameters."""

from __future__ import annotations

import re

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import FLOAT32, Code
from flashlight.emit.kernel.loops import Loops
from flashlight.emit.lines import used
from flashlight.emit.names import dimension_labels
from flashlight.emit.operators import ATOM
from flashlight.emit.signature import NUMBERS, Burden, Kernel, Signature, distinct, output_labels, parts_of
from flashlight.emit.tiles.values import representative
from flashlight.ir.expr import Tensor, is_float
from flashlight.ir.program import Output
from flashlight.schedule.roles import extent_name, is_size


class Results(Loops):
    """Stores the outputs, and signs the kernel with what its body needs."""

    def _store(self) -> None:
        tiles, block = self.tiles, self.block
        block.add()
        for output in self.schedule.program.outputs:
            if self.roles.stream in output.axes or self.roles.stream in output.expr.axes:
                raise Diagnostic(
                    "FL401",
                    f"`{output.name}` has a value for every pair of a query and a key: an S×S tensor",
                    hint="return what is reduced over the keys; the weights themselves are never stored",
                )
            axes = tuple(axis for axis in self.roles.tile if axis in output.axes)
            code = tiles.value(output.expr)
            pointer = [f"{output.name}_ptr"]
            vectors = []
            tests = []
            for label, axis in zip(output_labels(output), output.axes, strict=True):
                stride = f"{output.name}_stride_{label}"
                if axis in self.roles.grid:
                    pointer.append(f"{self.tiles.grid[axis]} * {stride}")
                    continue
                if axis in self.roles.blocked:
                    pointer.append(f"tl.cast({tiles.blocks[axis][0]}, tl.int64) * {stride}")
                offsets = Code(tiles.offsets(axis), ATOM, (axis,), FLOAT32)
                vectors.append(f"{offsets.along(axes)} * {stride}")
                test = Code(f"{tiles.position(axis)} < {tiles.size(axis.extent)}", 2, (axis,), FLOAT32)
                tests.append(test.along(axes, 6))
            value = code.along(axes)
            if code.axes != axes:
                shape = ", ".join(map(tiles.width, axes))
                spread = f"tl.broadcast_to({value}, [{shape}])"
                value = spread if code.axes else f"tl.full([{shape}], {value}, tl.float32)"
            address = " + ".join([*pointer, *vectors])
            if not value.isidentifier():
                given = self.names.fresh(output.name)
                block.add(f"{given} = {value}")
                value = given
            mask = f", mask={' & '.join(tests)}" if tests else ""
            block.add(f"tl.store({address}, {value}.to({output.name}_ptr.dtype.element_ty){mask})")

    # --- signature ----------------------------------------------------------------------------------------------------

    def _signed(self, body: list[str], description: str) -> Kernel:
        body = used(body)
        signature = self._signature("\n".join(body))
        lines = ["# fmt: off"]
        for what, items in signature.groups:
            lines += signature.described(what, items)
        lines.append("# fmt: on")
        name = f"{self.schedule.program.name}_kernel"
        free = [size.name for size in signature.sizes]
        jit = f"@triton.jit(do_not_specialize={free!r})" if free else "@triton.jit"
        head = [jit, f"def {name}(", *(f"    {line}" for line in lines), "):"]
        quote = [f'    """{description}"""'] if description else []
        floats = [number for number, expr in signature.numbers if is_float(expr)]
        single = [f"    {number} = tl.cast({number}, tl.float32)" for number in floats]
        if single:
            single = ["    # torch.compile passes numbers as float64", *single, ""]
        return self._kernel(name, "\n".join([*head, *quote, *single, *body]), signature)

    def _kernel(self, name: str, text: str, signature: Signature) -> Kernel:
        tiles = self.tiles
        return Kernel(
            name,
            text,
            signature.tensors,
            self.schedule.program.outputs,
            signature.strides,
            signature.numbers,
            signature.sizes,
            signature.widths,
            tuple((name, self.matched[name]) for name in self._ranges()),
            self.order,
            tuple(dict.fromkeys(load.tensor for load in tiles.descriptors)),
            tuple(tiles.gathers),
            self._burden(),
            frozenset(tiles.helpers),
        )

    def _signature(self, text: str) -> Signature:
        """The parameters that a body needs."""
        tiles = self.tiles
        words = set(re.findall(r"\w+", text))
        tensors = tuple(t for t in self.schedule.program.inputs if t in tiles.used_tensors)
        outputs = self.schedule.program.outputs
        given: tuple[Tensor | Output, ...] = (*tensors, *outputs)
        strides: list[tuple[str, int]] = []
        groups: list[tuple[str, list[str]]] = [("tensors", [f"{item.name}_ptr" for item in given])]
        if self.matched:
            what = "for each block of rows, the ranges of keys with values as its own"
            groups.append((what, [f"{name}_ptr" for name in self._ranges()]))
        if self.order is not None:
            groups.append(
                (
                    "the blocks of rows, those with the longest ranges first, and how many tiles were drawn",
                    [self.order.parameter],
                )
            )
        steps: list[str] = []
        for item in given:
            labels = dimension_labels(item) if isinstance(item, Tensor) else output_labels(item)
            named = [(n, f"{item.name}_stride_{label}") for n, label in enumerate(labels)]
            used = [(n, name) for n, name in named if re.search(rf"\b{name}\b", text)]
            strides.extend((item.name, n) for n, _ in used)
            steps += [*(name for _, name in used), ""]
        groups.append(("their strides, in elements", steps))
        given_numbers = {name: expr for expr, name in reversed(tiles.numbers.items())}
        numbers = tuple((name, given_numbers[name]) for name in dict.fromkeys(tiles.numbers.values()) if name in words)
        numbers = tuple(sorted(numbers, key=lambda number: is_float(number[1])))  # integers are passed with the sizes
        widths = distinct(self.roles.resident)
        constant = set(parts_of(widths))
        sizes = tuple(s for s in tiles.sizes if s not in constant and s.name in words)
        sizes = tuple(s for s in sizes if s.name not in ("row_start", "BLOCK_ROWS"))
        groups.append(("sizes: one compiled kernel serves them all", [size.name for size in sizes]))
        groups.append((NUMBERS, [name for name, _ in numbers]))
        plain = {axis.extent for axis in widths}
        heads = [f"{size.name}: tl.constexpr" for size in parts_of(widths) if size not in plain and size.name in words]
        for axis in widths:
            name = extent_name(axis)
            heads += [f"{name}: tl.constexpr"] * is_size(axis.extent) + [f"BLOCK_{name}: tl.constexpr"]
        groups.append(("head dimensions and the widths of their tiles", heads))
        rest = [f"{name}: tl.constexpr" for name in self.choices if name in words]
        if self.roles.demoted is not None:
            rest.insert(0, f"{tiles.width(self.roles.demoted)}: tl.constexpr")
        groups.append(("rows and keys of a tile, how blocks are read and float32 multiplied", rest))
        return Signature(tensors, tuple(strides), numbers, sizes, widths, groups)

    def _ranges(self) -> list[str]:
        """The parameters that hold ranges of keys; the order of the blocks of rows is passed with the last."""
        leading = self.order.match if self.order is not None else None
        return sorted(self.matched, key=lambda name: self.matched[name] is leading)

    def _burden(self) -> Burden:
        stream, resident, tiles = self.roles.stream, self.roles.resident, self.tiles
        return Burden(
            accumulators=max(self.accumulators, 1),
            scores=max(self.scores, 1),
            blocks=sum(stream in load.axes and any(axis in resident for axis in load.axes) for load in self.read),
            exact=tiles.float32,
            deep=distinct(tuple(tiles.deep)),
            deep_exact=distinct(tuple(axis for axis in tiles.deep_exact if axis not in tiles.deep)),
            own=tuple(
                representative(axis, resident)
                for load in sorted(self.read, key=lambda load: load.tensor.name)
                for axis in resident
                if {axis, stream, self.roles.demoted} <= load.axes
            ),
        )
