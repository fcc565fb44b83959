"""What becomes of a program in the lowering for Hopper."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flashlight import api, arguments, inspect
from tests.emit.conftest import SEED

HEAD = "import math\nimport torch\nfrom torch import Tensor\n"
CHUNKS = """
def chunks(q, k, v):
    chunk = torch.arange(q.shape[-2]) // 32
    mine, other = chunk[:, None], chunk[None, :]
    allowed = (mine >= other) & (mine - other < 2)
    return (q @ k.transpose(-2, -1)).masked_fill(~allowed, -math.inf).softmax(-1) @ v
"""
PLAIN = """
def attend(
    {q}: Tensor,  # [B, H, S_q, D]
    {k}: Tensor,  # [B, H, S_k, D]
    {v}: Tensor,  # [B, H, S_k, D]
    {more}: Tensor,  # {shape}
):
    return {body}
"""


def program(body: str, shape: str, **names: str) -> str:
    return PLAIN.format(**{name: name for name in ("q", "k", "v", "more")} | names, body=body, shape=shape)


def compiled(path: Path, head_dim: int) -> inspect.Compiled:
    """The Hopper kernel of `attend`, for sm_90."""
    module = arguments.load(path)
    module.tuned_for_hopper = lambda *_: {"BLOCK_ROWS": 128, "BLOCK_KEYS": 64, "STAGES": 2}  # type: ignore[attr-defined]
    (launcher,) = arguments.launchers(path.read_text())
    given = arguments.make(launcher, arguments.bound(launcher, head_dim, {"length": 1000}), {})
    (call,) = inspect.launches(module, "attend", given, "sm_90")
    assert call.kernel.is_gluon()
    return inspect.compile_call(call, "sm_90")


@pytest.mark.aot
def test_rows_that_are_more_than_multiplied_are_read_into_registers(
    verified: Callable[[str], str], tmp_path: Path
) -> None:
    """Once, and their place in shared memory is free at once."""
    verified(program("((q * more) @ k.mT).softmax(-1) @ v", "[B, H, S_q, D]"))
    written = (tmp_path / "out" / "program_hopper.py").read_text()
    for name in ("q", "more"):
        assert f"{name} = taken({name}_ring, done * GROUPS + GROUP, LAYOUT)\n" in written
        assert f"release({name}_ring" not in written
    one = compiled(tmp_path / "out" / "program_triton.py", 64)
    assert one.copies["cp.async.bulk.tensor"] and not one.spills and any("wgmma" in name for name in one.tensor_core)


@pytest.mark.parametrize(
    "scores", ["q @ k.mT - more @ r.mT", "(q @ k.mT) * (more @ r.mT).sigmoid()", "q @ k.mT - more @ r.mT + bias"]
)
def test_two_products_in_one_expression(scores: str, verified: Callable[[str], str]) -> None:
    """The keys of the first are free once it has been computed, not before."""
    verified(f"""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            more: Tensor,  # [B, H, S, D]
            r: Tensor,  # [B, H, S, D]
            bias: Tensor,  # [H, S, S]
        ):
            return ({scores}).softmax(-1) @ v
    """)


def test_a_file_called_like_its_keys(tmp_path: Path) -> None:
    """Comments cite it on lines that do not read the keys."""
    path = tmp_path / "k.py"
    path.write_text(HEAD + CHUNKS)
    api.write(api.transpile(path, out=tmp_path / "out"))
    outcomes = api.verify(path, "cpu", out=tmp_path / "out", examples=4, seed=SEED)
    assert len(outcomes) == 2 and not any(outcome.failure for outcome in outcomes), outcomes


def test_keys_that_are_more_than_multiplied_are_none_for_it(verified: Callable[[str], str], tmp_path: Path) -> None:
    verified(program("(q @ (k * more).mT).softmax(-1) @ v", "[B, H, S_k, D]"))
    assert not (tmp_path / "out" / "program_hopper.py").exists()


def test_a_file_without_kernels_is_removed(tmp_path: Path, kernels: Callable[[str], str]) -> None:
    """It would only be litter: nothing loads it. A file of that name that somebody else wrote stays."""
    kernels(program("(q * more @ k.mT).softmax(-1) @ v", "[B, H, S_q, D]"))
    left = tmp_path / "out" / "program_hopper.py"
    assert left.is_file() and not any(file.is_stale for file in api.check([left]))
    kernels(program("(q @ (k * more).mT).softmax(-1) @ v", "[B, H, S_k, D]"))
    assert not left.exists()
    left.write_text("# mine\n")
    kernels(program("(q @ (k - more).mT).softmax(-1) @ v", "[B, H, S_k, D]"))
    assert left.read_text() == "# mine\n"


@pytest.mark.parametrize(("name", "shape"), [("row", "[S_q, S_k]"), ("key", "[S_k]"), ("output", "[H, S_q, S_k]")])
def test_names_of_what_the_copy_engine_reads_are_its_own(
    name: str, shape: str, verified: Callable[[str], str], tmp_path: Path
) -> None:
    """`row_blocks` counts blocks of rows, and a tensor may have the name of a result."""
    verified(program(f"(q @ k.mT + {name}).softmax(-1) @ v", shape, more=name))
    written = (tmp_path / "out" / "program_hopper.py").read_text()
    assert f"{name}_ring = ring_of(" in written and "row_blocks = gl.cdiv(S_q, BLOCK_ROWS)" in written
    assert "row_blocks = tma." not in written


@pytest.mark.parametrize(
    "bias", ["(j - i) * slope", "-slope * (i - j + 3)", "(i - j).abs() * -slope", "slope * (i - j).float()"]
)
@pytest.mark.parametrize("kept", ["j < 100", "(i - j >= 0) & (i - j < 40)"])
def test_distances_are_floating_point_numbers_at_once(
    bias: str, kept: str, verified: Callable[[str], str], tmp_path: Path
) -> None:
    """What is compared stays an integer."""
    verified(f"""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            slope: float,
        ):
            i, j = torch.arange(q.shape[-2])[:, None], torch.arange(q.shape[-2])
            scores = (q @ k.mT + {bias}).masked_fill(~({kept}), -math.inf)
            return scores.softmax(-1).to(v.dtype) @ v
    """)
    written = (tmp_path / "out" / "program_hopper.py").read_text()
    if "abs" not in bias:
        assert "with_offsets(key_start - " in written
    assert not any("with_offsets" in line and "where" in line for line in written.splitlines())


@pytest.mark.parametrize("bias", ["-1.0 / (i - j)", "1.0 / (-0.5 * (i - j))", "1.0 / (j - i)"])
def test_a_distance_of_zero_has_no_sign(bias: str, verified: Callable[[str], str], tmp_path: Path) -> None:
    """An integer of zero becomes +0.0: its inverse is +inf."""
    verified(f"""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ):
            i, j = torch.arange(q.shape[-2])[:, None], torch.arange(q.shape[-2])
            scores = (q @ k.mT + {bias}).masked_fill(i - j < 0, -math.inf)
            return scores.softmax(-1).to(v.dtype) @ v
    """)
    assert "with_offsets(key_start - " in (tmp_path / "out" / "program_hopper.py").read_text()
