"""What takes several statements on tiles: masks, and squared distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from flashlight.diagnostics import Diagnostic
from flashlight.emit.code import FLOAT32, Code
from flashlight.emit.operators import ATOM
from flashlight.emit.tiles.arithmetic import Arithmetic
from flashlight.emit.tiles.values import EARLY, INT_CODE, LATE
from flashlight.ir.expr import BOOL, Expr, Iota, Load, Map, Reduce, walk
from flashlight.schedule.model import Mask
from rewriters.expand import Expansion


class TileWriter(Arithmetic):
    """Writes expressions as statements into `block`, remembering what has been given a variable."""

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

    # --- distances ----------------------------------------------------------------------------------------------------

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

    # --- masks --------------------------------------------------------------------------------------------------------

    def _masked(self, mask: Mask) -> Code:
        node = mask.node
        assert isinstance(node, Map)
        _, yes, fill = node.args
        axes = self.tile_axes(node)
        known = yes in self.bound or yes in self.masks or yes in self.descriptors
        single = self.uses.get(yes, 0) <= 1 and not known
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
