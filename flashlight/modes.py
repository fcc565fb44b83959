"""What all modes in which PyTorch runs a user's program have in common."""

from __future__ import annotations


class Uncompiled:
    """Before a mode of PyTorch's among the bases: it is not wrapped for the compiler, whose import takes seconds."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
