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
SIZES = {"batch": 2, "heads": 8, "head_dim": 64}


def test_agrees_with_the_original(wrapper, example, function):
    examples = int(os.environ.get("FLASHLIGHT_GPU_EXAMPLES", "20"))
    seed = random.randrange(2**16)
    print(f"seed {seed}")
    (outcome,) = api.verify(example, "cuda", targets=[function], out=wrapper.parent, examples=examples, seed=seed)
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
        kernels.LAUNCHED.clear()  # so that every launcher asks
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


def test_a_call_on_other_values_repeats_the_launch(wrapper, example, function, monkeypatch):
    """A call with tensors that lie in memory as those before launches without another look, and computes the same."""
    traced = traced_from(wrapper, example, function)
    generated = load(wrapper, "generated")
    call, kernels = getattr(generated, function), vars(generated)[f"{wrapper.stem}_triton"]
    kept = kernels.LAUNCHED
    seed = random.randrange(2**16)
    print(f"seed {seed}")
    cases = [large_case(traced, 520, seed + number) for number in range(2)]
    first, second = (draw.build(traced, case, "cuda") for case in cases)
    flatten(call(**first))
    found = dict(kept)
    assert found
    with monkeypatch.context() as patched:
        if "relaunch" in getattr(kernels, function).__code__.co_names:
            patched.delattr(kernels, "expect")  # with which every other launch begins
        again = flatten(call(**second))
    assert kept.keys() == found.keys()
    kept.clear()
    for output, expected in zip(again, flatten(call(**second)), strict=True):
        assert torch.equal(output.nan_to_num(), expected.nan_to_num())
        assert torch.equal(output.isnan(), expected.isnan())


@pytest.mark.parametrize("name", ["causal.causal", "packed_documents.packed_documents", "soft_cap.soft_cap"])
def test_torch_compile_takes_a_call_into_one_graph(name):
    """Between other operations, with nothing left to Python between them."""
    stem, function = name.split(".")
    wrapper, example = GENERATED / f"{stem}.py", ROOT / "examples" / f"{stem}.py"
    traced = traced_from(wrapper, example, function)
    call = getattr(load(wrapper, "generated"), function)

    def layer(query, **others):
        return call(query * 2, **others).sin()

    arguments = draw.build(traced, large_case(traced, 520, random.randrange(2**16)), "cuda")
    with torch.no_grad():
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True)(**arguments)
        torch.testing.assert_close(compiled, layer(**arguments), rtol=2e-2, atol=2e-2)


def test_one_key_has_no_entropy():
    """A weight of one has the logarithm zero, not the rounding error of a score: multiply-adds leave that."""
    generated = load(GENERATED / "thresholded.py", "generated")
    query, key, value = (torch.randn(2, 3, length, 64, device="cuda") for length in (50, 1, 1))
    _, entropy = generated.with_entropy(100 * query, key, value)
    assert (entropy == 0).all()


def test_peak_memory(wrapper, example, function):
    """Beside its inputs a call takes its outputs and a few numbers for each row: nothing of S x S."""
    traced = traced_from(wrapper, example, function)
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


def traced_from(wrapper, example, function):
    """A function of an example, traced with the shapes that the wrapper was transpiled for."""
    header = read_header(wrapper.read_text(encoding="utf-8"))
    phases = pipeline.Phases()
    source, (target,) = pipeline.read(example, [function], phases)
    return pipeline.trace(source, target, header.shapes, phases)


def large_case(traced, length=4096, seed=0):
    """B=2, H=8, D=64 in bfloat16, and such a length, or less where a tensor would have more than 2^28 elements."""
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
    return draw.Case(numbers, "bfloat16", {}, seed)
