"""Durations and failures of a load test, in bounded memory and with microsecond resolution.

Locust rounds durations to 1 ms below 100 ms, and to 10 ms above, so its percentiles can't distinguish 0.6 and 1.4 ms.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping

PERCENTILES = (50, 90, 95, 99)
SINGLE, BATCH = "single", "batch"  # kinds of request: the first words of row names
CLIENT = "client"  # from sending a request to its complete reply
SINCE_DUE = "since due"  # the same, plus the delay by earlier replies
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
    """Durations with four significant digits, without their order; mean and maximum are exact."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.total_ms = 0.0
        self.max_ms = 0.0

    def __len__(self) -> int:
        """The number of durations."""
        return self.counts.total()

    def add(self, milliseconds: float) -> None:
        """Add a duration of 0 or more."""
        self.counts[quantise(milliseconds)] += 1
        self.total_ms += milliseconds
        self.max_ms = max(self.max_ms, milliseconds)

    def merge(self, other: Histogram) -> None:
        """Add all durations of another histogram."""
        self.counts.update(other.counts)
        self.total_ms += other.total_ms
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile(self, percent: int) -> float:
        """A percentile in milliseconds, by nearest rank (numpy's ``inverted_cdf``): always a duration that occurred."""
        values = sorted(self.counts)
        rank = max(1, -(-percent * len(self) // 100))
        place = bisect_left(list(itertools.accumulate(self.counts[value] for value in values)), rank)
        return min(values[place] / 1000, self.max_ms)  # rounding may exceed it

    def summary(self) -> dict[str, float]:
        """Mean, `PERCENTILES` and maximum, in milliseconds. The histogram must not be empty."""
        percentiles = {f"p{percent}": self.percentile(percent) for percent in PERCENTILES}
        return {"mean": self.total_ms / len(self), **percentiles, "max": self.max_ms}


class Recorder:
    """The results of a load test: one histogram per row (``single client``, ``batch inference`` ...), and failures.

    It can be pickled for another process. Times of failures are not kept, since fast errors would flatter the
    percentiles.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Discard everything but failures, when the load changes."""
        self.rows: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.requests = self.failures.total()
        self.texts = 0
        self._began: float | None = None
        self._earlier_seconds = 0.0
        self._ended = 0.0

    @property
    def seconds(self) -> float:
        """Time from the first request to the end of the test; the longest one of merged recorders."""
        own = 0.0 if self._began is None else self._ended - self._began
        return max(own, self._earlier_seconds)

    def record_valid(self, kind: str, durations_ms: Mapping[str, float], *, texts: int, ended: float) -> None:
        """Record a valid reply.

        Args:
            kind: `SINGLE` or `BATCH`.
            durations_ms: by phase; `CLIENT` is required.
            texts: number of texts answered.
            ended: time of the complete reply, in seconds of a monotonic clock.
        """
        self._extend(durations_ms[CLIENT], ended)
        self.texts += texts
        for phase, milliseconds in durations_ms.items():
            self.rows[f"{kind} {phase}"].add(milliseconds)

    def record_failure(self, reason: str, client_ms: float, *, ended: float) -> None:
        """Record a request without a valid reply. Reasons beyond `MAX_REASONS` are counted together."""
        self._extend(client_ms, ended)
        known = reason in self.failures or len(self.failures) < MAX_REASONS
        self.failures[reason if known else OTHER_REASONS] += 1

    def stop(self, now: float) -> None:
        """End the test; the time since the last reply counts too."""
        self._ended = max(self._ended, now)

    def merge(self, other: Recorder) -> None:
        """Add the results of another recorder of the same time span."""
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
