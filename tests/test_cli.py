"""The command line: what it writes, prints and exits with. The stages are stubbed: `test_bad_input.py` runs them."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from flashlight import pipeline
from flashlight.cli import app

HEADER = '"""Written by flashlight 0.1.0 from {source} (sha256 {digest})\nwith `{command}`."""\n'


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command in an empty directory that holds attn.py, whose "kernel" is its text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "attn.py").write_text("first\n")

    def read(path, targets, phases):
        with phases("source"):
            return path, [SimpleNamespace(name=name) for name in targets or ("attend",)]

    def unit(source, target, shapes, phases):
        with phases("trace"):
            return target.name

    def emit(source, units, origin, command, phases):
        header = HEADER.format(source=origin, digest="0" * 12, command=command)
        return SimpleNamespace(wrapper=f"{header}{units}\n", kernels=header + source.read_text(), hopper=None)

    def passed_over(path):
        return []

    for stub in (read, unit, emit, passed_over):
        monkeypatch.setattr(pipeline, stub.__name__, stub)
    return lambda *words: CliRunner().invoke(app, list(words))


def files(directory):
    return {p.relative_to(directory).as_posix(): p.read_text() for p in directory.rglob("*.py")}


def test_transpile_writes_both_files(run, tmp_path):
    result = run("transpile", "attn.py")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "wrote generated/attn.py",
        "wrote generated/attn_triton.py",
        "2 files written.",
    ]
    assert set(files(tmp_path)) == {"attn.py", "generated/attn.py", "generated/attn_triton.py"}
    again = run("transpile", "attn.py")
    assert (again.exit_code, again.output) == (0, "2 files left unchanged.\n")


def test_what_is_passed_over_is_told(run, monkeypatch):
    monkeypatch.setattr(pipeline, "passed_over", lambda path: ["kernel"])
    last = "passed over kernel, which looks like no attention: attn.py:kernel names it"
    assert run("transpile", "attn.py").output.splitlines()[-1] == last
    assert last not in run("transpile", "attn.py:attend").output


def test_out_targets_and_shapes(run, tmp_path):
    result = run("transpile", "attn.py:one", "attn.py:two", "--shape", "x=B,S", "--out", "here")
    assert result.exit_code == 0, result.output
    assert "with `flashlight transpile attn.py:one:two --shape x=B,S`" in (tmp_path / "here/attn.py").read_text()
    assert "['one', 'two']" in (tmp_path / "here/attn.py").read_text()
    assert run("check", "here/attn.py").exit_code == 0


def test_check_and_diff_write_nothing(run, tmp_path):
    before = files(tmp_path)
    result = run("transpile", "attn.py", "--check")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "2 files would be rewritten."
    result = run("transpile", "attn.py", "--diff")
    assert result.exit_code == 0 and "+first" in result.stdout
    assert run("transpile", "attn.py", "--diff", "--check").exit_code == 1
    assert files(tmp_path) == before
    run("transpile", "attn.py")
    result = run("transpile", "attn.py", "--check")
    assert (result.exit_code, result.stderr) == (0, "2 files would be left unchanged.\n")


def test_check_finds_what_is_stale(run, tmp_path):
    run("transpile", "attn.py")
    (tmp_path / "generated/notes.py").write_text("# by hand\n")
    assert run("check").exit_code == 0
    (tmp_path / "attn.py").write_text("second\n")
    before = files(tmp_path)
    result = run("check")
    assert result.exit_code == 1
    assert "-first\n+second" in result.stdout
    assert result.stderr.splitlines() == [
        "would rewrite generated/attn_triton.py",
        "1 file would be rewritten, 1 file would be left unchanged.",
    ]
    assert run("check", "generated/attn.py").exit_code == 0
    assert run("check", "generated/attn_triton.py").exit_code == 1
    assert files(tmp_path) == before


def test_check_finds_what_is_missing(run, tmp_path):
    run("transpile", "attn.py")
    (tmp_path / "generated/attn_triton.py").unlink()
    assert run("check").exit_code == 1


def test_check_from_another_directory(run, tmp_path, monkeypatch):
    run("transpile", "attn.py")
    monkeypatch.chdir(tmp_path / "generated")
    assert run("check", "attn.py").exit_code == 0


def test_a_file_by_hand_is_not_overwritten(run, tmp_path):
    (tmp_path / "generated").mkdir()
    (tmp_path / "generated/attn.py").write_text("# by hand\n")
    before = files(tmp_path)
    result = run("transpile", "attn.py")
    assert result.exit_code == 1 and "--force" in result.stderr and "generated/attn.py" in result.stderr
    assert files(tmp_path) == before
    assert run("transpile", "attn.py", "--force").exit_code == 0
    assert "Written by flashlight" in (tmp_path / "generated/attn.py").read_text()


def test_the_source_is_never_overwritten(run, tmp_path):
    result = run("transpile", "attn.py", "--out", ".", "--force")
    assert result.exit_code == 1 and "its own source" in result.stderr
    assert files(tmp_path) == {"attn.py": "first\n"}


def test_check_of_a_file_by_hand(run):
    result = run("check", "attn.py")
    assert result.exit_code == 1 and "did not write this file" in result.stderr


def test_verbose_prints_phases(run):
    result = run("transpile", "attn.py", "-v")
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["source", "trace", "total"]


def test_misspelled_commands(run):
    assert run("transpile", "attn.py", "--shape", "nonsense").exit_code == 2
    assert run("transpile").exit_code == 2
    assert run("verify", "attn.py", "--device", "tpu").exit_code == 2


def test_verify_before_transpile(run):
    result = run("verify", "attn.py")
    assert result.exit_code == 1 and "no generated module" in result.stderr


def test_version_and_help(run):
    assert run("--version").output.startswith("flashlight ")
    for command in ("transpile", "check", "explain", "verify"):
        assert run(command, "--help").exit_code == 0


def test_help_imports_no_torch():
    import subprocess
    import sys

    script = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from flashlight.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'libcst' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
