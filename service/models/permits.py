"""Permits: how many texts of a student may wait or run at once, and who is admitted when few are left.

A single text is admitted at once or refused. A batch needs several permits at once. While single texts and smaller
batches take each permit as it becomes free, a large batch would never find enough of them. So a batch that can't be
admitted waits in line: permits that are given back are kept for the first of the line, until it has enough.

`service.models.queue` takes permits and gives them back; this module has the line, which single texts never enter.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from service import errors

MAX_TURN_SECONDS = 5.0  # maximum time in line of a batch without a deadline


class _Place:
    """A batch in line: the permits that it needs, those kept for it, and whether it has its turn."""

    __slots__ = ("kept", "needed", "turn")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.kept = 0
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Admission:
    """The permits of one student. Whoever adds to `free` calls `serve_line` if there is a `line`.

    Attributes:
        total: all permits.
        free: those that a request may take at once; 0 while a batch waits in line.
        line: the batches that wait, in order of arrival.
    """

    def __init__(self, total: int, seconds_per_text: float) -> None:
        self.total = total
        self.free = total
        self.line: deque[_Place] = deque()
        self._seconds_per_text = seconds_per_text

    async def take_in_turn(self, items: int, seconds: float | None) -> None:
        """Wait in line until permits for a batch are free, and take them.

        The time is bounded by `seconds`, those left until the deadline, and without a deadline by `MAX_TURN_SECONDS`.
        Whether a batch may join the line depends on the texts before it, not on its own size.

        Raises:
            Overloaded: as many texts as there are permits wait in line already, or the batch's turn did not come.
            DeadlinePassed: its turn did not come before its deadline.
        """
        if items > self.total or sum(place.needed for place in self.line) >= self.total:
            raise self.overloaded()
        place = _Place(items)
        self.line.append(place)
        self.serve_line()
        try:
            async with asyncio.timeout(MAX_TURN_SECONDS if seconds is None else max(0.0, seconds)):
                await place.turn
        except BaseException as error:  # cancelled, too
            self._leave(place)
            if isinstance(error, TimeoutError):
                raise (self.overloaded() if seconds is None else errors.DeadlinePassed()) from None
            raise

    def serve_line(self) -> None:
        """Keep free permits for the first of the line; one that has all that it needs has its turn."""
        while self.line and self.free:
            first = self.line[0]
            taken = min(self.free, first.needed - first.kept)
            self.free -= taken
            first.kept += taken
            if first.kept < first.needed:
                return
            self.line.popleft()
            if not first.turn.done():
                first.turn.set_result(None)

    def overloaded(self) -> errors.Overloaded:
        """The error of a request for which too few permits are free; it says when to retry."""
        seconds = max(1, math.ceil((self.total - self.free) * self._seconds_per_text))
        return errors.Overloaded({"retry-after": str(seconds)}, limit=self.total)

    def _leave(self, place: _Place) -> None:
        if place in self.line:
            self.line.remove(place)
        self.free += place.kept
        place.kept = 0
        self.serve_line()
