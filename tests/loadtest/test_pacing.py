"""The schedule of one user."""

from __future__ import annotations

from loadtest.load.pacing import Pace


def test_a_quick_reply_is_waited_out() -> None:
    pace = Pace(first_due=100.0)

    assert pace.next(now=100.25, period=1.0) == 0.75
    assert pace.lateness == 0.0


def test_a_late_wake_up_does_not_shift_the_schedule() -> None:
    pace = Pace(first_due=100.0)
    pace.next(now=100.5, period=1.0)  # due at 101.0, woken at 101.25

    assert pace.next(now=101.5, period=1.0) == 0.5


def test_a_stall_makes_each_delayed_request_late() -> None:
    pace = Pace(first_due=100.0)
    lateness = []
    for now in (103.5, 103.5, 103.5, 103.5):  # the first reply took 3.5 s, the others no time
        wait = pace.next(now, period=1.0)
        lateness.append(pace.lateness)

    assert lateness == [2.5, 1.5, 0.5, 0.0]
    assert wait == 0.5
