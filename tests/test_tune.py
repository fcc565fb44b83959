"""Tuning and inspecting, as far as they go without a GPU: arguments, candidates, tables in files, the commands."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from flashlight import arguments, inspect, tune
from flashlight.cli import app
from flashlight.emit import tuning

GENERATED = Path(__file__).parents[1] / "generated"
KERNELS = '''"""Triton kernels for attn.py."""

import torch

# Tiles
TILES = {}
LAUNCHED = {}


def attend(query, key, lengths, window, scale):
    """Launch it."""
    B, H, S, D = query.shape
    _, H_kv, _, _ = key.shape
    expect("query", query, (B, H, S, D), (torch.float16, torch.bfloat16, torch.float32), query.device)
    expect("key", key, (B, H_kv, S, D * 2), (query.dtype,), query.device)
    expect("lengths", lengths, (B,), (torch.int64, torch.int32), query.device)
    if not (H % H_kv == 0):
        raise ValueError("no")
    rows, keys, warps, stages, descriptors = configuration("attend", query, D, S, accumulators=1, scores=1)
    return query.new_tensor([rows, keys, warps, stages, descriptors])


def expect(name, tensor, shape, dtypes, device):
    pass


def configuration(function, tensor, widest, length, accumulators, scores):
    return 64, 64, 4, 2, True
'''


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    path = tmp_path / "attn_triton.py"
    path.write_text(KERNELS)
    path.with_name("attn.py").write_text("def attend(query, key, lengths, window: int, scale: float): ...\n")
    return path


def found(tile: tune.Tile = (128, 64, 8, 3, True)) -> tune.Found:
    return tune.Found("attn.py", "attend", "sm_90", 64, 2, 4096, tile, 1.0, (64, 64, 4, 2, True), 1.5, 40, 3)


def test_arguments_follow_the_launchers_checks(kernels: Path) -> None:
    (launcher,) = arguments.launchers(kernels.read_text())
    numbers = arguments.bound(launcher, 64)
    assert numbers == {"B": 4, "H": 16, "S": 4096, "D": 64, "H_kv": 2}
    made = arguments.make(launcher, numbers, arguments.annotated(kernels, "attend"))
    assert {name: tuple(x.shape) for name, x in made.items() if isinstance(x, torch.Tensor)} == {
        "query": (4, 16, 4096, 64),
        "key": (4, 2, 4096, 128),
        "lengths": (4,),
    }
    assert [made["query"].dtype, made["key"].dtype, made["lengths"].dtype] == [torch.bfloat16] * 2 + [torch.int64]
    assert (made["window"], made["scale"]) == (256, 0.125)
    assert arguments.make(launcher, {**numbers, "S": 64}, {}, device="cpu")["lengths"].tolist() == [32] * 4


def test_sizes_that_a_launcher_refuses_are_named(kernels: Path) -> None:
    (launcher,) = arguments.launchers(kernels.read_text())
    with pytest.raises(ValueError, match="attend needs H % H_kv == 0, and got .*H=7"):
        arguments.bound(launcher, 64, {"heads": 7, "H_kv": 2})


@pytest.mark.parametrize("path", sorted(GENERATED.glob("*_triton.py")), ids=lambda path: path.stem)
def test_every_generated_launcher_gets_arguments(path: Path) -> None:
    for launcher in arguments.launchers(path.read_text(encoding="utf-8")):
        numbers = arguments.bound(launcher, 64)
        made = arguments.make(launcher, numbers, arguments.annotated(path, launcher.name))
        assert list(made) == list(launcher.parameters)
        assert all(arguments.shape_of(check, numbers) == made[check.name].shape for check in launcher.tensors)


def test_candidates_fit_and_hold_what_the_model_picks() -> None:
    for width, size in ((64, 2), (128, 2), (256, 2), (64, 4)):
        tiles = tune.candidates(width, size)
        assert all(rows * width * size + 2 * n * keys * width * size <= tune.SHARED for rows, keys, _, n, _ in tiles)
    assert {(64, 128, 4, 2, True), (128, 64, 8, 3, True)} <= set(tune.candidates(64, 2))
    assert {(64, 64, 4, 3, True), (128, 128, 8, 2, True)} <= set(tune.candidates(128, 2))
    narrowed = tune.narrowed(tune.candidates(128, 2), (64, 64, 4, 3, True), 30)
    assert len(narrowed) == len(set(narrowed)) == 30
    assert narrowed[0] == (64, 64, 4, 3, True)


def test_the_model_needs_no_entry() -> None:
    scope: dict[str, object] = {}
    exec(f"import functools\nimport torch\nimport triton\n{tuning.table({})}\n{tuning.MODEL}", scope)
    tile_for = scope["tile_for"]
    for chip in ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942", "cpu"):
        for width in (16, 32, 64, 128, 256, 512):
            for size in (2, 4):
                rows, keys, warps, stages, _ = tile_for("any", chip, width, size, 4096, 1, 1)  # type: ignore[operator]
                limit = {"sm_90": 227, "sm_100": 227, "gfx942": 64}.get(chip, 99) * 1024
                held = stages if chip != "gfx942" else 1
                assert rows >= 16 and keys >= 16 and warps in (4, 8)
                assert 2 * held * keys * width * size <= limit, (chip, width, size)


def test_the_entry_for_the_least_keys_that_are_enough_serves() -> None:
    scope: dict[str, object] = {}
    tiles = {("f", "sm_90", 64, 2, length): (64, 64, 4, length.bit_length(), True) for length in (4096, 256, 1024)}
    exec(f"import functools\nimport torch\nimport triton\n{tuning.table(tiles)}\n{tuning.MODEL}", scope)
    served = [scope["tile_for"]("f", "sm_90", 64, 2, n, 1, 1)[3] for n in (16, 256, 512, 2048, 4096, 65536)]  # type: ignore[operator]
    assert [2 ** (stages - 1) for stages in served] == [256, 256, 1024, 4096, 4096, 4096]


def test_a_batch_holds_fewer_positions_where_each_has_more_of_its_own() -> None:
    scope: dict[str, Any] = {}
    tiles = {("tuned", "sm_90", 128, 2, 4096): (16, 32, 8, 2, False)}
    exec(f"import functools\nimport torch\nimport triton\n{tuning.table(tiles)}\n{tuning.MODEL}", scope)
    sizes = [scope["batch_size"](count, own) for count, own in ((12, 160), (3, 160), (1, 160), (12, 320), (12, 2048))]
    assert sizes == [4, 4, 1, 2, 1]
    scope["architecture"] = lambda device: "sm_90"
    tensor = torch.empty(0, dtype=torch.bfloat16)
    asked = [scope["batch_configuration"](name, tensor, 128, 512, 4) for name in ("tuned", "any")]
    assert asked == [(16, 32, 8, 2, False), (8, 16, 4, 3, False)]
    assert scope["batch_configuration"]("any", tensor, 128, 512, 4, depth=64)[0] == 1


def test_a_search_replaces_every_choice_of_a_tile(tmp_path: Path) -> None:
    for name in ("invariant_point.py", "invariant_point_triton.py"):
        shutil.copy(GENERATED / name, tmp_path)
    sizes = {"length": 16, "B": 1}
    job = tune.Job(str(tmp_path / "invariant_point_triton.py"), "invariant_point_attention", 16, "bfloat16", sizes)
    prepared = tune.Prepared(job, "meta")
    kept = dict(prepared.own)
    assert set(kept) == set(tune.CHOOSING)
    prepared.choose((4, 16, 2, 1, False))
    assert all(getattr(prepared.module, name)() == (4, 16, 2, 1, False) for name in tune.CHOOSING)


def test_a_table_is_replaced_and_nothing_else(kernels: Path) -> None:
    tiles: dict[tune.Key, tune.Tile] = {
        ("b", "sm_90", 64, 2, 4096): (64, 64, 4, 3, True),
        ("a", "sm_90", 64, 2, 4096): (128, 64, 8, 2, True),
    }
    text = tune.replaced(KERNELS, tiles)
    assert tune.entries(text) == tiles
    assert text.index('("a"') < text.index('("b"')
    assert tune.replaced(text, {}).replace(tuning.table({}), "# Tiles\nTILES = {}") == KERNELS
    ast.parse(text)


def test_transpiling_keeps_what_was_tuned(kernels: Path) -> None:
    assert tune.applied(kernels, [found()]) == 1
    assert tune.applied(kernels, [found()]) == 0
    tuned = kernels.read_text()
    assert tune.carried_over(KERNELS, kernels) == tuned
    assert tune.carried_over(KERNELS.replace("attend", "other"), kernels) == KERNELS.replace("attend", "other")
    assert tune.carried_over("no python(", kernels) == "no python("
    assert tune.carried_over(KERNELS, kernels.with_name("none.py")) == KERNELS


def test_what_a_gpu_machine_found_is_applied(kernels: Path) -> None:
    report = kernels.with_name("out.json")
    report.write_text(tune.report([found()]))
    assert tune.read_report(report.read_text()) == [found()]
    wrapper = str(kernels.with_name("attn.py"))
    result = CliRunner().invoke(app, ["tune", wrapper, "--apply", str(report)])
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "1 file written.")
    assert tune.entries(kernels.read_text()) == {found().key: found().tile}
    assert "1 file left unchanged" in CliRunner().invoke(app, ["tune", wrapper, "--apply", str(report)]).stdout


def test_tuning_without_a_gpu_says_so(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = CliRunner().invoke(app, ["tune", str(kernels)])
    assert result.exit_code == 1
    assert "python -m flashlight.tune" in result.stderr


def test_the_search_keeps_the_fastest_that_agrees(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the GPU: tiles of 128 rows are twice as fast, those of 128 keys compute something else."""
    tile: list[tune.Tile] = []

    class Prepared:
        asked = ("attend", torch.zeros(1, dtype=torch.bfloat16), 64, 4096)
        before, describes, own_hopper = (64, 64, 4, 2, True), True, None
        module = type("module", (), {"architecture": lambda device: "sm_90", "padded": lambda size: size})

        def __init__(self, job: tune.Job) -> None:
            self.job = job

        def portable(self) -> tune.Tile:
            return self.before

        def run(self, asked: tune.Tile | None) -> torch.Tensor:
            tile[:] = [asked or (64, 64, 4, 2, True)]
            if tile[0][3] == 4:
                raise RuntimeError("out of resource")
            return torch.full((8,), 2.0 if tile[0][1] == 128 else 1.0)

    def time(run: object, milliseconds: float) -> float:
        run()  # type: ignore[operator]
        return (1.0 if tile[0][0] == 128 else 2.0) + 0.001 * tile[0][3]

    monkeypatch.setattr(tune, "Prepared", Prepared)
    monkeypatch.setattr(tune, "_time", time)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    job = tune.Job(str(kernels), "attend", 64, "bfloat16", {})
    stages: list[str] = []
    one = tune.search(tune.begin(job, None, 40), lambda stage, done, total: stages.append(stage))
    assert one.tile[0] == 128 and one.tile[1] != 128 and one.tile[3] == 1
    assert (one.key[1:], one.before, one.tried) == (("sm_90", 64, 2, 4096), (64, 64, 4, 2, True), 40)
    assert 0 < one.failed < 40
    assert "2.0" in tune.summary(one) or "1.9" in tune.summary(one)
    assert set(stages) == {"time"}


def test_tiles_near_the_portable_one_are_tried_where_a_hopper_kernel_runs() -> None:
    """The tile of a Hopper kernel says nothing about those of the other."""
    path = Path(__file__).parents[1] / "generated" / "causal_triton.py"
    prepared = tune.Prepared(tune.Job(str(path), "causal", 64, "bfloat16", {"batch": 1, "length": 256}), "cpu")
    module = vars(prepared.module)
    module["architecture"] = lambda device: "sm_90"
    table, given = module["TILES"], module["configuration"]
    prepared.before = (192, 128, 12, 4, tune.HOPPER)
    assert prepared.portable() == table["causal", "sm_90", 64, 2, 1024]
    assert module["configuration"] is given and module["hopper_tile"] is prepared.own_hopper


def test_results_agree_but_for_rounding() -> None:
    one = torch.tensor([1.0, float("nan"), float("inf")])
    assert tune.agree((one, None), (one * 1.001, None), 1e-2)
    assert not tune.agree(one, one * 1.1, 1e-2)
    assert not tune.agree(one, torch.ones(3), 1e-2)


def test_the_search_imports_without_libcst_and_black() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['libcst', 'black', 'typer', 'rich', 'hypothesis']));"
        "from flashlight import tune, arguments; import benchmarks.attention, benchmarks.latency;"
        f"print(len(tune.jobs([tune.Path({str(GENERATED / 'causal.py')!r})])))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=GENERATED.parent)
    assert done.stdout.strip() == "10", done.stderr


def test_occupancy_by_what_runs_out_first() -> None:
    made = [
        inspect.Compiled("k", "sm_90", registers, 0, shared, warps, {}, {})
        for registers, shared, warps in ((128, 1024, 4), (32, 113 * 1024, 4), (32, 0, 32))
    ]
    assert [one.occupancy for one in made] == [4, 2, 2]
    assert inspect.Compiled("k", "gfx942", 200, 0, 16384, 4, {}, {}).occupancy == 2


@pytest.mark.aot
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
def test_inspect_prints_a_row_for_each_kernel() -> None:
    words = ["inspect", str(GENERATED / "packed_documents.py"), "--head-dim", "64", "--size", "length=512"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for word in ("packed_documents_cross", "matching_ranges_kernel", "wgmma", "cp.async"):
        assert word in result.stdout
    assert CliRunner().invoke(app, ["inspect", words[1], "--arch", "sm_12"]).exit_code == 2


def test_reports_are_json() -> None:
    assert json.loads(tune.report([found()]))["found"][0]["tile"] == [128, 64, 8, 3, True]


def test_a_worker_compiles_and_launches_nothing(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    class Kernel:
        n_spills = 0
        fn = None

        def warmup(self, *args: object, **options: object) -> Kernel:
            asked.append((*args, options))
            return self

        def _init_handles(self) -> None:
            pass

    text = KERNELS.replace("return query.new", "attend_kernel[(S,)](query, BLOCK=rows)\n    return query.new")
    kernels.write_text(text + "\n\nattend_kernel = None\n")
    load, make = arguments.load, arguments.make

    def loaded(path: Path) -> object:
        module = load(path)
        module.attend_kernel = Kernel()  # type: ignore[attr-defined]
        return module

    monkeypatch.setattr(arguments, "load", loaded)
    monkeypatch.setattr(arguments, "make", lambda *given: make(*given[:4], "meta"))
    monkeypatch.setattr(tune, "_prepared", None)
    (job,) = tune.jobs([kernels], head_dims=[64], sizes={"length": 64})
    monkeypatch.setattr(torch.Tensor, "new_tensor", lambda self, values: values)
    assert [tune.compiled(job, tile) for tile in ((32, 32, 4, 2, True), (128, 64, 8, 3, True))] == [None, None]
    assert [options for *_, options in asked] == [{"BLOCK": 32, "grid": (1,)}, {"BLOCK": 128, "grid": (1,)}]
    monkeypatch.setattr(Kernel, "n_spills", 8)
    assert "spills 8 bytes" in str(tune.compiled(job, (64, 64, 4, 2, True)))
    monkeypatch.setattr(Kernel, "warmup", lambda self, *args, **options: 1 / 0)
    assert "ZeroDivisionError" in str(tune.compiled(job, (64, 64, 4, 2, True)))


@pytest.mark.aot
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("hopper", [True, False], ids=["with_hopper_kernels", "without"])
def test_ahead_replaces_a_tile_that_spills(hopper: bool, tmp_path: Path) -> None:
    """Also where the file with Hopper kernels was left behind."""
    for name in ("prefix_lm.py", "prefix_lm_triton.py", *["prefix_lm_hopper.py"] * hopper):
        shutil.copy(GENERATED / name, tmp_path)
    path = tmp_path / "prefix_lm_triton.py"
    function = arguments.launchers(path.read_text())[0].name
    key = (function, "sm_90", 64, 2, 4096)
    tune.entered(path, {key: (256, 128, 4, 2, True)})
    command = ["tune", "--ahead", "sm_90", "--function", function, "--head-dim", "64", str(path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert tune.entries(path.read_text())[key] != (256, 128, 4, 2, True)
    again = CliRunner().invoke(app, command)
    assert "0 entries written" in again.output
