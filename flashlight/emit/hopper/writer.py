"""The three functions of a Hopper kernel: what loading warps do, what computing ones do, and the launch of both."""

from __future__ import annotations

import ast
import functools
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flashlight.emit.code import ELEMENT, Block, Code
from flashlight.emit.hopper.language import NAMES, Unsuitable, in_gluon
from flashlight.emit.hopper.tiles import HopperTiles
from flashlight.emit.kernel.writer import KernelWriter
from flashlight.emit.lines import used, without_unused
from flashlight.emit.names import dimension_labels
from flashlight.emit.operators import ATOM
from flashlight.emit.signature import Kernel, Order, Signature, distinct, filled, output_labels
from flashlight.ir.expr import ELEMENT as ELEMENT_TYPE
from flashlight.ir.expr import Axis, Const, Iota, Load, Reduce, Scan, Tensor, walk
from flashlight.ir.program import Name, Output
from flashlight.schedule.intervals import Matched
from flashlight.schedule.model import Pass, Schedule

CHOICES = "head dimensions and the widths of their tiles, rows and keys of a tile, stages of the rings"
_OFFSET = re.compile(r"\b((?:row_offsets|key_offsets|existing_rows(?:_\d+)?)(?:\[[^\]]*\])?) \* (\w+_stride_\w+)")
STEPS, TILES = "    step = 0  # blocks of keys so far", "    done = 0  # tiles so far"
LOADS = "Keep the rings full: blocks of rows and of keys, in the order in which they are read."
ROWS = "What the kernel computes, for 64 rows of each of its tiles."
_PRODUCTS = ("matmul", "start_matmul", "warpgroup_mma")


class InRegisters(Exception):
    """Some blocks of rows are more than multiplied: they have to be read from shared memory first."""

    def __init__(self, loads: frozenset[Load]) -> None:
        super().__init__()
        self.loads = loads


@dataclass(frozen=True)
class _Function:
    """What some warps run: the text, and what it is given when the kernel runs and when it is compiled."""

    name: str
    text: str
    given: list[str]
    constant: list[str]


class HopperWriter(KernelWriter):
    choices = ("BLOCK_ROWS", "BLOCK_KEYS", "STAGES", "APPROXIMATE", "BOUNDED")
    tile_writer = HopperTiles
    together = "rows of this group"
    tiles: HopperTiles

    def __init__(
        self,
        schedule: Schedule,
        source_name: str,
        labels: Mapping[Name, str],
        in_registers: frozenset[Load] = frozenset(),
    ) -> None:
        super().__init__(schedule, source_name, labels)
        self.in_registers = in_registers
        own = NAMES.union(f"{schedule.program.name}_{part}" for part in ("loads", "rows"))
        if not own.isdisjoint(self.names.taken):
            raise Unsuitable("a size has the name of something of the kernel's own")
        self.names.taken |= own
        self.sent_back: dict[Output, tuple[str, str]] = {}  # as the copy engine writes it, and its tiles on their way
        self.row_rings: dict[Load, tuple[str, str]] = {}
        self.tile_ranges: dict[str, str] = {}  # as `ranges`, of all groups together

    @functools.cached_property
    def joint(self) -> bool:
        return True

    def written(self, description: str) -> Kernel:
        """The kernel, or `Unsuitable`."""
        schedule, tiles = self.schedule, self.tiles
        if len(schedule.passes) != 1 or schedule.fills or schedule.expansions:
            raise Unsuitable("several passes, a finite fill, or distances")
        (one,) = schedule.passes
        if one.scans:
            raise Unsuitable("a cumulative sum along the keys")
        tiles.block = Block(3)
        tiles.masked = "partial"
        self._locate()
        located = len(self.block.lines)
        self._rows(one)
        received_rows = self.block.lines[located:]
        del self.block.lines[located:]
        self._pass(0, one)
        self.block.lines[located:located] = received_rows
        self._store()
        if not tiles.multiplied or tiles.gathers or tiles.float32 or tiles.deep or tiles.deep_exact:
            raise Unsuitable("no matrix product, or tiles of three dimensions")
        from_start = "key_start + tl.arange(0, BLOCK_KEYS)"
        body = [line.replace(from_start, "key_start + key_offsets") for line in self.block.lines]
        # offsets of addresses have 64 bits, as in the portable kernels: neighbours may lie far apart
        body = [_OFFSET.sub(r"tl.cast(\1, tl.int64) * \2", line) for line in body]
        body = _without_idle_comments(used(without_unused(body)))
        worked_on = _worked_on(body, tiles.shared)
        rows = frozenset(load for load, (variable, _) in self.row_rings.items() if variable in worked_on)
        if len(rows) < len(worked_on):
            raise Unsuitable("blocks of keys that are not only multiplied")
        if rows:
            raise InRegisters(rows)
        if "dot_in_range" in tiles.helpers:
            raise Unsuitable("weights that leave the range of float16")
        return self._assembled(body, description)

    # --- which tile -------------------------------------------------------------------------------------------------

    def _locate(self) -> None:
        roles, block = self.roles, self.block
        match = self._leading()
        if match is None:
            block.add("row_start = block * BLOCK_ROWS")
            self._positions("number", roles.grid)
        else:
            self.order = Order(match, f"{self.names.fresh(f'{match.key_value.tensor.name}_order')}_ptr", "block")
            self.tiles.helpers.add("heaviest_first")
            block.add("row_start = block % row_blocks * BLOCK_ROWS")
            self._positions("block // row_blocks", match.axes)
            heads, apart = self._count(self._apart(match)), self._apart(match)
            self._positions(f"number % {heads}" if len(apart) == 1 else f"number % ({heads})", apart)
        block.add("key_offsets = gl.arange(0, BLOCK_KEYS, gl.SliceLayout(0, LAYOUT))")
        for axis in distinct(roles.resident):
            width = self.tiles.width(axis)
            block.add(f"{axis.name} = gl.arange(0, {width}, gl.SliceLayout(0, LAYOUT)).to(tl.int64)")
        block.comment("Rows of this group")
        block.add("group_start = row_start + GROUP * GROUP_ROWS")
        block.add("row_offsets = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, gl.SliceLayout(1, LAYOUT))")
        block.add("rows = row_start + row_offsets")

    def _of_group(self, bound: str) -> str:
        return re.sub(r"\brow_start\b", "group_start", re.sub(r"\bBLOCK_ROWS\b", "GROUP_ROWS", bound))

    def _bounds(self) -> None:
        """Also name the ends of what rows of this group see, as far as those of other groups can see more."""
        super()._bounds()
        keys, block = self.schedule.keys, self.block
        self.tile_ranges = dict(self.ranges)
        start = self._clamped(keys.live_start, 8) if keys.live_start is not None else "0"
        stop = self._clamped(keys.live_stop) if keys.live_stop is not None else ""
        if "row_start" in start + stop:
            block.comment("Of the blocks that some row of the tile sees, those that one of this group does")
        if "row_start" in start:
            aligned = f"{self._of_group(start)} // BLOCK_KEYS * BLOCK_KEYS"
            block.add(f"own_start = tl.maximum({self.ranges['live_start']}, {aligned})")
            self.ranges["live_start"] = "own_start"
        if "row_start" in stop:
            block.add(f"own_stop = tl.minimum({self.ranges['live_stop']}, {self._of_group(stop)})")
            self.ranges["live_stop"] = "own_stop"

    def _loops(self, one: Pass, variables: dict[Reduce, Code], totals: dict[Scan, Code]) -> None:
        """The trip over the blocks that rows of this group see, and past those that only others do."""
        before = len(self.block.lines)
        super()._loops(one, variables, totals)
        start, stop = self.ranges["live_start"], self.ranges["live_stop"]
        first, last = self.tile_ranges["live_start"], self.tile_ranges["live_stop"]
        if start != first:
            self.block.lines[before:before] = self._past(first, f"tl.minimum({start}, {last})")
        if stop != last:
            end = f"tl.cdiv({stop}, BLOCK_KEYS) * BLOCK_KEYS"
            self.block.lines += self._past(f"tl.maximum({start}, {end})" if start != "0" else end, last)

    def _past(self, start: str, stop: str) -> list[str]:
        """Statements that leave blocks of keys to the other groups."""
        loop = Block(self.block.depth + 1)
        for load, ring in self.tiles.rings.items():
            loop.add(f"pass_by({ring}, {'step * GROUPS + GROUP' if load in self.tiles.pairs else 'step'})")
        loop.add("step += 1")
        return [f"{'    ' * self.block.depth}for _ in tl.range({start}, {stop}, BLOCK_KEYS):", *loop.lines]

    def _rows(self, one: Pass) -> None:
        """The blocks of rows that are multiplied, in shared memory."""
        tiles, rows = self.tiles, self.roles.rows
        for node in walk(*(item.reduce for item in one.accumulators)):
            if not (isinstance(node, Load) and rows in node.axes and self.roles.stream not in node.axes):
                continue
            if not any(axis in self.roles.resident for axis in node.axes):
                continue
            if not tiles.is_block_of_rows(node):
                raise Unsuitable(f"{node.tensor.name} is not read in blocks of rows")
            tiles.used_tensors.setdefault(node.tensor)
            variable, ring = tiles.names.fresh(node.tensor.name), tiles.ring(node)
            axes = tiles.tile_axes(node)
            self.row_rings[node] = variable, ring
            if node in self.in_registers:
                self.block.add(f"{variable} = taken({ring}, done * GROUPS + GROUP, LAYOUT)")
            else:
                self.block.add(f"{variable} = received({ring}, done * GROUPS + GROUP)")
                tiles.shared.add(variable)
            tiles.bound[node] = Code(variable, ATOM, axes, ELEMENT)

    def _step(self, one: Pass, variables: dict[Reduce, Code]) -> None:
        super()._step(one, variables)
        block = self.tiles.block
        self._load_first(block)
        for load, ring in self.tiles.rings.items():
            if load in self.tiles.pairs or load in self.tiles.vectors:
                continue
            code = self.tiles.bound.get(load)
            if code is None:
                raise Unsuitable("a block that no step reads")
            last = max(n for n, line in enumerate(block.lines) if code.text in _words(line))
            block.lines.insert(last + 1, f"{'    ' * block.depth}release({ring}, step)")
        self._read_meanwhile(block)
        block.add("step += 1")

    def _read_meanwhile(self, block: Block) -> None:
        """What comes by rings into registers, to be added to a product, is read while that is computed."""
        lines = block.lines
        place = next((n for n, line in enumerate(lines) if " = matmul(" in line), len(lines))
        end = place + 2
        if end > len(lines) or not lines[place + 1].lstrip().startswith("release("):
            return  # its block of keys is needed again
        if len(re.findall(r"matmul\(|warpgroup_mma\(", lines[place])) > 1:
            return  # another product is part of the same expression
        while end < len(lines) and re.search(r"^ *release\(| = taken\(", lines[end]):
            end += 1
        if end <= place + 2:
            return
        before, _, rest = lines[place].partition(" = matmul(")
        arguments, after = rest.split(", LAYOUT)", 1)
        product = self.names.fresh(f"{before.strip()}_product")
        lines[place:end] = [
            f"{'    ' * block.depth}{product} = start_matmul({arguments}, LAYOUT)",
            *lines[place + 2 : end],
            f"{before} = warpgroup_mma_wait(0, [{product}]){after}",
            lines[place + 1],
        ]

    @staticmethod
    def _load_first(block: Block) -> None:
        """What a step reads by pointers is on its way before the step waits for anything."""
        lines = block.lines
        first = next((n for n, line in enumerate(lines) if re.search(r"received\(|taken\(", line)), len(lines))
        made: set[str] = set()
        for n in range(first, len(lines)):
            found = re.match(rf"{'    ' * block.depth}(\w+) = (tl\.load|load_tile)?", lines[n])
            if found is None:
                continue
            if found[2] and made.isdisjoint(_words(lines[n])):
                lines.insert(first, lines.pop(n))
                first += 1
            else:
                made.add(found[1])

    # --- results ----------------------------------------------------------------------------------------------------

    def _store(self) -> None:
        before = len(self.block.lines)
        super()._store()
        lines = self.block.lines[before:]
        del self.block.lines[before:]
        for load, (_, ring) in self.row_rings.items():
            if load not in self.in_registers:
                self.block.add(f"release({ring}, done * GROUPS + GROUP)")
        outputs = {output.name: output for output in self.schedule.program.outputs}
        for line in lines:
            found = re.match(r"( *)tl\.store\((\w+)_ptr .*?, (\w+)\.to\(\2_ptr\.dtype\.element_ty\), mask=", line)
            output = outputs.get(found[2]) if found else None
            if found is None or output is None or not self._comes_in_blocks(output):
                self.block.lines.append(line)
                continue
            name = output.name
            blocks, buffer = self.names.fresh(f"{name}_blocks"), self.names.fresh(f"{name}_buffer")
            self.sent_back[output] = blocks, buffer
            place = [
                "group_start" if axis is self.roles.rows
                else f"tl.cast({self.tiles.grid[axis]}, tl.int32)" if axis in self.roles.grid
                else "0"
                for axis in output.axes
            ]  # fmt: skip
            value = f"{found[3]}.to({name}_ptr.dtype.element_ty)"
            self.block.add(f"send_back({blocks}, [{', '.join(place)}], {buffer}.index(GROUP), {value})")
        self.block.add("done += 1")

    def _comes_in_blocks(self, output: Output) -> bool:
        tile = [axis for axis in output.axes if axis in self.roles.tile]
        last = output.axes[-1]
        return (
            len(tile) == 2
            and tile[0] is self.roles.rows
            and last in self.roles.resident
            and output.dtype == ELEMENT_TYPE
            and len(output.axes) <= 5
        )

    # --- three functions --------------------------------------------------------------------------------------------

    def _assembled(self, body: list[str], description: str) -> Kernel:
        tiles, name = self.tiles, self.schedule.program.name
        widths = ", ".join(["BLOCK_KEYS", *dict.fromkeys(map(tiles.width, self.roles.resident))])
        described = {load: load.tensor for load in (*self.row_rings, *tiles.rings, *tiles.ends)}
        sources = [line for load in described for line in self._source(load)]
        targets = [line for output in self.sent_back for line in self._target(output)]
        feed, made = self._feed(body), self._rings()
        rows = f"    row_blocks = tl.cdiv({tiles.size(self.roles.rows.extent)}, BLOCK_ROWS)"
        if self.order is None:
            loop = self._turns()
            compute, feeding = [rows, *loop, *body], [rows, *loop, *feed]
        else:
            turns, counter = self.names.fresh("turns"), f"{self.order.parameter} + {self._blocks(self.order.match)}"
            made = {turns: "turns_of(GROUPS)", **made}
            told = f"told({turns}, done)"
            announced = [f"    number = drawn({counter})", f"    announce({turns}, done, number)"]
            compute = [rows, *self._drawn(body, self.order, told, [f"    number = {told}"])]
            feeding = [rows, *self._drawn(feed, self.order, "tl.program_id(0)", announced)]
        compute = [
            f"    LAYOUT: tl.constexpr = product_layout({widths})",
            *targets,
            *[STEPS] * bool(tiles.rings),
            TILES,
            *compute,
            *["    tma.store_wait(0)"] * bool(targets),
        ]
        feeding = [*sources, STEPS, TILES, *feeding]
        everything = "\n".join([*compute, *feeding, *made.values()])
        signature = self._signature(everything)
        if any(len(tensor.shape) > 5 for tensor in described.values()):
            raise Unsuitable("more dimensions than the copy engine has")
        grid = list(tiles.grid.values())
        loads = self._function(f"{name}_loads", signature, list(made), [], LOADS, _narrow(feeding, grid))
        own = ["GROUP: tl.constexpr"]
        reading = self._function(f"{name}_rows", signature, list(made), own, ROWS, _narrow(compute, grid))
        kernel = self._launched(signature, [f"{n} = {text}" for n, text in made.items()], loads, reading, description)
        text = in_gluon("\n\n\n".join([loads.text, reading.text, kernel]))
        return replace(self._kernel(f"{name}_kernel", text, signature), written=tuple(self.sent_back))

    def _turns(self) -> list[str]:
        """The loop over a program's tiles."""
        heads, blocks = self._count(self.roles.grid), "row_blocks"
        which = "balanced_" * self._grows()
        return [
            f"    for turn in range({which}turn_count({blocks}, {heads})):",
            f"        block, number, exists = {which}tile_of(turn, {blocks}, {heads})",
            "        if exists:",
        ]

    def _drawn(self, lines: list[str], order: Order, first: str, last: list[str]) -> list[str]:
        """The loop over tiles that are drawn, around what is done for each."""
        heads, blocks = self._count(self._apart(order.match)), self._blocks(order.match)
        place = "number" if heads == "1" else f"number // {heads}" if heads.isidentifier() else f"number // ({heads})"
        total = blocks if heads == "1" else f"{blocks} * {heads}"
        return [
            f"    number = {first}",
            *last[1:],
            f"    while number < {total}:",
            f"        block = tl.load({order.parameter} + {place})",
            *(line.removeprefix("    ") for line in lines),
            *(f"    {line}" for line in last),
        ]

    def _count(self, axes: Sequence[Axis]) -> str:
        """How many positions there are along axes together, in 32 bits."""
        text = " * ".join(self.tiles.size(axis.extent, 8) for axis in axes) or "1"
        return f"tl.cast({text}, tl.int32)" if "int64" in text else text

    def _blocks(self, match: Matched) -> str:
        """How many blocks of rows have ranges of keys of their own."""
        return f"{self._count(match.axes)} * row_blocks" if match.axes else "row_blocks"

    def _leading(self) -> Matched | None:
        """What tells, before the kernel runs, how many keys each block of rows visits."""
        found = (match for match in self.schedule.matched if self.roles.rows in match.row_value.axes)
        return next(found, None)

    def _apart(self, match: Matched) -> tuple[Axis, ...]:
        """The axes of the grid along which that is the same."""
        return tuple(axis for axis in self.roles.grid if axis not in match.axes)

    def _source(self, load: Load) -> list[str]:
        """The tensor of a load as the copy engine reads it."""
        tiles = self.tiles
        return [
            self._described(tiles.sources[load], load.tensor, self._box(load), f"{tiles.descriptors[load]}[0].layout")
        ]

    def _target(self, output: Output) -> list[str]:
        blocks, buffer = self.sent_back[output]
        return [self._described(blocks, output, self._box_out(output), f"{buffer}.layout")]

    def _described(self, name: str, item: Tensor | Output, box: str, layout: str) -> str:
        labels = dimension_labels(item) if isinstance(item, Tensor) else output_labels(item)
        extents = item.shape if isinstance(item, Tensor) else [axis.extent for axis in item.axes]
        shape = ", ".join(self.tiles.size(extent) for extent in extents)
        steps = ", ".join([*(f"{item.name}_stride_{label}" for label in labels[:-1]), "1"])
        return f"    {name} = tma.make_tensor_descriptor({item.name}_ptr, [{shape}], [{steps}], {box}, {layout})"

    def _feed(self, body: list[str]) -> list[str]:
        """What the loading warps do for a tile: its place, the ends of its loop, and copies in the order of use."""
        tiles = self.tiles
        loop = next(n for n, line in enumerate(body) if re.match(r" *for key_start in ", line))
        lines: list[str] = []
        for load, (_, ring) in self.row_rings.items():
            lines.append("            for group in tl.static_range(GROUPS):")
            place = self._place(load, "row_start + group * GROUP_ROWS")
            lines.append(f"                send({tiles.sources[load]}, {place}, {ring}, done * GROUPS + group)")
        start, stop = self.tile_ranges["live_start"], self.tile_ranges["live_stop"]
        lines.append(f"            for key_start in range({start}, {stop}, BLOCK_KEYS):")
        order = sorted(tiles.rings.items(), key=lambda item: self._first_use(body, item[1]))
        for load, ring in order:
            if load in tiles.pairs:
                place = self._place(load, "row_start + group * GROUP_ROWS")
                own = f"{ring}, step * GROUPS + group"
                lines.append("                for group in tl.static_range(GROUPS):")
                lines.append(f"                    send({tiles.sources[load]}, {place}, {own})")
            else:
                place = self._place(load, "row_start")
                lines.append(f"                send({tiles.sources[load]}, {place}, {ring}, step)")
        lines.append("                step += 1")
        for load, ring in tiles.ends.items():
            place = self._place(load, "row_start + group * GROUP_ROWS")
            lines.append("            for group in tl.static_range(GROUPS):")
            lines.append(f"                send({tiles.sources[load]}, {place}, {ring}, done * GROUPS + group)")
        lines.append("            done += 1")
        needed = set(re.findall(r"\w+", "\n".join(lines)))
        kept: list[str] = []
        for line in reversed(body[:loop]):
            made = re.match(r" *(\w+) = ", line)
            if made and made[1] in needed:
                words = _words(line)
                if words & {"rows", "row_offsets", "keys", "key_offsets", "LAYOUT", "GROUP"}:
                    raise Unsuitable("ends of the loop that depend on each row")
                needed |= words
                kept.append(line)
        return [*reversed(kept), *lines]

    @staticmethod
    def _first_use(body: list[str], ring: str) -> int:
        return next(n for n, line in enumerate(body) if f"({ring}, " in line)

    def _place(self, load: Load, row: str) -> str:
        """The coordinates of a block whose first row is ``row``, as integers of 32 bits."""
        tiles = self.tiles
        kept = tiles.bound, tiles.uses, tiles.block
        # written out: the variables of those who compute are not those of these warps
        tiles.bound, tiles.uses, tiles.block = {}, {}, Block()
        texts = []
        for index in load.index:
            if isinstance(index, Iota) and index.axis in self.roles.tile:
                starts = {self.roles.rows: row, self.roles.stream: "key_start"}
                texts.append(starts.get(index.axis, "0"))
            elif isinstance(index, Const):
                texts.append(str(index.value))
            else:
                texts.append(f"tl.cast({tiles.value(index, bind=False).text}, tl.int32)")
        needs = tiles.block.lines
        tiles.bound, tiles.uses, tiles.block = kept
        if needs:
            raise Unsuitable("places that are loaded")
        return f"[{', '.join(texts)}]"

    def _function(
        self, name: str, signature: Signature, inner: list[str], last: list[str], doc: str, body: list[str]
    ) -> _Function:
        """One that warps run, with the parameters that its body names; ``last`` are those that tell warps apart."""
        needed = _words("\n".join(body))
        *runtime, (_, widths), (_, choices) = signature.groups
        lines: list[str] = []
        given: list[str] = []
        for what, items in [*runtime, ("rings in shared memory", inner)]:
            kept = [item for item in items if not item or item in needed]
            if any(kept):
                lines += [f"# {what}", *filled(kept)]
                given += [item for item in kept if item]
        every = [*widths, *choices, "GROUPS: tl.constexpr"]
        constant = [item for item in every if item.partition(":")[0] in needed]
        head = ["@gluon.jit", f"def {name}(given, {', '.join([*constant, *last])}):", f'    """{doc}"""']
        unpacked = ["    (", *(f"        {line}" for line in ["# fmt: off", *lines, "# fmt: on"]), "    ) = given"]
        names = [item.partition(":")[0] for item in constant]
        return _Function(name, "\n".join([*head, *unpacked, *body]), given, names)

    def _launched(
        self, signature: Signature, rings: Sequence[str], loads: _Function, rows: _Function, description: str
    ) -> str:
        """The kernel itself: shared memory, barriers, and which warps do what."""
        lines = ["# fmt: off"]
        *runtime, (_, widths), (_, choices) = signature.groups
        for what, items in [*runtime, (CHOICES, [*widths, *choices])]:
            lines += signature.described(what, items)
        lines.append("# fmt: on")
        free = [size.name for size in signature.sizes]
        jit = f"@gluon.jit(do_not_specialize={free!r})" if free else "@gluon.jit"
        body = [f'    """{description}"""', "    GROUPS: tl.constexpr = BLOCK_ROWS // GROUP_ROWS"]
        body.append("    tl.static_assert(BLOCK_ROWS == GROUPS * GROUP_ROWS and GROUPS <= 3)")
        body += [f"    {ring}" for ring in rings]
        body += ["    fence_async_shared()  # the copy engine sees the barriers", "    # fmt: off"]
        for which, function in (("loads", loads), ("rows", rows)):
            body += [f"    {which} = (", *(f"        {line}" for line in filled(function.given)), "    )"]
        body.append("    # Groups that compute get the registers that those that load can spare")
        feeding = f"({loads.name}, (loads, {', '.join(loads.constant)}))"
        for groups, registers in ((1, 240), (2, 240), (3, 160)):
            readers = [f"({rows.name}, (rows, {', '.join(rows.constant)}, {group}))" for group in range(groups)]
            body.append(f"    {'if' if groups == 1 else 'elif'} GROUPS == {groups}:")
            body.append("        gl.warp_specialize([")
            body += [f"            {one}," for one in (feeding, *readers)]
            body.append(f"        ], {[4] * groups}, {[registers] * groups})")
        body.append("    # fmt: on")
        name = self.schedule.program.name
        return "\n".join([jit, f"def {name}_kernel(", *(f"    {line}" for line in lines), "):", *body])

    def _rings(self) -> dict[str, str]:
        """What lies in shared memory, and how it is made: blocks of rows and keys, and tiles on their way out."""
        tiles, made = self.tiles, {}
        for load, (_, ring) in self.row_rings.items():
            made[ring] = f"ring_of({load.tensor.name}_ptr.dtype.element_ty, 2 * GROUPS, 1, {self._box(load)})"
        for load, ring in tiles.rings.items():
            own = "STAGES * GROUPS, 1" if load in tiles.pairs else "STAGES, GROUPS"
            made[ring] = f"ring_of({load.tensor.name}_ptr.dtype.element_ty, {own}, {self._box(load)})"
        for load, ring in tiles.ends.items():
            made[ring] = f"ring_of({load.tensor.name}_ptr.dtype.element_ty, GROUPS, 1, {self._box(load)})"
        for output, (_, buffer) in self.sent_back.items():
            made[buffer] = f"buffer_of({output.name}_ptr.dtype.element_ty, GROUPS, {self._box_out(output)})"
        return made

    def _box_out(self, output: Output) -> str:
        box = ["GROUP_ROWS" if axis is self.roles.rows else "1" for axis in output.axes[:-1]]
        return f"[{', '.join([*box, self.tiles.width(output.axes[-1])])}]"

    def _box(self, load: Load) -> str:
        """The shape of a block as the copy engine sees it."""
        rows, stream = self.roles.rows, self.roles.stream
        box = ["GROUP_ROWS" if i is Iota(rows) else "BLOCK_KEYS" if i is Iota(stream) else "1" for i in load.index[:-1]]
        return f"[{', '.join([*box, self._width_of(load)])}]"

    def _width_of(self, load: Load) -> str:
        last = load.index[-1]
        assert isinstance(last, Iota)
        return self.tiles.width(last.axis)


def _narrow(lines: list[str], names: list[str]) -> list[str]:
    """The lines, with 32 bits for the integers that are coordinates alone and need no more on the way."""
    text = "\n".join(lines)
    for name in names:
        cast, made = f"tl.cast({name}, tl.int32)", re.search(rf"\b{name} = \((.*)\)\.to\(tl\.int64\)", text)
        if made and "int64" not in made[1] and len(re.findall(rf"\b{name}\b", text)) == 1 + text.count(cast):
            text = text.replace(made[0], f"{name} = {made[1]}").replace(cast, name)
    return text.split("\n")


def _without_idle_comments(lines: list[str]) -> list[str]:
    """The lines without comments that nothing follows, and one blank line where there are several."""
    following = [*(line.strip() for line in lines[1:]), ""]
    told = [line for line, after in zip(lines, following, strict=True) if after or not line.lstrip().startswith("#")]
    return [line for n, line in enumerate(told) if line.strip() or (n and told[n - 1].strip())]


def _worked_on(body: list[str], shared: set[str]) -> set[str]:
    """The blocks in shared memory that statements do more with than multiply them."""
    nodes = list(ast.walk(ast.parse(textwrap.dedent("\n".join(body)))))
    multiplied: set[ast.expr] = set()
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _PRODUCTS:
            multiplied.update(node.args)
        elif isinstance(node, ast.Attribute) and node.attr == "dtype":
            multiplied.add(node.value)
    turned = [node for node in multiplied if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    multiplied.update(node.func.value for node in turned if node.func.attr == "permute")  # type: ignore[attr-defined]
    names = (node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return {node.id for node in names if node.id in shared and node not in multiplied}


def _words(text: str) -> set[str]:
    """What statements name, comments apart."""
    return {word for line in text.splitlines() for word in re.findall(r"\w+", line.partition("#")[0])}
