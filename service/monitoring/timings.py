"""The time of each phase of a request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple


class Timings(NamedTuple):
    """Seconds of each phase of a request; measured once, used for metrics, reply and header.

    `total` runs from the request's arrival to the decoded answer. `queue` is the part of it without work on the text:
    reading and parsing the request, and waiting.
    """

    queue: float
    tokenize: float
    inference: float
    decode: float
    total: float

    @classmethod
    def of_batch(cls, items: Sequence[Timings]) -> Timings | None:
        """The timings of a batch: queue of the first text, sums of the work, total of the last. None without texts."""
        return cls(items[0].queue, *_work(items), items[-1].total) if items else None

    @classmethod
    def of_several(cls, answers: Sequence[Timings], arrived: float) -> Timings:
        """The timings of answers by several students: sums of the work, and the rest since arrival as queue."""
        total = time.perf_counter() - arrived
        work = _work(answers)
        return cls(max(0.0, total - sum(work)), *work, total)


def _work(several: Sequence[Timings]) -> tuple[float, float, float]:
    return sum(t.tokenize for t in several), sum(t.inference for t in several), sum(t.decode for t in several)
