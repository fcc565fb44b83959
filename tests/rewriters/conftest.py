"""Small programs to apply laws to: scores of rows and keys, and what attention programs do with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import strategies as st

from flashlight.ir import build
from flashlight.ir.evaluate import evaluate
from flashlight.ir.expr import FLOAT, Axis, Expr, Iota, Load, Tensor
from flashlight.ir.program import Output, Program

ROWS, KEYS, WIDTH, HEADS = 4, 5, 3, 3
I, J, D = (Axis(name, build.integer(size)) for name, size in (("i", ROWS), ("j", KEYS), ("d", WIDTH)))  # noqa: E741
WIDER = Axis("j", build.integer(KEYS + 1))
Q, K, V, BIAS, SINK = (
    Tensor(name, tuple(axis.extent for axis in axes), FLOAT)
    for name, axes in (("q", (I, D)), ("k", (J, D)), ("v", (J, D)), ("bias", (I, J)), ("sink", (I,)))
)
INPUTS = (Q, K, V, BIAS, SINK)


def at(tensor: Tensor, *axes: Axis) -> Expr:
    return Load(tensor, tuple(Iota(axis) for axis in axes))


def op(name: str, *args: Expr | float) -> Expr:
    return build.op(name, *(build.const(arg, FLOAT) if isinstance(arg, (int, float)) else arg for arg in args))


def over(name: str, arg: Expr, axis: Axis = J) -> Expr:
    return build.reduce(name, arg, axis)


def program(expr: Expr, *axes: Axis) -> Program:
    return Program("law", INPUTS, (Output("output", axes, expr, FLOAT),))


def values(one: Program, seed: int, numbers: Mapping[str, float] | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shapes = {t.name: [int(size.value) for size in t.shape] for t in one.inputs}  # type: ignore[attr-defined]
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return evaluate(one, tensors, dict(numbers or {}))["output"]


def same(before: Program, after: Program, seed: int) -> None:
    torch.testing.assert_close(values(after, seed).flatten(), values(before, seed).flatten(), rtol=1e-9, atol=1e-9)


def masked(scores: Expr, kind: str) -> Expr:
    visible = build.op("le", Iota(J), Iota(I))
    fill = build.const(float("-inf"), scores.dtype)
    if kind == "selection":
        return build.where(visible, scores, fill)
    if kind == "sum":
        return op("add", scores, build.where(visible, build.const(0.0, FLOAT), build.const(float("-inf"), FLOAT)))
    return scores


@st.composite
def scores(draw: st.DrawFn) -> Expr:
    """Scores of rows and keys: a product or distances, scaled, biased and masked."""
    q, k = at(Q, I, D), at(K, J, D)
    difference = op("sub", q, k)
    result = over("sum", op("mul", q, k) if draw(st.booleans()) else op("mul", difference, difference), D)
    result = op(draw(st.sampled_from(["mul", "div"])), result, draw(st.sampled_from([0.5, 2.0, 3.0])))
    if draw(st.booleans()):
        result = build.cast(build.cast(result, "element"), FLOAT)
    if draw(st.booleans()):
        result = op("add", result, at(BIAS, I, J))
    return masked(result, draw(st.sampled_from(["none", "selection", "sum"])))


@st.composite
def weights(draw: st.DrawFn) -> Expr:
    """Normalised weights: by a softmax, in logarithms, with the maximum taken twice, or by a plain sum."""
    x = draw(scores())
    kind = draw(st.sampled_from(["softmax", "log", "twice", "relu", "sigmoid"]))
    if kind == "relu":
        x = op("maximum", x, 0.0)
        return op("div", x, op("add", over("sum", x), 1e-3))
    if kind == "sigmoid":
        return op("sigmoid", x)
    x = op("sub", x, over("max", x))
    if kind == "twice":
        x = op("sub", x, over("max", x))
    if kind == "log":
        return op("exp", op("sub", x, op("log", over("sum", op("exp", x)))))
    return op("div", op("exp", x), over("sum", op("exp", x)))


@st.composite
def attentions(draw: st.DrawFn) -> Program:
    """Programs of one or two kinds of weights, and what is done with them."""
    w = draw(weights())
    extra = draw(st.sampled_from(["none", "difference", "gate", "entropy"]))
    if extra == "difference":
        w = op("sub", w, op("mul", draw(weights()), 0.3))
    if extra == "gate":
        w = op("mul", w, op("sigmoid", at(SINK, I)))
    if extra == "entropy":
        return program(op("neg", over("sum", op("mul", w, op("log", op("add", w, 1e-3))))), I)
    return program(over("sum", op("mul", w, at(V, J, D))), I, D)
