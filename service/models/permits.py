"""Permits: how many texts of a student may wait or run at once, and who is admitted when few are left.

A single text is admitted at once or refused. A batch needs several permits at once. While single texts and smaller
batches take each permit as it becomes free, a large batch would never find enough of them. So a batch that can't be
admitted waits in line: permits that are given back are kept for the first of the line, until it has enough.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from service import errors

MAX_TURN_SECONDS = 5.0  # maximum time in line of a batch without a deadline


class Permits:
    """Permits of a student; the rest is given back at the end of the ``with`` block."""

    __slots__ = ("_admission", "_items")

    def __init__(self, admission: Admission, items: int) -> None:
        self._admission = admission
        self._items = items

    def give_back(self, items: int) -> None:
        """Give back some permits early."""
        self._items -= items
        self._admission.give_back(items)

    def __enter__(self) -> Permits:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._items)


class _Place:
    """A batch in line: the permits that it needs, those kept for it, and whether it has its turn."""

    __slots__ = ("kept", "needed", "turn")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.kept = 0
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Admission:
    """The permits of one student.

    Attributes:
        total: all permits.
        free: those that a request may take at once; 0 while a batch waits in line.
    """

    def __init__(self, total: int, seconds_per_text: float) -> None:
        self.total = total
        self.free = total
        self._seconds_per_text = seconds_per_text
        self._line: deque[_Place] = deque()

    def admit(self, items: int) -> Permits:
        """Take permits for some texts.

        Raises:
            Overloaded: too few are left; the error says when to retry.
        """
        if items > self.free:
            raise self._overloaded()
        self.free -= items
        return Permits(self, items)

    async def admit_in_turn(self, items: int, seconds: float | None) -> Permits:
        """Take permits for a batch; wait for them in order of arrival if too few are free.

        The time is bounded by `seconds`, those left until the deadline, and without a deadline by `MAX_TURN_SECONDS`.
        Whether a batch may join the line depends on the texts before it, not on its own size.

        Raises:
            Overloaded: as many texts as there are permits wait in line already, or the batch's turn did not come.
            DeadlinePassed: its turn did not come before its deadline.
        """
        if items == 1 or (not self._line and items <= self.free):  # a batch of one text counts as a text
            return self.admit(items)
        if items > self.total or sum(place.needed for place in self._line) >= self.total:
            raise self._overloaded()
        place = _Place(items)
        self._line.append(place)
        self._serve_line()
        try:
            async with asyncio.timeout(MAX_TURN_SECONDS if seconds is None else max(0.0, seconds)):
                await place.turn
        except BaseException as error:  # cancelled, too
            self._leave(place)
            if isinstance(error, TimeoutError):
                raise (self._overloaded() if seconds is None else errors.DeadlinePassed()) from None
            raise
        return Permits(self, items)

    def give_back(self, items: int) -> None:
        """Make permits free again."""
        self.free += items
        if self._line:
            self._serve_line()

    def _serve_line(self) -> None:
        """Keep free permits for the first of the line; one that has all that it needs has its turn."""
        while self._line and self.free:
            first = self._line[0]
            taken = min(self.free, first.needed - first.kept)
            self.free -= taken
            first.kept += taken
            if first.kept < first.needed:
                return
            self._line.popleft()
            if not first.turn.done():
                first.turn.set_result(None)

    def _leave(self, place: _Place) -> None:
        if place in self._line:
            self._line.remove(place)
        self.give_back(place.kept)
        place.kept = 0

    def _overloaded(self) -> errors.Overloaded:
        seconds = max(1, math.ceil((self.total - self.free) * self._seconds_per_text))
        return errors.Overloaded({"retry-after": str(seconds)}, limit=self.total)
