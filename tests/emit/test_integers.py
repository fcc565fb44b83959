"""Integers in masks are what PyTorch's 64 bits make of them: signs, sizes, powers, and the narrow ones that wrap."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashlight.diagnostics import Diagnostic
from tests.emit.conftest import body

pytestmark = pytest.mark.interpret
Write = Callable[..., str]
HEAD = """
def attend(
    q: Tensor,  # [B, H, S, D]
    k: Tensor,  # [B, H, S, D]
    v: Tensor,  # [B, H, S, D]{given}
):
    S = q.shape[2]
    i, j = torch.arange(S)[:, None], torch.arange(S)
"""
KEPT = {
    "quotients of quotients": ("", "b = j // (S // 4 + 1) % 4; kept = b[:, None] == b"),
    "remainders of sizes that do not divide": ("", "b = (j // max(S // 4, 1)) % 4; kept = b[:, None] == b"),
    "a quotient of a size may be zero": ("", "kept = j <= i + 1 - S // 64"),
    "powers": ("", "kept = ((i + 2 * j) ** 4) % 3 != 0"),
    "powers by positions": ("", "kept = (3 ** (j % 39)) % 7 != 2"),
    "hashes": ("", "kept = (i * 73856093 + j * 19349663) % 7 < 4"),
    "products of sizes": ("", "kept = (i * (S + 70000) * (S + 70001) + j) % 5 != 0"),
    "a negative divisor": ("", "kept = ((i - j) % -4 == -1) | ((i - j) // -4 == -1) | (i == j)"),
    "a divisor of any sign": ("w: int", "kept = (i - j) // (2 * w + 1) <= 1"),
    "a remainder of any sign": ("w: int", "kept = (i - j) % (2 * w + 1) != 1"),
    "loaded divisors": ("ids: Tensor,  # [B, S] int64", "kept = ((i - j) % (2 * ids[:, None, :1, None] + 1) != 1)"),
    "large numbers": ("ids: Tensor,  # [B, S] int64", "kept = j < ids[:, None, :1, None] * 2**30 + 2"),
    "large numbers and positions": (
        "ids: Tensor,  # [B, S] int64",
        "kept = j // 16 < ids[:, None, :1, None] * 2**28 + 1",
    ),
    "an argument times a constant": ("w: int", "kept = j < (w * w + 1) * 2**27"),
    "narrow positions": ("", "kept = (i * 50).to(torch.int8) * 3 >= j - 20"),
    "narrow values": ("ids: Tensor,  # [B, S] int8", "kept = (ids[:, None, :, None] * 100 * ids[:, None, None]) >= 0"),
    "narrow and unsigned": (
        "ids: Tensor,  # [B, S] uint8",
        "kept = (ids[:, None, :, None] - ids[:, None, None]) < 100",
    ),
    "narrow limits": (
        "ids: Tensor,  # [B, S] int8",
        "kept = (ids[:, None, None] < 200) & (ids[:, None, None] // 3 > -20)",
    ),
    "shifts and divisions of sizes": ("", "kept = (j + (S >> 1) + divmod(S, 5)[1] + 7 // S + (S << 2) + ~S) % 3 != 0"),
    "rounded sizes": ("", "kept = j <= i + round(S / 4) - round((S + 1) / 2) + round(S)"),
    "rounded numbers": ("x: float", "kept = j <= i + round(x) + 2 * math.trunc(x)"),
    "rounded numbers that float32 lacks": ("x: float", "kept = j <= i + round(x + 2**24 + 1) - 2**24 - 1"),
    "flags less one": ("keep: Tensor,  # [B, S] bool", "kept = (keep.to(torch.uint8) - 1)[:, None, None] == 0"),
}


def test_integers_are_those_of_pytorch(verified: Write) -> None:
    """One file for all of them: what takes time is another process."""
    functions = []
    for name, (given, kept) in KEPT.items():
        head = HEAD.format(given=f"\n    {given}" + ("," if given and "#" not in given else ""))
        text = head + body(f"{kept}; return (q @ k.mT).masked_fill(~kept, -1e4).softmax(-1) @ v")
        functions.append(text.replace("def attend", f"def {name.replace(' ', '_')}"))
    verified("\n\n".join(functions), examples=5)


def test_the_first_keys_may_be_all(verified: Write) -> None:
    """A sink of four keys and a window: nothing is cut off, so that it also serves fewer than four."""
    kept = "kept = (j <= i) & ((i - j < 8) | (j < 4))"
    verified(
        HEAD.format(given="") + body(f"{kept}; return (q @ k.mT).masked_fill(~kept, -math.inf).softmax(-1) @ v"),
        examples=15,
    )


def test_a_factor_of_zero_after_the_mask(verified: Write) -> None:
    """-inf * 0 is NaN, in rows that see every key of their blocks too."""
    verified(
        HEAD.format(given="\n    t: float,")
        + body("s = (q @ k.mT).masked_fill(j > i, -math.inf); return (s * (t - t)).softmax(-1) @ v")
    )


def test_norms_of_any_order(verified: Write) -> None:
    norms = " + ".join(
        f"torch.linalg.vector_norm(s, ord={n}, dim=-1, keepdim=True)" for n in ("0", "-math.inf", "math.inf")
    )
    verified(HEAD.format(given="") + body(f"s = q @ k.mT; return s @ v / ({norms} + 1)"))


def test_the_logarithm_of_a_weight_of_zero_is_infinite(verified: Write) -> None:
    text = "w = (q @ k.mT).masked_fill(j > i, -math.inf).softmax(-1); return w @ v, -(w * w.log()).sum(-1)"
    verified(HEAD.format(given="") + body(text))


@pytest.mark.parametrize("bits", ["S & 7", "S | 1", "S ^ 1"])
def test_bits_of_sizes_are_refused(kernels: Write, bits: str) -> None:
    with pytest.raises(Diagnostic, match="bits of the size"):
        kernels(HEAD.format(given="") + body(f"return (q @ k.mT / (1 + ({bits}))).softmax(-1) @ v"))


def test_sums_of_integers_are_exact(verified: Write) -> None:
    """float32 holds integers up to 2 ** 24."""
    given = "\n    ids: Tensor,  # [B, S] int64"
    verified(
        HEAD.format(given=given)
        + body("s = q @ k.mT; return s.softmax(-1) @ v, (ids[:, None, None] * 12345678 * (s > 0)).sum(-1)")
    )


def test_small_arguments_of_tanh_keep_their_digits(verified: Write) -> None:
    verified(
        HEAD.format(given="") + body("w = torch.tanh(q @ k.mT * 1e-5); return w @ v / w.abs().sum(-1, keepdim=True)")
    )
