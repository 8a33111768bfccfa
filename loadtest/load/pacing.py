"""When a user of the load test sends its next request."""

from __future__ import annotations


class Pace:
    """The due times of one user: evenly spaced, and not shifted by slow replies.

    A user that merely waits between replies sends less while the service stalls, so the stall is measured once
    instead of once for each request that it would have held up ("coordinated omission"). This one stays on its
    schedule: what it owes after a slow reply it sends at once, and says how late that was.

    Usage::

        pace = Pace(first_due)
        send(); sleep(pace.next(now, period)); send(); ...  # the second request began `pace.owed` seconds late
    """

    def __init__(self, first_due: float) -> None:
        self.due = first_due
        self.owed = 0.0

    def next(self, now: float, period: float) -> float:
        """Move to the next due time; returns the seconds to wait for it, 0 when it has passed.

        Sets `owed`: by how many seconds the previous reply made the next request late. That a sleep takes longer than
        asked for is the load generator's own doing and does not count.
        """
        self.due += period
        self.owed = max(0.0, now - self.due)
        return max(0.0, self.due - now)
