"""Functions that hold more than the attention: what surrounds it is computed once, by PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from flashlight.diagnostics import Diagnostic

pytestmark = pytest.mark.interpret
Write = Callable[..., str]


def around(text: str) -> list[str]:
    """The statements of the launchers that compute tensors before and after the kernel."""
    marks = (" @ ", "linear(", "torch.einsum", ".sum(", ".amax(", ".mean(", "torch.rsqrt")
    parts = [part for part in text.split("\n\n\n") if part.startswith("def ") and not part.startswith("def launch(")]
    launchers = [part for part in parts if " launch(\n" in part]
    lines = [line.strip() for part in launchers for line in part.splitlines()]
    return [line for line in lines if " = " in line and any(mark in line for mark in marks)]


def test_projections_of_queries_keys_and_values(verified: Write) -> None:
    text = verified("""
        def attend(
            x: Tensor,  # [B, S, E]
            memory: Tensor,  # [B, T, E]
            w_q: Tensor,  # [H, E, D]
            w_k: Tensor,  # [H, E, D]
            w_v: Tensor,  # [H, E, D]
            w_o: Tensor,  # [H, D, F]
        ) -> Tensor:
            q = torch.einsum("bse,hed->bhsd", x, w_q)
            k = torch.einsum("bse,hed->bhsd", memory, w_k)
            v = torch.einsum("bse,hed->bhsd", memory, w_v)
            o = F.scaled_dot_product_attention(q, k, v)
            return torch.einsum("bhsd,hdf->bsf", o, w_o)
    """)
    assert around(text) == [
        'q = torch.einsum("bse,hed->bshd", x, w_q)',
        'k = torch.einsum("bte,hed->bthd", memory, w_k)',
        'v = torch.einsum("bte,hed->bthd", memory, w_v)',
        "output = o @ w_o",
    ]


def test_one_product_serves_its_slices(verified: Write) -> None:
    text = verified("""
        def attend(
            x: Tensor,  # [B, S, E]
            w_qkv: Tensor,  # [E, 3 * E]
            b_qkv: Tensor,  # [3 * E]
            heads: int,
        ) -> Tensor:
            B, S, E = x.shape
            qkv = x @ w_qkv + b_qkv
            q, k, v = qkv.view(B, S, 3, heads, E // heads).permute(2, 0, 3, 1, 4)
            scores = q @ k.mT * (E // heads) ** -0.5
            return (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, S, E)
    """)
    product = "torch.nn.functional.linear(x, w_qkv.T, b_qkv)"
    assert around(text) == [f"qkv = {product}.unflatten(2, (heads * 3, E // heads))"]


def test_norms_before_products_and_gates_after_them(verified: Write) -> None:
    """The norm joins the product; the gate on the kernel's output stays in the kernel, whose factor it is."""
    text = verified("""
        def attend(
            x: Tensor,  # [B, S, E]
            scale: Tensor,  # [E]
            w_q: Tensor,  # [E, D]
            w_kv: Tensor,  # [E, 2 * D]
            w_g: Tensor,  # [E, D]
            w_o: Tensor,  # [D, E]
        ) -> Tensor:
            h = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).to(x.dtype) * scale
            q = F.normalize(h @ w_q, dim=-1)
            k, v = (h @ w_kv).chunk(2, dim=-1)
            gate = torch.sigmoid(h @ w_g)
            o = (q @ F.normalize(k, dim=-1).mT * 10).softmax(-1) @ v
            return x + (o * gate) @ w_o
    """)
    assert [line for line in around(text) if " @ " in line] == [
        "q = h @ w_q",
        "h_w_kv = (h @ w_kv).unflatten(2, (2, D))",
        "h_w_g = h @ w_g",
        "output = x + attention @ w_o",
    ]
    assert "    keys = (\n        h_w_kv[:, :, 0].float()" in text  # normalised for all rows at once


def test_low_rank_factors(verified: Write) -> None:
    """Tensor product attention (Zhang et al. 2025): queries, keys and values are sums over ranks."""
    text = verified("""
        def attend(
            a_q: Tensor,  # [B, S, H, R]
            b_q: Tensor,  # [B, S, R, D]
            a_k: Tensor,  # [B, S, H, Q]
            b_k: Tensor,  # [B, S, Q, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            q = torch.einsum("bshr,bsrd->bhsd", a_q, b_q) * 0.25
            k = torch.einsum("bshr,bsrd->bhsd", a_k, b_k) * 0.25
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    """)
    assert len(around(text)) == 2


def test_reductions_along_the_keys_alone(verified: Write) -> None:
    """What holds for all rows is computed once: LASER's greatest value of each feature, a mean of the keys."""
    text = verified("""
        def laser(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            vmax = v.amax(dim=2, keepdim=True)
            return torch.log((q @ k.mT).softmax(-1) @ torch.exp(v - vmax)) + vmax

        def centred(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            return (q @ (k - k.mean(2, keepdim=True)).mT).softmax(-1) @ v

        def over_queries(
            a: Tensor,  # [B, N, D]
            b: Tensor,  # [B, M, D]
        ) -> Tensor:
            return (a.softmax(1) @ b.mT).softmax(-1) @ b
    """)
    assert {"vmax = v.amax(2)", "k_sum = k.sum(2)", "a_max = a.amax(1)"} <= set(around(text))


def test_biases_of_values_are_no_rows(verified: Write) -> None:
    verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            bias: Tensor,  # [H, D]
        ) -> Tensor:
            return torch.sigmoid(q @ k.mT) @ (v + bias[:, None])
    """)


def test_positions_that_more_than_the_keys_lack(verified: Write) -> None:
    """Rotary embedding in [B, S, H, D]: cosines have neither heads nor queries; the queries are the rows."""
    text = verified("""
        def attend(
            q: Tensor,  # [B, S, H, D]
            k: Tensor,  # [B, T, H, D]
            v: Tensor,  # [B, T, H, D]
            cos: Tensor,  # [T, D]
        ) -> Tensor:
            scores = torch.einsum("bshd,bthd->bhst", q, k * cos[:, None])
            return torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v)
    """)
    assert "-(-S // block_rows) * B * H" in text


def test_transformer_blocks(verified: Write) -> None:
    """What is computed at several places (a residual that is added and normalised) is one step with the user's name."""
    text = verified("""
        def attend(
            x: Tensor,  # [B, S, E]
            w_qkv: Tensor,  # [E, 3 * E]
            w_o: Tensor,  # [E, E]
            w_up: Tensor,  # [E, M]
            w_down: Tensor,  # [M, E]
            heads: int,
        ) -> Tensor:
            B, S, E = x.shape
            h = F.layer_norm(x, (E,))
            q, k, v = (t.view(B, S, heads, -1).transpose(1, 2) for t in (h @ w_qkv).chunk(3, dim=-1))
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + o.transpose(1, 2).reshape(B, S, E) @ w_o
            h = F.layer_norm(x, (E,))
            return x + F.relu(h @ w_up) @ w_down
    """)
    assert [line for line in around(text) if " @ " in line] == [
        "h_w_qkv = (h @ w_qkv).unflatten(2, (heads * 3, E // heads))",
        "x_2 = x + o @ w_o",
        "h_2_w_up = (h_2 @ w_up).clamp(min=0.0)",
        "output = x_2 + h_2_w_up @ w_down",
    ]


def test_norms_beside_products_round_once(verified: Write) -> None:
    """What a norm is made of is no tensor of PyTorch's: a mean in bfloat16 would move all that it is taken from."""
    text = verified("""
        def before(
            x: Tensor,  # [B, S, E]
            w: Tensor,  # [E, 3 * E]
            w_o: Tensor,  # [E, E]
            H: int,
        ) -> Tensor:
            h = F.layer_norm(x, (x.shape[2],))
            q, k, v = (t.unflatten(2, (H, -1)).transpose(1, 2) for t in (h @ w).chunk(3, -1))
            return h + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ w_o

        def behind(
            x: Tensor,  # [B, S, E]
            w: Tensor,  # [E, 3 * E]
            w_o: Tensor,  # [E, E]
            w_up: Tensor,  # [E, M]
            H: int,
        ) -> Tensor:
            q, k, v = (t.unflatten(2, (H, -1)).transpose(1, 2) for t in (x @ w).chunk(3, -1))
            x = x + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2) @ w_o
            x = F.layer_norm(x, (x.shape[2],))
            return x + torch.relu(x @ w_up) @ w_up.T
    """)
    steps = around(text)
    means = [step for step in steps if ".mean(" in step]
    assert len(means) > 2 and not [step for step in means if re.search(r"\.mean\([-\w, =]+\)\.to\(", step)]
    assert [step for step in steps if "@ w_o" in step] == ["x_2 = x + attention @ w_o"]


def test_an_einsum_of_three_operands(verified: Write) -> None:
    """Contracted from the left, as PyTorch does: the last weight is multiplied after the kernel."""
    text = verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            w_o: Tensor,  # [H, D, E]
        ) -> Tensor:
            return torch.einsum("bhij,bhjd,hde->bie", (q @ k.mT).softmax(-1), v, w_o)
    """)
    assert around(text) == ["output = attention @ w_o"]


def test_rotated_keys_and_a_number_of_heads(verified: Write) -> None:
    """Halves are joined, not looked up by position; E // heads features are the D of the angles."""
    text = verified("""
        def attend(
            x: Tensor,  # [B, S, E]
            w_k: Tensor,  # [E, E]
            cos: Tensor,  # [S, D]
            sin: Tensor,  # [S, D]
            heads: int,
        ) -> Tensor:
            B, S, E = x.shape
            k = (x @ w_k).view(B, S, heads, E // heads).transpose(1, 2)
            low, high = k.chunk(2, dim=-1)
            k = k * cos + torch.cat((-high, low), dim=-1) * sin
            q = x.view(B, S, heads, E // heads).transpose(1, 2)
            return F.scaled_dot_product_attention(q, k, q)
    """)
    half = "D // 2"
    assert f"torch.cat((-k[:, :, :, {half} :], k[:, :, :, : {half}]), -1)" in text
    assert "B, S, _ = x.shape" in text and "floor_divide_signed" not in text


def test_integers_that_shapes_name(verified: Write) -> None:
    text = verified("""
        def attend(
            x: Tensor,  # [B, S, H * D]
            w_o: Tensor,  # [H * D, E]
            H: int,
        ) -> Tensor:
            q = x.view(x.shape[0], x.shape[1], H, -1).transpose(1, 2)
            y = F.scaled_dot_product_attention(q, q, q)
            return y.transpose(1, 2).flatten(2) @ w_o
    """)
    assert 'H = integer("H", H)' in text
    assert "D = x.shape[2] // H" in text


@pytest.mark.parametrize(
    "body",
    [
        "p = (q @ k.mT).softmax(-1); return p @ (p @ v)",
        "a, b = q @ k.mT, q @ v.mT; return (a.softmax(-1) @ k) * (b.exp().sum(-1, keepdim=True)) + b.softmax(-1) @ v",
        "return (q @ agents.mT).softmax(-1) @ ((agents @ k.mT).softmax(-1) @ k)",
    ],
)
def test_no_attention_is_left_to_pytorch(body: str, kernels: Write) -> None:
    """Of several attentions one would be a matrix of all pairs."""
    with pytest.raises(Diagnostic, match="two loops"):
        kernels(f"""
            def attend(
                q: Tensor,  # [B, H, S, D]
                k: Tensor,  # [B, H, S, D]
                v: Tensor,  # [B, H, T, D]
                agents: Tensor,  # [H, 16, D]
            ) -> Tensor:
                {body}
        """.replace("p @ v", "p @ k"))
