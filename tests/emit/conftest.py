"""Transpiles a user's text and verifies the kernel under Triton's interpreter."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from flashlight import api

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

    def run(text: str, examples: int = 8) -> str:
        written = kernels(text)
        outcomes = api.verify(tmp_path / "program.py", "cpu", out=tmp_path / "out", examples=examples)
        failures = [outcome.failure for outcome in outcomes if outcome.failure]
        assert outcomes and not failures, "\n\n".join(failures)
        return written

    return run
