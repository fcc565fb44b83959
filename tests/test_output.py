"""Generated files on disk: headers are read back, and files appear whole or not at all."""

import os
import stat

import pytest

from flashlight.output import GeneratedFile, Header, parse_shape, read_header, write_all

HEADER = '''"""Causal attention.

Written by flashlight 0.1.0 from examples/causal.py (sha256 0123456789ab)
with `flashlight transpile examples/causal.py:causal:causal_tril --shape q=B,H,S,D`.
"""
'''


def test_header():
    header = read_header(HEADER)
    assert header == Header("examples/causal.py", ("causal", "causal_tril"), {"q": ("B", "H", "S", "D")})


def test_other_files_have_no_header():
    assert read_header("import torch\n") is None
    assert read_header("") is None


def test_shapes():
    assert parse_shape("q=B, H,S,D") == ("q", ("B", "H", "S", "D"))
    for wrong in ("q", "q=", "=B", "q=B,,D", "1q=B"):
        with pytest.raises(ValueError, match="NAME=DIM"):
            parse_shape(wrong)


def test_only_stale_files_are_written(tmp_path):
    old, new = tmp_path / "a.py", tmp_path / "deep" / "b.py"
    old.write_text("same\n")
    before = old.stat().st_mtime_ns
    assert write_all([GeneratedFile(old, "same\n"), GeneratedFile(new, "new\n")]) == [new]
    assert old.stat().st_mtime_ns == before
    assert new.read_text() == "new\n"


def test_permissions_are_those_of_ordinary_files(tmp_path):
    (tmp_path / "ordinary").write_text("")
    path = tmp_path / "a.py"
    write_all([GeneratedFile(path, "x")])
    assert path.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    path.chmod(0o640)
    write_all([GeneratedFile(path, "y")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_would_not_be_written_today_is_removed(tmp_path):
    old, gone = tmp_path / "a.py", tmp_path / "b.py"
    old.write_text("before\n")
    assert write_all([GeneratedFile(old, None), GeneratedFile(gone, None)]) == [old]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exists", [False, True])
def test_both_files_or_none(tmp_path, monkeypatch, exists):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    if exists:
        first.write_text("before\n")
    replace = os.replace

    def failing(source, target):
        if target == second:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        write_all([GeneratedFile(first, "1\n"), GeneratedFile(second, "2\n")])
    assert sorted(path.name for path in tmp_path.iterdir()) == (["a.py"] if exists else [])
    if exists:
        assert first.read_text() == "before\n"


def test_diff_names_the_file(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("one\ntwo\n")
    diff = GeneratedFile(path, "one\n2\n").diff()
    assert f"--- {path.as_posix()}" in diff and "-two\n+2\n" in diff
