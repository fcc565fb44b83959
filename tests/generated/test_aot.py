"""Every generated kernel compiled ahead of time, in bfloat16: no GPU is needed, and none is asked for.

Every function is compiled for sm_90 at head dimensions 64 and 128, and the first of each file for the other chips too;
FLASHLIGHT_AOT=all compiles every function for every chip, which takes some twenty minutes.
"""

import os

import pytest
import torch

from flashlight import pipeline
from flashlight.output import read_header
from flashlight.verify import draw
from flashlight.verify.search import load

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]

SIZES = {"batch": 2, "heads": 4, "length": 256}
HEAD_DIMS = (64, 128)


def test_compiles(wrapper, example, subtests):
    """It compiles, uses matrix instructions, spills nothing, and fits into shared memory."""
    from flashlight.verify import ahead

    header = read_header(wrapper.read_text(encoding="utf-8"))
    phases = pipeline.Phases()
    source, targets = pipeline.read(example, header.targets, phases)
    module = load(wrapper.with_name(f"{wrapper.stem}_triton.py"), "kernels")
    for number, target in enumerate(targets):
        traced = pipeline.trace(source, target, header.shapes, phases)
        every = number == 0 or os.environ.get("FLASHLIGHT_AOT") == "all"
        for chip in ahead.CHIPS.values() if every else [ahead.CHIPS["sm_90"]]:
            for head_dim in HEAD_DIMS:
                with subtests.test(target=target.name, chip=chip.name, head_dim=head_dim):
                    arguments = launcher_arguments(traced, head_dim)
                    launches = ahead.launches(module, getattr(module, target.name), arguments, chip)
                    assert launches
                    compiled = [ahead.compile_launch(launch, chip) for launch in launches]
                    assert any(ahead.uses_matrix_instructions(one, chip) for one in compiled)
                    for one in compiled:
                        assert one.spills == 0
                        assert one.shared <= chip.shared_limit


def launcher_arguments(traced, head_dim):
    """What a wrapper hands to its launcher: tensors and numbers, in the order of the signature."""
    sizes = SIZES | {"head_dim": head_dim}
    numbers = {name: sizes[kind] for name, kind in draw.size_kinds(traced).items()}
    numbers |= {p.scalar.name: 0.5 if p.scalar.dtype == "float32" else 48 for p in traced.parameters if p.scalar}
    assert draw.admissible(traced, numbers), numbers
    inputs = draw.build(traced, draw.Case(numbers, "bfloat16", {}, 0))
    given = [p for p in traced.parameters if p.tensor is not None or p.scalar is not None]
    items = [inputs[p.name] if p.item is None else inputs[p.name][p.item] for p in given]
    assert all(isinstance(item, (torch.Tensor, int, float)) for item in items)
    return tuple(items)
