"""The small parts that texts are made of: names, pieces of Triton, numbers on the host, the table of tiles."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable

import pytest

from flashlight.emit import tuning
from flashlight.emit.code import ELEMENT, FLOAT32, Block, Code
from flashlight.emit.host import python
from flashlight.emit.names import RESERVED, Names, described, dimension_labels, grid_names, of_number
from flashlight.emit.operators import ATOM
from flashlight.ir import build
from flashlight.ir.expr import FLOAT, INT, Axis, Iota, Load, Reduce, Scalar, Tensor
from flashlight.ir.program import Name

B, H, D = (Scalar(name, INT, positive=True) for name in "BHD")
ROW, KEY = Axis("i", B), Axis("j", H)


def test_names_are_identifiers_given_out_once() -> None:
    names = Names({})
    assert [names.fresh("scores"), names.fresh("scores"), names.fresh("scores")] == ["scores", "scores_2", "scores_3"]
    assert names.fresh("a.b c") == "a_b_c" and names.fresh("lambda") == "lambda_" and names.fresh("2d") == "v2d"
    assert names.fresh("tl") == "tl_2" and names.fresh("") == "value"
    assert {"rows", "keys", "part", "tl"} <= RESERVED


def test_what_the_header_numbers_has_that_number() -> None:
    """q = rotate(q): the header calls the tensor q and what is made of it q_2, and so does the code."""
    rotated = Name("q", 7)
    names = Names({rotated: "q_2"})
    assert [names.fresh("q"), names.fresh("q"), names.of(rotated), names.fresh("q")] == ["q", "q_3", "q_2", "q_4"]
    assert names.of(Name("scores", 8)) == "scores"


def test_grid_positions_are_words_that_nothing_else_has() -> None:
    heads = Axis("heads", Scalar("heads", INT, positive=True))
    windows, other = Axis("h", H), Axis("h_2", H)
    names = Names({})
    assert list(grid_names((Axis("b", B), windows), names).values()) == ["batch", "head"]
    assert names.fresh("head") == "head_2"
    assert grid_names((windows, other), Names({}))[other] == "h_2_index"
    taken = Names({})
    taken.taken |= {"heads", "head", "h_index"}
    assert grid_names((heads,), taken)[heads] == "heads_index"
    assert grid_names((windows,), taken)[windows] == "h_index_"


def test_strides_are_labelled_by_dimension_where_that_is_clear() -> None:
    assert dimension_labels(Tensor("q", (B, H, D), FLOAT)) == ("b", "h", "d")
    assert dimension_labels(Tensor("w", (B, H, H), FLOAT)) == ("b", "1", "2")


def test_values_without_a_name_say_how_they_came_about() -> None:
    sinks, keys = Tensor("sinks", (H,), FLOAT), Tensor("keys", (H,), FLOAT)
    sink, key = Load(sinks, (Iota(ROW),)), Load(keys, (Iota(KEY),))
    highest = Reduce("max", key, KEY)
    two = build.const(2.0, FLOAT)
    assert described(build.op("mul", sink, two), KEY) == "sinks_scaled"
    assert described(build.op("div", build.const(1.0, FLOAT), Reduce("sum", key, KEY)), KEY) == "inverse_sum"
    assert described(build.op("mul", highest, two), KEY) == "scaled_max"
    assert described(build.op("maximum", highest, sink), KEY) == "highest"
    assert described(build.op("maximum", key, build.const(0.0, FLOAT)), KEY) == "keys_clamped"
    assert described(build.op("mul", sink, key), KEY) == "product"


def test_numbers_are_called_after_the_parameter_they_are_a_multiple_of() -> None:
    cap, softmax_scale = Scalar("cap", FLOAT), Scalar("softmax_scale", FLOAT)
    one = build.const(1.5, FLOAT)
    assert of_number(build.op("mul", cap, one)) == "scaled_cap"
    assert of_number(build.op("sub", one, cap)) == "scale"
    assert of_number(build.op("mul", softmax_scale, one)) == "scale"


def test_code_is_parenthesised_broadcast_and_widened() -> None:
    total = Code("a + b", 7, (ROW,), FLOAT32)
    assert total.within(7) == "a + b" and total.within(8) == "(a + b)"
    assert total.along((ROW,)) == "a + b" and total.along((ROW, KEY)) == "(a + b)[:, None]"
    assert Code("x", ATOM, (), FLOAT32).along((ROW, KEY)) == "x"
    raw = Code("q", ATOM, (KEY,), ELEMENT)
    assert raw.widened().text == "q.to(tl.float32)" and raw.widened().widened().text == "q.to(tl.float32)"


def test_blocks_nest() -> None:
    block = Block()
    block.add("for key_start in keys:")
    inner = block.nested()
    inner.comment("a step")
    inner.add()
    block.close(inner)
    assert block.lines == ["    for key_start in keys:", "        # a step", ""]


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (build.op("pow", build.cast(D, FLOAT), build.const(-0.5, FLOAT)), 1 / 8),
        (build.op("div", build.const(1.0, FLOAT), build.op("sqrt", build.cast(D, FLOAT))), 1 / 8),
        (build.op("sub", H, build.op("sub", B, D)), 4 - (2 - 64)),
        (build.op("floordiv", D, build.op("mul", B, H)), 8),
        (build.op("neg", build.const(math.inf, FLOAT)), -math.inf),
        (build.where(build.op("lt", B, H), build.const(1.0, FLOAT), build.const(2.0, FLOAT)), 1.0),
        (build.op("not", build.op("and", build.op("lt", B, H), build.op("eq", H, D))), True),
        (build.op("maximum", B, build.op("mod", D, build.integer(5))), 4),
    ],
)
def test_numbers_on_the_host_are_what_they_say(expr: object, expected: float) -> None:
    text = python(expr)  # type: ignore[arg-type]
    assert eval(text, {"math": math}, {"B": 2, "H": 4, "D": 64}) == pytest.approx(expected)


def test_the_table_of_tiles_is_python_and_sorted() -> None:
    assert ast.literal_eval(tuning.table({}).split("TILES = ")[1]) == {}
    entries = {("f", "sm_90", 128, 2, 4096): (64, 32, 4, 2, True), ("f", "sm_90", 64, 2, 4096): (64, 64, 4, 1, True)}
    text = tuning.table(entries)
    assert ast.literal_eval(text.split("TILES = ")[1]) == entries
    assert text.index("64, 2, 4096)") < text.index("128, 2, 4096)")


CROSS = """
    def attend(
        q: Tensor,  # [B, H, S_q, D]
        k: Tensor,  # [B, H, S_k, D]
        v: Tensor,  # [B, H, S_k, 2 * D]
        window: int,
    ) -> Tensor:
        near = (torch.arange(S(q))[:, None] - torch.arange(S(k))[None, :]).abs() <= window
        return (q @ k.mT).masked_fill(~near, float("-inf")).softmax(-1) @ v

    def S(tensor):
        return tensor.size(-2)
"""


def test_no_size_is_specialised_when_it_happens_to_be_one(kernels: Callable[[str], str]) -> None:
    """Triton compiles anew for integers that are 1 or multiples of 16, unless it is told not to."""
    text = kernels(CROSS.replace("S(", "_S("))
    (free,) = re.findall(r"@triton\.jit\(do_not_specialize=(\[.*?\])\)\ndef attend_kernel", text)
    assert set(ast.literal_eval(free)) == {"S_q", "S_k", "H", "window"}


def test_axes_of_one_name_and_different_extents_are_two_variables(kernels: Callable[[str], str]) -> None:
    """D and 2 * D both give axes called d."""
    text = kernels(CROSS.replace("S(", "_S("))
    widths = re.findall(r"^    (\w+) = tl\.arange\(0, (BLOCK_\w+)\)\.to\(tl\.int64\)$", text, re.M)
    resident = [(name, width) for name, width in widths if width not in ("BLOCK_ROWS", "BLOCK_KEYS")]
    assert len({name for name, _ in resident}) == len({width for _, width in resident}) == len(resident) == 2


def test_a_kernel_is_compiled_for_whole_blocks_where_only_the_end_of_the_keys_cuts_one(
    kernels: Callable[[str], str],
) -> None:
    masked = CROSS.replace("S(", "_S(")
    assert "WHOLE" not in kernels(masked)
    text = kernels(masked.replace('.masked_fill(~near, float("-inf"))', ""))
    assert "tl.static_range(1 if WHOLE else 2)" in text and "WHOLE=S_k % block_keys == 0," in text


HEADERS = """
import torch
from torch import Tensor


def with_sinks(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    sinks: Tensor,  # [H]
) -> Tensor:
    q = q * 2.0
    scores = (q @ k.mT).tril()
    sinks = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[2], -1)
    combined = torch.cat([scores, sinks], dim=-1)
    combined = combined - combined.max(-1, keepdim=True).values
    return combined.softmax(-1)[..., :-1] @ v
"""


def test_headers_name_the_axes_by_their_roles_and_no_equation_twice(kernels: Callable[[str], str]) -> None:
    header = kernels(HEADERS).split('"""with_sinks:')[1].split('"""')[0]
    equations = [line.strip().split(" = ", 1) for line in header.splitlines() if " = " in line]
    assert len({right for _, right in equations}) == len(equations), header
    assert "combined[b, h, i, j]" in header and "s_2" not in header
    assert all(left.split("[")[0] not in ("q", "sinks") for left, _ in equations), "an input is not defined again"


def test_what_two_expressions_make_of_a_new_maximum_is_computed_once(kernels: Callable[[str], str]) -> None:
    step = kernels(HEADERS).split("for key_start in")[1].split("accumulator = ")[0]
    assert len(re.findall(r"nan_max\(finite_max", step)) == 1, step


def test_what_no_line_reads_is_not_written(kernels: Callable[[str], str]) -> None:
    text = kernels(HEADERS)
    for name in re.findall(r"^ +(\w+) = ", text.split("def with_sinks(")[0], re.M):
        assert len(re.findall(rf"\b{name}\b", text)) > 1, name


def test_a_product_that_is_added_to_another_starts_from_it(kernels: Callable[[str], str]) -> None:
    text = kernels("""
        def two_parts(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            q_rope: Tensor,  # [B, H, S, R]
            k_rope: Tensor,  # [B, S, R]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            scores = q @ k.mT + q_rope @ k_rope[:, None].mT
            return (scores / math.sqrt(q.size(-1) + q_rope.size(-1))).softmax(-1) @ v
    """)
    step = re.sub(r"\s+", "", text.split("for key_start in")[1].split("new_max")[0])
    assert "tl.dot(q_rope,tl.trans(k_rope),tl.dot(q,tl.trans(k),input_precision=PRECISION)," in step, step
