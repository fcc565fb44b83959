"""Transpiles a user's text and verifies the kernel under Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from flashlight import api

SEED = int(os.environ.get("FLASHLIGHT_SEED", "0"))
"""Of the inputs on which programs of these tests are verified. Those of generated/ are drawn anew each time."""
HEAD = """import math
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


"""


def body(text: str) -> str:
    """Statements, on lines of their own or with semicolons between, as the body of a function."""
    lines = [line.strip() for line in text.replace("; ", "\n").splitlines() if line.strip()]
    return "\n".join(f"    {line}" for line in lines)


REPAIRED = """
import runpy, sys
from flashlight.verify import interpreter

interpreter.repair()
sys.path.insert(0, {folder!r})
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.fixture
def interpreted(tmp_path: Path) -> Callable[[str], None]:
    """Run a script under Triton's interpreter, in a process of its own; it must end well."""

    def run(text: str) -> None:
        script = tmp_path / "script.py"  # Triton reads a kernel's source from its file
        script.write_text(text)
        command = [sys.executable, "-c", REPAIRED.format(folder=str(tmp_path), script=str(script))]
        environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.getcwd()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]

    return run


@pytest.fixture
def kernels(tmp_path: Path) -> Callable[[str], str]:
    """The kernel file that is written for the text of a user's functions."""

    def write(text: str) -> str:
        path = tmp_path / "program.py"
        path.write_text(HEAD + textwrap.dedent(text))
        api.write(api.transpile(path, out=tmp_path / "out"))
        return (tmp_path / "out" / "program_triton.py").read_text()

    return write


@pytest.fixture
def verified(tmp_path: Path, kernels: Callable[[str], str]) -> Callable[..., str]:
    """The same, once the kernels have agreed with the original on a few drawn inputs."""

    def run(text: str, examples: int = 6) -> str:
        written = kernels(text)
        print(f"seed {SEED}")
        outcomes = api.verify(tmp_path / "program.py", "cpu", out=tmp_path / "out", examples=examples, seed=SEED)
        failures = [outcome.failure for outcome in outcomes if outcome.failure]
        assert outcomes and not failures, "\n\n".join(failures)
        return written

    return run
