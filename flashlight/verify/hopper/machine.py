"""A multiprocessor: groups of warps that run side by side, shared memory, barriers, and the copy engine.

Each group is a thread, and one runs at a time. Wherever groups meet, at barriers and copies, it is drawn who goes on:
another group, or a copy that is under way and has not arrived. So each launch is one of the orders that a GPU may have
run, and what goes wrong in one of them is an error here: memory that is read before it was filled holds NaN, memory
that is written while it is read or sent raises `Race`, and groups that wait for each other raise `Deadlock`.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Place = tuple[int, int]
"""Memory that is used as a whole: an allocation, and the index into its first dimension."""


class Deadlock(RuntimeError):
    """Every group of warps waits, and no copy is under way."""


class Race(RuntimeError):
    """Memory is used by one while another has not done with it."""


class _Stopped(BaseException):
    """Ends the other groups when one has failed."""


class Machine:
    """What one program of a kernel runs on.

    Args:
        program: the program's number.
        programs: how many there are.
        seed: of the order in which groups and copies go on. Some are much faster than others, which differs by seed.
    """

    def __init__(self, program: int, programs: int, seed: int) -> None:
        self.program = program
        self.programs = programs
        self.groups: list[_Group] = []
        self.running: _Group | None = None
        self.copies: list[Callable[[], None]] = []
        self.error: BaseException | None = None
        self.multiplied: dict[Place, int] = {}
        self.read: dict[Place, set[Any]] = {}
        self.leaving: dict[Place, _Tile] = {}
        self.notes: dict[Place, _Tile] = {}
        self._allocations = 0
        self._random = random.Random(f"{seed} {program}")
        self._patience = self._speed()

    def _speed(self) -> float:
        return self._random.choice((0.05, 1.0, 1.0, 20.0))

    # --- groups -----------------------------------------------------------------------------------------------------

    def run(self, functions: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> None:
        """Run a function for each group until all are done."""
        for number, (function, arguments) in enumerate(functions):
            self.groups.append(_Group(f"{function.__name__}, group {number}", function, arguments, self._speed()))
        threads = [threading.Thread(target=self._thread, args=(group,), daemon=True) for group in self.groups]
        for thread in threads:
            thread.start()
        self._pass_on()
        for thread in threads:
            thread.join()
        if self.error is None and any(tile.state != "read" for tile in self.leaving.values()):
            self.error = Race("the program ends while copies read its shared memory: wait for them")
        if self.error is not None:
            raise self.error

    def _thread(self, group: _Group) -> None:
        group.turn.acquire()
        try:
            if self.error is None:
                group.function(*group.arguments)
        except _Stopped:
            pass
        except BaseException as error:
            error.args = (f"{group.name}: {error}",)
            self.error = self.error or error
        group.done = True
        self._pass_on()

    def meet(self, until: Callable[[], bool] | None = None) -> None:
        """Let others go on, and come back at some time after the condition holds."""
        group = self.running
        assert group is not None
        group.until = until
        self._pass_on()
        group.turn.acquire()
        if self.error is not None:
            raise _Stopped

    def _pass_on(self) -> None:
        """Give the turn to a group, after any number of copies."""
        while True:
            waiting = [group for group in self.groups if not group.done]
            if self.error is not None:
                ready: list[Any] = waiting[:1]
            else:
                ready = [group for group in waiting if group.until is None or group.until()]
                ready += self.copies
            if not ready:
                if not waiting:
                    return
                self.error = Deadlock("all wait: " + "; ".join(group.name for group in waiting))
                continue
            weights = [getattr(one, "speed", self._patience) for one in ready]
            (chosen,) = self._random.choices(ready, weights)
            if isinstance(chosen, _Group):
                self.running = chosen
                chosen.turn.release()
                return
            self.copies.remove(chosen)
            try:
                chosen()
            except Exception as error:
                self.error = error

    # --- memory -----------------------------------------------------------------------------------------------------

    def allocation(self) -> int:
        """The number of a new allocation."""
        self._allocations += 1
        return self._allocations

    def fill(self, place: Place) -> None:
        """Memory is about to be written by the copy engine."""
        if self.multiplied.get(place):
            raise Race("a block is replaced while it is multiplied")
        if self.read.get(place):
            raise Race("a block is replaced that the copy engine may not know to be read: fence it before its release")

    def loaded(self, place: Place) -> None:
        """The running group has read memory into registers."""
        self.read.setdefault(place, set()).add(self.running)

    def hold(self, places: Sequence[Place], by: int) -> None:
        """Operands of a product that is under way, or done (by = -1)."""
        for place in places:
            self.multiplied[place] = self.multiplied.get(place, 0) + by

    # What leaves by way of shared memory is stored, fenced, known to all warps, sent, read, and known to be read.

    def stored(self, place: Place) -> None:
        """A group writes a tile where the copy engine will read it."""
        if place in self.leaving:
            raise Race("a tile is replaced before it was read and all warps know: wait for the copy, then synchronise")
        self.leaving[place] = _Tile(self.running, "stored")

    def sending(self, place: Place) -> None:
        """The copy engine is told to read a tile."""
        if place not in self.leaving or self.leaving[place].state != "known":
            raise Race("a tile is sent that the copy engine may not see whole: fence it, then synchronise")
        self.leaving[place].state = "sent"

    def fenced(self) -> None:
        """What the running group wrote or read comes before what the copy engine does next."""
        self._advance("stored", "fenced")
        for groups in self.read.values():
            groups.discard(self.running)

    def awaited(self) -> None:
        """The copy engine has read what the running group sent."""
        self._advance("sent", "read")

    # What one group tells others by shared memory: all warps have written it, or read it, before the group says so.

    def noted(self, place: Place) -> None:
        """The running group writes what others will read."""
        if place in self.notes and self.notes[place].state == "unread":
            raise Race("a number is replaced that all warps of a group may not have read: synchronise, then release")
        self.notes[place] = _Tile(self.running, "written")

    def asked(self, place: Place) -> None:
        """The running group reads what another wrote."""
        self.notes[place] = _Tile(self.running, "unread")

    def arriving(self) -> None:
        """The running group says that it has done so."""
        if any(note.group is self.running and note.state != "known" for note in self.notes.values()):
            raise Race("a group says that it is done before all of its warps are: synchronise first")

    def synchronised(self) -> None:
        """The warps of the running group know of each other what they did."""
        for note in self.notes.values():
            if note.group is self.running:
                note.state = "known"
        self._advance("fenced", "known")
        self.leaving = {place: tile for place, tile in self.leaving.items() if not self._is_free(tile)}

    def _is_free(self, tile: _Tile) -> bool:
        return tile.state == "read" and tile.group is self.running

    def _advance(self, before: str, after: str) -> None:
        for tile in self.leaving.values():
            if tile.group is self.running and tile.state == before:
                tile.state = after


@dataclass
class _Tile:
    """A tile on its way out of shared memory, the group that sends it, and how far it has come."""

    group: Any
    state: str


class _Group:
    def __init__(self, name: str, function: Callable[..., Any], arguments: tuple[Any, ...], speed: float) -> None:
        self.name = name
        self.function = function
        self.arguments = arguments
        self.speed = speed
        self.turn = threading.Semaphore(0)
        self.until: Callable[[], bool] | None = None
        self.done = False
