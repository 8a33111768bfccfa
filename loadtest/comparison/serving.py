"""The cost of serving a student: latency, throughput, highest sustained rate, memory and start time of the service."""

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

BISECTION_STEPS = 6  # for the highest rate; a precision of 1.6 % of the capacity
ATTEMPTS = 2  # at a rate before it counts as too high, as a machine may stall briefly
REPLY_TIMEOUT = 30.0  # seconds of the open loop, whose queue grows above capacity
PERCENTILES = (50, 95, 99)
MILLI = 1e3
MEGA = 1e6


@dataclass(frozen=True)
class ServingBenchmark(Benchmark):
    """Measures the cost of serving a student; `bound_ms` bounds the p99 at the highest rate."""

    bound_ms: float = 5.0

    def measure_student(
        self, folder: Path, bodies: Sequence[bytes], ask: Callable[[str], None], progress: Callable[[str], None]
    ) -> Json:
        """Start the service with one student, call `ask`, measure, and stop the service.

        Args:
            folder: folder of the student.
            bodies: requests to send, as JSON.
            ask: called with the service's URL before the measurements.
            progress: called with each result as text.

        Returns:
            {"start_seconds", "memory_mb", "p50_ms", "p95_ms", "p99_ms", "phases": {phase: {"p50_ms", ...}},
            "throughput_per_second", "sustained_per_second", "generator_share"}: client latencies with one connection,
            the service's phases; the rate with many connections, and the highest open-loop rate within the bound, None
            if no rate is.

        Raises:
            TargetError: the service did not start.
            LoadError: it gave invalid replies, or none.
        """
        with self.service(folder) as server:
            ask(server.url)
            cost: Json = {"start_seconds": round(server.start_seconds, 3)} | self._at_one(server.url, bodies)
            progress(f"one connection: p50 {cost['p50_ms']:.2f} ms, p99 {cost['p99_ms']:.2f} ms")
            many = self.load(SERVICE, partial(closed_loop.measure, server.url, bodies, connections=CONNECTIONS))
            cost["throughput_per_second"] = round(many.per_second, 1)
            cost["generator_share"] = round(many.cpu_share, 3)
            progress(f"{CONNECTIONS} connections: {cost['throughput_per_second']:.0f}/s")
            rate = cost["sustained_per_second"] = self._sustained(server.url, bodies, many.per_second)
            progress(f"p99 within {self.bound_ms:g} ms: " + ("at no rate" if rate is None else f"up to {rate:.0f}/s"))
            memory = memory_of(server.process)
            cost["memory_mb"] = None if memory is None else round(memory / MEGA, 1)
        return cost

    def _at_one(self, url: str, bodies: Sequence[bytes]) -> Json:
        phases: dict[str, list[float]] = defaultdict(list)

        def add(content: bytes) -> None:
            for name, milliseconds in orjson.loads(content)["timings_ms"].items():
                phases[name].append(milliseconds)

        measured = self.load(SERVICE, partial(closed_loop.measure, url, bodies, connections=1, on_reply=add))
        return _percentiles(np.asarray(measured.latencies) * MILLI) | {
            "phases": {name: _percentiles(np.asarray(values)) for name, values in phases.items()}
        }

    def _sustained(self, url: str, bodies: Sequence[bytes], capacity: float) -> float | None:
        """The highest rate within the bound, by bisection between 0 and the capacity."""
        low, high, best = 0.0, capacity, None
        for _ in range(BISECTION_STEPS):
            rate = (low + high) / 2
            if any(self._is_within_bound(url, bodies, rate, seed) for seed in range(ATTEMPTS)):
                low = best = rate
            else:
                high = rate
        return None if best is None else round(best, 1)

    def _is_within_bound(self, url: str, bodies: Sequence[bytes], rate: float, seed: int) -> bool:
        load = partial(open_loop.measure, url, bodies, rate=rate, connections=CONNECTIONS, seed=seed)
        measured = self.load(SERVICE, partial(load, reply_timeout=REPLY_TIMEOUT))
        return MILLI * measured.percentile(99) <= self.bound_ms


def _percentiles(milliseconds: Any) -> dict[str, float]:
    values = np.percentile(milliseconds, PERCENTILES)
    return {f"p{percent}_ms": round(float(value), 4) for percent, value in zip(PERCENTILES, values, strict=True)}
