"""What measurements of servers have in common: rounds, durations and cores."""

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
WARM_UP = 0.125  # seconds of it for each second that is measured
SERVICE_FLAGS = ("--drain-delay", "0", "--cache-entries", "0")  # stop at once; compute each answer

M = TypeVar("M", bound=Measured)
Json = dict[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """How servers are measured: in turns, the load generator on a core of its own.

    Attributes:
        rounds: how often; the medians of the rounds are reported.
        seconds: duration of each measurement.
        start_timeout: seconds for a server to be ready.
        generator, server: the cores of each; empty where the system can't tie a process to a core.
    """

    rounds: int
    seconds: float
    start_timeout: float
    generator: Sequence[int]
    server: Sequence[int]

    @classmethod
    def of(cls, arguments: argparse.Namespace, **more: Any) -> Self:
        """As the flags of `options.add_measurement` say, on the first and the last core that this process may use."""
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
            name: the server's, for errors.
            measure: `measure` of `closed_loop` or `open_loop`, given all but the times.
            seconds: duration; `seconds` of this benchmark if left out.
            warm_up: seconds before that; a share of the duration if left out.
            cores: others than the generator's.

        Raises:
            LoadError: it gave no answer or a wrong one: an error may be quicker to give than an answer.
        """
        seconds = self.seconds if seconds is None else seconds
        with on_cores(cores or self.generator):
            try:
                found = measure(seconds=seconds, warm_up=WARM_UP * seconds if warm_up is None else warm_up)
            except LoadError as error:
                raise LoadError(f"{name}: {error}") from None
        for problem, count in found.failures.most_common(1):
            raise LoadError(f"{name} gave wrong replies, such as {count} times: {problem}")
        return found

    def say(self, name: str, number: int, found: object) -> None:
        """Report a round to the person who waits."""
        print(f"{name}: round {number} of {self.rounds}: {found}", file=sys.stderr, flush=True)

    def circumstances(self, **more: Any) -> Json:
        """How, on what and with what it was measured."""
        return {
            "measured": {"rounds": self.rounds, "seconds": self.seconds, **more},
            "machine": machine() | {"server_cores": [*self.server], "generator_cores": [*self.generator]},
            "versions": versions(),
        }
