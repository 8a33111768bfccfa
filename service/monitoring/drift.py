"""Drift: how far recent answers differ from the student's answers on the labelled texts of its export.

For each locale with a profile in the manifest, the last `WINDOW` answers are compared with it: their domains, and the
student's confidence. The measure is the population stability index of credit scoring,
``sum((p - q) * ln(p / q))``, which is Jeffreys' divergence of the two distributions. By convention, a
value below 0.1 means no shift, and one above 0.25 a clear shift.

Without drift it is about ``(bins - 1) * (1 / answers + 1 / texts)`` by chance (Yurdakul, "Statistical Properties of
Population Stability Index", 2018). So there are few bins, and no value until this is below `MAX_NOISE`.

No text is stored, only the numbers of bins.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from prometheus_client import Gauge

from service.student.manifest import PROFILE_BINS, Manifest

WINDOW = 2000
MIN_ANSWERS = 300
MAX_NOISE = 0.1  # maximum expected index without drift; above it there is no value
MIN_SHARE = 0.05  # of the profile in each merged bin of confidences except the lowest


def confidence_bin(confidence: float) -> int:
    """The bin of a confidence, of `PROFILE_BINS` equal bins of 0 to 1; a border belongs to the bin above it."""
    return min(int(confidence * PROFILE_BINS), PROFILE_BINS - 1)


def stability_index(shares: Sequence[float], texts: int, counts: Sequence[int]) -> float:
    """The population stability index of counts against the shares that the same bins have in the profile.

    Both are mixed with the uniform distribution, as if each bin of the smaller sample had one half more. So the index
    is finite if a bin is empty, zero for equal distributions, and not increased by unequal sample sizes.

    Args:
        shares: share of each bin in the profile, with sum 1.
        texts: number of texts of the profile.
        counts: number of answers in each bin, not all of them 0.
    """
    answers = sum(counts)
    halves = len(counts) / 2
    kept = 1 - halves / (min(answers, texts) + halves)
    uniform = (1 - kept) / len(counts)
    index = 0.0
    for share, count in zip(shares, counts, strict=True):
        expected = kept * share + uniform
        observed = kept * count / answers + uniform
        index += (observed - expected) * math.log(observed / expected)
    return index


def answers_needed(bins: int, texts: int) -> int | None:
    """The number of answers for which the expected index without drift is below `MAX_NOISE`.

    None if it exceeds the window, or if there is only one bin, which can't differ.
    """
    inverse = MAX_NOISE / (bins - 1) - 1 / texts if bins > 1 else 0.0
    if inverse < 1 / WINDOW:
        return None
    return max(MIN_ANSWERS, math.ceil(1 / inverse))


def merge_confidence_bins(shares: Sequence[float]) -> list[int]:
    """The number of the merged bin of each bin of a profile.

    From the highest confidence downwards, neighbours are merged until they have `MIN_SHARE` of the profile; the last
    merged bin is the rest. Most confidences are high, so most of twenty equal bins would have only noise.
    """
    merged = []
    number, total = 0, 0.0
    for share in reversed(shares):
        if total >= MIN_SHARE:
            number, total = number + 1, 0.0
        merged.append(number)
        total += share
    return merged[::-1]


class Window:
    """The bins of the last `WINDOW` answers, and the shares that these bins have in the profile.

    Args:
        shares: share of each bin in the profile; the sum need not be 1.
        texts: number of texts of the profile.
        merged: number of the merged bin of each bin; by default no bins are merged.
    """

    def __init__(self, shares: Sequence[float], texts: int, merged: Sequence[int] | None = None) -> None:
        self._merged = range(len(shares)) if merged is None else merged
        self._texts = texts
        self._shares = [0.0] * (max(self._merged) + 1)
        total = math.fsum(shares)
        for number, share in zip(self._merged, shares, strict=True):
            self._shares[number] += share / total
        self._counts = [0] * len(self._shares)
        self._needed = answers_needed(len(self._shares), texts)
        self._last: deque[int] = deque(maxlen=WINDOW)

    def add(self, number: int) -> None:
        """Record an answer by the number of its bin."""
        merged = self._merged[number]
        if len(self._last) == WINDOW:
            self._counts[self._last[0]] -= 1
        self._last.append(merged)
        self._counts[merged] += 1

    @property
    def index(self) -> float | None:
        """The index of the answers in the window; None if they are too few, or the profile's texts are."""
        if self._needed is None or len(self._last) < self._needed:
            return None
        return stability_index(self._shares, self._texts, self._counts)


class Drift:
    """The windows of one student, and their gauges. Call `publish` regularly, and `withdraw` when it is replaced."""

    def __init__(self, gauge: Gauge, manifest: Manifest) -> None:
        self._gauge = gauge
        self._name = manifest.name
        self._domains = manifest.labels.domain
        self._profiles = manifest.calibration.profile if manifest.calibration else {}
        self._windows: dict[tuple[str, str], Window] = {}

    def window_of_domains(self, locale: str) -> Window | None:
        """A new window of the domains answered in a locale; None without a profile."""
        profile = self._profiles.get(locale)
        shares = [profile.domains.get(name, 0.0) for name in self._domains] if profile else []
        if profile is None or not any(shares):
            return None
        window = self._windows[locale, "domain"] = Window(shares, profile.texts)
        return window

    def window_of_confidence(self, locale: str) -> Window | None:
        """A new window of the confidences in a locale; None without a profile."""
        profile = self._profiles.get(locale)
        if profile is None or not any(profile.confidence):
            return None
        window = Window(profile.confidence, profile.texts, merge_confidence_bins(profile.confidence))
        self._windows[locale, "confidence"] = window
        return window

    def publish(self) -> None:
        """Set the gauges of the windows that have an index."""
        for (locale, of), window in self._windows.items():
            if (index := window.index) is not None:
                self._gauge.labels(self._name, locale, of).set(index)

    def withdraw(self) -> None:
        """Set the gauges to zero: with several processes, a series can't be removed."""
        for (locale, of), window in self._windows.items():
            if window.index is not None:
                self._gauge.labels(self._name, locale, of).set(0)
