"""log2(e) moves into the scale, and leaves fills finite."""

from __future__ import annotations

import math

import pytest
import torch

from flashlight.emit.host import python
from flashlight.ir import build
from flashlight.ir.evaluate import evaluate
from flashlight.ir.expr import FLOAT, Const, Expr, Iota, Map, Scalar, walk
from flashlight.ir.program import Program
from rewriters.base2 import LOWEST, base2
from tests.rewriters.conftest import KEYS, ROWS, WIDTH, D, I, J, K, Q, V, at, op, over, program, same


def filled(fill: Expr) -> Program:
    """Attention of which the first row sees nothing but the fill."""
    visible = build.op("lt", Iota(J), Iota(I))
    scores = build.where(visible, over("sum", op("mul", at(Q, I, D), at(K, J, D)), D), fill)
    weights = op("exp", op("sub", scores, over("max", scores)))
    return program(op("div", over("sum", op("mul", weights, at(V, J, D))), over("sum", weights)), I, D)


@pytest.mark.parametrize("lowest", [torch.finfo(torch.float32).min, torch.finfo(torch.bfloat16).min, -3e38])
def test_a_constant_fill_stays_finite(lowest: float) -> None:
    after = base2(filled(build.const(lowest, FLOAT)))
    numbers = [float(node.value) for o in after.outputs for node in walk(o.expr) if isinstance(node, Const)]
    assert LOWEST in numbers and all(map(math.isfinite, numbers))
    generator = torch.Generator().manual_seed(0)
    sizes = {"q": (ROWS, WIDTH), "k": (KEYS, WIDTH), "v": (KEYS, WIDTH)}
    inputs = {
        tensor.name: torch.randn(size, generator=generator)
        for tensor, size in zip((Q, K, V), sizes.values(), strict=True)
    }
    (output,) = evaluate(after, inputs, {}, torch.float32).values()
    torch.testing.assert_close(output[0], inputs[V.name].mean(0))


def test_a_fill_known_at_run_time_stays_finite() -> None:
    after = base2(filled(Scalar("finfo_min", FLOAT)))
    fills = [
        node
        for output in after.outputs
        for node in walk(output.expr)
        if isinstance(node, Map) and not node.axes and any(isinstance(n, Scalar) for n in walk(node))
    ]
    outermost = max(fills, key=lambda node: len(list(walk(node))))
    assert eval(python(outermost), {"math": math, "finfo_min": torch.finfo(torch.float32).min}) == LOWEST
    assert eval(python(outermost), {"math": math, "finfo_min": -65504.0}) == pytest.approx(-65504 * math.log2(math.e))


def test_minus_infinity_stays_what_it_is() -> None:
    after = base2(filled(build.const(-math.inf, FLOAT)))
    numbers = [float(node.value) for o in after.outputs for node in walk(o.expr) if isinstance(node, Const)]
    assert -math.inf in numbers and LOWEST not in numbers


def test_a_factor_that_joins_neither_of_two_products_multiplies_their_sum() -> None:
    content, position = (over("sum", op("mul", at(Q, I, D), at(other, J, D)), D) for other in (K, V))
    scores = op("add", content, position)
    before = program(over("sum", op("exp", op("sub", scores, over("max", scores)))), I)
    after = base2(before)
    sums = [node for node in walk(after.outputs[0].expr) if isinstance(node, Map) and node.op == "add"]
    assert sums == [scores], after
    same(before, after, 0)


def test_a_maximum_that_stays_as_it_is_is_compared_as_it_is() -> None:
    """Whether a row has seen a key: times log2(e) it would be multiplied for nothing."""
    scores = over("sum", op("mul", at(Q, I, D), at(K, J, D)), D)
    highest = over("max", scores)
    weights = op("exp", op("sub", scores, highest))
    seen = build.op("ne", highest, build.const(-math.inf, FLOAT))
    before = program(build.where(seen, over("sum", weights), build.const(0.0, FLOAT)), I)
    after = base2(before)
    assert seen in set(walk(*(output.expr for output in after.outputs)))
    same(before, after, 0)


@pytest.mark.parametrize("logged", [True, False])
def test_a_weight_whose_logarithm_is_wanted_is_one_exactly_where_the_score_is_the_greatest(logged: bool) -> None:
    """Otherwise the difference is one of products, for a multiply-add."""
    scale = build.const(0.3, FLOAT)
    scores = over("sum", op("mul", at(Q, I, D), at(K, J, D)), D)
    highest = over("max", scores)
    shifted = op("sub", op("mul", scores, scale), op("mul", highest, scale))
    weights = op("exp", shifted)
    total = over("sum", weights)
    wanted = op("sub", shifted, build.op("log", total)) if logged else at(V, J, D)
    before = program(op("div", over("sum", op("mul", weights, wanted)), total), I, *[D] * (not logged))
    after = base2(before)
    powers = [node.args[0] for node in walk(after.outputs[0].expr) if isinstance(node, Map) and node.op == "exp2"]
    assert {power.op for power in powers if isinstance(power, Map)} == {"mul" if logged else "sub"}
    assert (op("sub", scores, highest) in {child for power in powers for child in power.children}) is logged
    same(before, after, 0)
