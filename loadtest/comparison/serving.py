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
from loadtest.load.benchmark import CONNECTIONS, SERVICE, Benchmark
from loadtest.load.memory import memory_of

Json = dict[str, Any]

HALVINGS = 6  # of the range in which the highest rate is sought: to 1.6 % of what the service can take
ATTEMPTS = 2  # at a rate before it counts as too high: a machine may stand still for a moment
REPLY_TIMEOUT = 30.0  # seconds, at random moments: above capacity a queue grows
PERCENTILES = (50, 95, 99)
MILLI = 1e3
MEGA = 1e6


@dataclass(frozen=True)
class ServingBenchmark(Benchmark):
    """Measures what serving a student costs; `bound_ms` is for the 99th percentile at the highest rate."""

    bound_ms: float = 5.0

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
        with self.service(folder) as server:
            ask(server.url)
            found: Json = {"start_seconds": round(server.start_seconds, 3)} | self._at_one(server.url, bodies)
            say(f"one connection: p50 {found['p50_ms']:.2f} ms, p99 {found['p99_ms']:.2f} ms")
            many = self.load(SERVICE, partial(closed_loop.measure, server.url, bodies, connections=CONNECTIONS))
            found["throughput_per_second"] = round(many.per_second, 1)
            found["generator_share"] = round(many.cpu_share, 3)
            say(f"{CONNECTIONS} connections: {found['throughput_per_second']:.0f}/s")
            rate = found["sustained_per_second"] = self._sustained(server.url, bodies, many.per_second)
            say(f"p99 within {self.bound_ms:g} ms: " + ("at no rate" if rate is None else f"up to {rate:.0f}/s"))
            memory = memory_of(server.process)
            found["memory_mb"] = None if memory is None else round(memory / MEGA, 1)
        return found

    def _at_one(self, url: str, bodies: Sequence[bytes]) -> Json:
        phases: dict[str, list[float]] = defaultdict(list)

        def add(content: bytes) -> None:
            for name, milliseconds in orjson.loads(content)["timings_ms"].items():
                phases[name].append(milliseconds)

        found = self.load(SERVICE, partial(closed_loop.measure, url, bodies, connections=1, on_reply=add))
        return _percentiles(np.asarray(found.latencies) * MILLI) | {
            "phases": {name: _percentiles(np.asarray(values)) for name, values in phases.items()}
        }

    def _sustained(self, url: str, bodies: Sequence[bytes], capacity: float) -> float | None:
        """The highest rate that keeps to the bound, by bisection between none and what many connections reach."""
        low, high, found = 0.0, capacity, None
        for _ in range(HALVINGS):
            rate = (low + high) / 2
            if any(self._keeps(url, bodies, rate, seed) for seed in range(ATTEMPTS)):
                low = found = rate
            else:
                high = rate
        return None if found is None else round(found, 1)

    def _keeps(self, url: str, bodies: Sequence[bytes], rate: float, seed: int) -> bool:
        load = partial(open_loop.measure, url, bodies, rate=rate, connections=CONNECTIONS, seed=seed)
        found = self.load(SERVICE, partial(load, reply_timeout=REPLY_TIMEOUT))
        return MILLI * found.percentile(99) <= self.bound_ms


def _percentiles(milliseconds: Any) -> dict[str, float]:
    values = np.percentile(milliseconds, PERCENTILES)
    return {f"p{percent}_ms": round(float(value), 4) for percent, value in zip(PERCENTILES, values, strict=True)}
