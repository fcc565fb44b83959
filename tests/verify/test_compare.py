"""The comparison accepts what is as good as eager and finds each way of being wrong."""

import math

import pytest
import torch

from flashlight.verify.compare import Mismatch, Rejected, compare


def attention(query, key, value):
    return torch.softmax(query @ key.mT / math.sqrt(query.size(-1)), dim=-1) @ value


def in_float32(query, key, value):
    return attention(query.float(), key.float(), value.float()).to(query.dtype)


def inputs(dtype=torch.float16):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 5, 16, generator=generator).to(dtype) for name in ("query", "key", "value")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_same_function_and_a_better_one_pass(dtype):
    assert compare(attention, attention, inputs(dtype)).generated > 0
    measured = compare(attention, in_float32, inputs(dtype))
    assert measured.generated <= measured.allowed


def unscaled(query, key, value):
    return torch.softmax(query @ key.mT, dim=-1) @ value


def coarse(query, key, value):
    return (attention(query, key, value) * 64).round() / 64


def one_place(query, key, value):
    output = attention(query, key, value).clone()
    output[1, 4, 3] += 0.01
    return output


def widened(query, key, value):
    return attention(query, key, value).float()


def shortened(query, key, value):
    return attention(query, key, value)[:, :-1]


def with_nan(query, key, value):
    output = attention(query, key, value).clone()
    output[0, 0, 0] = math.nan
    return output


def unwritten(query, key, value):
    output = torch.empty_like(query)
    output[:, :4] = attention(query, key, value)[:, :4]
    return output


def writes_to_input(query, key, value):
    query.mul_(1 / math.sqrt(query.size(-1)))
    return unscaled(query, key, value)


def raises(query, key, value):
    raise ValueError("not today")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (unscaled, "error"),
        (coarse, "error"),
        (one_place, r"worst at \(1, 4, 3\)"),
        (widened, "dtype torch.float32, not torch.float16"),
        (shortened, r"shape \[2, 4, 16\], not \[2, 5, 16\]"),
        (with_nan, r"NaN pattern differs in 1 of 160 places, first at \(0, 0, 0\)"),
        (unwritten, "NaN pattern differs in 32 of 160"),
        (writes_to_input, "wrote to its inputs"),
        (raises, "raised ValueError: not today"),
    ],
)
def test_what_is_wrong_is_found(wrong, message):
    with pytest.raises(Mismatch, match=message):
        compare(attention, wrong, inputs())


def test_nan_must_stay_where_eager_puts_it():
    arguments = inputs()
    arguments["key"][0, 2] = math.nan
    compare(attention, in_float32, arguments)
    with pytest.raises(Mismatch, match="NaN"):
        compare(attention, lambda **tensors: attention(**tensors).nan_to_num(), arguments)


def test_where_eager_overflows_and_float64_does_not_either_is_right():
    arguments = inputs()
    arguments["query"] *= 300
    arguments["key"] *= 300
    compare(attention, attention, arguments)
    compare(attention, in_float32, arguments)


def test_what_the_original_does_not_accept_is_no_failure():
    with pytest.raises(Rejected, match="not today"):
        compare(raises, attention, inputs())
