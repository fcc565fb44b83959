"""The trip over the keys: loops with and without masks, and over dead blocks where a finite fill makes them count."""

from __future__ import annotations

import itertools
import re

from flashlight.emit.code import FLOAT32, Block, Code
from flashlight.emit.kernel.steps import Steps
from flashlight.emit.lines import without_unused
from flashlight.emit.operators import ATOM
from flashlight.emit.tiles.values import EARLY, LATE, MASKED
from flashlight.ir.expr import BOOL, Load, Reduce, Scan
from flashlight.schedule.model import Pass

UNMASKED = "blocks that need no mask"


class Loops(Steps):
    """Writes the loops, the body once for all of them."""

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

    def _undefine(self, one: Pass, variables: dict[Reduce, Code]) -> None:
        """After the loops: sums of a row whose scores are all -inf are NaN where nothing else would show it."""
        for item in one.accumulators:
            for maximum in item.undefined:
                variable, highest = variables[item.reduce], variables.get(maximum) or self.tiles.bound[maximum]
                empty = Code(f'({highest.text} == float("-inf"))', ATOM, highest.axes, FLOAT32).along(variable.axes)
                self.block.add(f'{variable.text} = tl.where({empty}, float("nan"), {variable.text})')

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
