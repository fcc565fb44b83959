"""One schedule to one Triton kernel."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping, Sequence

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import FLOAT32, Block, Code
from flashlight.emit.lines import used, without_unused
from flashlight.emit.names import RESERVED, Names, dimension_labels
from flashlight.emit.operators import ATOM
from flashlight.emit.signature import NUMBERS, Burden, Kernel, Order, Signature, distinct, output_labels, parts_of
from flashlight.emit.tiles import EARLY, INT_CODE, LATE, MASKED, TileWriter, representative
from flashlight.emit.widths import is_wide
from flashlight.ir.expr import (
    BOOL,
    Axis,
    Expr,
    Iota,
    Load,
    Map,
    Reduce,
    Scalar,
    Scan,
    Tensor,
    is_float,
    is_int,
    walk,
)
from flashlight.ir.ops import NEUTRAL
from flashlight.ir.program import Name, Output, substitute
from flashlight.schedule.intervals import ROW_START, Matched
from flashlight.schedule.model import Accumulator, Pass, Schedule
from flashlight.schedule.roles import extent_name, is_size

UNMASKED = "blocks that need no mask"


def write_kernel(schedule: Schedule, source_name: str, description: str, labels: Mapping[Name, str]) -> Kernel:
    """The kernel of a schedule; ``source_name`` is the user's file as comments cite it.

    ``labels`` are what the description calls values that the user named, and that variables shall be called, too.
    """
    return KernelWriter(schedule, source_name, labels).write(description)


class KernelWriter:
    choices: tuple[str, ...] = (
        "BLOCK_ROWS",
        "BLOCK_KEYS",
        "WHOLE",
        "DESCRIPTORS",
        "VECTOR",
        "PRECISION",
        "APPROXIMATE",
        "EXPAND",
        "BOUNDED",
    )
    """Parameters that the launcher sets for a tile, a dtype or a length, where a kernel reads them."""
    tile_writer: type[TileWriter] = TileWriter
    together = "of its rows"

    def __init__(self, schedule: Schedule, source_name: str, labels: Mapping[Name, str]) -> None:
        self.schedule = schedule
        self.roles = schedule.roles
        self.names = Names(labels)
        for tensor in schedule.program.inputs:
            self.names.taken.add(f"{tensor.name}_ptr")
        widths = [
            f"BLOCK_{extent_name(axis)}" for axis in (*self.roles.resident, self.roles.demoted) if axis is not None
        ]
        for scalar in _scalars(schedule):
            chosen = scalar.name in self.choices or (f"BLOCK_{scalar.name}" in {*widths} & {*self.choices})
            if scalar.name in RESERVED or chosen:
                hint = "give the dimension or the parameter another name"
                raise Diagnostic("FL205", f"`{scalar.name}` is a name that kernels have for a variable", hint=hint)
            self.names.taken.add(scalar.name)
        for axis in self.roles.resident:
            self.names.taken.add(axis.name)
        self.tiles = self.tile_writer(schedule, self.names, source_name)
        self.tiles.joint = self.joint
        self.ranges: dict[str, str] = {}
        self.mixed: dict[str, str] = {}  # flags of blocks in which not all values are the rows' own
        self.matched: dict[str, Matched] = {}
        self.order: Order | None = None
        self.accumulators = self.scores = 0
        self.read: set[Load] = set()
        self.weighed: set[Expr] = set()  # what masked keys weigh, of which a test has been written

    @property
    def block(self) -> Block:
        return self.tiles.block

    def write(self, description: str) -> Kernel:
        self._locate()
        located = len(self.block.lines)
        for number, one in enumerate(self.schedule.passes):
            self._pass(number, one)
        self._store()
        self.block.lines[located:located] = self._vectors()
        body = without_unused(self.tiles.block.lines)
        return self._signed(body, description)

    def _vectors(self) -> list[str]:
        """The strides of gathered tiles, as what the launcher has found them to be multiples of."""
        lines, used = Block(self.block.depth), "\n".join(self.block.lines)
        if self.tiles.gathers:
            lines.add()
            lines.comment("These strides are multiples of VECTOR; said so, they let the compiler read vectors")
        for tensor in self.tiles.gathers:
            for label in dimension_labels(tensor)[:-1]:
                stride = f"{tensor.name}_stride_{label}"
                if re.search(rf"\b{stride}\b", used):
                    lines.add(f"{stride} = {stride} // VECTOR * VECTOR")
        return lines.lines

    # --- which tile -------------------------------------------------------------------------------------------------

    def _locate(self) -> None:
        roles, block = self.roles, self.block
        rows = self.tiles.size(roles.rows.extent)
        order = ": later rows see more keys, and start first" if self._grows() else ""
        block.comment(f"Which tile this program computes{order}")
        block.add("program = tl.program_id(0)")
        number = "program"
        if roles.demoted is not None:
            # neighbours have the rows in common, and so the larger part of what they read
            start, batch_offsets, positions = self.tiles.blocks[roles.demoted]
            width, blocks = self.tiles.width(roles.demoted), self.names.fresh(start.replace("start", "blocks"))
            block.add(f"{blocks} = tl.cdiv({self.tiles.size(roles.demoted.extent)}, {width})")
            block.add(f"{start} = ({number} % {blocks}) * {width}")
            number = f"{number} // {blocks}"
        block.add(f"row_blocks = tl.cdiv({rows}, BLOCK_ROWS)")
        first = f"{number} % row_blocks"
        block.add(f"row_start = ({f'row_blocks - 1 - {first}' if self._grows() else first}) * BLOCK_ROWS")
        self._positions(f"{number} // row_blocks", roles.grid)
        block.add("rows = row_start + tl.arange(0, BLOCK_ROWS)")
        if roles.demoted is not None:
            block.add(f"{positions} = {start} + tl.arange(0, {width})")
        block.comment("Offsets of addresses have 64 bits: neighbours may lie far apart")
        block.add("row_offsets = tl.arange(0, BLOCK_ROWS).to(tl.int64)")
        if roles.demoted is not None:
            block.add(f"{batch_offsets} = tl.arange(0, {width}).to(tl.int64)")
        block.add("key_offsets = tl.arange(0, BLOCK_KEYS).to(tl.int64)")
        for axis in distinct(roles.resident):
            block.add(f"{axis.name} = tl.arange(0, {self.tiles.width(axis)}).to(tl.int64)")

    def _positions(self, number: str, axes: Sequence[Axis]) -> None:
        """The positions along axes of the grid that a number stands for, the last axis the fastest."""
        for position, axis in reversed(list(enumerate(axes))):
            size = self.tiles.size(axis.extent, 9)
            text = number if position == 0 else f"{number} % {size}"
            self.block.add(f"{self.tiles.grid[axis]} = ({text}).to(tl.int64)")
            number = f"{number} // {size}"

    def _grows(self) -> bool:
        """Whether later rows see more keys, so that their tiles should start first."""
        stop = self.schedule.keys.live_stop
        return stop is not None and ROW_START in set(walk(stop)) and self.schedule.keys.live_start is None

    # --- passes -----------------------------------------------------------------------------------------------------

    def _pass(self, number: int, one: Pass) -> None:
        tiles, block = self.tiles, self.block
        block.add()
        chained = {item.reduce for later in self.schedule.passes[number:] for item in later.accumulators}
        block.comment(
            "Read once: the rows, and what is the same for every block of keys"
            if number == 0
            else "What the pass before has settled"
        )
        for item in one.accumulators:
            self._invariants(item.reduce.arg, chained)
        block.add()
        variables: dict[Reduce, Code] = {}
        for item in one.accumulators:
            variables[item.reduce] = self._initial(item)
        totals = {scan: self._initial_total(scan) for scan in one.scans}
        block.add()
        if number == 0:
            self._bounds()
        self._loops(one, variables, totals)
        self._undefine(one, variables)
        for item in one.accumulators:
            tiles.bound[item.reduce] = variables[item.reduce]

    def _invariants(self, body: Expr, chained: set[Reduce]) -> None:
        """Give a variable, before the loop, to all that does not change in it."""
        tiles, stream = self.tiles, self.roles.stream
        seen: set[Expr] = set()

        def visit(node: Expr, parent: Expr | None) -> None:
            if node in seen or node in tiles.bound:
                return
            seen.add(node)
            moves = stream in node.axes or any(inner in chained for inner in walk(node))
            if moves:
                children = node.children
                if isinstance(node, Load):
                    children = tuple(i for i in node.index if any(isinstance(n, Load) for n in walk(i)))
                for child in children:
                    visit(child, node)
                if node in tiles.expansions:
                    tiles.settle(tiles.expansions[node])
                if isinstance(node, Load) and stream in node.axes:
                    tiles.advance(node)
            elif isinstance(node, (Load, Reduce)) or (isinstance(node, Map) and self._worth(node)):
                tiles.value(node, bind=True)

        visit(body, None)

    def _worth(self, node: Map) -> bool:
        """Whether computing it once before the loop pays: a whole tile's work, or a load within."""
        if is_int(node) or not node.axes:
            return any(isinstance(inner, Load) for inner in walk(node))
        return True

    def _initial(self, item: Accumulator) -> Code:
        axes = self.tiles.order(item.reduce)
        wanted = {"max": "running_max", "min": "running_min", "sum": "running_sum"}.get(item.reduce.op)
        if wanted is None:
            raise Diagnostic("FL404", f"a reduction by `{item.reduce.op}` over the keys", hint="use sum, max or min")
        if any(axis in self.roles.resident for axis in axes):
            given = self.schedule.program.names.get(item.reduce)
            wanted = f"{given.name}_sum" if given else "accumulator"
        name = self.names.fresh(wanted)
        shape = ", ".join(self.tiles.width(axis) for axis in axes)
        neutral = NEUTRAL[item.reduce.op]
        if is_int(item.reduce) and item.reduce.op == "sum":
            self.block.add(f"{name} = tl.zeros([{shape}], tl.int64)")
            return Code(name, ATOM, axes, INT_CODE)
        if neutral == 0.0:
            self.block.add(f"{name} = tl.zeros([{shape}], tl.float32)")
        else:
            initial = f'float("{neutral}")'
            initial = f"{item.bound.value} if BOUNDED else {initial}" if item.bound else initial
            self.block.add(f"{name} = tl.full([{shape}], {initial}, tl.float32)")
        return Code(name, ATOM, axes, FLOAT32)

    def _initial_total(self, scan: Scan) -> Code:
        """What a cumulative sum has come to before the block at hand."""
        axes = tuple(axis for axis in self.tiles.tile_axes(scan) if axis is not scan.axis)
        names = self.schedule.program.names
        given = names.get(scan.arg) or names.get(scan)
        name = self.names.fresh(f"running_{given.name if given else 'total'}")
        shape = ", ".join(self.tiles.width(axis) for axis in axes)
        dtype = "tl.float32" if is_float(scan) else "tl.int32"
        initial = f"tl.zeros([{shape}], {dtype})" if scan.op == "sum" else f"tl.full([{shape}], 1, {dtype})"
        self.block.add(f"{name} = {initial}")
        return Code(name, ATOM, axes, FLOAT32 if is_float(scan) else INT_CODE)

    # --- which keys -------------------------------------------------------------------------------------------------

    def _bounds(self) -> None:
        """Name the ends of the loops: keys that some row of the tile sees (live), and that every row sees (full)."""
        block, keys, matched = self.block, self.schedule.keys, self.schedule.matched
        size = self.tiles.size(self.roles.stream.extent)
        if matched:
            self.tiles.helpers.add("matching_ranges")
        if not self.unbounded:
            live = "Keys that some row of this tile sees (live)"
            block.comment(f"{live}, and whole blocks that all {self.together} see (full)")
        else:
            block.comment("The last block may reach past the keys")
        starts, stops, full_start = [], [], []
        if keys.live_start is not None:
            starts.append(f"{self._clamped(keys.live_start, 8)} // BLOCK_KEYS * BLOCK_KEYS")
        if keys.live_stop is not None:
            stops.append(self._clamped(keys.live_stop) if matched else self._ended(keys.live_stop))
        if keys.full_start is not None:
            full_start.append(f"tl.cdiv({self._of_group(self._clamped(keys.full_start))}, BLOCK_KEYS) * BLOCK_KEYS")
        if keys.full_stop is None:
            last = self.tiles.size(self.roles.stream.extent, 8)
        else:
            last = self._of_group(self._ended(keys.full_stop))
        full_stop = [f"{last} // BLOCK_KEYS * BLOCK_KEYS"]
        for match in matched:
            one = self._matching(match)
            starts.append(f"tl.load({one})")
            stops.append(f"tl.load({one} + 1)")
            name = match.key_value.tensor.name
            first, stop = self.names.fresh(f"{name}_start"), self.names.fresh(f"{name}_stop")
            block.add(f"{first} = tl.load({one} + 2)")
            block.add(f"{stop} = tl.load({one} + 3)")
            if self.joint:
                flag = self.names.fresh(f"{name}_mixed")
                self.mixed[flag] = f"(key_start < {first}) | (key_start >= {stop})"
                self.tiles.flags[match.condition] = flag
            else:
                full_start.append(first)
                full_stop.append(stop)
        ranges = self.ranges = {"live_start": "0", "live_stop": size, "full_start": "0"}
        if starts:
            block.add(f"live_start = {_folded('tl.maximum', starts)}")
            ranges["live_start"] = ranges["full_start"] = "live_start"
        if stops:
            live_stop = _folded("tl.minimum", stops)
            if starts and (self.schedule.fills or matched):
                live_stop = f"tl.maximum(live_start, {live_stop})"  # what lies outside is visited once
            block.add(f"live_stop = {live_stop}")
            ranges["live_stop"] = "live_stop"
        end = _folded("tl.minimum", full_stop)
        if self.joint:
            # each block asks on which side of the full ones it lies, which may be both
            if full_start:
                block.add(f"full_start = {_folded('tl.maximum', full_start)}")
                ranges["full_start"] = "full_start"
                self._side_flags()
        else:
            # the parts of the loop meet, also where no block is full
            if full_start:
                full_start = ["live_start", *full_start] if matched else full_start
                block.add(f"full_start = tl.minimum({_folded('tl.maximum', full_start)}, {ranges['live_stop']})")
                ranges["full_start"] = "full_start"
            if ranges["full_start"] != "0":
                end = f"tl.maximum({ranges['full_start']}, {end})"
        block.add(f"full_stop = {end}")

    def _of_group(self, bound: str) -> str:
        """The same bound of the keys for those rows of a tile that are computed together: here, all of them."""
        return bound

    def _side_flags(self) -> None:
        """Have conditions tested only on the side of the full blocks where they can fail.

        Not beside one that can fail on both sides: a second selection would cost what the other side saves.
        """
        if not self.tiles.sided:
            return
        flags = self.tiles.flags
        for mask in self.schedule.masks:
            ranged = [one for one in mask.ranged if one.condition not in flags]
            if all(one.before != one.after for one in ranged):
                flags.update({one.condition: EARLY if one.before else LATE for one in ranged})

    def _matching(self, match: Matched) -> str:
        """Name the place of what the launcher found out about this block of rows: four ends of ranges of keys."""
        name = self.names.fresh(f"{match.key_value.tensor.name}_ranges")
        self.matched[name] = match
        places = [(self.tiles.grid[axis], self.tiles.size(axis.extent, 9)) for axis in match.axes]
        if self.roles.rows in match.row_value.axes:
            places.append(("row_start // BLOCK_ROWS", "row_blocks"))
        place = ""
        for index, count in places:
            before = f"({place})" if " + " in place else place
            place = f"{before} * {count} + {index}" if place else index
        if self.order is not None and match is self.order.match:
            place = self.order.tile
        one = self.names.fresh(f"{match.key_value.tensor.name}_range")
        place = f"({place})" if " " in place else place
        self.block.add(f"{one} = {name}_ptr" + (f" + {place} * 4" if place else ""))
        return one

    def _clamped(self, bound: Expr, level: int = 0) -> str:
        """A bound of the keys, not below zero."""
        wide = self._narrowed(bound)
        if wide is not None:
            return wide
        code = self.tiles.value(bound, bind=False)
        return code.within(level) if _certainly_nonnegative(bound) else f"tl.maximum(0, {code.text})"

    def _ended(self, bound: Expr) -> str:
        """A bound of the keys between zero and their number."""
        return self._narrowed(bound) or f"tl.minimum({self._size_of_keys}, {self._clamped(bound)})"

    def _narrowed(self, bound: Expr) -> str | None:
        """The latter where the bound may need 64 bits, in 32 all the same, as descriptors need it; else None."""
        if not any(isinstance(node, (Iota, Load)) for node in walk(bound)) and not is_wide(bound):
            return None
        text = f"tl.minimum({self.tiles.value(bound, bind=False).text}, {self._size_of_keys})"
        return f"tl.cast({text if _certainly_nonnegative(bound) else f'tl.maximum(0, {text})'}, tl.int32)"

    @property
    def _size_of_keys(self) -> str:
        return self.tiles.size(self.roles.stream.extent)

    def _loops(self, one: Pass, variables: dict[Reduce, Code], totals: dict[Scan, Code]) -> None:
        """The trip over the live blocks of keys, the body written once."""
        tiles, block, ranges = self.tiles, self.block, self.ranges
        parts = self._parts()
        if self.schedule.fills:
            parts.extend(self._dead_parts(variables))
        tiles.masked = "partial" if self.joint else MASKED
        if totals and not self.joint:
            # what is added up along the keys needs the parts in their order
            parts = [*parts[2:], *parts[:2]]
            parts = parts[::-1] if one.descending else parts
            full = next(n for n, (what, _) in enumerate(parts) if what == UNMASKED)
            tiles.masked = MASKED if full == 0 else "part == 0" if len(parts) == 2 else f"part != {full}"
        block.add()
        enclosing = [block]
        start, stop = ranges["live_start"], ranges["live_stop"]
        if len(parts) > 1:
            count = str(len(parts))
            if self.unbounded:
                block.comment("Where all blocks are whole, the kernel is compiled without a mask")
                first_is_full = parts[0][0] == UNMASKED
                count = f"1 if WHOLE else {count}" if first_is_full else f"1 if WHOLE else 0, {count}"
            block.add(f"for part in tl.static_range({count}):")
            block = block.nested()
            enclosing.append(block)
            for position, (what, lines) in enumerate(parts):
                test = f"{'if' if position == 0 else 'elif'} part == {position}:"
                block.add(test if position < len(parts) - 1 else "else:")
                block.add(f"    # {what}")
                for line in lines:
                    block.add(f"    {line}")
            start, stop = "start", "stop"
            if not self.unbounded:
                # a pipelined loop has its beginning and its end even if it is empty
                block.add("if start < stop:")
                block = block.nested()
                enclosing.append(block)
        if one.descending:
            block.comment("From the last block to the first")
            span = stop if start == "0" else f"({stop} - {start})"
            block.add(f"last = {'' if start == '0' else f'{start} + '}(tl.cdiv({span}, BLOCK_KEYS) - 1) * BLOCK_KEYS")
            block.add(f"for key_start in tl.range(last, {start} - BLOCK_KEYS, -BLOCK_KEYS):")
        else:
            block.add(f"for key_start in tl.range({start}, {stop}, BLOCK_KEYS):")
        body = block.nested()
        tiles.block = body
        tiles.in_loop = True
        before = dict(tiles.bound)
        body.add("keys = key_start + tl.arange(0, BLOCK_KEYS)")
        if self.joint:
            body.add(f"partial = ({EARLY}) | ({LATE})" if ranges["full_start"] == "full_start" else f"partial = {LATE}")
            for flag, test in self.mixed.items():
                body.add(f"{flag} = {test}")
        for scan, total in totals.items():
            self._scanned(scan, total)
        if self.roles.demoted is not None:
            self._read_first(one)
        self._step(one, variables)
        self._weigh(body.lines, variables)
        body.lines = without_unused(body.lines, frozenset({"keys", "partial", *self.mixed}))
        tiles.bound = before
        tiles.in_loop = False
        for inner, outer in itertools.pairwise([body, *reversed(enclosing)]):
            outer.close(inner)
        tiles.block = enclosing[0]

    @functools.cached_property
    def unbounded(self) -> bool:
        """Whether every row sees all keys, as far as the schedule knows: only the end of the keys parts a block."""
        keys = self.schedule.keys
        bounds = (keys.live_start, keys.live_stop, keys.full_start, keys.full_stop)
        return not (any(bounds) or self.schedule.matched or self.schedule.fills)

    @functools.cached_property
    def joint(self) -> bool:
        """Whether one loop serves full and partial blocks.

        A mask that falls on a matrix product as it comes costs a select for each score, which is less than filling
        and draining the pipeline of another loop. Behind other arithmetic it would keep multiplications and additions
        from being fused as well: then full blocks have a loop without it.
        """
        ranged = [mask for mask in self.schedule.masks if mask.ranged]
        return not self.unbounded and all(_is_product(mask.node.children[1]) for mask in ranged)

    def _parts(self) -> list[tuple[str, list[str]]]:
        """The loops: what each visits, and the lines that name its ends."""
        ranges = self.ranges
        if self.joint:
            return [("the blocks that some row sees", [f"start, stop = {ranges['live_start']}, {ranges['live_stop']}"])]
        parts = [
            (UNMASKED, [f"start, stop = {ranges['full_start']}, full_stop"]),
            ("the blocks at the end of the range", [f"start, stop = full_stop, {ranges['live_stop']}"]),
        ]
        if ranges["full_start"] != ranges["live_start"]:
            parts.append(("the blocks at its start", [f"start, stop = {ranges['live_start']}, full_start"]))
        return parts

    def _weigh(self, lines: list[str], variables: dict[Reduce, Code]) -> None:
        """Count the tiles that are alive at once, for the model that picks their size."""
        rows, stream, resident = self.roles.rows, self.roles.stream, self.roles.resident
        wide = [code for code in variables.values() if rows in code.axes and any(a in resident for a in code.axes)]
        self.accumulators = max(self.accumulators, len(wide))
        squares = {code.text for code in self.tiles.bound.values() if rows in code.axes and stream in code.axes}
        words = [set(re.findall(r"\w+", line)) & squares for line in lines]
        first = {name: number for number, names in reversed(list(enumerate(words))) for name in names}
        last = {name: number for number, names in enumerate(words) for name in names}
        # scores that no product leaves in the layout of products are brought into it
        self.read |= {node for node in self.tiles.bound if isinstance(node, Load)}
        products = {line.split(" = ")[0].strip() for line in lines if "tl.dot(" in line}
        always = 0 if products & squares else 2
        # the 64-bit addresses of a tile that moves along the keys stay
        always += 2 * sum(rows in load.axes and stream in load.axes for load in self.tiles.pointers)
        for number, (line, names) in enumerate(zip(lines, words, strict=True)):
            alive = sum(first[name] <= number < last[name] or name in names for name in first)
            # the addresses of a tile that is gathered; what a power is computed from
            within = 2 * ("tl.load(" in line and "_block" not in line) + 3 * ("power(" in line) if names else 0
            self.scores = max(self.scores, alive + within + always)

    def _undefine(self, one: Pass, variables: dict[Reduce, Code]) -> None:
        """After the loops: sums of a row whose scores are all -inf are NaN where nothing else would show it."""
        for item in one.accumulators:
            for maximum in item.undefined:
                variable, highest = variables[item.reduce], variables.get(maximum) or self.tiles.bound[maximum]
                empty = Code(f'({highest.text} == float("-inf"))', ATOM, highest.axes, FLOAT32).along(variable.axes)
                self.block.add(f'{variable.text} = tl.where({empty}, float("nan"), {variable.text})')

    def _dead_parts(self, variables: dict[Reduce, Code]) -> list[tuple[str, list[str]]]:
        """Loops over the dead blocks, taken where a finite fill value is all that some row has seen."""
        tiles, size = self.tiles, self.tiles.size(self.roles.stream.extent)
        outer, before = tiles.block, dict(tiles.bound)
        tiles.block = Block(0)
        for reduction, variable in variables.items():
            tiles.bound[reduction] = variable
        weighed = [weight for fill in self.schedule.fills for node, weight in fill.weights if node in variables]
        new = [weight for weight in dict.fromkeys(weighed) if weight not in self.weighed]
        # also where the weight is NaN, as with a factor of zero after the mask
        rows = Code(f"rows < {tiles.size(self.roles.rows.extent)}", 2, (self.roles.rows,), BOOL)
        tests = []
        for weight in new:
            code = tiles.value(weight, bind=False)
            weighs = f"({code.within(3)} != 0.0)"
            if self.roles.rows in code.axes:
                weighs = f"(({rows.along(code.axes)}) & {weighs})"
            tests.append(f"(tl.max({weighs}.to(tl.int32)) > 0)")
        known = ["unseen"] if self.weighed else []
        lines = [*tiles.block.lines, f"unseen = {' | '.join([*known, *tests])}"] if tests else []
        self.weighed.update(new)
        tiles.block, tiles.bound = outer, before
        parts: list[tuple[str, list[str]]] = []
        if self.ranges["live_stop"] != size:
            after = f"start = tl.cdiv({self.ranges['live_stop']}, BLOCK_KEYS) * BLOCK_KEYS"
            parts.append(
                (
                    "a row that sees no key weighs all alike: the fill is finite, so the masked keys count",
                    [*lines, after, f"stop = tl.where(unseen, {size}, start)"],
                )
            )
            lines = []
        if self.ranges["live_start"] != "0":
            lines = [*lines, "start = 0", f"stop = tl.where(unseen, {self.ranges['live_start']}, 0)"]
            parts.append(("likewise before the range", lines))
        return parts

    # --- one block of keys ------------------------------------------------------------------------------------------

    def _step(self, one: Pass, variables: dict[Reduce, Code]) -> None:
        tiles = self.tiles
        moved: list[tuple[str, str]] = []
        bounded = {item.reduce for item in one.accumulators if item.bound is not None}
        depended = {s.reduce for item in one.accumulators for s in item.statistics}
        for item in one.accumulators:
            node, variable = item.reduce, variables[item.reduce]
            if node in depended:
                new = self._moved(item, variable)
                moved.append((variable.text, new))
                continue
            factor = None
            if item.correction is not None:
                for statistic in item.statistics:
                    tiles.bound[statistic.old] = variables[statistic.reduce]
                    tiles.bound[statistic.new] = tiles.bound[statistic.reduce]
                self._share(item)
                factor = tiles.bound.get(item.correction)
                if factor is None:
                    factor = tiles.assign(item.correction, tiles.value(item.correction, bind=False), "rescale")
            self._accumulate(item, variable, factor, any(one.reduce in bounded for one in item.statistics))
        for old, new in moved:
            tiles.block.add(f"{old} = {new}")

    def _read_first(self, one: Pass) -> None:
        """Read what the scores are made of before the first product, behind which a load would wait.

        A tile that is added to batched products is brought into their layout; read after them, Triton brings them into
        its own instead, through shared memory.
        """
        self.block.comment("All that the scores are made of, before the first product")
        for load in walk(one.accumulators[0].reduce.arg):
            if isinstance(load, Load) and self.roles.stream in load.axes and self.tiles.tile_axes(load):
                self.tiles.value(load)

    def _share(self, item: Accumulator) -> None:
        """Give what the correction and the values it corrects both compute from the new statistics a variable first."""
        tiles = self.tiles
        assert item.correction is not None
        moved = {statistic.new: statistic.reduce for statistic in item.statistics}
        for node in walk(item.correction):
            if isinstance(node, Map) and not moved.keys().isdisjoint(walk(node)):
                own = substitute(node, moved)
                if own not in tiles.bound and tiles.deserves_variable(own):
                    tiles.bound[node] = tiles.value(own)

    def _scanned(self, scan: Scan, total: Code) -> None:
        """A cumulative sum over a block: what has come before, and what the block adds; then the total moves on."""
        tiles = self.tiles
        symbol, precedence = ("+", 7) if scan.op == "sum" else ("*", 8)
        arg = tiles.value(scan.arg, bind=True).widened()
        if not arg.text.isidentifier():
            arg = tiles.assign(scan.arg, arg)
        place = arg.axes.index(scan.axis)
        reverse = ", reverse=True" if scan.reverse else ""
        before = total.along(tuple(axis for axis in arg.axes if axis is not scan.axis))
        if total.axes:
            before = f"{before}[{', '.join('None' if axis is scan.axis else ':' for axis in arg.axes)}]"
        code = f"{before} {symbol} tl.cum{scan.op}({arg.text}, {place}{reverse})"
        tiles.assign(
            scan,
            Code(code, precedence, arg.axes, total.dtype),
            None if scan in self.schedule.program.names else "cumulative",
        )
        if scan.op == "sum":
            added = f"tl.sum({arg.text}, {place})"
        else:
            tiles.helpers.add("product")
            added = f"tl.reduce({arg.text}, {place}, product)"
        tiles.block.add(f"{total.text} = {total.text} {symbol} {added}")

    def _moved(self, item: Accumulator, variable: Code) -> str:
        """Move a statistic that others depend on: its old value stays until they have been corrected."""
        tiles, node = self.tiles, item.reduce
        if node.op == "sum":
            raise Diagnostic("FL404", "a running sum that moves others", hint="normalise after the product instead")
        term = tiles.reduced(node.op, node.arg, node.axis)
        new = self.names.fresh(variable.text.replace("running", "new"))
        extreme = self._extreme(node).format(variable.text, term.text)
        if item.bound is not None:
            tiles.block.comment("BOUNDED: scores span so little that the greatest possible stands in for their maximum")
            extreme = f"{variable.text} if BOUNDED else {extreme}"
        tiles.block.add(f"{new} = {extreme}")
        # while a row has seen nothing but -inf, any finite reference will do: its weights are zero
        nothing = NEUTRAL[node.op]
        tiles.block.comment(f"A row that has seen only {nothing} subtracts 0: {nothing} - {nothing} is NaN")
        safe = self.names.fresh(variable.text.replace("running", "finite"))
        neutral = NEUTRAL[node.op]
        tiles.block.add(f'{safe} = tl.where({new} == float("{neutral}"), 0.0, {new})')
        tiles.bound[node] = Code(safe, ATOM, variable.axes, FLOAT32)
        return new

    def _extreme(self, node: Reduce) -> str:
        """The function of two arguments that keeps a running maximum or minimum."""
        if self.tiles.keeps_nan(node.op, node.arg, node.axis):
            return f"nan_{node.op}({{}}, {{}})"
        return {"max": "tl.maximum({}, {})", "min": "tl.minimum({}, {})"}[node.op]

    def _accumulate(self, item: Accumulator, variable: Code, factor: Code | None, bounded: bool) -> None:
        tiles, node = self.tiles, item.reduce
        name = variable.text
        kept = name
        if factor is not None:
            kept = f"{name} * {factor.along(variable.axes, 9)}"
            if item.unsettled:  # a sum of nothing stays zero, whatever the factor
                kept = f"tl.where({name} == 0.0, 0.0, {kept})"
            if bounded:
                kept = f"{name} if BOUNDED else {kept}"
        if node.op == "sum" and is_float(node):
            product = tiles.dot(node.arg, node.axis, kept)
            if product is not None:
                tiles.block.add(f"{name} = {product.text}")
                return
        term = tiles.reduced(node.op, node.arg, node.axis)
        if node.op == "sum":
            tiles.block.add(f"{name} = {f'({kept})' if bounded else kept} + {term.text}")
        else:
            tiles.block.add(f"{name} = {self._extreme(node).format(name, term.text)}")

    # --- results ----------------------------------------------------------------------------------------------------

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


def _is_product(expr: Expr) -> bool:
    """Whether the value is a contraction, at most rounded."""
    while isinstance(expr, Map) and expr.op == "cast":
        expr = expr.args[0]
    return isinstance(expr, Reduce) and expr.op == "sum"


def _folded(function: str, items: list[str]) -> str:
    """The items under a function of two arguments."""
    text = items[0]
    for item in items[1:]:
        text = f"{function}({text}, {item})"
    return text


def _certainly_nonnegative(bound: Expr) -> bool:
    from flashlight.ir import integers

    return all(
        coefficient > 0 and all(isinstance(a, Scalar) and (a.positive or a.name == "row_start") for a in monomial)
        for monomial, coefficient in integers.polynomial(bound).items()
    )


def _scalars(schedule: Schedule) -> set[Scalar]:
    found: set[Scalar] = set()
    for root in (output.expr for output in schedule.program.outputs):
        for node in walk(root):
            if isinstance(node, Scalar):
                found.add(node)
            for axis in (*node.axes, *node.bound):
                found |= {inner for inner in walk(axis.extent) if isinstance(inner, Scalar)}
    return found
