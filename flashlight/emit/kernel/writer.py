"""One schedule to one Triton kernel: its passes, one after another."""

from __future__ import annotations

import re
from collections.abc import Mapping

from flashlight.emit.code import Block, Code
from flashlight.emit.kernel.results import Results
from flashlight.emit.lines import without_unused
from flashlight.emit.names import dimension_labels
from flashlight.emit.signature import Kernel
from flashlight.ir.expr import Expr, Load, Map, Reduce, is_int, walk
from flashlight.ir.program import Name
from flashlight.schedule.model import Pass, Schedule


def write_kernel(schedule: Schedule, source_name: str, description: str, labels: Mapping[Name, str]) -> Kernel:
    """The kernel of a schedule; ``source_name`` is the user's file as comments cite it.

    ``labels`` are what the description calls values that the user named, and that variables shall be called, too.
    """
    return KernelWriter(schedule, source_name, labels).write(description)


class KernelWriter(Results):
    """Writes the passes of a schedule one after another."""

    def write(self, description: str) -> Kernel:
        self._locate()
        located = len(self.block.lines)
        for number, one in enumerate(self.schedule.passes):
            self._pass(number, one)
        self._store()
        self.block.lines[located:located] = self._vectors()
        body = without_unused(self.tiles.block.lines)
        return self._signed(body, description)

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
