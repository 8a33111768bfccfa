"""The recorder: bounded, and exact enough."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.load.recorder import (
    BATCH,
    CLIENT,
    MAX_REASONS,
    OTHER_REASONS,
    PERCENTILES,
    SINGLE,
    Histogram,
    Recorder,
    quantise,
)

durations = st.floats(min_value=0, max_value=60_000)


def tolerance(milliseconds: float) -> float:
    """Half a microsecond below 10 ms, 0.05 % above; and what is lost in floating point."""
    return max(0.0005, milliseconds * 0.0005) * 1.001


def histogram_of(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(durations)
def test_quantised_durations_are_close(milliseconds: float) -> None:
    assert quantise(milliseconds) / 1000 == pytest.approx(milliseconds, abs=tolerance(milliseconds))


def test_a_second_is_told_apart_to_a_tenth_of_a_millisecond() -> None:
    assert quantise(998.1) != quantise(998.2)


@given(st.lists(durations, min_size=1, max_size=300))
def test_percentiles_agree_with_numpy(values: list[float]) -> None:
    found = histogram_of(values)

    for percent in PERCENTILES:
        expected = float(np.percentile(values, percent, method="inverted_cdf"))
        assert found.percentile(percent) == pytest.approx(expected, abs=tolerance(expected))


@given(st.lists(durations, min_size=1, max_size=100))
def test_count_mean_and_maximum_are_exact(values: list[float]) -> None:
    histogram = histogram_of(values)
    summary = histogram.summary()

    assert len(histogram) == len(values)
    assert summary["mean"] == pytest.approx(np.mean(values))
    assert summary["max"] == max(values)
    assert summary["p50"] <= summary["p90"] <= summary["p95"] <= summary["p99"] <= summary["max"]


def test_memory_is_bounded() -> None:
    histogram = histogram_of([float(value) for value in np.linspace(0, 60_000, 200_000)])

    assert len(histogram.counts) <= 10_000 + 4 * 9_000


@given(st.lists(durations, max_size=50), st.lists(durations, max_size=50))
def test_merging_equals_having_seen_it_all(mine: list[float], others: list[float]) -> None:
    merged = histogram_of(mine)
    merged.merge(histogram_of(others))

    whole = histogram_of(mine + others)
    assert merged.counts == whole.counts
    assert merged.max_ms == whole.max_ms
    assert merged.total_ms == pytest.approx(whole.total_ms)


def test_a_recorder_reaches_another_process_whole() -> None:
    recorder = Recorder()
    recorder.record_valid(SINGLE, {CLIENT: 1.25, "total": 0.5}, texts=1, ended=10.0)
    recorder.record_failure("HTTP 500", 3.0, ended=12.0)

    read = pickle.loads(pickle.dumps(recorder))

    assert (read.failures, read.requests, read.texts) == ({"HTTP 500": 1}, 2, 1)
    assert read.seconds == recorder.seconds
    assert read.rows["single total"].summary() == recorder.rows["single total"].summary()


def test_seconds_run_from_the_first_request_to_the_end_of_the_test() -> None:
    recorder = Recorder()
    recorder.record_valid(SINGLE, {CLIENT: 500.0}, texts=1, ended=10.0)
    recorder.record_valid(BATCH, {CLIENT: 2.0}, texts=16, ended=11.0)
    recorder.stop(12.0)

    assert recorder.seconds == pytest.approx(2.5)
    assert (recorder.requests, recorder.texts) == (2, 17)


def test_nothing_recorded_is_zero_seconds() -> None:
    recorder = Recorder()
    recorder.stop(12.0)

    assert recorder.seconds == 0.0


def test_merged_recorders_ran_at_the_same_time() -> None:
    whole = Recorder()
    for ended in (11.0, 13.0):
        part = Recorder()
        part.record_valid(SINGLE, {CLIENT: 1000.0}, texts=1, ended=10.0)
        part.stop(ended)
        whole.merge(part)

    assert whole.requests == 2
    assert whole.seconds == pytest.approx(4.0)


def test_failures_leave_no_times() -> None:
    recorder = Recorder()
    recorder.record_failure("HTTP 500", 0.1, ended=1.0)

    assert not recorder.rows
    assert recorder.failures == {"HTTP 500": 1}


def test_only_so_many_reasons_are_kept_apart() -> None:
    recorder = Recorder()
    for number in range(MAX_REASONS + 5):
        recorder.record_failure(f"reason {number}", 1.0, ended=1.0)

    assert len(recorder.failures) == MAX_REASONS + 1
    assert recorder.failures[OTHER_REASONS] == 5


def test_a_restart_forgets_all_but_failures() -> None:
    recorder = Recorder()
    recorder.record_valid(SINGLE, {CLIENT: 1.0}, texts=1, ended=1.0)
    recorder.record_failure("HTTP 500", 1.0, ended=1.0)
    recorder.restart()

    assert not recorder.rows
    assert recorder.requests == recorder.failures.total() == 1
