"""The command ``python -m benchmarks.floor [--student DIR ...] [--rounds N] [--targets] [--profile] ...``.

How near the service comes to the raw model, as ratios from one run: a single ``session.run``, the service and a plain
FastAPI application around the same student take turns on the same core with the same texts, and the load generator
sits on another. Prints a table, and as the last line one JSON object with the same figures. Exit code: 0 measured,
1 a target was missed (only with ``--targets``), 2 could not measure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import orjson

from benchmarks.floor_report import (
    Figures,
    Round,
    figures_of_processes,
    figures_of_profile,
    figures_of_rounds,
    table_of,
    verdicts_of,
)
from loadtest.load.closed_loop import LoadError, Measured, measure
from loadtest.load.machine import machine, versions
from loadtest.load.target import TargetError, on_cores, running_server, running_service, usable_cores, wait_until_ready
from loadtest.load.texts import Text, TextsError, load_texts, select
from loadtest.options import positive, positive_int
from service.ask import SHIPPED
from service.student.manifest import MODEL_FILE, StudentError
from service.student.student import OUTPUT_OF_HEAD, Student, open_session

MISSED = 1
CANNOT_MEASURE = 2
INTERRUPTED = 130
CONNECTIONS = 32
WARM_UP = 0.125  # seconds of it for each second that is measured
LEAST_PASSES = 3
READY_PROBES = 24  # with two processes each probe may meet either; that all meet the same is out of the question
SERVICE, PLAIN = "the service", "the plain application"
FLAGS = ("--drain-delay", "0", "--cache-entries", "0")  # stop at once; and answer each text, not remember it


class RawModel:
    """A student's graph alone, with texts that were tokenised beforehand: what no server can undercut."""

    def __init__(self, folder: Path, student: Student, texts: Sequence[Text]) -> None:
        self._session = open_session(folder / MODEL_FILE, student.manifest.graph.session)
        self._outputs = [OUTPUT_OF_HEAD[head] for head in student.manifest.labels.heads]
        encoded = (student.encoder.encode(text.text).ids for text in texts)
        self._inputs = [{"input_ids": np.array([ids], dtype=np.int64)} for ids in encoded]
        self._wall = self._cpu = 0.0

    @property
    def core_share(self) -> float:
        """Which part of the core the measurements so far had, 0 to 1; the rest went to other work on this machine."""
        return self._cpu / self._wall

    def seconds(self, duration: float) -> float:
        """Seconds of one run: the mean over the texts, of several passes over them the median.

        Args:
            duration: seconds to measure for; at least a few passes are made.
        """
        self._pass()  # discarded: shapes that are new to the session, cold caches
        passes: list[float] = []
        began, cpu = time.perf_counter(), time.thread_time()
        while len(passes) < LEAST_PASSES or time.perf_counter() < began + duration:
            passes.append(self._pass())
        self._wall += time.perf_counter() - began
        self._cpu += time.thread_time() - cpu
        return median(passes)

    def _pass(self) -> float:
        run, outputs = self._session.run, self._outputs
        began = time.perf_counter()
        for inputs in self._inputs:
            run(outputs, inputs)
        return (time.perf_counter() - began) / len(self._inputs)


class Subject:
    """A student that is measured, with the texts in its locales."""

    def __init__(self, folder: Path, texts: Sequence[Text]) -> None:
        student = Student.load(folder)
        self.folder = folder
        self.manifest = student.manifest
        self.selection = select(texts, None, student.manifest.locales)
        self.bodies = [orjson.dumps(text._asdict()) for text in self.selection.texts]
        self.raw = RawModel(folder, student, self.selection.texts)

    def figures(self) -> Figures:
        """What was measured."""
        manifest = self.manifest
        return {
            "size": manifest.size,
            "precision": manifest.precision,
            "digest": manifest.digest,
            "locales": self.selection.locales,
            "texts": len(self.bodies),
            "connections": CONNECTIONS,
        }


@dataclass(frozen=True)
class Bench:
    """How it is measured.

    Attributes:
        rounds: how often; medians count.
        seconds: of each measurement.
        patience: seconds for a server to be ready.
        generator, server: the cores of each; empty where the system can't tie a process to a core.
    """

    rounds: int
    seconds: float
    patience: float
    generator: list[int]
    server: list[int]

    @property
    def both(self) -> list[int]:
        """The cores of servers and load generator together."""
        return sorted({*self.generator, *self.server})

    def measure_alone(self, subject: Subject, *, profile: bool) -> Figures:
        """One process on one core against the raw model and the plain application."""
        plain = ["benchmarks.plain", "--student", str(subject.folder.resolve())]
        with (
            self._service(subject, 1, self.server) as service,
            running_server(PLAIN, plain, self.patience, self.server) as compared,
        ):
            raw, rounds = self._raw(subject), []
            for number in range(1, self.rounds + 1):
                many = [self._load(name, url, subject) for name, url in ((SERVICE, service), (PLAIN, compared))]
                one = [self._load(name, url, subject, 1) for name, url in ((SERVICE, service), (PLAIN, compared))]
                before, raw = raw, self._raw(subject)
                rounds.append(Round((before, raw), *many, *one))
                rates = f"service {many[0].per_second:.0f}/s, plain FastAPI {many[1].per_second:.0f}/s"
                self._say(subject, number, f"raw {1e6 * raw:.0f} µs, {rates}")
            figures = figures_of_rounds(rounds) | {"core_share": round(subject.raw.core_share, 3)}
            return figures | ({"profile_us": self._profile(service, subject)} if profile else {})

    def measure_processes(self, subject: Subject) -> Figures:
        """Two processes against one, on two cores that the load generator shares."""
        if machine()["cores"] < 2:
            return {"skipped": "this process may use only one core"}
        cores = self.both
        with self._service(subject, 1, cores) as one, self._service(subject, 2, cores) as two:
            rounds = []
            for number in range(1, self.rounds + 1):
                pair = [self._load(SERVICE, url, subject, generator=cores) for url in (one, two)]
                rounds.append((pair[0], pair[1]))
                rates = f"one process {pair[0].per_second:.0f}/s, two {pair[1].per_second:.0f}/s"
                self._say(subject, number, rates)
        return figures_of_processes(rounds, 2)

    @contextmanager
    def _service(self, subject: Subject, workers: int, cores: list[int]) -> Iterator[str]:
        flags = ["--workers", str(workers), *FLAGS]
        with running_service(subject.folder, self.patience, flags, cores) as url:
            for _ in range(READY_PROBES if workers > 1 else 0):
                wait_until_ready(url, self.patience)
            yield url

    def _raw(self, subject: Subject) -> float:
        with on_cores(self.server):
            return subject.raw.seconds(self.seconds / 2)

    def _load(
        self,
        name: str,
        url: str,
        subject: Subject,
        connections: int = CONNECTIONS,
        generator: list[int] | None = None,
        on_reply: Callable[[bytes], None] | None = None,
    ) -> Measured:
        warm_up = WARM_UP * self.seconds
        with on_cores(generator or self.generator):
            try:
                found = measure(
                    url,
                    subject.bodies,
                    connections=connections,
                    seconds=self.seconds,
                    warm_up=warm_up,
                    on_reply=on_reply,
                )
            except LoadError as error:
                raise LoadError(f"{name}: {error}") from None
        for problem, count in found.failures.most_common(1):  # an error may be quicker to give than an answer
            raise LoadError(f"{name} gave wrong replies, such as {count} times: {problem}")
        return found

    def _profile(self, url: str, subject: Subject) -> Figures:
        phases: Counter[str] = Counter()

        def add(content: bytes) -> None:
            phases.update(orjson.loads(content)["timings_ms"])

        found = self._load(SERVICE, url, subject, on_reply=add)
        return figures_of_profile(phases, found)

    def _say(self, subject: Subject, number: int, found: str) -> None:
        print(f"{subject.manifest.name}: round {number} of {self.rounds}: {found}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each student. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    cores = usable_cores()
    bench = Bench(arguments.rounds, arguments.seconds, arguments.patience, generator=cores[:1], server=cores[-1:])
    try:
        figures = _figures(bench, arguments)
    except (StudentError, TextsError, TargetError, LoadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_MEASURE
    except KeyboardInterrupt:
        return INTERRUPTED
    for name, student in figures["students"].items():
        print(table_of(name, student), end="\n\n")
    print(json.dumps(figures))
    verdicts = [verdict for student in figures["students"].values() for verdict in student.get("targets", ())]
    return MISSED if any(verdict["reached"] is False for verdict in verdicts) else 0


def _figures(bench: Bench, arguments: argparse.Namespace) -> Figures:
    texts = load_texts(arguments.texts, arguments.texts_locale)
    subjects = {}
    for folder in arguments.student or [SHIPPED]:  # all are opened before the first is measured
        subject = Subject(folder, texts)
        if subject.manifest.name in subjects:
            raise StudentError(f"{folder}: a student named {subject.manifest.name!r} was given before")
        subjects[subject.manifest.name] = subject
    students = {}
    for name, subject in subjects.items():
        student = subject.figures() | bench.measure_alone(subject, profile=arguments.profile)
        student["two_processes"] = bench.measure_processes(subject)
        students[name] = student | ({"targets": verdicts_of(student)} if arguments.targets else {})
    first, default = next(iter(students.items()))
    return {
        "student": first,
        "fraction_of_floor": default["fraction_of_floor"],
        "ratio_to_plain_fastapi": default["ratio_to_plain_fastapi"],
        "students": students,
        "measured": {"rounds": bench.rounds, "seconds": bench.seconds, "connections": CONNECTIONS},
        "machine": machine() | {"server_cores": bench.server, "generator_cores": bench.generator},
        "versions": versions(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.floor", description="How near the service comes to the raw model."
    )
    parser.add_argument("--student", type=Path, action="append", metavar="DIR", help="student folder; may be given "
                        "several times (default: the shipped one)")  # fmt: skip
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="rounds, whose median counts "
                        "(default: 3)")  # fmt: skip
    parser.add_argument("--seconds", type=positive, default=4.0, metavar="S", help="duration of each measurement "
                        "(default: 4)")  # fmt: skip
    parser.add_argument("--texts", type=Path, metavar="PATH", help="texts to send, as for python -m loadtest (default: "
                        "the project's sample)")  # fmt: skip
    parser.add_argument("--texts-locale", metavar="LOCALE", help="locale of texts that come without one")
    parser.add_argument("--patience", type=positive, default=60.0, metavar="S", help="seconds for a server to be ready "
                        "(default: 60)")  # fmt: skip
    parser.add_argument("--targets", action="store_true", help="print the target beside each figure, and exit with 1 "
                        "when one is missed")  # fmt: skip
    parser.add_argument("--profile", action="store_true", help="print where the time of one request goes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
