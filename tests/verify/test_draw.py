"""What is drawn fits the target: sizes, strides, and the meaning of integers."""

import functools
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashlight import pipeline
from flashlight.ir import build
from flashlight.ir.expr import Axis, Scalar, Tensor
from flashlight.ir.program import Output, Program
from flashlight.trace.traced import Parameter, Traced
from flashlight.verify import draw

EXAMPLES = Path(__file__).parents[2] / "examples"
B, H, G, S, D, T = (Scalar(name, "int64", True) for name in ("B", "H", "H_kv", "S", "D", "T"))
QUERY = Tensor("query", (B, H, S, D), "element")
KEY = Tensor("key", (B, G, S, D), "element")
MASK = Tensor("mask", (B, H, S, S), "bool")
TABLE = Tensor("table", (T, H), "element")
INDEX = Tensor("index", (S, S), "int64")
LENGTHS = Tensor("lengths", (B,), "int64")
IDS = Tensor("ids", (B, S), "int32")
POINTS = Tensor("points", (B, S, H, Scalar("P", "int64", True), build.integer(3)), "element")


def traced() -> Traced:
    """A program that uses each tensor as attention would: no attention itself."""
    b, h, i, j = (build.iota(Axis(name, size)) for name, size in (("b", B), ("h", H), ("i", S), ("j", S)))
    bias = build.load(TABLE, (build.load(INDEX, (i, j)), h))
    inside = build.op("lt", j, build.load(LENGTHS, (b,)))
    same = build.op("eq", build.load(IDS, (b, i)), build.load(IDS, (b, j)))
    kept = build.op("and", build.op("and", inside, same), build.load(MASK, (b, h, i, j)))
    expr = build.where(kept, bias, build.const(0.0, "element"))
    axes = tuple(node.axis for node in (b, h, i, j))
    groups = build.op("eq", build.op("mod", H, G), build.integer(0))
    tensors = (QUERY, KEY, MASK, TABLE, INDEX, LENGTHS, IDS, POINTS)
    program = Program("f", tensors, (Output("out", axes, expr, "element"),), assumptions=(groups,))
    parameters = [Parameter(t.name, tensor=t, broadcast=t is MASK) for t in tensors]
    parameters.append(Parameter("window", scalar=Scalar("window", "int64")))
    parameters.append(Parameter("training", value="False"))
    return Traced(program, tuple(parameters))


TRACED = traced()


@settings(max_examples=60)
@given(draw.cases(TRACED))
def test_inputs_fit_the_target(case):
    arguments = draw.build(TRACED, case)
    numbers = case.numbers
    assert list(arguments) == [p.name for p in TRACED.parameters]
    assert numbers["H"] % numbers["H_kv"] == 0
    assert list(arguments["query"].shape) == [numbers[name] for name in "BHSD"]
    assert arguments["query"].dtype == getattr(torch, case.dtype)
    assert arguments["window"] == numbers["window"] and arguments["training"] is False
    mask = arguments["mask"]
    assert mask.dtype == torch.bool
    assert torch.broadcast_shapes(mask.shape, (numbers["B"], numbers["H"], numbers["S"], numbers["S"]))
    if numbers["S"] and numbers["B"]:
        assert 0 <= arguments["index"].min() and arguments["index"].max() < max(numbers["T"], 1)
        assert arguments["lengths"].max() <= numbers["S"] + 1
        ids = arguments["ids"]
        assert ids.dtype == torch.int32 and ids.abs().max() <= 2, "few, so that some are equal"


def test_slices_leave_keys_and_numbers_may_be_negative():
    """Of `key[:, :, start:]` some key is left, unless the tensors are empty themselves: without keys is no kernel."""
    start, seen = Scalar("start", "int64"), []
    j = Axis("j", build.op("sub", S, start))
    place = build.op("add", build.iota(j), start)
    b, h, d = (Axis(name, size) for name, size in (("b", B), ("h", H), ("d", D)))
    expr = build.reduce("sum", build.load(QUERY, tuple(map(build.iota, (b, h))) + (place, build.iota(d))), j)
    program = Program("f", (QUERY,), (Output("out", (b, h, d), expr, "element"),))
    traced = Traced(program, (Parameter("query", tensor=QUERY), Parameter("start", scalar=start)))

    @settings(max_examples=200)
    @given(draw.cases(traced))
    def draws(case):
        seen.append(case.numbers)
        assert case.numbers["start"] < case.numbers["S"] or 0 in (case.numbers["S"], case.numbers["B"])

    draws()
    assert {numbers["start"] for numbers in seen} >= {-2, 0, 1, 2}
    assert any(numbers["S"] == 0 for numbers in seen)


def test_projections_keep_the_size_of_what_they_multiply():
    """Scores of unscaled projections are so far apart that one key has all of the attention."""
    C, M = (Scalar(name, "int64", True) for name in ("C", "M"))
    hidden = Tensor("hidden", (B, S, C), "element")
    weight = Tensor("weight", (build.op("mul", build.integer(3), C), C), "element")
    memory = Tensor("memory", (H, M, D), "element")
    tensors = (hidden, weight, memory, QUERY)
    traced = Traced(Program("f", tensors, ()), tuple(Parameter(t.name, tensor=t) for t in tensors))
    numbers = {"B": 2, "S": 50, "C": 64, "H": 4, "M": 70, "D": 64}
    made = draw.build(traced, draw.Case(numbers, "float32", {}, random.randrange(2**16)))
    assert made["weight"].std() == pytest.approx(1 / math.sqrt(3 * 64), rel=0.1)
    assert all(made[name].std() == pytest.approx(1, rel=0.1) for name in ("hidden", "memory", "query"))


def test_the_same_case_gives_the_same_inputs():
    numbers = {"B": 2, "H": 2, "H_kv": 1, "S": 5, "D": 16, "T": 7, "P": 4, "window": 3}
    case = draw.Case(numbers, "bfloat16", {}, 5)
    once, again = draw.build(TRACED, case), draw.build(TRACED, case)
    assert all(torch.equal(once[name], again[name]) for name in ("query", "mask", "ids"))


def test_kinds_of_sizes():
    expected = {"B": "batch", "H": "heads", "H_kv": "heads", "S": "length", "D": "head_dim", "T": "length"}
    expected["P"] = "heads"  # points, by their coordinates
    assert draw.size_kinds(TRACED) == expected


@given(st.sampled_from(draw.LAYOUTS), st.lists(st.integers(0, 4), max_size=4))
def test_layouts_change_strides_alone(layout, shape):
    values = torch.randn(shape)
    assert torch.equal(draw.laid_out(values, layout), values)


@pytest.mark.parametrize("layout", ["swapped", "columns", "gaps"])
def test_layouts_are_not_contiguous(layout):
    assert not draw.laid_out(torch.randn(2, 3, 4, 5), layout).is_contiguous()


@given(st.data())
@settings(max_examples=60)
def test_what_is_drawn_for_a_gpu_fits_its_memory(data):
    """Rows of rows: five dimensions of which two are lengths, and scores for every pair in each row."""
    sizes = data.draw(draw.cases(_rows_of_rows(), draw.LARGE)).numbers
    assert math.prod(sizes[name] for name in "BNSHD") <= draw.LARGE.largest
    assert math.prod(sizes[name] for name in "BNHSS") <= draw.LARGE.largest


@functools.cache
def _rows_of_rows():
    phases = pipeline.Phases()
    source, (target,) = pipeline.read(EXAMPLES / "evoformer.py", ["row_attention_with_mask"], phases)
    return pipeline.trace(source, target, {}, phases)


@pytest.mark.parametrize("shape", [[2, 0], [0, 3], [0], [], [2, 3]])
def test_identifiers_of_any_shape(shape: list[int]) -> None:
    case = draw.Case({}, "float32", {}, 0)
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        assert list(draw._integers(shape, draw.Role("identifier"), case, generator).shape) == shape
