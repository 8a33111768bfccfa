"""An open-loop load generator: requests arrive as a Poisson process, as from many independent users.

A closed loop (`closed_loop`) sends less while the server is slow, and always keeps it busy. This load has a given rate,
independent of earlier replies. The arrival times come from a seed, so that two servers can get the same load.
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

from loadtest.load.closed_loop import NEVER, Connection, LoadRun, Measured

SPIN_SECONDS = 2e-3  # busy waiting before an arrival; timers of the event loop are exact to a millisecond only


@dataclass(frozen=True)
class Scheduled(Measured):
    """The result of an open-loop load.

    Latencies count from sending a request or, if no connection was free, from when it was due.

    Attributes:
        lateness: delay of each request by the load generator itself, in seconds.
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
    """Load a server with `rate` requests a second; otherwise as `closed_loop.measure`.

    The load generator spins for up to 2 ms before each request, so it should have a core of its own.

    Raises:
        LoadError: as `closed_loop.measure`.
    """
    run = ScheduledRun(url, bodies, **more)
    run.arrivals = arrival_times(rate, warm_up + seconds, seed)
    found = run.measure(connections, seconds, warm_up)
    return Scheduled(found.seconds, found.latencies, found.failures, found.cpu_seconds, run.lateness)


def arrival_times(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process, in seconds from its start."""
    random = np.random.default_rng(seed)
    arrivals: list[float] = np.sort(random.uniform(0, seconds, random.poisson(rate * seconds))).tolist()
    return arrivals


class ScheduledRun(LoadRun):
    """One open-loop measurement.

    Attributes:
        arrivals: when requests are due, in seconds from the start.
        idle: free connections; used in turn, so that none is idle for long.
        backlog: due times of requests that wait for a free connection.
    """

    arrivals: Sequence[float]

    def begin(self) -> None:
        """Start the schedule."""
        self.idle = deque(self.open)
        self.backlog: deque[float] = deque()
        self.lateness: array[float] = array("d")
        self.keeping = asyncio.create_task(self._keep(time.perf_counter()))

    def proceed(self, connection: Connection) -> None:
        """Send the oldest waiting request, or mark the connection as idle."""
        if not self.sending:
            connection.close()
        elif self.backlog:
            connection.send(self.backlog.popleft())
        else:
            connection.began = NEVER
            self.idle.append(connection)

    def end(self) -> None:
        """Stop sending, and close idle connections."""
        self.keeping.cancel()
        for connection in self.idle:
            connection.close()

    async def _keep(self, began: float) -> None:
        for moment in self.arrivals:
            due = began + moment
            while (ahead := due - time.perf_counter()) > 0:
                await asyncio.sleep(max(0.0, ahead - SPIN_SECONDS))
            if self.counting:
                self.lateness.append(-ahead)
            if self.idle:
                self.idle.popleft().send()
            else:
                self.backlog.append(due)
