"""Under Triton's interpreter bfloat16 is what it is on a GPU, and reductions are what they are one by one."""

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

REDUCE = """
import torch, triton
import triton.language as tl
from triton.runtime.interpreter import ReduceOps
from flashlight.verify.interpreter import repair

@triton.jit
def nan_max(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)

@triton.jit
def least_and_last(low, last, low_2, last_2):
    return tl.minimum(low, low_2), tl.maximum(last, last_2)

@triton.jit
def kernel(x_ptr, rows_ptr, columns_ptr, all_ptr, pairs_ptr):
    i, j = tl.arange(0, 8), tl.arange(0, 4)
    x = tl.load(x_ptr + i[:, None] * 4 + j[None, :])
    tl.store(rows_ptr + i, tl.reduce(x, 1, nan_max))
    tl.store(columns_ptr + j, tl.reduce(x, 0, nan_max))
    tl.store(all_ptr, tl.reduce(x, None, nan_max))
    low, last = tl.reduce((tl.max(x, 1), i), 0, least_and_last)
    tl.store(pairs_ptr, low)
    tl.store(pairs_ptr + 1, last.to(tl.float32))

def results(x):
    out = [torch.full(shape, 7.0) for shape in ((8,), (4,), (1,), (2,))]
    kernel[(1,)](x, *out)
    return torch.cat(out)

print("seed", torch.seed())
inputs = [torch.randn(8, 4) for _ in range(2)]
inputs[1][5, 2] = float("nan")
own = ReduceOps.generic_reduce
one_by_one = [results(x) for x in inputs]
repair()
assert ReduceOps.generic_reduce is not own
for x, expected in zip(inputs, one_by_one):
    torch.testing.assert_close(results(x), expected, rtol=0, atol=0, equal_nan=True)
assert [out.isnan().any().item() for out in one_by_one] == [False, True]
"""


@pytest.mark.interpret
@pytest.mark.parametrize("script", [SCRIPT, REDUCE], ids=["products and casts", "reductions"])
def test_what_is_put_right(script, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
