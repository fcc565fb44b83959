"""Every generated kernel on an NVIDIA GPU: against float64 on larger shapes, and the memory that it takes."""

import os

import pytest
import torch

from flashlight import api, pipeline
from flashlight.output import read_header
from flashlight.verify import draw
from flashlight.verify.compare import flatten
from flashlight.verify.search import load

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

SIZES = {"batch": 2, "heads": 8, "length": 4096, "head_dim": 64}


def test_agrees_with_the_original(wrapper, example):
    outcomes = api.verify(
        example, "cuda", out=wrapper.parent, examples=int(os.environ.get("FLASHLIGHT_GPU_EXAMPLES", "20"))
    )
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    assert not failures, "\n\n".join(failures)


def test_peak_memory(wrapper, example):
    """Beside its inputs a call takes its outputs and a few numbers for each row: nothing of S x S."""
    header = read_header(wrapper.read_text(encoding="utf-8"))
    phases = pipeline.Phases()
    source, targets = pipeline.read(example, header.targets, phases)
    generated = load(wrapper, "generated")
    for target in targets:
        traced = pipeline.trace(source, target, header.shapes, phases)
        arguments = draw.build(traced, large_case(traced), "cuda")
        function = getattr(generated, target.name)
        function(**arguments)  # compiles
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        outputs = flatten(function(**arguments))
        torch.cuda.synchronize()
        taken = torch.cuda.max_memory_allocated() - before
        stored = sum(output.numel() * output.element_size() for output in outputs)
        rows = 8 * 4 * max(output.numel() // output.shape[-1] for output in outputs)  # eight float32 a row
        assert taken <= stored + rows + 2**20, f"{target.name}: {taken} bytes for {stored} bytes of output"


def large_case(traced):
    """B=2, H=8, S=4096, D=64 in bfloat16; sizes that fix each other are halved until the assumptions hold."""
    numbers = {name: SIZES[kind] for name, kind in draw.size_kinds(traced).items()}
    numbers |= {p.scalar.name: 1.0 if p.scalar.dtype == "float32" else 256 for p in traced.parameters if p.scalar}
    assert draw.admissible(traced, numbers), numbers
    return draw.Case(numbers, "bfloat16", {}, 0)
