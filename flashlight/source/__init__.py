"""The first stage: what can be said of a user's file without running it."""

from flashlight.source.attention import chosen, contains_attention, states_shapes
from flashlight.source.model import ParameterText, Source, Statement, Target
from flashlight.source.reader import parse, read

__all__ = [
    "ParameterText",
    "Source",
    "Statement",
    "Target",
    "chosen",
    "contains_attention",
    "parse",
    "read",
    "states_shapes",
]
