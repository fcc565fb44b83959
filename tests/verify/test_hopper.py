"""Hopper kernels on a CPU: right ones agree in every order of their groups, and planted mistakes are found."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from flashlight.verify import hopper
from flashlight.verify.compare import Mismatch, Rejected, compare
from flashlight.verify.hopper.language import GL, Descriptor, counted
from flashlight.verify.hopper.values import Pointer, Value, value
from flashlight.verify.search import load

ROOT = Path(__file__).parents[2]
TILE = {"BLOCK_ROWS": 128, "BLOCK_KEYS": 64, "STAGES": 2}


def inputs(length: int = 200, head_dim: int = 32, heads: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(torch.seed() % 2**32)
    print(f"seed {torch.initial_seed()}")
    return {name: torch.randn(2, heads, length, head_dim).bfloat16() for name in ("query", "key", "value")}


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Generated files, to be changed."""
    for stem in ("causal", "masks", "packed_documents"):
        for part in ("", "_triton", "_hopper"):
            shutil.copy(ROOT / "generated" / f"{stem}{part}.py", tmp_path)
    return tmp_path


def loaded(directory: Path, name: str = "causal") -> ModuleType:
    sys.modules.pop(f"{name}_triton", None)
    wrapper = load(directory / f"{name}.py", "generated")
    hopper.kernel_file(wrapper).runs_kernel = lambda *_: True  # on a CPU, though Triton interprets nothing here
    return wrapper


def agrees(wrapper: ModuleType, seed: int, **given: torch.Tensor) -> None:
    original = load(ROOT / "examples" / "causal.py", "original")
    with hopper.launched(wrapper, TILE, seed):
        compare(original.causal, wrapper.causal, given or inputs())


def test_every_order_agrees(copied: Path) -> None:
    wrapper = loaded(copied)
    for seed in range(8):
        agrees(wrapper, seed)


def test_many_programs_and_one(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (1, 2, 5):
        monkeypatch.setattr(hopper, "PROGRAMS", count)
        agrees(loaded(copied), count)


KEY_RING = "key_ring = ring_of(key_ptr.dtype.element_ty, STAGES, {},"
MULTIPLIED = """\
                scores = matmul(query, key.permute((1, 0)), LAYOUT)  # causal.py:19
                release(key_ring, step)
"""
ROWS = "            query = received(query_ring, done * GROUPS + GROUP)\n"
FREE = "    mbarrier.wait(free.index(stage), (use // STAGES & 1) ^ 1)\n"
READY = "    mbarrier.wait(ready.index(stage), use // STAGES & 1)\n"
COUNTED = "                running_max = new_max\n                step += 1\n"
COPIED = "            for key_start in range({}, live_stop, BLOCK_KEYS):\n                send("
STORED = "    tma.store_wait(0)\n    synchronise()\n    buffer"
SENT = "    fence_async_shared()\n    synchronise()\n    copy_out"
ENDED = "            done += 1\n    tma.store_wait(0)\n"
MISTAKES = {
    "a block of keys is free before it was multiplied": (MULTIPLIED, "\n".join(MULTIPLIED.split("\n")[1::-1]) + "\n"),
    "copies do not wait for readers": (FREE, ""),
    "copies wait for the readers before last": (FREE, FREE.replace("(use // STAGES & 1) ^ 1", "use // STAGES & 1")),
    "readers do not wait for copies": (READY, ""),
    "one reader frees for both": (KEY_RING.format("GROUPS"), KEY_RING.format("1")),
    "a reader more than there are": (KEY_RING.format("GROUPS"), KEY_RING.format("GROUPS + 1")),
    "nobody frees the values": ("                release(value_ring, step)\n", ""),
    "fewer bytes than are copied": ("source.block_type.nbytes)", "source.block_type.nbytes // 2)"),
    "a step is not counted": (COUNTED, COUNTED.replace("step += 1", "pass")),
    "a block less is copied": (COPIED.format("0"), COPIED.format("BLOCK_KEYS")),
    "a tile is stored while the last one leaves": (STORED, "    buffer"),
    "warps store before all know that the last tile has left": (STORED, "    tma.store_wait(0)\n    buffer"),
    "a tile leaves without a fence": (SENT, "    synchronise()\n    copy_out"),
    "a tile leaves before all warps have stored": (SENT, "    fence_async_shared()\n    copy_out"),
    "the program ends before its tiles have left": (ENDED, "            done += 1\n"),
    "all groups take the rows of the first": ("row_start + group * GROUP_ROWS", "row_start"),
    "a mask is off by one": ("keys[None, :] <= rows[:, None]", "keys[None, :] < rows[:, None]"),
    "two programs share a tile": ("number = round * programs + ", "number = round // 2 * programs + "),
}


TOLD = "    number = gl.max(numbers.index(done % 2).load(gl.BlockedLayout([1], [32], [4], [0])), 0)\n"
WRITTEN = "gl.BlockedLayout([1], [32], [4], [0])))\n"
ANNOUNCED = "        announce(turns, done, number)\n"
COUNT = "return gl.num_programs(0) + gl.atomic_add(counter, 1)"
DRAWN = {
    "a number is announced over one that was not read": (
        "    mbarrier.wait(free.index(done % 2), (done // 2 & 1) ^ 1)\n",
        "",
    ),
    "a number is read before it is announced": ("    mbarrier.wait(ready.index(done % 2), done // 2 & 1)\n", ""),
    "a number is announced before all warps wrote it": (f"{WRITTEN}    synchronise()\n", WRITTEN),
    "a number is released before all warps read it": (f"{TOLD}    synchronise()\n", TOLD),
    "the end is not announced": (ANNOUNCED, f"        if number < B * row_blocks * H:\n    {ANNOUNCED}"),
    "a tile is left out": (COUNT, COUNT.replace("return", "return 1 +")),
}


def ranges_of(row_values: torch.Tensor, key_values: torch.Tensor, rows: int, keys: int) -> torch.Tensor:
    """What `matching_ranges` finds where values never fall: all keys between the first and the last that match."""
    found = []
    for row_value, key_value in zip(row_values.tolist(), key_values.tolist(), strict=True):
        for start in range(0, len(row_value), rows):
            low, high = row_value[start], row_value[start : start + rows][-1]
            live = [place for place, one in enumerate(key_value) if low <= one <= high]
            found.append([live[0] // keys * keys, live[-1] + 1, 0, 0])
    return torch.tensor(found, dtype=torch.int32).view(len(row_values), -1, 4)


@pytest.mark.parametrize("mistake", [None, *DRAWN])
def test_tiles_that_are_drawn(mistake: str | None, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied / "packed_documents_hopper.py"
    text = path.read_text()
    before, after = DRAWN[mistake] if mistake else ("", "")
    assert before in text
    path.write_text(text.replace(before, after))
    wrapper = loaded(copied, "packed_documents")
    original = load(ROOT / "examples" / "packed_documents.py", "original")
    # the launches before are kernels of Triton's, which nothing interprets here
    launcher = hopper.kernel_file(wrapper)
    monkeypatch.setattr(launcher, "matching_ranges", ranges_of)
    monkeypatch.setattr(
        launcher,
        "heaviest_first",
        lambda ranges: (ranges, torch.arange(ranges[..., 0].numel() + 1).int() % ranges[..., 0].numel()),
    )

    def agree(seed: int) -> None:
        ids = torch.randint(0, 40, (2, 400)).sort().values  # short, so that loads are two tiles ahead
        with hopper.launched(wrapper, {"BLOCK_ROWS": 128, "BLOCK_KEYS": 128, "STAGES": 4}, seed):
            compare(original.packed_documents, wrapper.packed_documents, inputs(400) | {"document_id": ids})

    if mistake is None:
        for seed in range(6):
            agree(seed)
        return
    with pytest.raises(Mismatch) as found:
        for seed in range(12):
            agree(seed)
    print(found.value)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(mistake: str, copied: Path) -> None:
    path = copied / "causal_hopper.py"
    text = path.read_text()
    before, after = MISTAKES[mistake]
    assert before in text
    path.write_text(text.replace(before, after))
    wrapper = loaded(copied)
    with pytest.raises(Mismatch) as found:
        for seed in range(12):
            agrees(wrapper, seed)
    print(found.value)


def test_rows_that_are_free_before_they_were_multiplied_are_found(copied: Path) -> None:
    """Only programs of many short tiles get so far ahead as to replace them."""
    path, release = copied / "causal_hopper.py", "            release(query_ring, done * GROUPS + GROUP)\n"
    text = path.read_text()
    assert ROWS in text and release in text
    path.write_text(text.replace(release, "").replace(ROWS, ROWS + release))
    wrapper = loaded(copied)
    with pytest.raises(Mismatch, match="a block is replaced while it is multiplied"):
        for seed in range(24):
            agrees(wrapper, seed, **inputs(length=64, heads=8))


TAKEN = "    tile = received(ring, use).load(LAYOUT)\n    fence_async_shared()\n    release(ring, use)\n"
EARLY = (
    "    block = received(ring, use)\n    release(ring, use)\n    tile = block.load(LAYOUT)\n    fence_async_shared()\n"
)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (TAKEN, None),
        (TAKEN.replace("    fence_async_shared()\n", ""), "fence it before its release"),
        (EARLY, "pattern differs|is replaced"),
    ],
    ids=["right", "without a fence", "free before it is read"],
)
def test_blocks_that_are_read_into_registers(changed: str, found: str | None, copied: Path) -> None:
    path = copied / "masks_hopper.py"
    text = path.read_text()
    assert TAKEN in text
    path.write_text(text.replace(TAKEN, changed))
    wrapper, original = loaded(copied, "masks"), load(ROOT / "examples" / "masks.py", "original")

    def agree() -> None:
        for seed in range(8):
            given = {**inputs(), "bias": torch.randn(2, 200, 200).bfloat16()}
            with hopper.launched(wrapper, TILE, seed):
                compare(original.additive_bias_per_head, wrapper.additive_bias_per_head, given)

    if found is None:
        return agree()
    with pytest.raises(Mismatch, match=found):
        agree()


def test_what_the_copy_engine_cannot_read_is_not_compared(copied: Path) -> None:
    with pytest.raises(Rejected):
        agrees(loaded(copied), 0, **inputs(head_dim=20))


def test_integers_divide_towards_zero_and_keep_their_width() -> None:
    seven = value(-7)
    assert [int(seven // 2), int(seven % 2), int(value(7) // 2)] == [-3, -1, 3]
    wide = value(2**31 - 1) + 1
    assert int(wide) == -(2**31) and wide.dtype == torch.int32
    assert (value(3) + GL.cast(4, torch.int64)).dtype == torch.int64
    assert (value(3) / 2).dtype == torch.float32
    assert [one.dtype for one in counted(0, GL.cast(2, torch.int64))] == [torch.int64] * 2
    assert [(int(one), one.dtype) for one in counted(1, value(6), 2)] == [(n, torch.int32) for n in (1, 3, 5)]


def test_numbers_take_the_type_beside_them() -> None:
    half = Value(torch.ones(4, dtype=torch.bfloat16))
    assert (half * 0.3).dtype == torch.bfloat16 and (half * value(0.3)).dtype == torch.float32
    assert (2 - half).dtype == torch.bfloat16


def test_maxima_leave_nan_out_unless_told() -> None:
    tile = Value(torch.tensor([[1.0, float("nan")], [float("nan"), float("nan")]]))
    assert GL.max(tile, 1).data.tolist()[0] == 1.0 and GL.max(tile, 1).data.isnan()[1]
    kept = GL.reduce(tile, 1, lambda a, b: GL.maximum(a, b, propagate_nan="ALL"))
    assert kept.data.isnan().all()


def test_blocks_beyond_a_tensor_are_zero() -> None:
    tensor = torch.arange(1.0, 25.0).view(3, 8)
    described = Descriptor(Pointer.to(tensor), [3, 8], [8, 1], [2, 4], None)
    part, within = described.inside([2, 4])
    assert part.tolist() == [[21.0, 22.0, 23.0, 24.0]] and within == (slice(0, 1), slice(0, 4))
    assert described.inside([4, 0])[0].numel() == 0


def test_accesses_out_of_bounds_are_errors() -> None:
    pointer = Pointer.to(torch.ones(4))
    with pytest.raises(IndexError):
        GL.load(pointer + GL.arange(0, 8, None))
    loaded = GL.load(pointer + GL.arange(0, 8, None), mask=GL.arange(0, 8, None) < 4, other=0)
    assert loaded.data.tolist() == [1.0] * 4 + [0.0] * 4
