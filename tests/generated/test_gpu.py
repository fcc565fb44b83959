"""Every generated kernel on an NVIDIA GPU: against float64 on larger shapes, and the memory that it takes."""

import functools
import math
import os
import random
from pathlib import Path

import pytest
import torch

from flashlight import api, pipeline, region
from flashlight.ir import integers
from flashlight.output import read_header
from flashlight.tune import HOPPER, entries
from flashlight.verify import draw
from flashlight.verify.compare import flatten
from flashlight.verify.search import Request, load, search

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "generated"
TUNED_FOR_HOPPER = sorted(
    {
        (path.with_name(f"{path.stem.removesuffix('_triton')}.py"), key[0], key[2])
        for path in GENERATED.glob("*_triton.py")
        for key in entries(path.read_text(encoding="utf-8"))
        if key[1] == HOPPER
    }
)
SIZES = {"batch": 2, "heads": 8, "length": 4096, "head_dim": 64}


def test_agrees_with_the_original(wrapper, example, function):
    examples = int(os.environ.get("FLASHLIGHT_GPU_EXAMPLES", "20"))
    (outcome,) = api.verify(example, "cuda", targets=[function], out=wrapper.parent, examples=examples)
    assert not outcome.failure, outcome.failure


@pytest.mark.parametrize(
    ("path", "name", "head_dim"),
    [pytest.param(*one, id=f"{one[0].stem}:{one[1]}:{one[2]}") for one in TUNED_FOR_HOPPER],
)
def test_hopper_kernels_agree(path, name, head_dim, monkeypatch):
    """As above, at what launches them: dtypes and head dimensions of their tiles, strides of whole 16 bytes."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a Hopper GPU")
    header = read_header(path.read_text(encoding="utf-8"))
    phases = pipeline.Phases()
    source, (target,) = pipeline.read(ROOT / header.source, [name], phases)
    traced = pipeline.trace(source, target, header.shapes, phases)
    original, generated = load(ROOT / header.source, "original"), load(path, "generated")
    kernels = vars(generated)[f"{path.stem}_triton"]
    tile_of, launched = kernels.hopper_tile, []
    # at every length, also where another kernel is faster
    monkeypatch.setattr(kernels, "TILES", {key: tile for key, tile in kernels.TILES.items() if key[1] == HOPPER})
    monkeypatch.setattr(kernels, "tuned_for_hopper", functools.cache(kernels.tuned_for_hopper.__wrapped__))

    def spied(*given):
        tile = tile_of(*given)
        launched.append(tile is not None)
        return tile

    monkeypatch.setattr(kernels, "hopper_tile", spied)
    ranges = draw.Ranges(
        batch=draw.LARGE.batch,
        heads=draw.LARGE.heads,
        length=(8, 24, 129, 136, 296, 520, 1000, 1024, 2040, 2047),
        head_dim=(head_dim, head_dim - 8, head_dim - 16),
        largest=2**26,
        dtype=("bfloat16", "float16"),
        layout=("contiguous", "swapped"),
        broadcast=False,
    )
    examples = int(os.environ.get("FLASHLIGHT_GPU_EXAMPLES", "20"))
    seed = random.randrange(2**16)
    print(f"seed {seed}")
    request = Request(header.source, "cuda", (name,), "generated", examples, seed)
    outcome = search(name, traced, original, generated, request, ranges)
    assert not outcome.failure, outcome.failure
    assert 5 * sum(launched) >= examples, f"launched for {sum(launched)} of {examples} inputs"


def test_peak_memory(wrapper, example, function):
    """Beside its inputs a call takes its outputs and a few numbers for each row: nothing of S x S."""
    header = read_header(wrapper.read_text(encoding="utf-8"))
    phases = pipeline.Phases()
    source, (target,) = pipeline.read(example, [function], phases)
    traced = pipeline.trace(source, target, header.shapes, phases)
    arguments = draw.build(traced, large_case(traced), "cuda")
    call = getattr(load(wrapper, "generated"), function)
    call(**arguments)  # compiles
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    outputs = flatten(call(**arguments))
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    stored = sum(output.numel() * output.element_size() for output in outputs)
    rows = 8 * 4 * max(output.numel() // output.shape[-1] for output in outputs)  # eight float32 a row
    around = projected(traced)
    assert taken <= stored + rows + around + 2**20, f"{taken} bytes for {stored} bytes of output, {around} around it"


def projected(traced):
    """The bytes of what PyTorch computes before and after the kernel, with four float32 an element on the way."""
    with integers.assuming(traced.program.assumptions):
        divided = region.region(traced.program)
    shapes = [step.tensor.shape for step in (*divided.before, *divided.after)]
    if divided.after:
        shapes += [tuple(axis.extent for axis in output.axes) for output in divided.program.outputs]
    numbers = large_case(traced).numbers
    return sum(16 * math.prod(draw.evaluate(size, numbers) for size in shape) for shape in shapes)


def large_case(traced):
    """B=2, H=8, D=64 in bfloat16, and S=4096, or less where a tensor would have more than 2^28 elements."""
    length = SIZES["length"]
    while True:
        sizes = SIZES | {"length": length}
        numbers = {name: sizes[kind] for name, kind in draw.size_kinds(traced).items()}
        scalars = [p.scalar for p in traced.parameters if p.scalar is not None and p.scalar.name not in numbers]
        numbers |= {scalar.name: 1.0 if scalar.dtype == "float32" else 256 for scalar in scalars}
        shapes = [[draw.evaluate(size, numbers) for size in p.tensor.shape] for p in traced.parameters if p.tensor]
        if max(map(math.prod, shapes)) <= 2**28:
            break
        length //= 2
    assert draw.admissible(traced, numbers), numbers
    return draw.Case(numbers, "bfloat16", {}, 0)
