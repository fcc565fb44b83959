"""Programs of kinds that once went wrong between the schedule and the kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashlight.diagnostics import Diagnostic

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
    with pytest.raises(Diagnostic, match="`keys` is a variable of every kernel") as raised:
        kernels("""
            def attend(
                q: Tensor,  # [B, H, S, D]
                k: Tensor,  # [B, H, keys, D]
                v: Tensor,  # [B, H, keys, D]
            ) -> Tensor:
                return (q @ k.mT).softmax(-1) @ v
        """)
    assert raised.value.code == "FL203"
