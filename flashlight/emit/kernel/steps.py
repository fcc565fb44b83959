"""One block of keys: statistics move, what depends on them is corrected, and the block is added."""

from __future__ import annotations

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import FLOAT32, Code
from flashlight.emit.kernel.ranges import Ranges
from flashlight.emit.operators import ATOM
from flashlight.emit.tiles.values import INT_CODE
from flashlight.ir.expr import Load, Map, Reduce, Scan, is_float, is_int, walk
from flashlight.ir.ops import NEUTRAL
from flashlight.ir.program import substitute
from flashlight.schedule.model import Accumulator, Pass


class Steps(Ranges):
    """What happens before and in one turn of a loop over the keys."""

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

    # --- a turn of the loop -------------------------------------------------------------------------------------------

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
