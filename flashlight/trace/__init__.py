"""The second stage: the user's function as a program over named axes."""

from flashlight.trace.traced import Parameter, Traced
from flashlight.trace.tracer import trace

__all__ = ["Parameter", "Traced", "trace"]
