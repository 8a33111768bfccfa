"""The command ``python -m benchmarks.floor [--students DIR ...] [--rounds N] [--check] [--profile] ...``.

The overhead of the service over the bare model, as ratios from one run: a single ``session.run``, the service and a
plain FastAPI application with the same student take turns on one core with the same texts, and the load generator runs
on another. Prints a table, and as the last line one JSON object with the same figures. Exit code: 0, 1 if a target was
missed (only with ``--check``), 2 on an error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import orjson

from benchmarks.floor_report import (
    Figures,
    FloorRound,
    figures_of_processes,
    figures_of_profile,
    figures_of_rounds,
    table_of,
    verdicts_of,
)
from loadtest.comparison.report import subjects_of
from loadtest.load import closed_loop
from loadtest.load.benchmark import CONNECTIONS, SERVICE, Benchmark
from loadtest.load.closed_loop import Measured
from loadtest.load.command import FAILED, command
from loadtest.load.machine import machine
from loadtest.load.options import add_measurement, add_texts
from loadtest.load.students import add_students
from loadtest.load.target import Server, on_cores, running_server, wait_until_ready
from loadtest.load.texts import Text, load_texts, select
from service.student.manifest import MODEL_FILE, StudentError
from service.student.student import OUTPUT_OF_HEAD, Student, open_session

MIN_PASSES = 3
READY_PROBES = 24  # each probe reaches one of two processes; 24 practically always reach both
PLAIN = "the plain application"


class RawModel:
    """A student's graph alone, on pretokenised texts: the lower bound of the time of any server."""

    def __init__(self, folder: Path, student: Student, texts: Sequence[Text]) -> None:
        self._session = open_session(folder / MODEL_FILE, student.manifest.graph.session)
        self._outputs = [OUTPUT_OF_HEAD[head] for head in student.manifest.labels.heads]
        encoded = (student.encoder.encode(text.text).ids for text in texts)
        self._inputs = [{"input_ids": np.array(ids, dtype=np.int64)} for ids in encoded]
        self._wall = self._cpu = 0.0

    @property
    def core_share(self) -> float:
        """The share of the core that the measurements so far had, 0 to 1; the rest went to other processes."""
        return self._cpu / self._wall

    def seconds(self, duration: float) -> float:
        """Seconds of one run: the mean over the texts, and the median over several passes.

        Args:
            duration: minimum duration of the measurement, in seconds.
        """
        self._pass()  # discarded as warm-up
        passes: list[float] = []
        began, cpu = time.perf_counter(), time.thread_time()
        while len(passes) < MIN_PASSES or time.perf_counter() < began + duration:
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


class MeasuredStudent:
    """A measured student, with the texts in its locales."""

    def __init__(self, folder: Path, texts: Sequence[Text], name: str | None = None) -> None:
        self.student = Student.load(folder)
        self.folder = folder
        self.manifest = self.student.manifest
        self.name = name or self.manifest.name
        self.selection = select(texts, None, self.manifest.locales)
        self.bodies = [orjson.dumps(text._asdict()) for text in self.selection.texts]

    def figures(self) -> Figures:
        """Identity of the student, and its texts."""
        manifest, locales = self.manifest, self.selection.locales
        identity = {"size": manifest.size, "precision": manifest.precision, "digest": manifest.digest}
        return identity | {"locales": locales, "texts": len(self.bodies)}


def plain_application(benchmark: Benchmark, folder: Path) -> AbstractContextManager[Server]:
    """Run the plain application with a student, on the server's cores."""
    module = ["benchmarks.plain", "--student", str(folder.resolve())]
    return running_server(PLAIN, module, benchmark.start_timeout, benchmark.server)


class FloorBenchmark(Benchmark):
    """Measures the service against the raw model and the plain application."""

    def measure_alone(self, student: MeasuredStudent, *, profile: bool) -> Figures:
        """One process on one core against the raw model and the plain application."""
        raw = RawModel(student.folder, student.student, student.selection.texts)

        def seconds() -> float:
            with on_cores(self.server):
                return raw.seconds(self.seconds / 2)

        with self.service(student.folder) as service, plain_application(self, student.folder) as plain:
            before, rounds = seconds(), []
            for number in range(1, self.rounds + 1):
                servers = ((SERVICE, service.url), (PLAIN, plain.url))
                many = [self._measure(name, url, student) for name, url in servers]
                one = [self._measure(name, url, student, connections=1) for name, url in servers]
                after = seconds()
                rounds.append(FloorRound((before, after), *many, *one))
                before = after
                rates = f"service {many[0].per_second:.0f}/s, plain FastAPI {many[1].per_second:.0f}/s"
                self.report_progress(student.name, number, f"raw {1e6 * after:.0f} µs, {rates}")
            figures = figures_of_rounds(rounds) | {"core_share": round(raw.core_share, 3)}
            return figures | ({"profile_us": self._profile(service.url, student)} if profile else {})

    def measure_processes(self, student: MeasuredStudent) -> Figures:
        """Two processes against one, on two cores that the load generator shares."""
        cores = sorted({*self.generator, *self.server})
        if machine()["cores"] < 2:
            return {"skipped": "this process may use only one core"}
        with (
            self.service(student.folder, cores=cores) as one,
            self.service(student.folder, workers=2, cores=cores) as two,
        ):
            for _ in range(READY_PROBES):
                wait_until_ready(two.url, self.start_timeout)
            rounds = []
            for number in range(1, self.rounds + 1):
                first, second = (self._measure(SERVICE, url, student, cores) for url in (one.url, two.url))
                rounds.append((first, second))
                rates = f"one process {first.per_second:.0f}/s, two {second.per_second:.0f}/s"
                self.report_progress(student.name, number, rates)
        return figures_of_processes(rounds, 2)

    def _measure(
        self,
        name: str,
        url: str,
        student: MeasuredStudent,
        cores: Sequence[int] | None = None,
        connections: int = CONNECTIONS,
        on_reply: Callable[[bytes], None] | None = None,
    ) -> Measured:
        measure = partial(closed_loop.measure, url, student.bodies, connections=connections, on_reply=on_reply)
        return self.load(name, measure, cores=cores)

    def _profile(self, url: str, student: MeasuredStudent) -> Figures:
        phases: Counter[str] = Counter()

        def add(content: bytes) -> None:
            phases.update(orjson.loads(content)["timings_ms"])

        measured = self._measure(SERVICE, url, student, on_reply=add)
        return figures_of_profile(phases, measured)


@command(StudentError)
def main(argv: Sequence[str] | None = None) -> int:
    """Measure each student. Returns the exit code."""
    arguments = parser().parse_args(argv)
    figures = _figures(FloorBenchmark.of(arguments), arguments)
    for name, student in figures["students"].items():
        print(table_of(name, student), end="\n\n")
    print(json.dumps(figures))
    verdicts = [verdict for student in figures["students"].values() for verdict in student.get("targets", ())]
    return FAILED if any(verdict["reached"] is False for verdict in verdicts) else 0


def _figures(benchmark: FloorBenchmark, arguments: argparse.Namespace) -> Figures:
    texts = load_texts(arguments.texts, arguments.locale)
    opened = [MeasuredStudent(one.folder, texts, one.name) for one in subjects_of(arguments.students)]
    students = {}
    for one in opened:  # all are loaded before the first is measured
        figures = one.figures() | {"connections": CONNECTIONS}
        figures |= benchmark.measure_alone(one, profile=arguments.profile)
        figures["two_processes"] = benchmark.measure_processes(one)
        students[one.name] = figures | ({"targets": verdicts_of(figures)} if arguments.check else {})
    first, default = next(iter(students.items()))
    return {
        "student": first,
        "fraction_of_floor": default["fraction_of_floor"],
        "ratio_to_plain_fastapi": default["ratio_to_plain_fastapi"],
        "students": students,
        **benchmark.setup(connections=CONNECTIONS),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Measure the overhead of the service over the bare model."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=about, allow_abbrev=False)
    add_students(parser, default="s")
    add_measurement(parser, rounds=3, seconds=4.0, start_timeout=60.0)
    add_texts(parser)
    about = "print the target of each figure, and exit with code 1 if one is missed"
    parser.add_argument("--check", action="store_true", help=about)
    parser.add_argument("--profile", action="store_true", help="print the time of one request by phase")
    return parser


if __name__ == "__main__":
    sys.exit(main())
