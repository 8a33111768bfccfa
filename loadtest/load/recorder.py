"""Durations and failures of a load test: bounded in memory, exact enough for a service that answers in under 1 ms.

Locust rounds what it keeps to 1 ms below 100 ms, and to 10 ms above, so its percentiles can't tell 0.6 ms from 1.4 ms.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping

PERCENTILES = (50, 90, 95, 99)
SINGLE, BATCH = "single", "batch"  # kinds of request: the first words of rows
CLIENT = "client"  # from sending a request to having read its reply
SINCE_DUE = "since due"  # the same, and by how much earlier replies made it late
SERVER_PHASES = ("queue", "tokenize", "inference", "decode", "total")
MAX_REASONS = 20
OTHER_REASONS = "(other reasons)"


def quantise(milliseconds: float) -> int:
    """A duration in microseconds, to four significant digits.

    Off by at most 0.5 µs below 10 ms, and by at most 0.05 % of the duration above: 50 µs just under a second.
    There are 10,000 such values up to 10 ms and 9,000 for each factor of ten beyond, which bounds memory.
    """
    return round(float(f"{milliseconds * 1000:.4g}"))


class Histogram:
    """A set of durations that forgets their order and their fifth digit; mean and maximum are exact."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.total_ms = 0.0
        self.max_ms = 0.0

    def __len__(self) -> int:
        """How many durations were added."""
        return self.counts.total()

    def add(self, milliseconds: float) -> None:
        """Add a duration, which must not be negative."""
        self.counts[quantise(milliseconds)] += 1
        self.total_ms += milliseconds
        self.max_ms = max(self.max_ms, milliseconds)

    def merge(self, other: Histogram) -> None:
        """Add all durations of another histogram."""
        self.counts.update(other.counts)
        self.total_ms += other.total_ms
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile(self, percent: int) -> float:
        """The least duration that at least so many percent do not exceed, in milliseconds.

        This is the nearest-rank definition (numpy's ``inverted_cdf``): always a duration that occurred.
        """
        values = sorted(self.counts)
        rank = max(1, -(-percent * len(self) // 100))
        place = bisect_left(list(itertools.accumulate(self.counts[value] for value in values)), rank)
        return min(values[place] / 1000, self.max_ms)  # rounding may exceed it

    def summary(self) -> dict[str, float]:
        """Mean, `PERCENTILES` and maximum, in milliseconds. The histogram must not be empty."""
        percentiles = {f"p{percent}": self.percentile(percent) for percent in PERCENTILES}
        return {"mean": self.total_ms / len(self), **percentiles, "max": self.max_ms}


class Recorder:
    """What happened in a load test: one histogram per row (``single client``, ``batch inference`` ...), and failures.

    It can be pickled, for another process.
    Times of failures are not kept: an error that comes fast must not flatter the percentiles.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Forget everything but failures: what came so far was not yet the load that is to be measured."""
        self.rows: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.requests = self.failures.total()
        self.texts = 0
        self._began: float | None = None
        self._earlier_seconds = 0.0
        self._ended = 0.0

    @property
    def seconds(self) -> float:
        """From the start of the first request to the end of the test; in merged recorders the longest of these."""
        own = 0.0 if self._began is None else self._ended - self._began
        return max(own, self._earlier_seconds)

    def record_valid(self, kind: str, durations_ms: Mapping[str, float], *, texts: int, ended: float) -> None:
        """Record a valid reply.

        Args:
            kind: `SINGLE` or `BATCH`.
            durations_ms: by phase; `CLIENT` is required.
            texts: how many texts were answered.
            ended: when the reply was complete, in seconds of a monotonic clock.
        """
        self._extend(durations_ms[CLIENT], ended)
        self.texts += texts
        for phase, milliseconds in durations_ms.items():
            self.rows[f"{kind} {phase}"].add(milliseconds)

    def record_failure(self, reason: str, client_ms: float, *, ended: float) -> None:
        """Record a request that had no valid reply. Only so many different reasons are kept apart."""
        self._extend(client_ms, ended)
        known = reason in self.failures or len(self.failures) < MAX_REASONS
        self.failures[reason if known else OTHER_REASONS] += 1

    def stop(self, now: float) -> None:
        """The test ends: the time in which nothing came any more counts too."""
        self._ended = max(self._ended, now)

    def merge(self, other: Recorder) -> None:
        """Add what another recorder saw at the same time."""
        for row, histogram in other.rows.items():
            self.rows[row].merge(histogram)
        self.failures.update(other.failures)
        self.requests += other.requests
        self.texts += other.texts
        self._earlier_seconds = max(self._earlier_seconds, other.seconds)

    def _extend(self, client_ms: float, ended: float) -> None:
        began = ended - client_ms / 1000
        self.requests += 1
        self._began = began if self._began is None else min(self._began, began)
        self._ended = max(self._ended, ended)
