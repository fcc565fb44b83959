"""What the programs look like: shared axes, names, sizes, assumptions, parameters, results."""

from __future__ import annotations

from collections.abc import Callable

from flashlight.ir.expr import ELEMENT, FLOAT, INT, Const, Reduce, Scalar, walk
from flashlight.ir.program import Name
from flashlight.source import Source
from flashlight.trace import Traced, trace

Write = Callable[[str], Source]


def traced(source: Source, name: str = "f", **shapes: tuple[str, ...]) -> Traced:
    return trace(source, source.target(name), shapes)


def test_softmax_and_the_product_with_the_values_share_one_axis(program: Write) -> None:
    source = program("""
def f(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
):
    return torch.softmax(q @ k.mT, -1) @ v
""")
    result = traced(source).program
    output = result.outputs[0]
    over_keys = [node for node in walk(output.expr) if isinstance(node, Reduce) and node.axis.name != "d"]
    assert [node.op for node in over_keys] == ["max", "sum", "sum"]
    assert len({node.axis for node in over_keys}) == 1
    (keys,) = {node.axis for node in over_keys}
    queries = output.axes[2]
    assert keys is not queries and keys.extent is queries.extent is Scalar("S", INT, positive=True)


def test_weights_returned_as_a_second_output_share_the_axis_too(program: Write) -> None:
    source = program("""
def f(q, k, v):
    weights = torch.softmax(q @ k.mT, -1)
    return weights @ v, None, weights
""")
    result = traced(source)
    first, second = result.program.outputs
    assert [returned.name for returned in result.returns] == ["output", None, "weights"] and not result.single
    (keys,) = {node.axis for node in walk(first.expr) if isinstance(node, Reduce) and node.op == "max"}
    assert second.axes[3] is keys


def test_names_and_lines_are_the_users(program: Write) -> None:
    source = program("""
def scaled(x, factor):
    x = x * 2
    return x * factor

def f(q, k, v, scale: float):
    scores = (
        q @ k.transpose(-2, -1)
        * scale
    )
    scores += 1.0
    capped = scaled(scores, 3.0)
    return capped.softmax(-1) @ v
""")
    names = set(traced(source).program.names.values())
    assert {name.name for name in names} == {"scores", "x", "capped"}
    assert {name.line for name in names if name.name == "scores"} == {11, 15}
    assert Name("capped", 16) in names and Name("x", 7) in names


def test_conventional_sizes_stay_apart_until_the_program_ties_them(program: Write) -> None:
    source = program("""
def apart(q, k, v):
    return (q @ k.mT).softmax(-1) @ v

def together(q, k, v):
    return (q @ k.mT).masked_fill(torch.ones(q.shape[2], q.shape[2]).triu(1).bool(), -1e9).softmax(-1) @ v

def grouped(q, k, v):
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return (q @ k.mT).softmax(-1) @ v

def compared(q, k, v):
    if q.shape != k.shape:
        raise ValueError("shapes")
    return (q @ k.mT).softmax(-1) @ v
""")

    def sizes(name: str) -> list[str]:
        return [str(size) for size in traced(source, name).program.inputs[1].shape]

    assert sizes("apart") == ["B", "H", "S_kv", "D"]
    assert sizes("together") == ["B", "H", "S", "D"]
    assert sizes("grouped") == ["B", "H_kv", "S_kv", "D"]
    assert sizes("compared") == ["B", "H", "S", "D"]
    assert [str(condition) for condition in traced(source, "grouped").program.assumptions] == ["H % H_kv == 0"]


def test_only_decisions_of_the_users_own_code_are_assumed(program: Write) -> None:
    source = program("""
def f(q, k, v, window: int):
    S = q.shape[2]
    s = q @ k.mT
    if S > 128 and window >= 0:
        s = s[:, :, :, :] * 2
    return s.softmax(-1) @ v
""")
    assert [str(condition) for condition in traced(source).program.assumptions] == ["S > 128", "window >= 0"]


def test_parameters(program: Write) -> None:
    source = program("""
def f(
    q, k, v,
    mask: Tensor | None = None,  # [B, 1, S, S_kv] bool
    bias: list[Tensor] = [],  # [[H, S, S_kv], [B, 1, 1, S_kv] float32]
    scale: float | None = None,
    cap: float = 30.0,
    window: int = 5,
    causal: bool = True,
    mode: str = "a",
    *args,
    dropout: Tensor | None = None,
    **kwargs,
):
    s = q @ k.mT * (scale if scale is not None else q.shape[-1] ** -0.5)
    s = cap * torch.tanh(s / cap)
    for b in bias:
        s = s + b
    s = s.masked_fill(~mask, -math.inf)
    return s.softmax(-1).to(v.dtype) @ v
""")
    result = traced(source)
    shown = {}
    for parameter in result.parameters:
        typed = parameter.tensor or parameter.scalar
        kind = parameter.value if typed is None else typed.dtype
        shown[parameter.name if parameter.item is None else f"{parameter.name}[{parameter.item}]"] = kind
    assert shown == {
        "q": ELEMENT, "k": ELEMENT, "v": ELEMENT, "mask": "bool", "bias[0]": ELEMENT, "bias[1]": "float32",
        "scale": "None", "cap": FLOAT, "window": INT, "causal": "True", "mode": '"a"', "dropout": "None",
    }  # fmt: skip
    assert {parameter.name for parameter in result.parameters if parameter.broadcast} == {"mask", "bias"}


def test_a_number_that_must_be_known_takes_its_default(program: Write) -> None:
    source = program("""
def f(q, k, v, rounds: int = 2):
    return sum((q @ k.mT * (i + 1)).softmax(-1) for i in range(rounds)) @ v
""")
    assert traced(source).parameters[3].value == "2"


def test_shapes_can_be_given_from_outside(program: Write) -> None:
    source = program("\ndef f(a, b):\n    return (a @ a.mT).softmax(-1) @ b\n")
    shapes = {"a": ("B", "S", "D"), "b": ("B", "S", "D_v")}
    assert [str(size) for size in traced(source, **shapes).program.inputs[1].shape] == ["B", "S", "D_v"]


def test_merged_heads_are_axes_of_their_own(program: Write) -> None:
    source = program("""
def f(q, k, v):
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).flatten(2)
""")
    result = traced(source)
    assert [axis.name for axis in result.program.outputs[0].axes] == ["b", "s", "h", "d_v"]
    assert [str(size) for size in result.returns[0].shape] == ["B", "S", "D_v * H"]


def test_the_element_dtype_is_generic(program: Write) -> None:
    source = program("""
def f(q, k, v):
    s = (q @ k.mT).masked_fill(torch.ones(2, dtype=torch.bool)[0], torch.finfo(q.dtype).min)
    return s.softmax(-1, dtype=torch.float32).type_as(v) @ v
""")
    result = traced(source).program
    assert result.outputs[0].dtype == ELEMENT
    assert Scalar("finfo_min", FLOAT) in set(walk(result.outputs[0].expr))
    assert "float32(" in str(result) and "element(" in str(result)


def test_short_cuts_that_change_nothing_are_not_assumed(program: Write) -> None:
    source = program("""
def repeat_kv(x, n_rep):
    b, h, s, d = x.shape
    if n_rep == 1:
        return x
    return x[:, :, None].expand(b, h, n_rep, s, d).reshape(b, h * n_rep, s, d)

def by_sizes(q, k, v):
    n_rep = q.shape[1] // k.shape[1]
    return (q @ repeat_kv(k, n_rep).mT).softmax(-1) @ repeat_kv(v, n_rep)

def by_argument(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H_kv, S_k, D]
    v: Tensor,  # [B, H_kv, S_k, D]
    n_rep: int,
):
    return (q @ repeat_kv(k, n_rep).mT).softmax(-1) @ repeat_kv(v, n_rep)

def another_program(q, k, v, n: int):
    scores = q @ k.mT
    if n != 3:
        scores = scores * 2
    return scores.softmax(-1) @ v
""")

    def assumptions(name: str) -> list[str]:
        return [str(condition) for condition in traced(source, name).program.assumptions]

    assert assumptions("by_sizes") == ["H % H_kv == 0"]
    assert assumptions("by_argument") == ["H == H_kv * n_rep"]
    assert assumptions("another_program") == ["n != 3"]


def test_a_tensor_that_alone_makes_the_rows_is_not_merely_broadcast(program: Write) -> None:
    source = program("""
def f(
    row: Tensor,  # [B, S]
    key: Tensor,  # [B, S]
    bias: Tensor,  # [S, S]
    v: Tensor,  # [B, S, D]
):
    return (row[:, :, None] + key[:, None, :] + bias).relu().softmax(-1) @ v


def g(
    row: Tensor,  # [B, S]
    q: Tensor,  # [B, S, D]
    k: Tensor,  # [B, S, D]
    v: Tensor,  # [B, S, D]
):
    return (q @ k.mT + row[:, :, None]).softmax(-1) @ v
""")
    smaller = [[p.name for p in traced(source, name).parameters if p.broadcast] for name in "fg"]
    assert smaller == [[], ["row"]]


def test_numbers_in_the_dtype_of_the_arguments_are_not_rounded(program: Write) -> None:
    """They are rounded when the kernel is launched, to a dtype that is not known yet."""
    made = ("torch.tensor(0.1, dtype=q.dtype)", "torch.tensor(0.1).double().to(q.dtype)", "q.new_tensor(0.1)")
    made += ("torch.as_tensor(0.1, dtype=q.dtype)", "torch.tensor(data=0.1, dtype=q.dtype)", "0.1 * torch.as_tensor(q)")
    made += ("torch.tensor([0.1], dtype=q.dtype)", "torch.full((), 0.1, dtype=q.dtype)", "(q.new_tensor([0.05]) * 2)")
    for number in made:
        source = program(f"\ndef f(q, k, v):\n    return (q @ k.mT * {number}).softmax(-1) @ v\n")
        nodes = walk(*(output.expr for output in traced(source).program.outputs))
        constants = {node.value for node in nodes if isinstance(node, Const) and node.dtype != INT}
        assert any(abs(value - 0.1) < 1e-8 for value in constants), (number, constants)


def test_rows_and_features_of_one_constant_size(program: Write) -> None:
    """Scores are the same value under the maximum and under the sums, though keys and features are 64 each."""
    source = program("""
def f(
    q: Tensor,  # [8, 64, 64]
    k: Tensor,  # [8, 64, 64]
    v: Tensor,  # [8, 64, 64]
):
    return torch.softmax(q @ k.mT, -1) @ v
""")
    output = traced(source).program.outputs[0]
    reductions = [node for node in walk(output.expr) if isinstance(node, Reduce)]
    assert [node.op for node in reductions] == ["sum", "max", "sum", "sum"]
    over_features, *over_keys = reductions
    assert len({node.axis for node in over_keys}) == 1 and over_features.axis is not over_keys[0].axis


def test_what_two_tensors_make_up_together_is_as_large_as_either(program: Write) -> None:
    """Sums along an axis count its positions, of which there would be one if both had the size 1 there."""
    source = program("""
def together(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    g: Tensor,  # [B, H, S]
    pad: Tensor,  # [B, S] bool
):
    gates = (-F.softplus(g)).masked_fill(pad[:, None], 0).cumsum(-1)
    return (q @ k.mT + gates[:, :, None]).softmax(-1) @ v


def in_place(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    g: Tensor,  # [B, H, S]
    pad: Tensor,  # [B, S] bool
):
    gates = -F.softplus(g)
    gates.masked_fill_(pad[:, None], 0)
    return (q @ k.mT + gates.cumsum(-1)[:, :, None]).softmax(-1) @ v


def beside_another(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    g: Tensor,  # [D]
    pad: Tensor,  # [B, S] bool
):
    return (q @ (k * g).mT).masked_fill(pad[:, None, None], -torch.inf).softmax(-1) @ v


def covered_along_the_sum(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    g: Tensor,  # [B, H, S]
    w: Tensor,  # [S]
):
    gates = (g * w).sum(1, keepdim=True) + w.cumsum(-1)
    return (q @ k.mT + gates[:, :, None]).softmax(-1) @ v


def attended(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]
    g: Tensor,  # [B, H, S, S]
    pad: Tensor,  # [B, S] bool
):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=g.masked_fill(pad[:, None, None], -torch.inf))
""")

    def smaller(name: str) -> list[str]:
        return [parameter.name for parameter in traced(source, name).parameters if parameter.broadcast]

    assert smaller("together") == ["pad"]
    assert "g" not in smaller("in_place")
    assert smaller("beside_another") == ["g", "pad"]
    assert "g" not in smaller("covered_along_the_sum")
    assert smaller("attended") == ["g", "pad"]
