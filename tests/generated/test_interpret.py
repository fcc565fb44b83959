"""Every generated kernel under Triton's interpreter, against its original in float64, on small drawn inputs.

Of each file only a few inputs are drawn here, to stay within minutes; `flashlight verify --examples 200` draws more.
"""

import pytest

from flashlight import api

EXAMPLES = 6
KNOWN = {
    "packed_documents_cross": "NaN or infinity in a query gives 0 under a boolean mask of SDPA, where eager has NaN"
}
"""Open faults, by function: only a difference in NaN is excused, and it is reported as an expected failure."""


@pytest.mark.interpret
def test_agrees_with_the_original(wrapper, example):
    outcomes = api.verify(example, "cpu", out=wrapper.parent, examples=EXAMPLES)
    known = [o for o in outcomes if o.failure and o.target in KNOWN and "NaN pattern differs" in o.failure]
    failures = [outcome.failure for outcome in outcomes if outcome.failure and outcome not in known]
    assert not failures, "\n\n".join(failures)
    assert outcomes
    if known:
        pytest.xfail("; ".join(KNOWN[outcome.target] for outcome in known))
