"""The schedule of one user of the load test."""

from __future__ import annotations


class Pace:
    """The due times of one user: evenly spaced, and not shifted by slow replies.

    A user that waits between replies sends less while the service stalls, so the stall is measured only once instead of
    once for each delayed request ("coordinated omission"). This one keeps its schedule: after a slow reply it sends
    overdue requests at once, and records how late they are.

    Usage::

        pace = Pace(first_due)
        send(); sleep(pace.next(now, period)); send(); ...  # the second request starts `pace.lateness` seconds late
    """

    def __init__(self, first_due: float) -> None:
        self.due = first_due
        self.lateness = 0.0

    def next(self, now: float, period: float) -> float:
        """Advance to the next due time; returns the seconds until then, 0 if it has passed.

        Sets `lateness`: the delay of the next request by the previous reply, in seconds. A sleep that takes longer than
        requested is the load generator's fault and does not count.
        """
        self.due += period
        self.lateness = max(0.0, now - self.due)
        return max(0.0, self.due - now)
