"""The order in which the laws are applied, and a record of what each did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashlight.ir.program import Program
from rewriters.absorb import absorb
from rewriters.base2 import base2
from rewriters.common import common
from rewriters.exact import exact
from rewriters.exponents import exponents
from rewriters.factors import factors
from rewriters.hoist import hoist
from rewriters.odd import odd
from rewriters.peel import peel
from rewriters.scale import scale
from rewriters.scans import scans
from rewriters.shift import shift
from rewriters.split import split
from rewriters.unroll import unroll

Law = Callable[[Program], Program]

LAWS: tuple[tuple[str, Law], ...] = (
    ("scans", scans),
    ("peel", peel),
    ("shift", shift),
    ("unroll", unroll),
    ("absorb", absorb),
    ("exponents", exponents),
    ("split", split),
    ("hoist", hoist),
    ("factors", factors),
    ("odd", odd),
    ("common", common),
    ("scale", scale),
    ("base 2", base2),
    ("exact", exact),
)


ROUNDS = 50
"""How often a law may fire on one program before it counts as going in circles."""


@dataclass(frozen=True)
class Firing:
    """A law that changed the program, and the program that it left."""

    law: str
    program: Program


@dataclass(frozen=True)
class Rewritten:
    """The rewritten program and, in order, the laws that fired."""

    program: Program
    fired: tuple[Firing, ...]


def run(program: Program, laws: tuple[tuple[str, Law], ...] = LAWS) -> Rewritten:
    """Apply every law in order, each until it has nothing left to do."""
    fired: list[Firing] = []
    for name, law in laws:
        for _ in range(ROUNDS):
            after = law(program)
            if all(new.expr is old.expr for new, old in zip(after.outputs, program.outputs, strict=True)):
                break
            program = after
            fired.append(Firing(name, program))
        else:
            raise RuntimeError(f"the law {name!r} does not come to rest on {program.name}")
    return Rewritten(program, tuple(fired))
