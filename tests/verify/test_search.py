"""The search finds inputs on which functions differ, and shrinks them."""

from types import SimpleNamespace

import torch

from flashlight.ir.expr import Scalar, Tensor
from flashlight.ir.program import Program
from flashlight.trace.traced import Parameter, Traced
from flashlight.verify.search import Request, search

B, H, S, D = (Scalar(name, "int64", True) for name in ("B", "H", "S", "D"))
TENSORS = tuple(Tensor(name, (B, H, S, D), "element") for name in ("query", "key", "value"))
TRACED = Traced(Program("attend", TENSORS, ()), tuple(Parameter(t.name, tensor=t) for t in TENSORS))


def attend(query, key, value):
    return torch.softmax(query @ key.mT / 4, dim=-1) @ value


def found(generated, original=attend, examples=60, seed=0):
    request = Request("attn.py", "cpu", (), "generated", examples, seed)
    return search("attend", TRACED, SimpleNamespace(attend=original), SimpleNamespace(attend=generated), request)


def test_agreement():
    outcome = found(attend, examples=10)
    assert outcome.failure is None and outcome.examples == 10
    assert "agrees on 10 drawn inputs" in outcome.summary()


def test_a_failure_is_shrunk_to_the_smallest_sizes():
    def forgets_the_last_key_of_long_rows(query, key, value):
        last = -1 if key.shape[2] > 16 else None
        return attend(query, key[:, :, :last], value[:, :, :last])

    failure = found(forgets_the_last_key_of_long_rows).failure
    assert "B=1, H=1, S=17, D=16, float32, seed 0\n" in failure or "B=1, H=1, S=17, D=16, float32, seed 0)" in failure
    assert "--seed 0" in failure and "error" in failure


def test_the_same_seed_finds_the_same():
    def wrong(query, key, value):
        return attend(query, key, value) * 1.01

    assert found(wrong, seed=3) == found(wrong, seed=3)


def test_an_original_that_takes_only_empty_tensors():
    def takes_no_keys(query, key, value):
        if key.numel():
            raise TypeError("these have other dtypes")
        return attend(query, key, value)

    failure = found(attend, original=takes_no_keys, examples=60).failure
    assert "only empty tensors" in failure and "these have other dtypes" in failure


def test_an_original_that_always_raises():
    def raises(query, key, value):
        raise ValueError

    assert "none of the inputs that were drawn" in found(attend, original=raises, examples=5).failure
