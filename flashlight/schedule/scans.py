"""Cumulative sums along the streamed axis: within a block by a scan, from block to block by a total that is carried.

    y[i, j] = sum_(s <= j) f[i, s]   in a block:   carried[i] + cumsum(f)[i, j];   then  carried[i] += sum_j f[i, j]

A scan is one more reduction of its pass whose running state others read. One that runs from the last key to the first
(``reverse``) has its pass walk the keys in that order. Where scans of both directions meet, the reversed ones become

    sum_(s >= j) f(s)  =  sum_s f(s)  -  sum_(s <= j) f(s)  +  f(j)

whose total takes a pass of its own before.
"""

from __future__ import annotations

from flashlight.diagnostics import Diagnostic
from flashlight.ir import build
from flashlight.ir.expr import Axis, Expr, Iota, Scan, walk
from flashlight.ir.program import Name, Program, rewrite, substitute, substituted_names, with_names


def aligned(program: Program) -> Program:
    """The program with every scan over the axis along which it is read, so that both see one and the same value."""
    names: dict[Expr, Name] = {}

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Scan) and isinstance(node.at, Iota)):
            return node
        old, new = node.axis, node.at.axis
        if old is new or old.extent is not new.extent or new in node.arg.axes:
            return node
        moved: dict[Expr, Expr] = {Iota(old): Iota(new)}
        names.update(substituted_names(program.names, node.arg, moved))
        return Scan(node.op, substitute(node.arg, moved), new, node.at, node.reverse)

    return with_names(rewrite(program, rule), names)


def along(program: Program, stream: Axis) -> tuple[Scan, ...]:
    """The scans of the program, those that others depend on first; a Diagnostic if some cannot run along the keys."""
    nodes = walk(*(output.expr for output in program.outputs))
    found = tuple(node for node in nodes if isinstance(node, Scan))
    for node in found:
        if node.axis is stream and node.at is Iota(stream) and node.op in ("sum", "prod"):
            continue
        named = program.names.get(node)
        raise Diagnostic(
            "FL403",
            f"{f'`{named.name}`' if named else 'a value'} accumulates, but not along the keys up to the key itself",
            hint="sums are carried from key to key, each up to and including its own: subtract that, if need be",
        )
    return found


def one_way(program: Program, stream: Axis) -> tuple[Program, tuple[str, ...]]:
    """The program with its scans in one direction, and why: where both occur, the reversed ones go by their totals.

    Raises a Diagnostic for reversed products, whose total cannot be divided by a prefix that may be zero.
    """
    if len({node.reverse for node in along(program, stream)}) < 2:
        return program, ()

    def rule(node: Expr) -> Expr:
        if not (isinstance(node, Scan) and node.reverse):
            return node
        if node.op != "sum":
            raise Diagnostic("FL403", "products accumulate along the keys in both directions", hint="add logarithms")
        before = build.scan("sum", node.arg, stream, node.at)
        after = build.op("sub", build.reduce("sum", node.arg, stream), before, dtype=node.dtype)
        return build.op("add", after, node.arg, dtype=node.dtype)

    reason = "sums along the keys from both ends: those from the last are totals, found in a pass before, less prefixes"
    return rewrite(program, rule), (reason,)
