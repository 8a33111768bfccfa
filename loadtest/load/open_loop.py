"""Load by a schedule: requests at random moments, as from many users who know nothing of each other.

Connections that send again once they are answered (`closed_loop`) send less while the server is slow, and always keep
it busy. This load is a Poisson process of a given rate, whatever has become of the requests before. Its moments come
from a seed, so that two servers, or one in two settings, can be sent the same.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.load.closed_loop import NEVER, Connection, Measured, Run

SPIN_SECONDS = 2e-3  # before a moment: a timer of the event loop is only as exact as a millisecond


@dataclass(frozen=True)
class Scheduled(Measured):
    """What a load by a schedule found.

    Latencies are from when a request was sent; where no connection was free for it, from when it was due.

    Attributes:
        lateness: of each request, by how many seconds the load generator itself sent it late.
    """

    lateness: array[float]


def measure(
    url: str,
    bodies: Sequence[bytes],
    *,
    rate: float,
    connections: int,
    seconds: float,
    warm_up: float = 0.0,
    seed: int = 0,
    **more: Any,
) -> Scheduled:
    """Load a server for `warm_up` and then `seconds` seconds with `rate` requests a second; else as `closed_loop`.

    Up to 2 ms before each moment the load generator waits busily: it should have a core of its own.

    Raises:
        LoadError: as `closed_loop.measure`.
    """
    run = _ScheduledRun(url, bodies, **more)
    run.moments = moments_of(rate, warm_up + seconds, seed)
    found = run.measure(connections, seconds, warm_up)
    return Scheduled(found.seconds, found.latencies, found.failures, found.cpu_seconds, run.lateness)


def moments_of(rate: float, seconds: float, seed: int) -> list[float]:
    """Random moments in the next `seconds` seconds, `rate` of them a second on the average: a Poisson process."""
    random = np.random.default_rng(seed)
    moments: list[float] = np.sort(random.uniform(0, seconds, random.poisson(rate * seconds))).tolist()
    return moments


class _ScheduledRun(Run):
    """One measurement by a schedule.

    Attributes:
        moments: when requests are due, in seconds from the beginning.
        idle: connections that wait for their next request; used in turn, so that none is idle for long.
        owed: when requests were due for which no connection was free.
    """

    moments: Sequence[float]

    def begin(self) -> None:
        """Start to keep the schedule."""
        self.idle = deque(self.open)
        self.owed: deque[float] = deque()
        self.lateness: array[float] = array("d")
        self.keeping = asyncio.create_task(self._keep(time.perf_counter()))

    def proceed(self, connection: Connection) -> None:
        """Send what is owed, or let the connection wait."""
        if not self.sending:
            connection.close()
        elif self.owed:
            connection.send(self.owed.popleft())
        else:
            connection.began = NEVER
            self.idle.append(connection)

    def end(self) -> None:
        """Send no more, and close the connections that wait for nothing."""
        self.keeping.cancel()
        for connection in self.idle:
            connection.close()

    async def _keep(self, began: float) -> None:
        for moment in self.moments:
            due = began + moment
            while (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(max(0.0, ahead - SPIN_SECONDS))
            if self.counting:
                self.lateness.append(-ahead)
            if self.idle:
                self.idle.popleft().send()
            else:
                self.owed.append(due)
