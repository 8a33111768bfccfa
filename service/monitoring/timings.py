"""Where the time of a request went."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from service.student.student import Prediction


class Timings(NamedTuple):
    """Seconds that one request spent in each phase; measured once, used for metrics, reply and header alike.

    `total` runs from the request's arrival to the decoded answer; `queue` is all of it in which no work was done on the
    text: reading and parsing the request, and waiting.
    """

    queue: float
    tokenize: float
    inference: float
    decode: float
    total: float

    @classmethod
    def of(cls, arrived: float, prediction: Prediction, *, remembered: bool) -> Timings:
        """The phases of an answer that is ready now, for a request that arrived at a `time.perf_counter()`.

        All of a remembered answer's time is queue: nothing else was done.
        """
        total = time.perf_counter() - arrived
        if remembered:
            return cls(total, 0.0, 0.0, 0.0, total)
        return cls(max(0.0, total - sum(prediction.phases)), *prediction.phases, total)

    @classmethod
    def of_batch(cls, items: Sequence[Timings]) -> Timings | None:
        """The phases of a batch: waiting until its first text, work summed, the last text's end. None for no text."""
        if not items:
            return None
        tokenize, inference, decode = (sum(phase) for phase in list(zip(*items, strict=True))[1:4])
        return cls(items[0].queue, tokenize, inference, decode, items[-1].total)

    @classmethod
    def of_several(cls, answers: Sequence[Timings], arrived: float) -> Timings:
        """The phases of answers by several students: work summed, and all else since the request's arrival."""
        total = time.perf_counter() - arrived
        tokenize, inference, decode = (sum(phase) for phase in list(zip(*answers, strict=True))[1:4])
        return cls(max(0.0, total - tokenize - inference - decode), tokenize, inference, decode, total)

    def milliseconds(self) -> dict[str, float]:
        """The phases for ``timings_ms``, to the microsecond."""
        return {phase: round(seconds * 1000, 3) for phase, seconds in zip(self._fields, self, strict=True)}

    def header(self) -> bytes:
        """The phases for ``Server-Timing``."""
        return b"queue;dur=%.3f, tokenize;dur=%.3f, inference;dur=%.3f, decode;dur=%.3f, total;dur=%.3f" % tuple(
            [seconds * 1000 for seconds in self]
        )
