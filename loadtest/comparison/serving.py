"""What serving a student costs: the real service, started for it, and loaded in three ways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loadtest.load import closed_loop, open_loop
from loadtest.load.closed_loop import LoadError, Measured
from loadtest.load.memory import memory_of
from loadtest.load.target import Server, on_cores, started_server

Json = dict[str, Any]

SERVICE = "the service"
FLAGS = ("--workers", "1", "--drain-delay", "0", "--cache-entries", "0")  # stop at once; answer each text anew
CONNECTIONS = 32
WARM_UP = 0.125  # seconds of it for each second that is measured
HALVINGS = 6  # of the range in which the highest rate is sought: to 1.6 % of what the service can take
ATTEMPTS = (
    2  # at a rate before it counts as too high: a machine that stands still for a moment is not the service's doing
)
PERCENTILES = (50, 95, 99)
MILLI = 1e3
MEGA = 1e6


@dataclass(frozen=True)
class Bench:
    """How it is measured.

    Attributes:
        seconds: of each measurement.
        bound_ms: under which the 99th percentile has to stay at the highest rate, in milliseconds.
        patience: seconds for the service to be ready.
        generator, server: the cores of each; empty where the system can't tie a process to a core.
    """

    seconds: float
    bound_ms: float
    patience: float
    generator: list[int]
    server: list[int]

    def serve(
        self, folder: Path, bodies: Sequence[bytes], ask: Callable[[str], None], say: Callable[[str], None]
    ) -> Json:
        """Start the service for one student, let `ask` ask it what it likes, measure, and stop it.

        Args:
            folder: of the student.
            bodies: requests to send, as JSON.
            ask: called with the service's URL before anything is measured.
            say: called with what is found, for people who wait.

        Returns:
            {"start_seconds", "memory_mb", "p50_ms", "p95_ms", "p99_ms", "phases": {phase: {"p50_ms", ...}},
            "throughput_per_second", "sustained_per_second", "generator_share"}: latencies as a client with one
            connection sees them, phases as the service tells them; the rate that many connections reach, and the
            highest at random moments that keeps to the bound, None where no rate that was tried does.

        Raises:
            TargetError: the service did not start.
            LoadError: it gave wrong replies, or none.
        """
        module = ["service", *FLAGS, "--students", str(folder.resolve())]
        with started_server(SERVICE, module, self.patience, self.server) as server:
            ask(server.url)
            found: Json = {"start_seconds": round(server.start_seconds, 3)}
            found |= self._at_one(server, bodies)
            say(f"one connection: p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms")
            found |= self._at_many(server, bodies)
            say(f"{CONNECTIONS} connections: {found['throughput_per_second']:.0f}/s")
            found["sustained_per_second"] = self._sustained(server, bodies, found["throughput_per_second"])
            memory = memory_of(server.process)
            found["memory_mb"] = None if memory is None else round(memory / MEGA, 1)
            rate = found["sustained_per_second"]
            say(f"p99 within {self.bound_ms:g} ms: " + ("at no rate" if rate is None else f"up to {rate:.0f}/s"))
        return found

    def _at_one(self, server: Server, bodies: Sequence[bytes]) -> Json:
        phases: dict[str, list[float]] = defaultdict(list)

        def add(content: bytes) -> None:
            for name, milliseconds in orjson.loads(content)["timings_ms"].items():
                phases[name].append(milliseconds)

        found = self._load(partial(closed_loop.measure, server.url, bodies, connections=1, on_reply=add))
        return _percentiles(np.asarray(found.latencies) * MILLI) | {
            "phases": {name: _percentiles(np.asarray(values)) for name, values in phases.items()}
        }

    def _at_many(self, server: Server, bodies: Sequence[bytes]) -> Json:
        found = self._load(partial(closed_loop.measure, server.url, bodies, connections=CONNECTIONS))
        return {
            "throughput_per_second": round(found.per_second, 1),
            "generator_share": round(found.cpu_share, 3),
        }

    def _sustained(self, server: Server, bodies: Sequence[bytes], capacity: float) -> float | None:
        """The highest rate that keeps to the bound, by bisection between none and what many connections reach."""
        low, high, found = 0.0, capacity, None
        for _ in range(HALVINGS):
            rate = (low + high) / 2
            if any(self._keeps(server, bodies, rate, seed) for seed in range(ATTEMPTS)):
                low = found = rate
            else:
                high = rate
        return None if found is None else round(found, 1)

    def _keeps(self, server: Server, bodies: Sequence[bytes], rate: float, seed: int) -> bool:
        load = partial(
            open_loop.measure, server.url, bodies, rate=rate, connections=CONNECTIONS, seed=seed, reply_timeout=30.0
        )
        return MILLI * self._load(load).percentile(99) <= self.bound_ms

    def _load(self, load: Callable[..., Measured]) -> Measured:
        with on_cores(self.generator):
            found = load(seconds=self.seconds, warm_up=WARM_UP * self.seconds)
        for problem, count in found.failures.most_common(1):  # an error may be quicker to give than an answer
            raise LoadError(f"{SERVICE} gave wrong replies, such as {count} times: {problem}")
        return found


def _percentiles(milliseconds: Any) -> dict[str, float]:
    values = np.percentile(milliseconds, PERCENTILES)
    return {f"p{percent}_ms": round(float(value), 4) for percent, value in zip(PERCENTILES, values, strict=True)}
