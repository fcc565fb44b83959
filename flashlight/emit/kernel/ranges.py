"""Which keys a tile visits: live blocks, that some row sees, and full ones, that all rows see."""

from __future__ import annotations

import functools

from flashlight.emit.kernel.place import Place
from flashlight.emit.tiles.values import EARLY, LATE
from flashlight.emit.widths import is_wide
from flashlight.ir import integers
from flashlight.ir.expr import Expr, Iota, Load, Map, Reduce, Scalar, walk
from flashlight.schedule.intervals import Matched


class Ranges(Place):
    """Names the ends of the loops over the keys."""

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

    # --- bounds as code -----------------------------------------------------------------------------------------------

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
    return all(
        coefficient > 0 and all(isinstance(a, Scalar) and (a.positive or a.name == "row_start") for a in monomial)
        for monomial, coefficient in integers.polynomial(bound).items()
    )
