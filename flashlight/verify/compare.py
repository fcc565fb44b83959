"""Is a generated function as good as its original? Both are measured against the original in float64.

Let ``reference`` be the original on inputs upcast to float64, and ``eager`` the original in the inputs' own dtype. For
each output the generated function must give

- the same shape and dtype as eager, and write to no input;
- NaN and infinity exactly where eager and the reference, rounded to the output's dtype, both have them, and nowhere
  that neither has them (where the two disagree, eager itself overflowed or underflowed in its dtype, and either is
  right). One exception: eager spreads NaN and infinity through a weight of zero, and through an additive mask of
  -inf; a kernel need not visit what a mask hides (docs/semantics.md). Where the two differ, the original is also run
  without that (`unread`), and what it then gives in such places stands for what eager and the reference have there.
  Where inputs hold NaN or infinity, one kind may stand for the other (0 * inf, inf - inf), never a finite number; and
  an infinite input may count as NaN: a difference of weights is a difference of sums, inf - inf, which a norm
  spreads;
- integers and booleans between those of eager, the reference, and the reference on inputs that moved as below: where a
  comparison hangs on a rounding, either is right;
- ``max |generated - reference| <= 2 max |eager - reference| + floor``.

Eager's error on a few numbers may be small by luck. Before a difference is reported, eager also runs on inputs near
these, against the reference there (`nearby`), and its greatest error counts.

The floor is for what no such run shows: with one key, say, eager is exact and nothing could be better. It has two
terms, the second of which is looked at only where the first does not do:

- ``2 eps(dtype) max |reference|``: storing the output rounds;
- how far the reference itself moves when the floating-point inputs move by 4 eps(float32), relatively, and each result
  on the way is rounded to float32 by chance (`Rounded`): the least that any algorithm with float32 accumulation can be
  asked for on inputs as ill-conditioned as these. Inputs move by more where sums may have over n = 128 terms: sqrt(n/8)
  eps. Let terms of size t have random signs. The sum of the first i is about sqrt(i) t, and adding another errs by up
  to eps/2 of it; over n that is eps t n / sqrt(8), where random changes of the terms by w of their size come to
  w t sqrt(n). A kernel adds one key after another; eager may add in a tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashlight.verify.rounding import Rounded, rounded
from flashlight.verify.unread import Unread

Function = Callable[..., Any]
Arguments = dict[str, Any]
MOVED = 4
"""How often the reference is moved: with few numbers in a result, chance may miss how far once or twice."""
NEARBY = 4
"""How many inputs near the given ones show eager's error."""


class Mismatch(AssertionError):
    """The generated function differs from the original; the message says how."""


class Rejected(Exception):
    """One of the two does not take these inputs: there is nothing to compare."""


@dataclass(frozen=True)
class Measured:
    """Errors against float64, the worst over the outputs, and what was allowed."""

    generated: float
    eager: float
    allowed: float


def compare(original: Function, generated: Function, arguments: Arguments) -> Measured:
    """Run both functions and compare.

    Raises:
        Rejected: the original raises on these arguments, or the generated function is not to be tried on them.
        Mismatch: the generated function raises, or its outputs are not as good as the original's.
    """
    if any(tensor.is_cuda for tensor in flatten(list(arguments.values()))):
        # an index out of range raises on a CPU and ends the process's use of a GPU
        _rejecting(original, _mapped(arguments, lambda tensor: tensor.cpu()))
    runs = _Runs(original, arguments)
    eager = runs.fixed("plain")[0]
    before = _copied(arguments)
    try:
        with poisoned():
            outputs = flatten(generated(**arguments))
    except Rejected:
        raise
    except Exception as error:
        if any(not tensor.numel() for tensor in flatten(list(arguments.values()))):
            _rejecting(original, arguments, copied=False)  # what is empty is left to it, with strides as they are
        raise Mismatch(f"the generated function raised {type(error).__name__}: {error}") from error
    if not _same(arguments, before):
        raise Mismatch("the generated function wrote to its inputs")
    if len(outputs) != len(eager):
        raise Mismatch(f"{len(outputs)} outputs, not {len(eager)}")

    worst = Measured(0.0, 0.0, 0.0)
    for number, output in enumerate(outputs):
        try:
            one = _compared(output, number, runs, moving=False)
        except Mismatch:
            one = _compared(output, number, runs, moving=True)  # it may be as good as these inputs let it be
        worst = max(worst, one, key=lambda one: one.generated / (one.allowed or 1.0))
    return worst


class _Runs:
    """The outputs of the original in every way that a generated function is compared with; run when first asked for.

    ``how`` it runs is "plain", "unread" (what is hidden counts for nothing) or "spread" (infinite inputs undefined).
    """

    def __init__(self, original: Function, arguments: Arguments) -> None:
        self.original, self.arguments = original, arguments
        self.special = has_special(arguments)
        eager = _rejecting(original, arguments)
        self.dtype, reference = self._reference()
        self._fixed = {"plain": [eager, reference]}
        self._moved: dict[str, list[list[torch.Tensor]]] = {}

    def _reference(self) -> tuple[torch.dtype, list[torch.Tensor]]:
        """In float64; float32 for 16-bit inputs that the original does not take in float64, being particular there."""
        try:
            return torch.float64, self._run("plain", upcast(self.arguments), upcasting=True)
        except Rejected:
            dtypes = {tensor.dtype for tensor in flatten(list(self.arguments.values())) if tensor.is_floating_point()}
            if not dtypes <= {torch.float16, torch.bfloat16}:
                raise
            return torch.float32, self._run("plain", upcast(self.arguments, torch.float32), upcasting=True)

    def _run(self, how: str, given: Arguments, *, upcasting: bool, seed: int | None = None) -> list[torch.Tensor]:
        unread = Unread() if how == "unread" else nullcontext()  # type: ignore[no-untyped-call, unused-ignore]
        limits = limits_of(self.arguments) if upcasting else nullcontext()
        with unread, limits, nullcontext() if seed is None else Rounded(seed):
            return _rejecting(self.original, _undefined(given) if how == "spread" else given)

    def fixed(self, how: str) -> list[list[torch.Tensor]]:
        """Those of eager and of the reference."""
        if how not in self._fixed:
            reference = self._run(how, upcast(self.arguments, self.dtype), upcasting=True)
            self._fixed[how] = [self._run(how, self.arguments, upcasting=False), reference]
        return self._fixed[how]

    def moved(self, how: str) -> list[list[torch.Tensor]]:
        """Those of the reference as it is moved."""
        if how not in self._moved:
            self._moved[how] = []
            for seed in range(MOVED):
                inputs = perturbed(self.arguments, seed, self.dtype)
                self._moved[how].append(self._run(how, inputs, upcasting=True, seed=seed))
        return self._moved[how]

    @cached_property
    def near(self) -> list[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """Those of eager and of the reference on inputs near the given ones."""
        inputs = [nearby(self.arguments, seed) for seed in range(NEARBY)]
        return [
            (self._run("plain", one, upcasting=False), self._run("plain", upcast(one, self.dtype), upcasting=True))
            for one in inputs
        ]


def _compared(output: torch.Tensor, number: int, runs: _Runs, moving: bool) -> Measured:
    """Check one output; ``moving`` is whether the second term of the floor and inputs near these count, too."""

    def taken(how: str) -> list[torch.Tensor]:
        return [run[number] for run in (*runs.fixed(how), *(runs.moved(how) if moving else ()))]

    def others() -> list[float]:
        return [_error(eager[number], reference[number]) for eager, reference in runs.near] if moving else []

    wanted = taken("plain")
    _check_kind(output, wanted[0])
    if runs.special:
        if any(wrong.any() for wrong in _misplaced(output, wanted[0], wanted[1], True).values()):
            wanted = _without_hidden(output, wanted, taken("unread"))
        if _misplaced(output, wanted[0], wanted[1], True)["NaN"].any():
            wanted = _where_undefined(output, wanted, taken("spread"))
    return _measure(output, wanted[0], wanted[1], wanted[2:], runs.special, others)


def _measure(
    output: torch.Tensor,
    eager: torch.Tensor,
    reference: torch.Tensor,
    moved: list[torch.Tensor],
    special: bool,
    others: Callable[[], list[float]],
) -> Measured:
    """Check one output; ``others`` gives eager's errors on inputs near these."""
    if not eager.dtype.is_floating_point:
        # where a comparison hangs on a rounding, either is right, and so is a count between theirs
        runs = torch.stack([run.long() for run in (eager, reference, *moved)])
        _check_places("values differ", (output < runs.amin(0)) | (output > runs.amax(0)), output, eager)
        return Measured(0.0, 0.0, 0.0)
    finite = torch.isfinite(torch.stack([run.double() for run in (output, eager, reference, *moved)])).all(0)

    def error(run: torch.Tensor) -> float:
        return _error(run, reference, finite)

    largest = float(reference[finite].abs().max()) if finite.any() else 0.0
    floor = 2 * torch.finfo(eager.dtype).eps * largest + max(map(error, moved), default=0.0)
    measured = Measured(error(output), error(eager), 2 * error(eager) + floor)
    if measured.generated > measured.allowed:
        luckless = max([measured.eager, *others()])
        measured = Measured(measured.generated, luckless, 2 * luckless + floor)
    # what is finite in float64 may be beyond the range of the dtype, or as near its end as the error that is allowed
    stored = reference.to(eager.dtype)
    beyond = reference.abs() + measured.allowed >= torch.finfo(eager.dtype).max
    for name, wrong in _misplaced(output, eager, stored, special).items():
        wrong &= ~(beyond & torch.isinf(output) & (output.sign() == reference.sign()))
        _check_places(f"{name} pattern differs", wrong, output, eager)
    if measured.generated > measured.allowed:
        difference = torch.where(finite, (output.double() - reference).abs(), 0)
        where = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        raise Mismatch(
            f"error {measured.generated:.3g} against float64, where eager has {measured.eager:.3g} and "
            f"{measured.allowed:.3g} is allowed; worst at {where}: {output[where].item():.6g}, not "
            f"{reference[where].item():.6g}"
        )
    return measured


def _error(run: torch.Tensor, reference: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """The greatest difference, among the places stated, or else among those where both are finite."""
    where = torch.isfinite(run) & torch.isfinite(reference) if where is None else where
    return float((run[where].double() - reference[where]).abs().max()) if where.any() else 0.0


def _check_places(what: str, wrong: torch.Tensor, output: torch.Tensor, eager: torch.Tensor) -> None:
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        raise Mismatch(
            f"{what} in {int(wrong.sum())} of {wrong.numel()} places, first at {where}: "
            f"{output[where].item()}, where eager has {eager[where].item()}"
        )


def _check_kind(output: torch.Tensor, eager: torch.Tensor) -> None:
    if output.shape != eager.shape:
        raise Mismatch(f"shape {list(output.shape)}, not {list(eager.shape)}")
    if output.dtype != eager.dtype:
        raise Mismatch(f"dtype {output.dtype}, not {eager.dtype}")


def _misplaced(
    output: torch.Tensor, eager: torch.Tensor, reference: torch.Tensor, special: bool
) -> dict[str, torch.Tensor]:
    """Where NaN and infinity are not as eager and the reference both have them."""
    wrong = {}
    for name, pattern in (("NaN", torch.isnan), ("infinity", torch.isinf)):
        wrong[name] = (pattern(reference) == pattern(eager)) & (pattern(output) != pattern(eager))
        if special:
            # infinity times a weight that underflows in one of the two, or meeting a hidden NaN, changes its kind
            wrong[name] &= torch.isfinite(output) | torch.isfinite(eager)
    return wrong


def _without_hidden(output: torch.Tensor, wanted: list[torch.Tensor], unread: list[torch.Tensor]) -> list[torch.Tensor]:
    """What is wanted, from the runs that read nothing hidden where the output is finite or not as those are."""
    wrong = torch.stack(list(_misplaced(output, wanted[0], wanted[1], True).values())).any(0)
    still = torch.stack(list(_misplaced(output, unread[0], unread[1], True).values())).any(0)
    return [torch.where(wrong & ~still, other, one) for one, other in zip(wanted, unread, strict=True)]


def _where_undefined(
    output: torch.Tensor, wanted: list[torch.Tensor], spread: list[torch.Tensor]
) -> list[torch.Tensor]:
    """What is wanted, but NaN where the output is, and the original with NaN for an infinite input."""
    undefined = torch.isnan(output) & torch.isnan(spread[0]) & torch.isnan(spread[1])
    return [torch.where(undefined, other, one) for one, other in zip(wanted, spread, strict=True)]


def _undefined(arguments: Arguments) -> Arguments:
    """NaN in place of the infinities of tensors with positive ones: those with negative ones alone are masks."""

    def rule(tensor: torch.Tensor) -> torch.Tensor:
        infinite = tensor == torch.inf
        return torch.where(tensor.isinf(), torch.nan, tensor) if infinite.any() else tensor

    return _mapped(arguments, rule)


def has_special(arguments: Arguments) -> bool:
    """Whether a floating-point input holds NaN or an infinity."""
    tensors = [tensor for tensor in flatten(list(arguments.values())) if tensor.is_floating_point()]
    return any(bool((~tensor.isfinite()).any()) for tensor in tensors)


def upcast(arguments: Arguments, dtype: torch.dtype = torch.float64) -> Arguments:
    """Floating-point tensors as float64; the rest as it is."""
    return _mapped(arguments, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor.clone())


def nearby(arguments: Arguments, seed: int) -> Arguments:
    """Inputs moved at random by up to 1/64, relatively; whole numbers, of which masks and fills are made, stay."""
    generator = torch.Generator().manual_seed(seed)

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        by = 1 + (torch.rand(tensor.shape, generator=generator).to(tensor.device) * 2 - 1) / 64
        stays = ~tensor.isfinite() | (tensor == tensor.round())
        return torch.where(stays, tensor, (tensor.double() * by).to(tensor.dtype))

    return _mapped(arguments, move)


def perturbed(arguments: Arguments, seed: int, dtype: torch.dtype = torch.float64) -> Arguments:
    """Float64 inputs moved at random by 4 eps(float32), relatively, or as sums over their longest dimension may err."""
    generator = torch.Generator().manual_seed(seed)
    longest = max((size for tensor in flatten(list(arguments.values())) for size in tensor.shape), default=1)
    width = max(4.0, math.sqrt(longest / 8)) * torch.finfo(torch.float32).eps

    def move(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return tensor.clone()
        signs = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.device) * 2 - 1
        return rounded(tensor.double() * (1 + width * signs), generator).to(dtype)

    return _mapped(arguments, move)


@contextmanager
def limits_of(arguments: Arguments) -> Iterator[None]:
    """Have `torch.finfo(x.dtype)` be that of these arguments where their tensors have been upcast to float64."""
    dtypes = [tensor.dtype for tensor in flatten(list(arguments.values())) if tensor.is_floating_point()]
    finfo = torch.finfo

    def stated(dtype: torch.dtype | None = None) -> torch.finfo:
        dtype = torch.get_default_dtype() if dtype is None else dtype
        return finfo(dtypes[0] if dtype == torch.float64 and dtypes else dtype)

    with mock.patch.object(torch, "finfo", stated):
        yield


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill what torch.empty and its kin allocate with NaN (integers: their least), so that unwritten places show."""

    def filling(allocate: Function) -> Function:
        def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor: torch.Tensor = allocate(*args, **kwargs)
            if tensor.is_floating_point():
                return tensor.fill_(float("nan"))
            return tensor if tensor.dtype == torch.bool else tensor.fill_(torch.iinfo(tensor.dtype).min)

        return wrapper

    with (
        mock.patch.object(torch, "empty", filling(torch.empty)),
        mock.patch.object(torch, "empty_like", filling(torch.empty_like)),
        mock.patch.object(torch, "empty_strided", filling(torch.empty_strided)),
        mock.patch.object(torch.Tensor, "new_empty", filling(torch.Tensor.new_empty)),
    ):
        yield


def flatten(outputs: Any) -> list[torch.Tensor]:
    """The tensors of a result: a tensor, or nested tuples, lists and dicts of them."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return [tensor for output in outputs for tensor in flatten(output)]
    return []


def _rejecting(function: Function, arguments: Arguments, copied: bool = True) -> list[torch.Tensor]:
    try:
        # its back ends differ in what they give for NaN and infinity: take scaled_dot_product_attention's definition
        with sdpa_kernel(SDPBackend.MATH):
            return flatten(function(**(_copied(arguments) if copied else arguments)))
    except Exception as error:
        raise Rejected(f"{type(error).__name__}: {error}") from error


def _mapped(arguments: Arguments, rule: Callable[[torch.Tensor], torch.Tensor]) -> Arguments:
    def apply(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return rule(value)
        return [apply(item) for item in value] if isinstance(value, list) else value

    return {name: apply(value) for name, value in arguments.items()}


def _copied(arguments: Arguments) -> Arguments:
    # clone keeps dense strides and drops gaps: the original may accept fewer strides than the generated function has to
    return _mapped(arguments, lambda tensor: tensor.clone())


def _same(one: Arguments, other: Arguments) -> bool:
    pairs = zip(flatten(one), flatten(other), strict=True)
    return all(torch.equal(a.nan_to_num(0.0, 1.0, 2.0), b.nan_to_num(0.0, 1.0, 2.0)) for a, b in pairs)
