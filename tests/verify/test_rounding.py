"""Results in float64 become numbers that float32 holds, near them and by chance."""

import math

import pytest
import torch

from flashlight.verify.rounding import Rounded, rounded


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_numbers_become_ones_that_float32_holds_near_them(generator):
    exponents = torch.randint(-30, 30, (1000,), generator=generator)
    numbers = torch.randn(1000, dtype=torch.float64, generator=generator) * 10.0**exponents
    stored = rounded(numbers, generator)
    assert torch.equal(stored, stored.float().double())
    assert 400 < (stored < numbers).sum() < 600
    assert ((stored - numbers).abs() <= numbers.abs() * 1.5 * 2.0**-23).all()
    halfway = torch.full((1000,), 1 + 2.0**-24, dtype=torch.float64)
    places, counts = ((rounded(halfway, generator) - halfway) * 2.0**24).unique(return_counts=True)
    assert places.tolist() == [-2, -1, 1] and counts.min() > 80


def test_what_float32_holds_or_cannot_reach_stays(generator):
    numbers = torch.tensor(
        [0.0, -0.0, 1.5, 2.0**-140, 1e39, -1e300, math.inf, -math.inf, math.nan], dtype=torch.float64
    )
    assert torch.equal(rounded(numbers, generator).nan_to_num(), numbers.nan_to_num())
    assert rounded(numbers, generator)[8].isnan()


def test_every_result_is_rounded_and_only_once():
    numbers = torch.randn(5, 7, dtype=torch.float64)
    with Rounded(0):
        thirds = numbers / 3
        moved = thirds.T.contiguous().expand(2, 7, 5)[:, None] + torch.zeros(1, dtype=torch.float64)
        left = torch.add(numbers, 1.0)
        left /= 3
        weights = torch.softmax(numbers, -1)
    for result in (thirds, left, weights):
        assert torch.equal(result, result.float().double())
    assert not torch.equal(thirds, numbers / 3) and torch.allclose(thirds, numbers / 3, rtol=2.0**-21)
    assert torch.equal(moved[1, 0], thirds.T)


def test_what_the_program_has_in_float32_is_rounded_from_float64():
    numbers = torch.randn(1000, dtype=torch.float64)
    with Rounded(0):
        single = numbers.float()
        third = single / 3
        single += 1 / 3
        ones = torch.ones(3).cumsum(0)
    assert third.dtype == single.dtype == torch.float32 and ones.tolist() == [1, 2, 3]
    for moved, given in ((third, numbers.float() / 3), (single, numbers.float() + 1 / 3)):
        assert (moved != given).sum() > 300 and torch.allclose(moved, given, rtol=1e-6, atol=1e-6)


def test_another_seed_is_another_rounding():
    numbers = torch.randn(100, dtype=torch.float64)

    def run(seed):
        with Rounded(seed):
            return numbers.exp()

    assert torch.equal(run(2), run(2)) and not torch.equal(run(2), run(3))
