"""Every law is applied until it rests, and one that does not rest is an error."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flashlight.ir.program import Program
from rewriters.pipeline import ROUNDS, run
from tests.rewriters.conftest import BIAS, I, J, at, op, over, program


def growing(before: Program) -> Program:
    (output,) = before.outputs
    return replace(before, outputs=(replace(output, expr=op("exp", output.expr)),))


def test_a_law_that_never_rests_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="'growing' does not come to rest"):
        run(program(over("sum", at(BIAS, I, J)), I), (("growing", growing),))


def test_firings_are_recorded_in_order() -> None:
    left = [3]

    def thrice(before: Program) -> Program:
        left[0] -= 1
        return growing(before) if left[0] >= 0 else before

    result = run(program(over("sum", at(BIAS, I, J)), I), (("thrice", thrice), ("never", lambda p: p)))
    assert [firing.law for firing in result.fired] == ["thrice"] * 3 and ROUNDS > 3
    assert result.fired[-1].program is result.program
