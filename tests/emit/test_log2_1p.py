"""The logarithm of 1 + x keeps the digits of a small x, in the kernel's own words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flashlight.emit.operators import HELPERS

SCRIPT = """
import numpy, torch, triton, triton.language as tl
{helper}

@triton.jit
def kernel(x_ptr, y_ptr, N: tl.constexpr):
    offsets = tl.arange(0, N)
    tl.store(y_ptr + offsets, log2_1p(tl.load(x_ptr + offsets), False))

x = torch.logspace(-30, 30, 1024, base=10)
x[:6] = torch.tensor([0.0, float("inf"), float("nan"), 1.0, 2.0**-24, 3 * 2.0**-24])
y = torch.full_like(x, float("nan"))
kernel[(1,)](x, y, 1024)
wanted = torch.log1p(x.double()) / numpy.log(2)
print((y[3:].double() / wanted[3:] - 1).abs().max().item(), y[:3].tolist())
"""


def test_small_numbers_keep_their_digits(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{helper}", HELPERS["log2_1p"]))
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=True)
    error, rest = result.stdout.strip().split(" ", 1)
    assert float(error) < 4e-7
    assert rest == "[0.0, inf, nan]"
