"""What of a program one kernel computes, and what PyTorch computes before and after it.

    q[b, s, e] = Σ_c x[b, s, c] * w[c, e]        before: no pair of a row and a key takes part
    y[b, s, f] = Σ_e o[b, s, e] * w[e, f]        after: o is what the kernel computes

Matrix products that involve no pair of a row and a key (projections) would be computed again by every block of rows
that meets a key. PyTorch computes them once; they hold no more than a value for each position and feature, as the
tensors do that users pass without them. All else (norms over features, rotary embedding, gates, biases) stays in the
kernel.

A product is computed for the whole of the tensors that it multiplies and read where it is needed: the queries, keys and
values that are slices of one product are one product.
"""

from flashlight.region.divide import region
from flashlight.region.model import Region

__all__ = ["Region", "region"]
