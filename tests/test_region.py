"""Dividing a program changes nothing that it computes: the reference evaluator agrees with the whole."""

from pathlib import Path

import pytest
import torch

from flashlight import pipeline
from flashlight.ir import integers
from flashlight.ir.evaluate import evaluate, evaluate_expr
from flashlight.ir.expr import Expr, Load, walk
from flashlight.region import region

LAYERS = Path("examples/layers.py")
NUMBERS = {"B": 2, "S": 5, "E": 12, "H": 4, "H_kv": 2, "D": 6, "C": 7, "C_q": 9, "n_head": 3}


@pytest.mark.parametrize("name", ["gpt_layer", "llama_layer", "latent_layer"])
def test_divided_as_whole(name: str) -> None:
    phases = pipeline.Phases()
    source, (target,) = pipeline.read(LAYERS, [name], phases)
    program = pipeline.trace(source, target, {}, phases).program
    seed = torch.seed()
    print("seed", seed)
    with integers.assuming(program.assumptions):
        divided = region(program)
    assert divided.before and divided.after
    tensors = {
        tensor.name: torch.randn([int(evaluate_expr(size, {}, NUMBERS)) for size in tensor.shape], dtype=torch.float64)
        for tensor in program.inputs
    }
    expected = evaluate(program, tensors, NUMBERS)
    for step in divided.before:
        tensors[step.tensor.name] = evaluate_expr(step.value, viewed(tensors, step.value), NUMBERS, step.axes)
    made = evaluate(divided.program, viewed(tensors, *(output.expr for output in divided.program.outputs)), NUMBERS)
    tensors |= made
    for step in divided.after:
        held = viewed(tensors, step.value)
        tensors[step.tensor.name] = evaluate_expr(step.value, held, NUMBERS, step.axes)
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value)


def viewed(tensors: dict[str, torch.Tensor], *roots: Expr) -> dict[str, torch.Tensor]:
    """The tensors in the shapes in which the expressions read them."""
    shapes = {node.tensor.name: node.tensor.shape for node in walk(*roots) if isinstance(node, Load)}
    return {
        name: held.reshape([int(evaluate_expr(size, {}, NUMBERS)) for size in shapes[name]]) if name in shapes else held
        for name, held in tensors.items()
    }
