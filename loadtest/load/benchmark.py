"""The base of all measurements of servers: rounds, durations and cores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from loadtest.load.client import LoadError
from loadtest.load.closed_loop import Measured
from loadtest.load.machine import machine, versions
from loadtest.load.target import Server, on_cores, running_service, usable_cores

SERVICE = "the service"
CONNECTIONS = 32
WARM_UP = 0.125  # seconds of warm-up for each second of measurement
SERVICE_FLAGS = ("--drain-delay", "0", "--cache-entries", "0")  # stop at once, no answer cache

M = TypeVar("M", bound=Measured)
Json = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """Settings of a measurement; the load generator runs on a core of its own.

    Attributes:
        rounds: number of rounds, whose medians are reported.
        seconds: duration of each measurement.
        start_timeout: maximum time for a server to start, in seconds.
        generator, server: the cores of each; empty where the system has no CPU affinity.
    """

    rounds: int
    seconds: float
    start_timeout: float
    generator: Sequence[int]
    server: Sequence[int]

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """From the flags of `options.add_measurement`, on the first and the last core that this process may use."""
        cores = usable_cores()
        return cls(arguments.rounds, arguments.seconds, arguments.start_timeout, cores[:1], cores[-1:], **more)

    def service(
        self, students: Path, *flags: str, workers: int = 1, cores: Collection[int] | None = None
    ) -> AbstractContextManager[Server]:
        """The service with these students, on the server's cores; raises TargetError."""
        more = ["--workers", str(workers), *SERVICE_FLAGS, *flags]
        return running_service(students, self.start_timeout, more, cores or self.server)

    def load(
        self,
        name: str,
        measure: Callable[..., M],
        seconds: float | None = None,
        *,
        warm_up: float | None = None,
        cores: Collection[int] | None = None,
    ) -> M:
        """Load a server from the generator's cores.

        Args:
            name: name of the server, for errors.
            measure: `measure` of `closed_loop` or `open_loop` with all arguments but the times.
            seconds: duration (default: `seconds` of this benchmark).
            warm_up: warm-up in seconds (default: a share of the duration).
            cores: cores to use instead of the generator's.

        Raises:
            LoadError: there was no reply or an invalid one; errors are faster than answers and would flatter a server.
        """
        seconds = self.seconds if seconds is None else seconds
        with on_cores(cores or self.generator):
            try:
                measured = measure(seconds=seconds, warm_up=WARM_UP * seconds if warm_up is None else warm_up)
            except LoadError as error:
                raise LoadError(f"{name}: {error}") from None
        for problem, count in measured.failures.most_common(1):
            raise LoadError(f"{name}: invalid replies, {count} times: {problem}")
        return measured

    def report_progress(self, name: str, number: int, result: object) -> None:
        """Print the result of a round to standard error."""
        print(f"{name}: round {number} of {self.rounds}: {result}", file=sys.stderr, flush=True)

    def setup(self, **more: Any) -> Json:
        """Settings, machine and versions of the measurement."""
        return {
            "measured": {"rounds": self.rounds, "seconds": self.seconds, **more},
            "machine": machine() | {"server_cores": [*self.server], "generator_cores": [*self.generator]},
            "versions": versions(),
        }
