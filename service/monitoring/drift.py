"""Drift: how far recent answers differ from those that a student gave on the labelled texts of its export.

In each locale of which the manifest holds a profile, a window over the last `WINDOW` answers is compared with it: their
domains, and the student's confidence. The measure is the population stability index of credit scoring,
``sum((p - q) * ln(p / q))``, which is Jeffreys' divergence of the two distributions. By convention a value
below 0.1 means no shift, and one above 0.25 a clear one.

Without any drift it is about ``(bins - 1) * (1 / answers + 1 / texts)`` by chance (Yurdakul, "Statistical Properties of
Population Stability Index", 2018). So bins are few, and there is no value until this is below `MAX_NOISE`.

No text is kept, only the numbers of bins.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from prometheus_client import Gauge

from service.student.manifest import PROFILE_BINS, Manifest

WINDOW = 2000
MIN_ANSWERS = 300
MAX_NOISE = 0.1  # expected index of a sample without drift, above which no value is given
MIN_SHARE = 0.05  # of the profile in each merged bin of confidences but the lowest


def confidence_bin(confidence: float) -> int:
    """Which of the `PROFILE_BINS` equal bins of 0 to 1 a confidence lies in; a border belongs to the bin above it."""
    return min(int(confidence * PROFILE_BINS), PROFILE_BINS - 1)


def stability_index(shares: Sequence[float], texts: int, counts: Sequence[int]) -> float:
    """The population stability index of counts against the shares that the same bins have in the profile.

    Both are mixed with the uniform distribution, as if each bin of the smaller sample held one half more. So the index
    is finite where a bin is empty, zero for equal distributions, and not raised by unequal sample sizes.

    Args:
        shares: of each bin, with sum 1.
        texts: that the shares are of.
        counts: of each bin, not all of them 0.
    """
    answers = sum(counts)
    halves = len(counts) / 2
    kept = 1 - halves / (min(answers, texts) + halves)
    uniform = (1 - kept) / len(counts)
    index = 0.0
    for share, count in zip(shares, counts, strict=True):
        expected = kept * share + uniform
        found = kept * count / answers + uniform
        index += (found - expected) * math.log(found / expected)
    return index


def answers_needed(bins: int, texts: int) -> int | None:
    """How many answers it takes until chance makes less than `MAX_NOISE`.

    None if more than the window holds, or if there is only one bin, which can't differ.
    """
    room = MAX_NOISE / (bins - 1) - 1 / texts if bins > 1 else 0.0
    if room < 1 / WINDOW:
        return None
    return max(MIN_ANSWERS, math.ceil(1 / room))


def parts_of_confidence(shares: Sequence[float]) -> list[int]:
    """For each bin of a profile, the merged bin that it belongs to.

    From the highest confidence downwards neighbours are merged until they hold `MIN_SHARE` of the profile; the last
    merged bin is the rest. Most confidences are high, so most of twenty equal bins would hold only noise.
    """
    parts = []
    part, held = 0, 0.0
    for share in reversed(shares):
        if held >= MIN_SHARE:
            part, held = part + 1, 0.0
        parts.append(part)
        held += share
    return parts[::-1]


class Window:
    """The bins of the last `WINDOW` answers, and the shares that these bins have in the profile.

    Args:
        shares: of each bin in the profile; they need not sum to 1.
        texts: number of texts of the profile.
        parts: for each bin, the number of the merged bin that it belongs to; by default none are merged.
    """

    def __init__(self, shares: Sequence[float], texts: int, parts: Sequence[int] | None = None) -> None:
        self._parts = range(len(shares)) if parts is None else parts
        self._texts = texts
        self._shares = [0.0] * (max(self._parts) + 1)
        whole = math.fsum(shares)
        for part, share in zip(self._parts, shares, strict=True):
            self._shares[part] += share / whole
        self._counts = [0] * len(self._shares)
        self._needed = answers_needed(len(self._shares), texts)
        self._last: deque[int] = deque(maxlen=WINDOW)

    def add(self, number: int) -> None:
        """Record an answer by the number of its bin."""
        part = self._parts[number]
        if len(self._last) == WINDOW:
            self._counts[self._last[0]] -= 1
        self._last.append(part)
        self._counts[part] += 1

    @property
    def index(self) -> float | None:
        """The index of the answers in the window; None while there are too few, or too few in the profile."""
        if self._needed is None or len(self._last) < self._needed:
            return None
        return stability_index(self._shares, self._texts, self._counts)


class Drift:
    """The windows of one student, and their gauges; call `publish` regularly, and `withdraw` when it is replaced."""

    def __init__(self, gauge: Gauge, manifest: Manifest) -> None:
        self._gauge = gauge
        self._name = manifest.name
        self._domains = manifest.labels.domain
        self._profiles = manifest.calibration.profile if manifest.calibration else {}
        self._windows: dict[tuple[str, str], Window] = {}

    def window_of_domains(self, locale: str) -> Window | None:
        """A new window of the domains answered in a locale, by their numbers; None without a profile."""
        profile = self._profiles.get(locale)
        shares = [profile.domains.get(name, 0.0) for name in self._domains] if profile else []
        if profile is None or not any(shares):
            return None
        window = self._windows[locale, "domain"] = Window(shares, profile.texts)
        return window

    def window_of_confidence(self, locale: str) -> Window | None:
        """A new window of the confidences in a locale, by their `confidence_bin`; None without a profile."""
        profile = self._profiles.get(locale)
        if profile is None or not any(profile.confidence):
            return None
        window = Window(profile.confidence, profile.texts, parts_of_confidence(profile.confidence))
        self._windows[locale, "confidence"] = window
        return window

    def publish(self) -> None:
        """Set the gauges of the windows that have an index."""
        for (locale, of), window in self._windows.items():
            if (index := window.index) is not None:
                self._gauge.labels(self._name, locale, of).set(index)

    def withdraw(self) -> None:
        """Set the gauges to zero: where several processes count, a series can't be removed."""
        for (locale, of), window in self._windows.items():
            if window.index is not None:
                self._gauge.labels(self._name, locale, of).set(0)
