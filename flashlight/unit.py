"""What the stages hand on: one target with what every stage made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashlight.region import Region
    from flashlight.schedule import Schedule
    from flashlight.source import Target
    from flashlight.trace.traced import Traced
    from rewriters.pipeline import Rewritten


@dataclass(frozen=True)
class Unit:
    """One target after every stage but the last: as source, as traced, as divided, as rewritten, as scheduled."""

    target: Target
    traced: Traced
    region: Region
    rewritten: Rewritten
    schedule: Schedule
