"""The online law on random compositions: a factor that is found is right, and without one there is another pass."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight.ir import build
from flashlight.ir.evaluate import evaluate_expr
from flashlight.ir.expr import FLOAT, Axis, Expr, Iota, Load, Reduce, Scalar, Tensor
from flashlight.ir.program import Output, Program, substitute
from flashlight.schedule import schedule
from flashlight.schedule.build import _divides, _unsettled
from flashlight.schedule.model import Statistic
from rewriters.online import correction

S = Scalar("S", "int64", True)
I, J, D = Axis("i", Scalar("N", "int64", True)), Axis("j", S), Axis("d", Scalar("D", "int64", True))  # noqa: E741
Q = Tensor("q", (I.extent,), FLOAT)
K = Tensor("k", (S,), FLOAT)
V = Tensor("v", (S, D.extent), FLOAT)
OLD, NEW = (Load(Tensor(name, (I.extent,), FLOAT), (Iota(I),)) for name in ("old", "new"))


def op(name: str, *args: Expr | float) -> Expr:
    return build.op(name, *(build.const(arg, FLOAT) if isinstance(arg, (int, float)) else arg for arg in args))


X = op("add", op("mul", op("tanh", Load(Q, (Iota(I),))), op("tanh", Load(K, (Iota(J),)))), 2.0)
R = build.reduce("max", X, J)


@st.composite
def bodies(draw: st.DrawFn, depth: int = 3) -> Expr:
    """g(x, r) of exponentials, powers, scalings, shifts and their compositions; positive, so that powers are real."""
    if depth == 0:
        return draw(st.sampled_from([X, R, build.const(1.5, FLOAT)]))
    kinds = ["exp", "pow", "scale", "mul", "div", "add", "shift", "where", "sqrt", "abs", "cast", "leaf"]
    kind = draw(st.sampled_from(kinds))
    inner = bodies(depth - 1)
    if kind == "leaf":
        return draw(bodies(0))
    if kind == "exp":
        difference = op("sub", draw(st.sampled_from([X, draw(inner)])), R)
        return op("exp", op("mul", difference, draw(st.sampled_from([0.5, 1.0, 2.0]))))
    if kind == "pow":
        return op("pow", draw(inner), draw(st.sampled_from([2.0, 3.0, 0.5])))
    if kind == "scale":
        return op("mul", draw(inner), draw(st.sampled_from([0.5, 3.0])))
    if kind == "shift":
        return op("add", draw(inner), 0.25)
    if kind == "where":
        return build.where(op("gt", X, 2.0), draw(inner), build.const(0.0, FLOAT))
    if kind in ("sqrt", "abs"):
        return op(kind, draw(inner))
    if kind == "cast":
        return build.cast(build.cast(draw(inner), "element"), FLOAT)
    return op(kind, draw(inner), draw(inner))


def one_pass(body: Expr, factor: Expr, tensors: dict[str, torch.Tensor], block: int) -> torch.Tensor:
    """The running sum over blocks of keys, corrected whenever the maximum moves."""
    rows, size = tensors["q"].numel(), tensors["k"].numel()
    statistic, total = torch.full((rows,), float("-inf"), dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
    for start in range(0, size, block):
        part = {**tensors, "k": tensors["k"][start : start + block]}
        numbers = {"S": part["k"].numel(), "N": rows}
        moved = torch.maximum(statistic, evaluate_expr(R, part, numbers, (I,)))
        part |= {"old": statistic, "new": moved}
        term = evaluate_expr(build.reduce("sum", substitute(body, {R: NEW}), J), part, numbers, (I,))
        kept = total * evaluate_expr(factor, part, numbers, (I,))
        total = (torch.where(total == 0, 0.0, kept) if unsettled(factor) else kept) + term
        statistic = moved
    return total


def unsettled(factor: Expr) -> bool:
    """Whether the schedule guards sums of nothing against the factor, which may be infinite then."""
    return _unsettled(factor, (Statistic(R, OLD, NEW),))


def passes(body: Expr) -> int:
    summed = build.reduce("sum", op("mul", body, Load(V, (Iota(J), Iota(D)))), J)
    return len(schedule(Program("law", (Q, K, V), (Output("output", (I, D), summed, FLOAT),))).passes)


@settings(max_examples=200)
@given(bodies(), st.integers(0, 2**16), st.sampled_from([1, 2, 3]))
def test_a_factor_is_right_or_there_is_another_pass(body: Expr, seed: int, block: int) -> None:
    if J not in body.axes or R not in _nodes(body):
        return
    factor = correction(body, J, {R: (OLD, NEW)})
    if factor is None or _divides(factor):
        assert passes(body) == 2
        return
    assert J not in factor.axes
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in (("q", 3), ("k", 7))}
    expected = evaluate_expr(build.reduce("sum", body, J), tensors, {"S": 7, "N": 3}, (I,))
    if expected.isfinite().all():  # 0 / 0 corrects to nothing
        torch.testing.assert_close(one_pass(body, factor, tensors, block), expected, rtol=1e-8, atol=1e-8)


def test_softmax_takes_one_pass() -> None:
    assert passes(op("exp", op("sub", X, R))) == 1


def test_a_threshold_takes_two() -> None:
    weight = op("exp", op("sub", X, R))
    assert passes(build.where(op("gt", weight, 0.1), weight, build.const(0.0, FLOAT))) == 2


def _nodes(body: Expr) -> set[Expr]:
    from flashlight.ir.expr import walk

    return {node for node in walk(body) if isinstance(node, Reduce)}
