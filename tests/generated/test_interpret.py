"""Every generated kernel under Triton's interpreter, against its original in float64, on small drawn inputs.

Of each file only a few inputs are drawn here, to stay within minutes; `flashlight verify --examples 200` draws more.
"""

import random

import pytest

from flashlight import api

EXAMPLES = 5


@pytest.mark.interpret
def test_agrees_with_the_original(wrapper, example):
    seed = random.randrange(2**16)
    print(f"seed {seed}")
    outcomes = api.verify(example, "cpu", out=wrapper.parent, examples=EXAMPLES, seed=seed)
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    assert not failures, "\n\n".join(failures)
    assert outcomes
