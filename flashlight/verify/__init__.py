"""Verification: drawn inputs (`draw`), the comparison with float64 (`compare`), the search for failures (`search`)."""

from flashlight.verify.search import Outcome, verify

__all__ = ["Outcome", "verify"]
