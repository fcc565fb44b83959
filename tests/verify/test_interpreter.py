"""bfloat16 under Triton's interpreter is what it is on a GPU."""

import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
import torch, triton
import triton.language as tl
from flashlight.verify.interpreter import repair

repair()

@triton.jit
def product_kernel(a_ptr, b_ptr, out_ptr):
    i = tl.arange(0, 16)
    at = i[:, None] * 16 + i[None, :]
    product = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at))
    tl.store(out_ptr + at, product.to(out_ptr.dtype.element_ty))

a, b = (torch.randn(16, 16, generator=torch.Generator().manual_seed(s)).bfloat16() for s in (0, 1))
a[3, 3] = float("nan")
out = torch.empty_like(a)
product_kernel[(1,)](a, b, out)
true = (a.float() @ b.float())
assert torch.equal(out.isnan(), true.isnan())
ulps = (out.view(torch.int16).int() - true.bfloat16().view(torch.int16).int()).abs()
assert ulps[~true.isnan()].max() <= 1, ulps
assert (ulps[~true.isnan()] == 0).float().mean() > 0.95, ulps
"""


@pytest.mark.interpret
def test_products_and_casts(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
