"""The law of blocks: either a view with a dimension for them reads the same, or there is no view."""

from __future__ import annotations

from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st

from flashlight.ir import build, integers
from flashlight.ir.expr import FLOAT, Axis, Expr, Iota, Load, Scalar, Tensor
from flashlight.ir.program import Output, Program
from rewriters.unflatten import unflatten
from tests.rewriters.conftest import values

COUNT, WIDTH = 3, 4
H, D = Axis("h", build.integer(COUNT)), Axis("d", build.integer(WIDTH))
SIDE = Tensor("side", (build.integer(COUNT * WIDTH),), FLOAT)


def rotated(limit: int, near: int, far: int, plain: bool) -> Program:
    """where(d < limit, t[h * D + d + near], t[h * D + d + far]), perhaps times t[h * D + d]."""

    def at(shift: int) -> Expr:
        block = integers.mul(Iota(H), build.integer(WIDTH))
        return Load(SIDE, (integers.add(integers.add(block, Iota(D)), build.integer(shift)),))

    value = build.where(build.op("lt", Iota(D), build.integer(limit)), at(near), at(far))
    value = build.op("mul", value, at(0)) if plain else value
    return Program("law", (SIDE,), (Output("output", (H, D), value, FLOAT),))


def read(limit: int, near: int, far: int) -> list[int]:
    """Where that program reads."""
    return [h * WIDTH + d + (near if d < limit else far) for h in range(COUNT) for d in range(WIDTH)]


# what is beside the tensor is nobody's
WITHIN = [
    places
    for places in product(range(WIDTH + 1), range(-WIDTH, 2 * WIDTH + 1), range(-WIDTH, WIDTH + 1))
    if all(0 <= index < COUNT * WIDTH for index in read(*places))
]


@given(st.sampled_from(WITHIN), st.booleans(), st.integers(0, 99))
@example((2, 2, -2), True, 0)
def test_a_view_reads_the_same(places: tuple[int, int, int], plain: bool, seed: int) -> None:
    limit, near, far = places
    before = rotated(limit, near, far, plain)
    after = unflatten(before, {SIDE})
    if after is before:
        return
    viewed = Program("law", after.inputs, after.outputs)
    assert [size.value for size in viewed.inputs[0].shape] == [COUNT, WIDTH]  # type: ignore[attr-defined]
    assert (values(viewed, seed) == values(before, seed)).all()


def test_the_halves_of_a_rotation_are_found() -> None:
    assert unflatten(rotated(2, 2, -2, True), {SIDE}).inputs[0].shape == (build.integer(COUNT), build.integer(WIDTH))


def test_a_neighbour_in_another_block_is_left_alone() -> None:
    before = rotated(WIDTH, 1, 0, True)
    assert unflatten(before, {SIDE}) is before


def test_a_size_that_divides_by_assumption() -> None:
    """E features of n heads: blocks of E // n, two for each head."""
    whole, heads = Scalar("E", "int64", positive=True), Scalar("n", "int64", positive=True)
    with integers.assuming([build.op("eq", build.op("mod", whole, heads), build.integer(0))]):
        width = integers.floordiv(whole, heads)
        head, feature = Axis("h", heads), Axis("d", width)
        side = Tensor("side", (integers.mul(whole, build.integer(2)),), FLOAT)
        index = integers.add(integers.add(integers.mul(Iota(head), width), Iota(feature)), whole)
        before = Program("law", (side,), (Output("output", (head, feature), Load(side, (index,)), FLOAT),))
        (view,) = unflatten(before, {side}).inputs
        assert view.shape == (integers.mul(heads, build.integer(2)), width)
