"""Drift of recent answers from the manifest's profile."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.monitoring.drift import (
    MAX_NOISE,
    MIN_ANSWERS,
    MIN_SHARE,
    WINDOW,
    Window,
    answers_needed,
    confidence_bin,
    merge_confidence_bins,
    stability_index,
)
from service.monitoring.metrics import UPDATE_SECONDS, Metrics
from service.monitoring.student_metrics import StudentMetrics
from service.monitoring.timings import Timings
from service.student.decoding import Ranked
from service.student.manifest import PROFILE_BINS, Manifest, read_manifest
from service.student.student import Prediction
from tests.service.conftest import DOMAINS, INTENTS, Clock

TEXTS = 2000
SHARES = [0.25, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.01]
SURENESS = [0.0] * 6 + [0.01] * 4 + [0.02] * 4 + [0.03] * 3 + [0.05, 0.1, 0.64]
PROFILE = {"texts": TEXTS, "domains": dict(zip(DOMAINS, (0.5, 0.3, 0.2), strict=True)), "confidence": SURENESS}
TIMINGS = Timings(0.0, 0.0, 0.0, 0.0, 0.0)

counts = st.lists(st.integers(0, 3000), min_size=2, max_size=40)
weights = st.lists(st.floats(0, 1), min_size=2, max_size=40)


def sampled(shares: Sequence[float], answers: int, seed: int) -> Window:
    """A window of answers drawn by these shares, with a profile of `SHARES`."""
    window = Window(SHARES, TEXTS)
    for number in random.Random(seed).choices(range(len(shares)), shares, k=answers):
        window.add(number)
    return window


@pytest.mark.parametrize("answers", [MIN_ANSWERS, 1000, WINDOW, 3 * WINDOW])
def test_traffic_like_the_profile_shows_no_drift(answers: int) -> None:
    indices = [sampled(SHARES, answers, seed).index for seed in range(20)]

    assert all(index is not None and index < 0.1 for index in indices)


def test_other_traffic_shows_drift() -> None:
    shifted = [*SHARES[6:], *SHARES[:6]]

    assert all((sampled(shifted, MIN_ANSWERS, seed).index or 0) > 0.25 for seed in range(20))


def test_one_new_domain_shows() -> None:
    window = Window([*SHARES, 0.0], TEXTS)

    for _ in range(WINDOW // 10):
        for number in (0, 1, 2, 3, 4, 5, 6, 0, 1, len(SHARES)):
            window.add(number)

    assert (window.index or 0) > 0.25


def test_few_answers_have_no_index() -> None:
    window = Window(SHARES, TEXTS)

    for _ in range(MIN_ANSWERS - 1):
        window.add(0)
    assert window.index is None

    window.add(0)
    assert window.index is not None


def test_old_answers_are_forgotten() -> None:
    window = sampled([0] * 11 + [1], WINDOW, seed=0)
    before = window.index or 0

    for number in random.Random(1).choices(range(len(SHARES)), SHARES, k=WINDOW):
        window.add(number)

    assert before > 1
    assert (window.index or 1) < 0.1


def test_memory_is_bounded() -> None:
    window = Window(SHARES, TEXTS)
    for number in range(WINDOW):
        window.add(number % len(SHARES))
    tracemalloc.start()
    try:
        for number in range(3 * WINDOW):
            window.add(number % len(SHARES))
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert grown < 1000


@given(weights.filter(any), st.integers(1, 10**6), counts.filter(any))
def test_index_is_never_negative(shares: list[float], texts: int, found: list[int]) -> None:
    bins = min(len(shares), len(found))
    shares, found = shares[:bins], found[:bins]
    whole = sum(shares)
    if not whole or not any(found):
        return

    index = stability_index([share / whole for share in shares], texts, found)

    assert index >= 0
    assert math.isfinite(index)


@given(counts.filter(any), st.integers(1, 10**6))
def test_equal_distributions_have_index_zero(found: list[int], texts: int) -> None:
    assert stability_index([count / sum(found) for count in found], texts, found) == pytest.approx(0, abs=1e-9)


@given(weights.filter(lambda found: sum(found) > 0), st.lists(st.integers(0, 1000), max_size=3 * MIN_ANSWERS))
def test_window_is_of_the_last_answers(shares: list[float], numbers: list[int]) -> None:
    window = Window(shares, TEXTS)
    numbers = [number % len(shares) for number in [*numbers, *range(WINDOW)]]

    for number in numbers:
        window.add(number)

    last = [numbers[-WINDOW:].count(number) for number in range(len(shares))]
    assert window.index == pytest.approx(stability_index([share / sum(shares) for share in shares], TEXTS, last))


@given(st.integers(1, 100), st.integers(1, 10**5))
def test_chance_is_kept_small(bins: int, texts: int) -> None:
    needed = answers_needed(bins, texts)

    if needed is None:
        assert bins == 1 or (bins - 1) * (1 / WINDOW + 1 / texts) > 0.99 * MAX_NOISE
    else:
        assert MIN_ANSWERS <= needed <= WINDOW
        assert (bins - 1) * (1 / needed + 1 / texts) < 1.01 * MAX_NOISE


def test_a_small_profile_gives_no_index() -> None:
    window = Window(SHARES, texts=50)

    for _ in range(WINDOW):
        window.add(0)

    assert window.index is None


@given(st.lists(st.floats(0, 1), min_size=PROFILE_BINS, max_size=PROFILE_BINS).filter(lambda found: sum(found) > 0))
def test_merge_confidence_bins_hold_enough(weights: list[float]) -> None:
    shares = [weight / sum(weights) for weight in weights]

    parts = merge_confidence_bins(shares)

    assert parts == sorted(parts, reverse=True)
    assert set(parts) == set(range(parts[0] + 1))
    for part in range(parts[0]):
        assert sum(share for share, of in zip(shares, parts, strict=True) if of == part) >= MIN_SHARE


def test_low_confidence_has_a_bin_of_its_own_for_any_profile() -> None:
    parts = merge_confidence_bins([0.0] * (PROFILE_BINS - 1) + [1.0])

    assert parts[0] != parts[-1]


@pytest.mark.parametrize(("confidence", "number"), [(0.0, 0), (0.049, 0), (0.05, 1), (0.999, 19), (1.0, 19)])
def test_confidence_bin(confidence: float, number: int) -> None:
    assert confidence_bin(confidence) == number


class Traffic:
    """A student's metrics, answers to count, and the gauge."""

    def __init__(self, manifest: Manifest) -> None:
        self.clock = Clock()
        self.metrics = Metrics(self.clock)
        self.manifest = manifest
        self.student_metrics = self.load()

    def load(self) -> StudentMetrics:
        """Create new metrics, as after a reload."""
        self.student_metrics = StudentMetrics(self.metrics, self.manifest)
        self.student_metrics.set_loaded(True)
        return self.student_metrics

    def count(self, answers: int, domains: Sequence[float] = (0.5, 0.3, 0.2), sure: float = 0.97, **more: Any) -> None:
        """Count answers with these shares of domains."""
        chosen = random.Random(5)
        for domain in chosen.choices(DOMAINS, domains, k=answers):
            prediction = Prediction(
                domain=[Ranked(domain, 0.5)],
                intent=[Ranked(INTENTS[0], sure)],
                slots=[],
                truncated=False,
                unknown=0,
                tokens=5,
                in_scope=None,
                kept_domains=None,
                kept_intents=None,
                phases=(0.0, 0.0, 0.0),
            )._replace(**more)
            self.metrics.defer(self.student_metrics.count, "de-DE", prediction, TIMINGS, False)

    def drift(self, of: str) -> float | None:
        """The gauge after its next update."""
        self.clock.now += UPDATE_SECONDS
        self.metrics.flush()
        return self.gauge(of)

    def gauge(self, of: str) -> float | None:
        """The gauge."""
        labels = {"model": self.manifest.name, "locale": "de-DE", "of": of}
        return self.metrics.registry.get_sample_value("nlu_drift_psi", labels)


@pytest.fixture
def traffic(folder: Path, edit: Any) -> Traffic:
    """Traffic of a student with a profile of de-DE."""
    edit(folder, "calibration", calibration())
    return Traffic(read_manifest(folder))


def calibration(**more: Any) -> dict[str, Any]:
    """A calibration with a profile of de-DE."""
    return {"data": "none", "partition": "dev", "temperatures": {}, "profile": {"de-DE": {**PROFILE, **more}}}


def test_both_gauges_are_set(traffic: Traffic) -> None:
    traffic.count(WINDOW)

    assert 0 <= (traffic.drift("domain") or 0) < 0.1
    assert (traffic.drift("confidence") or 0) > 0.25  # all with the same confidence


def test_shifted_domains_show_in_the_gauge(traffic: Traffic) -> None:
    traffic.count(MIN_ANSWERS, domains=(0.2, 0.2, 0.6))

    assert (traffic.drift("domain") or 0) > 0.25


def test_no_gauge_before_there_are_enough_answers(traffic: Traffic) -> None:
    traffic.count(MIN_ANSWERS - 1)

    assert traffic.drift("domain") is None


def test_gauge_is_set_every_few_seconds(traffic: Traffic) -> None:
    traffic.metrics.flush()

    traffic.count(MIN_ANSWERS)
    traffic.metrics.flush()
    assert traffic.gauge("domain") is None

    assert traffic.drift("domain") is not None


@pytest.mark.parametrize(
    ("filtered", "hidden", "shown"),
    [("kept_domains", "domain", "confidence"), ("kept_intents", "confidence", "domain")],
)
def test_filtered_answers_are_left_out(traffic: Traffic, filtered: str, hidden: str, shown: str) -> None:
    traffic.count(MIN_ANSWERS, **{filtered: 0.5})

    assert traffic.drift(hidden) is None
    assert traffic.drift(shown) is not None


def test_a_replaced_student_starts_again(traffic: Traffic) -> None:
    traffic.count(MIN_ANSWERS, domains=(0.2, 0.2, 0.6))
    assert (traffic.drift("domain") or 0) > 0.25
    old = traffic.student_metrics

    old.set_loaded(False)
    traffic.load()
    assert traffic.drift("domain") == 0

    traffic.count(MIN_ANSWERS)
    assert 0 < (traffic.drift("domain") or 0) < 0.1


def test_answers_of_a_replaced_student_do_not_count(traffic: Traffic) -> None:
    traffic.student_metrics.set_loaded(False)

    traffic.count(MIN_ANSWERS, domains=(0.2, 0.2, 0.6))

    assert traffic.drift("domain") is None


def test_a_reload_without_changes_keeps_the_window(traffic: Traffic) -> None:
    traffic.count(MIN_ANSWERS)
    traffic.student_metrics.set_loaded(True)

    assert traffic.drift("domain") is not None


def test_no_gauge_without_a_profile(folder: Path) -> None:
    traffic = Traffic(read_manifest(folder))

    traffic.count(WINDOW)

    assert traffic.drift("domain") is None
    assert traffic.drift("confidence") is None


def test_confidence_is_the_domains_where_there_are_no_intents(folder: Path, edit: Any) -> None:
    edit(folder, "labels.intent", [])
    edit(folder, "calibration", calibration(confidence=[0.0] * 10 + [1.0] + [0.0] * 9))
    traffic = Traffic(read_manifest(folder))

    traffic.count(WINDOW, intent=None)

    assert traffic.drift("confidence") == pytest.approx(0)


def test_drift_is_reported(folder: Path, edit: Any, make_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.monitoring.metrics.UPDATE_SECONDS", 0.0)
    edit(folder, "calibration", calibration())
    client = make_client(folder)
    items = [{"text": "weck mich um neun", "locale": "de-DE"}] * 60

    for _ in range(MIN_ANSWERS // len(items)):
        client.post("/v1/nlu/batch", json={"items": items})

    assert client.metric("nlu_drift_psi", model="s", locale="de-DE", of="domain") > 0.25
