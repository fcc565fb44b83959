"""Programs of kinds that once went wrong between the schedule and the kernel."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flashlight.diagnostics import Diagnostic
from flashlight.verify.search import load

pytestmark = pytest.mark.interpret
Write = Callable[..., str]


def test_selections_between_numbers_and_between_values_of_a_row(verified: Write) -> None:
    """A tile of one number, and one of a number a row: Triton broadcasts neither by itself."""
    verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            seen = torch.tril(torch.ones(q.size(2), q.size(2), device=q.device))
            scores = q @ k.mT / math.sqrt(q.size(-1))
            return nn.Softmax(dim=-1)(scores * seen - 1e4 * (1 - seen)) @ v

        def rows(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            weight: Tensor,  # [H, S]
        ) -> Tensor:
            far = (torch.arange(q.size(2))[:, None] - torch.arange(q.size(2))) % 3 == 1
            return (q @ k.mT + torch.where(far, weight[:, :, None], 0.5)).softmax(-1) @ v
    """)


def test_a_size_that_stands_only_within_a_product_is_solved_for(verified: Write) -> None:
    verified("""
        def attend(
            qkv: Tensor,  # [B, S, 3 * E]
            heads: int,
        ) -> Tensor:
            q, k, v = qkv.chunk(3, dim=-1)
            b, s, e = q.shape
            q, k, v = (t.reshape(b, s, heads, e // heads).transpose(1, 2) for t in (q, k, v))
            return (q @ k.mT * (e // heads) ** -0.5).softmax(dim=-1).matmul(v).transpose(1, 2).reshape(b, s, e)
    """)


def test_sizes_that_do_not_follow_from_the_shapes_are_refused(kernels: Write) -> None:
    with pytest.raises(Diagnostic, match="does not follow from the tensors' shapes") as raised:
        kernels("""
            def attend(
                q: Tensor,  # [B, S, H * D]
                k: Tensor,  # [B, T, H * D]
                v: Tensor,  # [B, T, H * D]
                groups: Tensor,  # [B]
            ) -> Tensor:
                return (q @ k.mT).softmax(-1) @ v * groups[:, None, None]
        """)
    assert raised.value.code == "FL204"


@pytest.mark.parametrize("sizes", ["b, h, s, d", "batch, heads, seq, dim"])
def test_sizes_may_be_called_as_positions_are(sizes: str, verified: Write) -> None:
    verified(f"""
        def attend(
            q: Tensor,  # [{sizes}]
            k: Tensor,  # [{sizes}]
            v: Tensor,  # [{sizes}]
        ) -> Tensor:
            return (q @ k.mT * q.size(-1) ** -0.5).softmax(-1) @ v
    """)


def test_sizes_may_not_be_called_as_a_kernels_own_variables_are(kernels: Write) -> None:
    with pytest.raises(Diagnostic, match="`keys` is a name that kernels have") as raised:
        kernels("""
            def attend(
                q: Tensor,  # [B, H, S, D]
                k: Tensor,  # [B, H, keys, D]
                v: Tensor,  # [B, H, keys, D]
            ) -> Tensor:
                return (q @ k.mT).softmax(-1) @ v
        """)
    assert raised.value.code == "FL205"


@pytest.mark.parametrize(("length", "width"), [("WHOLE", "D"), ("BLOCK_KEYS", "D"), ("S", "KEYS"), ("S", "PRECISION")])
def test_nor_as_what_a_launcher_chooses(length: str, width: str, kernels: Write) -> None:
    """`BLOCK_KEYS` is the width of a head dimension `KEYS`, too."""
    with pytest.raises(Diagnostic, match="is a name that kernels have") as raised:
        kernels(f"""
            def attend(
                q: Tensor,  # [B, H, {length}, {width}]
                k: Tensor,  # [B, H, {length}, {width}]
                v: Tensor,  # [B, H, {length}, {width}]
            ) -> Tensor:
                return (q @ k.mT).softmax(-1) @ v
        """)
    assert raised.value.code == "FL205"


def test_a_length_may_be_called_keys(verified: Write) -> None:
    verified("""
        def attend(
            q: Tensor,  # [KEYS, H, S, D]
            k: Tensor,  # [KEYS, H, S, D]
            v: Tensor,  # [KEYS, H, S, D]
        ) -> Tensor:
            return (q @ k.mT).softmax(-1) @ v
    """)


def test_a_mask_whose_dimensions_are_counted_from_the_front_must_have_them_all(verified: Write) -> None:
    """mask[:, None] of a mask [S, T] is [S, 1, T], which broadcasts otherwise than a mask [B, S, T] would."""
    written = verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            keep: Tensor,  # [B, S, T] bool
            bias: Tensor,  # [H, S, T]
        ) -> Tensor:
            scores = q @ k.mT + bias[None]
            return scores.masked_fill(~keep[:, None], -65000.0).softmax(-1) @ v
    """)
    assert 'keep = spread("keep", keep, (B, S, T))' in written
    assert "bias = bias.expand(H, S, T)" in written


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_narrow_integers(dtype: str, verified: Write) -> None:
    verified(f"""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            mask: Tensor,  # [B, T] {dtype}
        ) -> Tensor:
            scores = q @ k.mT - 100.0 * (mask[:, None, None] * 100 // 100 != mask[:, None, None])
            return scores.masked_fill(mask[:, None, None] == 0, -1e9).softmax(-1) @ v
    """)


@pytest.mark.parametrize("slack", [" + 1e-6", "", ".clamp(min=1e-9)"])
def test_a_row_without_a_finite_score_is_nan_though_its_denominator_is_not_zero(slack: str, verified: Write) -> None:
    written = verified(
        f"""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            keep: Tensor,  # [S, T] bool
        ) -> Tensor:
            scores = (q @ k.mT).masked_fill(~keep, float("-inf"))
            weights = torch.exp(scores - scores.amax(-1, keepdim=True))
            return weights / (weights.sum(-1, keepdim=True){slack}) @ v
    """,
        examples=12,
    )
    # a plain softmax shows it by itself, as 0 / 0
    assert ('float("nan")' in written) == bool(slack)


def test_a_loop_within_a_few_unrolled_queries_is_a_second_loop(kernels: Write) -> None:
    """Agents that gather the values first: their sums over all keys would lie in the tile of another loop."""
    with pytest.raises(Diagnostic, match="two loops") as raised:
        kernels("""
            def attend(
                q: Tensor,  # [B, H, S, D]
                k: Tensor,  # [B, H, S, D]
                v: Tensor,  # [B, H, S, D]
                agents: Tensor,  # [H, 4, D]
            ) -> Tensor:
                gathered = (agents @ k.mT).softmax(-1) @ v
                return (q @ agents.mT).softmax(-1) @ gathered
        """)
    assert raised.value.code == "FL402"


@pytest.mark.parametrize("second", ["scores.softmax(1).mT @ a", "scores.softmax(-1).sum(1)"])
def test_two_loops_are_refused(second: str, kernels: Write) -> None:
    """One kernel would hold the other's axis in its tile at full length."""
    with pytest.raises(Diagnostic, match="two loops") as raised:
        kernels(f"""
            def attend(
                a: Tensor,  # [B, N, D]
                b: Tensor,  # [B, M, D]
            ) -> tuple[Tensor, Tensor]:
                scores = a @ b.mT
                return scores.softmax(-1) @ b, {second}
        """)
    assert raised.value.code == "FL402" and raised.value.line


@pytest.mark.parametrize("other", ["k", "F.normalize(k, dim=-1)", "torch.cat([k, v], -1)", "k.sum(-1)"])
def test_what_runs_along_the_keys_is_no_second_output(other: str, kernels: Write) -> None:
    """The grid would have an axis of keys, and the attention would be computed for each of them."""
    with pytest.raises(Diagnostic, match="which attention has no part in") as raised:
        kernels(f"""
            def attend(q, k, v):
                return (q @ k.mT).softmax(-1) @ v, {other}
        """)
    assert raised.value.code == "FL402" and "outside of this function" in (raised.value.hint or "")


def test_what_runs_along_the_queries_is_a_second_output(kernels: Write) -> None:
    kernels("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
        ):
            return (q @ k.mT).softmax(-1) @ v, q * 2, q.sum(-1), (q.sum(-1) > 0)[None]
    """)


@pytest.mark.parametrize("cut", ["w[..., 2:] @ v[:, :, 2:]", "w[..., :-1] @ v[:, :, :-1]"])
def test_weights_that_are_cut_are_refused_for_what_they_are(cut: str, kernels: Write) -> None:
    with pytest.raises(Diagnostic, match="along S_kv, then along only S_kv - . of the same") as raised:
        kernels(f"""
            def attend(q, k, v):
                w = (q @ k.mT).softmax(-1)
                return {cut}
        """)
    assert raised.value.code == "FL402" and "masked_fill" in (raised.value.hint or "")


@pytest.mark.parametrize(
    "weights",
    [
        "(scores - scores.max()).exp()",
        "(scores - scores.amax((-2, -1), keepdim=True)).exp()",
        "scores.softmax(1) * scores.softmax(2)",
        "scores.flatten(-2).softmax(-1).view_as(scores)",
    ],
)
def test_reductions_along_the_queries_are_refused(weights: str, kernels: Write) -> None:
    with pytest.raises(Diagnostic, match="two loops"):
        kernels(f"""
            def attend(
                a: Tensor,  # [B, N, D]
                b: Tensor,  # [B, M, D]
            ) -> Tensor:
                scores = a @ b.mT
                weights = {weights}
                return weights / weights.sum(-1, keepdim=True) @ b
        """)


def test_columns_and_features_that_are_joined(verified: Write) -> None:
    """A sink in front of the scores; features of which some are normalised: a product each."""
    tensors = "q: Tensor,  # [B, H, S, D]\n k: Tensor,  # [B, H, T, D]\n v: Tensor,  # [B, H, T, D]"
    written = verified(f"""
def sink_in_front(
 {tensors},
 sinks: Tensor,  # [H]
) -> Tensor:
    sinks = sinks[None, :, None, None].expand(q.size(0), -1, q.size(2), -1)
    return torch.cat([sinks, q @ k.mT], -1).softmax(-1)[..., 1:] @ v

def zero_in_front(
 {tensors}
) -> Tensor:
    return F.pad(q @ k.mT, (1, 0)).softmax(-1)[..., 1:] @ v

def memories(
 {tensors},
 memory: Tensor,  # [2, H, 3, D]
) -> Tensor:
    first, second = (x[None].expand(q.size(0), -1, -1, -1) for x in memory)
    k, v = torch.cat([first, k], 2), torch.cat([second, v], 2)
    hidden = torch.ones(q.size(2), k.size(2), dtype=torch.bool).triu(k.size(2) - q.size(2) + 1)
    return (q @ k.mT).masked_fill(hidden, float("-inf")).softmax(-1) @ v

def partly_normalised(
 {tensors},
 q_rest: Tensor,  # [B, H, S, R]
 k_rest: Tensor,  # [B, H, T, R]
) -> Tensor:
    q, k = torch.cat([F.normalize(q, dim=-1), q_rest], -1), torch.cat([F.normalize(k, dim=-1), k_rest], -1)
    return (q @ k.mT).softmax(-1) @ v
""")
    body = written[written.index("def partly_normalised_kernel") :]
    assert body.count("tl.dot(") == 3 and "constexpr" not in body[: body.index("D: tl")]


def test_buffers_longer_than_the_keys(verified: Write) -> None:
    """Cut to the length, whatever sample lengths the trace began with."""
    written = verified("""
        def causal_buffer(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            hidden: Tensor,  # [64, 64] bool
        ) -> Tensor:
            scores = (q @ k.mT).masked_fill(hidden[: q.size(2), : q.size(2)], -torch.inf)
            return scores.softmax(-1) @ v

        def rotary_cache(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            cos: Tensor,  # [256, D]
        ) -> Tensor:
            return ((q * cos[: q.size(2)]) @ k.mT).softmax(-1) @ v

        def cached_keys(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S + P, D]
            v: Tensor,  # [B, H, S + P, D]
            hidden: Tensor,  # [M, M] bool
        ) -> Tensor:
            rows, keys = q.size(2), k.size(2)
            return (q @ k.mT).masked_fill(hidden[keys - rows : keys, :keys], -torch.inf).softmax(-1) @ v
    """)
    for condition in ("S <= 64", "S <= 256", "P + S <= M"):
        assert f"was transpiled for sizes with {condition}" in written
    # the end of the slice is the query's own length, which may not be spread then
    assert "q.expand(" not in written and "q = spread(" not in written


def test_cumulative_sums_of_what_inputs_are_compared_with(verified: Write) -> None:
    """Computed before the kernel, by PyTorch."""
    verified("""
        def padded_gates(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            g: Tensor,  # [B, H, S]
            pad: Tensor,  # [B, S] bool
        ) -> Tensor:
            gates = -F.softplus(g).masked_fill(pad[:, None] | (g > 2), 0).cumsum(-1)
            scores = q @ k.mT + (gates[..., :, None] - gates[..., None, :])
            return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1) @ v
    """)


def test_what_cannot_be_emitted_is_refused_at_its_function(kernels: Write) -> None:
    with pytest.raises(Diagnostic, match="the size D does not follow") as raised:
        kernels("""
            def attend(
                qkv: Tensor,  # [B, N, 3 * H * D]
                num_heads: int = 8,
            ) -> Tensor:
                q, k, v = qkv.reshape(*qkv.shape[:2], 3, num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
                return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*qkv.shape[:2], -1)
        """)
    assert raised.value.line and raised.value.column == 5


def test_powers_of_negative_numbers(verified: Write) -> None:
    verified(
        """
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            gamma: Tensor,  # [H]
        ) -> Tensor:
            i = torch.arange(q.shape[2], device=q.device)
            distance = (i[:, None] - i).clamp(min=0)
            return (q @ k.mT * (torch.tanh(gamma) * 0.9).view(-1, 1, 1) ** distance).tril() @ v
    """,
        examples=15,
    )


def test_nan_to_num_of_the_weights(verified: Write) -> None:
    verified(
        """
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            mask: Tensor,  # [B, S, T] bool
        ) -> Tensor:
            weights = (q @ k.mT).masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1)
            return weights.nan_to_num(0.0) @ v

        def where_nan(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            mask: Tensor,  # [B, S, T] bool
        ) -> Tensor:
            weights = (q @ k.mT).masked_fill(~mask[:, None], float("-inf")).softmax(dim=-1)
            return weights.masked_fill(torch.isnan(weights), 0.0) @ v

        def zeroed(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            mask: Tensor,  # [B, S, T] bool
        ) -> Tensor:
            hidden = ~mask[:, None]
            weights = (q @ k.mT).masked_fill(hidden, float("-inf")).softmax(dim=-1)
            return weights.masked_fill(hidden, 0.0) @ v
    """,
        examples=12,
    )


def test_keyword_only_parameters_reach_the_original(verified: Write) -> None:
    """Empty tensors go to the original, by its own signature."""
    verified(
        """
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            *,
            mask: Tensor,  # [B, 1, 1, T] bool
            training: bool = False,
        ) -> Tensor:
            return (q @ k.mT).masked_fill(~mask, -1e9).softmax(-1) @ v
    """,
        examples=12,
    )


def test_a_log_sum_exp_beside_the_softmax_shares_its_maximum_and_its_sum(verified: Write) -> None:
    """Far below zero, too, where the factor from no scores to the first ones would be infinite."""
    text = verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            shift: float = -900.0,
        ) -> tuple[Tensor, Tensor]:
            scores = q @ k.mT / math.sqrt(q.size(-1)) + shift
            return scores.softmax(-1) @ v, torch.logsumexp(scores, -1)
    """)
    loop = text[text.index("for key_start in") : text.index("tl.store(")]
    assert loop.count("tl.exp2(") == 2 and loop.count("tl.sum(") == 1 and loop.count("tl.max(") == 0


def test_a_sum_that_a_moving_maximum_would_scale_by_infinity(verified: Write) -> None:
    """While nothing has been seen, the maximum is -inf and the factor for what follows may be infinite."""
    verified("""
        def total(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
        ) -> Tensor:
            scores = (q @ k.mT).clamp(-3.0, 3.0) - 300.0
            highest = scores.amax(-1, keepdim=True)
            shift = torch.where(highest.isinf(), 0.0, highest)
            return (scores - shift).exp().sum(-1)
    """)


def test_masks_of_the_lowest_numbers_stay_finite(verified: Write) -> None:
    """finfo.min times log2(e) is -inf: a row that a mask of numbers hides whole has the mean of the values, not NaN."""
    verified(
        """
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            mask: Tensor,  # [B, 1, S, T]
            padding: Tensor,  # [B, T]
        ) -> Tensor:
            scores = q @ k.mT / math.sqrt(q.size(-1)) + torch.max(mask, padding[:, None, None])
            return scores.softmax(-1) @ v
        """,
        examples=30,
    )


def test_masks_that_are_made_to_be_the_lowest_numbers_stay_finite(verified: Write) -> None:
    """The same of numbers that are made of masks, and clamped at what is lowest, as people extend masks."""
    tensors = "q: Tensor,  # [B, H, S, D]\n k: Tensor,  # [B, H, T, D]\n v: Tensor,  # [B, H, T, D]"
    verified(
        f"""
def clamped(
 {tensors}
 mask: Tensor,  # [B, T] int64
) -> Tensor:
    lowest = torch.finfo(q.dtype).min
    extended = ((1.0 - mask[:, None, None].to(q.dtype)) * lowest).clamp(min=lowest)
    return (q @ k.mT + extended).softmax(-1) @ v

def both(
 {tensors}
 seen: Tensor,  # [B, T] bool
 padding: Tensor,  # [B, T] bool
) -> Tensor:
    lowest = torch.finfo(q.dtype).min
    one, other = ((~seen).to(q.dtype) * lowest, padding.to(q.dtype) * lowest)
    extended = torch.clamp((one + other)[:, None, None], min=lowest)
    return (q @ k.mT + extended).softmax(-1) @ v

def classic(
 {tensors}
 mask: Tensor,  # [B, T] int64
) -> Tensor:
    extended = (1.0 - mask[:, None, None].to(dtype=q.dtype)) * torch.finfo(q.dtype).min
    return (q @ k.mT / math.sqrt(q.size(-1)) + extended).softmax(-1) @ v

def of_numbers(
 {tensors}
 mask: Tensor,  # [B, T]
) -> Tensor:
    extended = (1.0 - mask[:, None, None]) * torch.finfo(q.dtype).min
    return ((q @ k.mT + extended) * 0.25).softmax(-1) @ v

def subtracted(
 {tensors}
 hidden: Tensor,  # [B, S, T] bool
) -> Tensor:
    scores = q @ k.mT - hidden[:, None] * (torch.finfo(q.dtype).max / 2)
    return F.log_softmax(scores, dim=-1).exp() @ v

def after_a_gate(
 {tensors}
 gate: Tensor,  # [B, T]
 mask: Tensor,  # [B, T] int64
) -> Tensor:
    extended = torch.where(gate > 0, 0.0, (1.0 - mask.to(q.dtype)).square() * torch.finfo(q.dtype).min)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=extended[:, None, None].expand(-1, -1, q.size(2), -1))

def by_a_constant(
 {tensors}
 mask: Tensor,  # [B, T] int64
) -> Tensor:
    extended = torch.maximum((mask - 1) * 2.9e38, torch.tensor(-2.9e38))[:, None, None]
    return (q.float() @ k.float().mT + extended).softmax(-1).to(v.dtype) @ v
        """,
        examples=30,
    )


def test_positions_as_numbers_that_are_used_twice(verified: Write) -> None:
    """Rotary positions as most models write them; what has no name but `.float()` must not be called `float`."""
    text = verified("""
        def rotated(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            frequencies = 10000 ** (-torch.arange(0, q.shape[-1], 2).float() / q.shape[-1])
            angles = torch.outer(torch.arange(q.shape[-2]).float(), frequencies)
            angles = torch.cat((angles, angles), -1)

            def turned(x):
                one, other = x.chunk(2, -1)
                return x * angles.cos().to(x.dtype) + torch.cat((-other, one), -1) * angles.sin().to(x.dtype)

            return (turned(q) @ turned(k).mT).softmax(-1) @ v
    """)
    assert "float = " not in text


def test_a_tensor_that_is_asked_for_its_size_has_it(verified: Write) -> None:
    """One query that is only multiplied before the product is no row of S equal ones."""
    verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            lengths = torch.arange(1, q.shape[-2] + 1, device=q.device).to(q.dtype)
            return (q * lengths.log()[:, None] @ k.mT).softmax(-1) @ v

        def by_one_size(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            return (q * torch.arange(q.size(2))[:, None] @ k.mT).softmax(-1) @ v
    """)


def test_a_mask_of_numbers_that_is_filled_where_it_is_read_by_the_copy_engine(verified: Write) -> None:
    """As sliding windows are laid over a mask that was given."""
    verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            mask: Tensor,  # [B, 1, S, S]
        ) -> Tensor:
            past = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril(-16)
            mask = torch.where(past, torch.finfo(mask.dtype).min, mask)
            return torch.softmax(q @ k.mT + mask, dim=-1) @ v
    """)


def test_heads_of_a_batch_that_are_merged_behind_the_tokens(verified: Write) -> None:
    """Tokens first, as torch.nn.MultiheadAttention has them: the batch stands in one dimension with its heads."""
    verified("""
        def attend(
            q: Tensor,  # [B * 8, L, D]
            k: Tensor,  # [B * 8, S, D]
            v: Tensor,  # [B * 8, S, D]
        ) -> Tensor:
            heads, length, features = q.shape
            out = torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
            return out.transpose(0, 1).reshape(length * (heads // 8), 8 * features)
    """)


def test_tensors_of_sizes_and_constants_are_numbers(verified: Write) -> None:
    """Whatever way a number takes through tensors: no value of an argument is asked for."""
    text = verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            factor = torch.sqrt(torch.tensor(q.shape[-1], dtype=torch.float32)).item()
            lowest = torch.tensor(torch.finfo(q.dtype).min)
            mask = torch.full((q.size(2), q.size(2)), lowest).triu(1)
            return (q @ k.mT / factor + mask.to(q.dtype)).softmax(-1) @ v
    """)
    assert "math.sqrt(D)" in text


def test_numbers_that_positions_cannot_be_added_to_are_refused(kernels: Write, tmp_path: Path) -> None:
    kernels("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            window: int,
            scale: float,
        ) -> Tensor:
            i = torch.arange(q.size(2), device=q.device)
            far = (i[:, None] - i).abs() > window
            return (q @ k.mT * scale).masked_fill(far, -math.inf).softmax(-1) @ v
    """)
    spec = importlib.util.spec_from_file_location("program_triton", tmp_path / "out" / "program_triton.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    q = torch.zeros(1, 1, 4, 16)
    with pytest.raises(ValueError, match="window is 9223372036854775807, expected an integer between"):
        module.attend(q, q, q, sys.maxsize, 1.0)
    with pytest.raises(NotImplementedError, match="scale requires grad"):
        module.attend(q, q, q, 1, torch.ones((), requires_grad=True))


def test_square_roots_of_sizes_by_numpy(verified: Write) -> None:
    text = verified("""
        import numpy as np

        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
        ) -> Tensor:
            return (q @ k.mT / np.sqrt(q.size(-1))).softmax(-1) @ v
    """)
    assert "math.sqrt(D)" in text


@pytest.mark.parametrize("name", ["expect", "padded", "configuration"])
def test_a_function_called_like_one_of_the_kernel_file_is_refused(name: str, kernels: Write) -> None:
    with pytest.raises(Diagnostic, match=f"`{name}` is the name of a function that the kernel file needs"):
        kernels(f"""
            def {name}(
                q: "Tensor",  # [B, H, S, D]
                k: "Tensor",  # [B, H, T, D]
                v: "Tensor",  # [B, H, T, D]
            ):
                return (q @ k.mT).softmax(-1) @ v
        """)


def test_keys_that_a_finite_fill_masks_count_where_they_weigh_something(verified: Write) -> None:
    """In a row that sees no key, however low the fill; and in every row, where a temperature brings it near."""
    tensors = "q: Tensor,  # [B, H, S, D]\n k: Tensor,  # [B, H, S, D]\n v: Tensor,  # [B, H, S, D]"
    written = verified(f"""
def strictly_before(
 {tensors}
) -> Tensor:
    hidden = torch.ones(q.size(2), q.size(2), dtype=torch.bool).triu(0)
    scores = (q @ k.mT).masked_fill(hidden, torch.finfo(q.dtype).min)
    return scores.softmax(-1) @ v

def tempered(
 {tensors}
) -> Tensor:
    hidden = torch.ones(q.size(2), q.size(2), dtype=torch.bool).triu(1)
    scores = (q @ k.mT).masked_fill(hidden, -50.0)
    return (scores / 100).softmax(-1) @ v

def roots(
 {tensors}
) -> Tensor:
    hidden = torch.ones(q.size(2), q.size(2), dtype=torch.bool).triu(0)
    weights = (q @ k.mT).masked_fill(hidden, -1e4).softmax(-1).sqrt()
    return weights / weights.sum(-1, keepdim=True) @ v
""")
    assert written.count("unseen = ") == 4  # the last takes two passes, and sums something else in the second


def test_powers_of_integers_and_by_integers(verified: Write) -> None:
    verified("""
        def power_of_scores(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            p: int,
        ) -> Tensor:
            return ((q @ k.mT) ** p).tanh() @ v

        def power_of_distances(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            p: int,
        ) -> Tensor:
            n = torch.arange(q.size(2))
            return (q @ k.mT - 0.1 * (n[:, None] - n[None]).abs() ** p).softmax(-1) @ v
    """)


def test_two_axes_of_one_fixed_width(verified: Write) -> None:
    """A head dimension that is a number: sequence first, batch and heads as one dimension."""
    verified("""
        def sequence_first(
            q: Tensor,  # [S, B, H * 32]
            k: Tensor,  # [T, B, H * 32]
            v: Tensor,  # [T, B, H * 32]
        ) -> Tensor:
            S, B, E = q.shape
            q, k, v = (x.contiguous().view(x.size(0), B * (E // 32), 32).transpose(0, 1) for x in (q, k, v))
            weights = torch.bmm(q * 32**-0.5, k.transpose(1, 2)).softmax(-1)
            return torch.bmm(weights, v).transpose(0, 1).contiguous().view(S, B, E)
    """)


@pytest.mark.parametrize(
    "scores",
    ["(q @ k.mT).tril()", "(q @ k.mT).masked_fill(j > i, -1e4)", "torch.where(j == 0, q @ k.mT, 0.0)"],
)
def test_a_maximum_alone_sees_finite_fills(scores: str, verified: Write) -> None:
    verified(f"""
        def greatest(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
        ) -> tuple[Tensor, Tensor]:
            i, j = torch.arange(q.shape[2])[:, None], torch.arange(q.shape[2])
            return ({scores}).amax(-1), (q @ k.mT).softmax(-1) @ k
    """)


def test_a_parameter_called_output(verified: Write) -> None:
    verified("""
        def attend(
            output: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
        ) -> Tensor:
            return (output @ k.mT).softmax(-1) @ v
    """)


def test_an_optional_mask_that_is_not_given(verified: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel was written for a mask: without one it says so, and where no kernel runs the original serves."""
    verified("""
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            mask: Tensor | None = None,  # [S, T] bool
        ) -> Tensor:
            scores = q @ k.mT
            if mask is not None:
                scores = scores.masked_fill(~mask, -1e9)
            return scores.softmax(-1) @ v
    """)
    attend = load(tmp_path / "out" / "program.py", "optional").attend
    given = [torch.randn(1, 1, 5, 16) for _ in range(3)]
    expected = torch.nn.functional.scaled_dot_product_attention(*given, scale=1.0)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    torch.testing.assert_close(attend(*given), expected)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="written for a tensor as mask"):
        attend(*given)


def test_masks_after_the_softmax_leave_the_range_of_float16(kernels: Write) -> None:
    """What is normalised anew may have lost its greatest weight."""
    text = """
        def attend(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            pad: Tensor,  # [B, T] bool
        ) -> Tensor:
            w = (q @ k.mT).float().softmax(-1)
            w = WEIGHTS
            return (w / w.sum(-1, keepdim=True)).to(v.dtype) @ v
    """
    assert "dot_in_range(" in kernels(text.replace("WEIGHTS", "w.masked_fill(pad[:, None, None], 0.0)"))
    assert "dot_in_range(" not in kernels(text.replace("WEIGHTS", "w"))


CAPS = """
import math
import torch
import program
from out import program as generated

q, k, v = torch.randn(3, 1, 2, 35, 16).unbind()
for cap in (3.0, -3.0, 0.0, 1e-42, -1e30, math.inf, math.nan):
    expected = program.capped(q.double(), k.double(), v.double(), cap)
    given = generated.capped(q, k, v, cap)
    # one over the smallest numbers is out of float32's range, as in eager mode
    if cap == 1e-42:
        expected = program.capped(q, k, v, cap).double()
    close = torch.isclose(given.double(), expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert close.all(), (cap, given, expected)
"""


def test_a_cap_of_any_sign(kernels: Write, interpreted: Callable[[str], None]) -> None:
    """Its sign passes through the tangent, so that the scores are scaled where the maximum is subtracted."""
    written = kernels("""
        def capped(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
            cap: float,
        ) -> Tensor:
            scores = cap * torch.tanh(q @ k.mT / cap)
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
            return scores.softmax(-1) @ v
    """)
    assert "finite_max) * scaled_cap)" in written
    interpreted(CAPS)


def test_values_that_many_others_share_are_looked_at_once(kernels: Write) -> None:
    """Entmax by bisection: each bound is made of both bounds before it, so the ways down double with every step."""
    text = kernels("""
        def entmax(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            scores = q @ k.mT / 2
            high = scores.amax(-1, keepdim=True)
            low = high - 1
            for _ in range(30):
                middle = (low + high) / 2
                total = (scores - middle).clamp(min=0).square().sum(-1, keepdim=True)
                low, high = torch.where(total >= 1, middle, low), torch.where(total < 1, middle, high)
            weights = (scores - low).clamp(min=0).square()
            return (weights / weights.sum(-1, keepdim=True)) @ v
    """)
    assert "32 passes over j" in text


def test_entmax_by_a_few_bisections(verified: Write) -> None:
    verified(
        """
        def entmax(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, S, D]
            v: Tensor,  # [B, H, S, D]
        ) -> Tensor:
            scores = q @ k.mT / math.sqrt(q.size(-1)) * 0.5
            high = scores.amax(-1, keepdim=True)
            low = high - 1
            for _ in range(4):
                middle = (low + high) / 2
                total = (scores - middle).clamp(min=0).square().sum(-1, keepdim=True)
                low, high = torch.where(total >= 1, middle, low), torch.where(total < 1, middle, high)
            weights = (scores - low).clamp(min=0).square()
            return (weights / weights.sum(-1, keepdim=True)) @ v
    """,
        examples=4,
    )


def test_whether_any_or_all_keys_are_masked(verified: Write) -> None:
    text = verified(
        """
        def no_key_gives_zero(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            mask: Tensor,  # [B, S, T] bool
        ) -> Tensor:
            weights = (q @ k.mT).masked_fill(~mask[:, None], float("-inf")).softmax(-1)
            return weights.masked_fill(~mask[:, None].any(-1, keepdim=True), 0.0) @ v

        def all_masked_gives_zero(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            masked: Tensor,  # [B, S, T] bool
        ) -> Tensor:
            output = (q @ k.mT).masked_fill(masked[:, None], float("-inf")).softmax(-1) @ v
            return torch.where(masked.all(-1)[:, None, :, None], 0.0, output)

        def any_of_several(
            q: Tensor,  # [B, H, S, D]
            k: Tensor,  # [B, H, T, D]
            v: Tensor,  # [B, H, T, D]
            wanted: Tensor,  # [B, T, 3] int64
        ) -> Tensor:
            mask = (wanted[:, None] == torch.arange(q.shape[2])[:, None, None]).any(-1)
            return (q @ k.mT).masked_fill(~mask[:, None], -1e9).softmax(-1) @ v
    """,
        examples=5,
    )
    assert text.count("one pass over j") == 3


def test_rows_and_features_of_one_constant_size(verified: Write) -> None:
    verified("""
        def attend(
            q: Tensor,  # [B, 16, 16]
            k: Tensor,  # [B, 16, 16]
            v: Tensor,  # [B, 16, 16]
        ) -> Tensor:
            scores = (q @ k.mT).masked_fill(torch.ones(16, 16).triu(1).bool(), -math.inf)
            return scores.softmax(-1) @ v
    """)
