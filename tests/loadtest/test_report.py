"""Figures and their table."""

from __future__ import annotations

from loadtest.load.recorder import BATCH, CLIENT, SINCE_DUE, SINGLE, Recorder
from loadtest.load.report import Figures, figures_of, is_success, table_of
from loadtest.load.texts import Selection, Text

SELECTION = Selection([Text("hallo", "de-DE")], ["en-US"])


def figures(valid: int, failed: int = 0, asked: float = 0.0, seconds: float = 2.0) -> Figures:
    recorder = Recorder()
    for _ in range(valid):
        recorder.record_valid(BATCH, {"total": 2.0, CLIENT: 3.0}, texts=16, ended=0.003)
        recorder.record_valid(SINGLE, {"total": 0.5, SINCE_DUE: 1.5, CLIENT: 1.0}, texts=1, ended=0.003)
    for _ in range(failed):
        recorder.record_failure("HTTP 500", 3.0, ended=0.003)
    recorder.stop(seconds)
    return figures_of(recorder, SELECTION, host="http://x", users=4, asked_rate=asked)


def test_rows_stand_in_the_order_in_which_time_passes() -> None:
    rows = ["single client", "single since due", "single total", "batch client", "batch total"]

    assert list(figures(3)["rows"]) == rows


def test_only_valid_replies_make_the_achieved_rate() -> None:
    found = figures(valid=50, failed=100, asked=50, seconds=2.0)

    assert found["achieved_rate"] == 50
    assert found["kept_up"]
    assert found["failures"] == 100


def test_success_needs_requests_and_no_failures() -> None:
    assert is_success(figures(valid=1))
    assert not is_success(figures(valid=1, failed=1))
    assert not is_success(figures(valid=0))


def test_the_table_says_what_was_asked_and_what_was_achieved() -> None:
    table = table_of(figures(valid=50, asked=200))

    assert "asked 200.00/s, achieved 50.00/s, 25.0% of it (425.00 texts/s)" in table
    assert "The asked rate was not reached" in table
    assert "left out: en-US" in table


def test_the_table_counts_the_reasons_of_failures() -> None:
    table = table_of(figures(valid=0, failed=3, asked=200))

    assert "3 x HTTP 500" in table
    assert "failures: 3 of 3 requests" in table
    assert "more users" not in table
