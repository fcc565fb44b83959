"""The first stage: what can be said of a user's file without running it."""

from flashlight.source.attention import contains_attention
from flashlight.source.model import ParameterText, Source, Statement, Target
from flashlight.source.reader import parse, read

__all__ = ["ParameterText", "Source", "Statement", "Target", "contains_attention", "parse", "read"]
