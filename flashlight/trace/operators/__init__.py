"""What each PyTorch operator means, one module a family; `table` puts the families together."""

from __future__ import annotations

from functools import cache
from typing import Any

from flashlight.trace.operators import (
    attention,
    creation,
    indexing,
    joins,
    neighbours,
    pointwise,
    products,
    reductions,
    views,
)
from flashlight.trace.operators.pointwise import Rule

BROADCASTING = frozenset({"unsqueeze", "expand", "expand_as", "alias", "broadcast_to"})
"""Views that a tensor of smaller sizes and fewer dimensions goes through like a full one."""
SPREAD = {"scaled_dot_product_attention": (3, "attn_mask")}
"""An argument that other operators broadcast, by its place and its name."""


@cache
def table() -> dict[str, Rule]:
    """Every rule by the name of its operator: ``rule(context, *args, **kwargs)`` over values."""
    families: tuple[Any, ...] = (
        pointwise, reductions, products, views, joins, indexing, creation, attention, neighbours
    )  # fmt: skip
    result: dict[str, Rule] = {}
    for family in families:
        result.update(family.rules())
    return result


@cache
def broadcasting() -> frozenset[str]:
    """Operators that treat every position alike."""
    return frozenset(pointwise.rules()) | BROADCASTING
