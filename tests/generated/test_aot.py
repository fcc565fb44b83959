"""Every generated kernel compiled ahead of time, in bfloat16: no GPU is needed, and none is asked for.

A compilation takes some five seconds, so that by default the first function of each file is compiled: for sm_90 at head
dimensions 64 and 128, for the other chips at 128. FLASHLIGHT_AOT=all compiles every function for every chip at both.
"""

import itertools
import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from flashlight import pipeline
from flashlight.output import read_header
from flashlight.tune import HOPPER, lengths
from flashlight.verify import draw
from flashlight.verify.search import load

pytestmark = [
    pytest.mark.aot,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]

SIZES = {"batch": 2, "heads": 4, "length": 250}
"""The length is no multiple of a block: the kernel with all its loops is the larger one."""
Shortfalls = dict[str, set[tuple[str, int]]]
SHORTFALLS: Shortfalls = {
    # too few rows for wgmma, for lack of registers: mma.sync serves. What falls short no longer must leave the table.
    "bahdanau": {("sm_90", 64), ("sm_90", 128)},
    "disentangled": {("sm_90", 64), ("sm_90", 128)},
    "talking_heads": {("sm_80", 64), ("sm_90", 128)},  # spills on the former
    # tiles of three dimensions: spills, and mma.sync
    "invariant_point_attention": {
        *(("sm_80", 128), ("sm_90", 64), ("sm_90", 128), ("sm_100", 128)),
        ("gfx942", 128),  # the fewest rows that matrix instructions take do not fit shared memory
    },
}
WITH_TRITON_3_6: Shortfalls = {
    # what spills with the oldest Triton and not with the newest
    "bucketed_bias": {("sm_100", 128)},
    "row_attention": {("sm_90", 128)},
    "talking_heads": {("sm_80", 128), ("gfx942", 128)},
}
HEAD_DIMS = (64, 128)
ROOT = Path(__file__).parents[2]


def test_compiles(wrapper, example, subtests):
    """It compiles, uses matrix instructions, spills nothing, and fits into shared memory."""
    from flashlight import inspect

    header = read_header(wrapper.read_text(encoding="utf-8"))
    phases = pipeline.Phases()
    source, targets = pipeline.read(example, header.targets, phases)
    module = load(wrapper.with_name(f"{wrapper.stem}_triton.py"), "kernels")
    tiles = module.TILES
    everything = os.environ.get("FLASHLIGHT_AOT") == "all"
    for target in targets if everything else targets[:1]:
        traced = pipeline.trace(source, target, header.shapes, phases)
        for chip, architecture in [*((chip, chip) for chip in inspect.TARGETS), ("sm_90", HOPPER)]:
            head_dims = HEAD_DIMS if everything or chip == "sm_90" else HEAD_DIMS[-1:]
            counts = lengths(tiles, target.name, architecture) or [0] * (architecture == chip)
            for head_dim, length in itertools.product(head_dims, counts):
                module.TILES = {key: tile for key, tile in tiles.items() if key[1] == architecture and key[4] == length}
                if architecture == HOPPER and not any(
                    key[:3] == (target.name, HOPPER, head_dim) for key in module.TILES
                ):
                    continue
                module.tile_for.cache_clear()
                if hasattr(module, "tuned_for_hopper"):
                    module.tuned_for_hopper.cache_clear()
                with subtests.test(target=target.name, chip=architecture, head_dim=head_dim, tuned_for=length):
                    calls = inspect.launches(module, target.name, launcher_arguments(traced, head_dim), chip)
                    assert calls
                    compiled = [inspect.compile_call(call, chip) for call in calls]
                    instructions = " ".join(name for one in compiled for name in one.tensor_core)
                    for one in compiled:
                        assert one.shared <= inspect.SHARED_LIMIT[chip], one
                    short = [one for one in compiled if one.spills]
                    wanted = {"sm_90": "wgmma", "gfx942": "mfma"}.get(chip, "mma")
                    if wanted not in instructions:
                        assert chip == "gfx942" or "mma" in instructions
                        short.append(instructions)
                    if architecture == HOPPER:
                        assert any(one.kernel == f"{target.name}_kernel" and one.copies for one in compiled)
                    known = (architecture, head_dim) in shortfalls(target.name)
                    assert bool(short) == known, short or f"{target.name} falls short no longer: take it off the table"


def shortfalls(function):
    """The chips and head dimensions at which a function is known to fall short."""
    known = SHORTFALLS.get(function, set())
    oldest = version("triton").startswith("3.6.")
    return known | WITH_TRITON_3_6.get(function, set()) if oldest else known


def launcher_arguments(traced, head_dim):
    """What a wrapper hands to its launcher: tensors and numbers by name."""
    sizes = SIZES | {"head_dim": head_dim}
    numbers = {name: sizes[kind] for name, kind in draw.size_kinds(traced).items()}
    scalars = {p.scalar.name: p.scalar for p in traced.parameters if p.scalar is not None}
    new = {name: scalar for name, scalar in scalars.items() if name not in numbers}
    numbers |= {name: 0.5 if scalar.dtype == "float32" else 48 for name, scalar in new.items()}
    for assumption in traced.program.assumptions:
        found = re.fullmatch(r"(\w+) % (\w+) == 0", str(assumption))
        if found and found[2] in scalars:
            # features of all heads
            numbers |= {found[1]: head_dim * SIZES["heads"], found[2]: SIZES["heads"]}
    assert draw.admissible(traced, numbers), numbers
    inputs = draw.build(traced, draw.Case(numbers, "bfloat16", {}, 0))
    given = [p for p in traced.parameters if p.tensor is not None or p.scalar is not None]
    return {
        p.tensor.name if p.tensor is not None else p.name: inputs[p.name] if p.item is None else inputs[p.name][p.item]
        for p in given
    }


@pytest.mark.parametrize("name", ["alibi", "alibi_causal", "alibi_symmetric"])
def test_products_do_not_start_from_distances(name, monkeypatch):
    """Triton lets a product start from what is added to it: 16 roundings of float32 at the size of the distances."""
    from flashlight import arguments, inspect

    path = ROOT / "generated" / "alibi_triton.py"
    launcher = next(one for one in arguments.launchers(path.read_text(encoding="utf-8")) if one.name == name)
    sizes = arguments.bound(launcher, 16, {"length": 100})
    module = arguments.load(path)
    (call,) = inspect.launches(module, name, arguments.make(launcher, sizes, {}, "float32"), "sm_80")
    made = []
    monkeypatch.setattr(inspect, "_report", lambda call, architecture, compiled: made.append(compiled.asm["ttir"]))
    inspect.compile_call(call, "sm_80")
    starts = re.findall(r"tt\.dot %query\w*, %\w+, %(\w+)", made[0])
    assert len(starts) == 2 and all(start.startswith("cst") for start in starts), starts


@pytest.mark.parametrize(
    "name",
    ["causal.causal", "soft_cap.soft_cap", "alibi.alibi", "differential.diff_attn_norm"],
)
def test_numbers_may_be_float64(name):
    """As `torch.compile` has them in its graphs, whose types are those of Python."""
    import triton
    from triton.backends.compiler import GPUTarget

    from flashlight import arguments, inspect

    stem, function = name.split(".")
    path = ROOT / "generated" / f"{stem}_triton.py"
    launcher = next(one for one in arguments.launchers(path.read_text(encoding="utf-8")) if one.name == function)
    module = arguments.load(path)
    given = arguments.make(launcher, arguments.bound(launcher, 64, {"length": 100}), {}, "bfloat16")
    (call,) = inspect.launches(module, function, given, "sm_80")
    source = inspect.source(call)
    floats = [name for name, kind in source.signature.items() if kind == "fp32"]
    assert floats
    source.signature |= dict.fromkeys(floats, "fp64")
    compiled = triton.compile(source, target=GPUTarget(*inspect.TARGETS["sm_80"]), options=dict(call.options))
    assert not re.search(r"tensor<[^>]*f64", compiled.asm["ttir"])
