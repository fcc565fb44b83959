"""The schedule: which axes form the grid, what is tiled, streamed and resident, in how many passes, over which keys."""

from flashlight.schedule.build import schedule
from flashlight.schedule.model import Schedule

__all__ = ["Schedule", "schedule"]
