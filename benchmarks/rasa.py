"""The command ``python -m benchmarks.rasa --data DATA --locale de-DE --students DIR [DIR ...] [--out REPORT.md] ...``.

Students beside Rasa NLU as a complete product: Rasa's default pipeline is trained on the training utterances of one
locale, and its server and this service take turns on one core with the same texts. Accuracy through HTTP, as
`training.evaluate` scores it; latency with one connection, requests per second with one and with several, as ratios of
one run.

Rasa needs an environment of its own, with Python 3.8 to 3.10: ``--install --python PATH`` creates it below
``--environments``. Its training data and model are kept in ``--project`` and used again. Its training takes minutes per
epoch on thousands of utterances: ``--utterances N`` draws N of them, and up to 500 others for a student's choice of the
epoch. Both are written to PROJECT/utterances.jsonl, so that students can be trained on the same utterances (``python -m
training.finetune --data PROJECT/utterances.jsonl``). Runs on Linux.

Prints a table, and as the last line one JSON object; ``--out`` writes the report as Markdown, between the file's marks
if it has them. Exit code: 0, or 2 on an error.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import orjson

from benchmarks.peer_servers import environments, rasa_project
from benchmarks.peer_servers.catalogue import RASA
from benchmarks.peer_servers.environments import add_environments
from benchmarks.peer_servers.processes import ProcessTree, require_proc, stopped_by_sigterm
from benchmarks.peer_servers.rasa_project import EPOCHS, WIRE, Project
from benchmarks.peers_report import machine_class, write_report
from loadtest.comparison.quality import answers_of_service
from loadtest.comparison.report import Subject, subjects_of
from loadtest.load import closed_loop
from loadtest.load.benchmark import Benchmark
from loadtest.load.closed_loop import Check, Measured
from loadtest.load.command import command
from loadtest.load.memory import memory_of
from loadtest.load.options import add, add_measurement, positive_int
from loadtest.load.students import add_students
from loadtest.load.tables import Table
from loadtest.load.texts import Text
from service.student.manifest import StudentError
from training.data.datasets import DatasetError, load
from training.data.utterances import PARTITIONS, Utterance
from training.evaluation.scoring import PredictedLabels, Scorecard

Json = dict[str, Any]
T = TypeVar("T")

MARKS = "<!-- rasa: begin -->", "<!-- rasa: end -->"
MAX_BODIES = 500  # different requests that the load generator cycles through
CONNECTIONS = (1, 8)
REPLY_SECONDS = 30.0
MAX_DEV_UTTERANCES = 500
METRICS = {"exact_match": "exact match", "intent_accuracy": "intent accuracy", "slot_f1": "slot F1"}
MEGA = 1e6


@dataclass
class Product:
    """A measured product: Rasa, or the service with a student. `process` is the id whose memory is reported."""

    title: str
    url: str
    process: int
    start_seconds: float
    disk: int
    bodies: Sequence[bytes]
    answers: Callable[[], Iterator[PredictedLabels]]
    path: str = closed_loop.PATH
    problem_of: Check | None = None
    server: ProcessTree | None = None
    scores: Json = field(default_factory=dict)
    rounds: list[dict[int, Measured]] = field(default_factory=list)

    def figures(self, baseline: Product) -> Json:
        """The figures of the product, with ratios to the baseline."""
        pairs = list(zip(self.rounds, baseline.rounds, strict=True))
        one, memory = CONNECTIONS[0], memory_of(self.process)
        p50 = [(own[one].percentile(50), other[one].percentile(50)) for own, other in pairs]
        rates = {n: [own[n].per_second / other[n].per_second for own, other in pairs] for n in CONNECTIONS}
        return {
            "start_seconds": round(self.start_seconds, 2),
            "memory_mb": None if memory is None else round(memory / MEGA),
            "disk_mb": round(self.disk / MEGA, 1),
            "p50_ms": round(median(1e3 * own for own, _ in p50), 3),
            "p50_ratio": round(median(own / other for own, other in p50), 4),
            "per_second_ratio": {str(count): round(median(ratios), 2) for count, ratios in rates.items()},
            **self.scores,
        }


class RasaBenchmark(Benchmark):
    """Measures Rasa and students in turns."""

    @contextmanager
    def rasa(self, project: Project, asked: Sequence[Utterance]) -> Iterator[Product]:
        """Run Rasa with the project's model."""
        print("Rasa: starting", file=sys.stderr, flush=True)
        with project.serving(self.server, self.start_timeout) as (url, server, seconds):
            texts = [Text(one.text, one.locale) for one in asked]
            bodies = [WIRE.body(text) for text in _some(texts)]
            process, disk = server.processes()[0].pid, project.model.stat().st_size
            answers = partial(rasa_project.answers_of, url, texts)
            protocol = WIRE.path, lambda _, *reply: WIRE.problem_of(None, *reply)
            yield Product("Rasa", url, process, seconds, disk, bodies, answers, *protocol, server)

    @contextmanager
    def student(self, student: Subject, asked: Sequence[Utterance]) -> Iterator[Product]:
        """Run the service with a student."""
        with self.service(student.folder) as server:
            bodies = [orjson.dumps({"text": one.text, "locale": one.locale}) for one in _some(asked)]
            answers = partial(answers_of_service, server.url, asked)
            started = server.url, server.process, server.start_seconds
            yield Product(f"student {student.name}", *started, student.disk_bytes, bodies, answers)

    def measure(self, products: Sequence[Product], asked: Sequence[Utterance]) -> None:
        """Measure the accuracy of each product, then load one after the other in each round, with Rasa suspended.

        Raises:
            LoadError: a product gave an invalid reply, or none.
        """
        for one in products:
            print(f"{one.title}: {len(asked)} utterances", file=sys.stderr, flush=True)
            answers = [PredictedLabels(None, answer.intent, answer.slots) for answer in one.answers()]
            values = Scorecard.of(asked, answers).report()["mean"]
            one.scores = {name: values[name] for name in METRICS}
            if one.server:
                one.server.suspend()
        for number in range(1, self.rounds + 1):
            for one in products:
                with one.server.resumed() if one.server else nullcontext():
                    one.rounds.append({count: self._ask(one, count) for count in CONNECTIONS})
                self.report_progress(
                    one.title, number, f"{one.rounds[-1][CONNECTIONS[0]].per_second:.0f}/s with one connection"
                )

    def _ask(self, one: Product, connections: int) -> Measured:
        measure = partial(closed_loop.measure, one.url, one.bodies, connections=connections, path=one.path)
        return self.load(one.title, partial(measure, reply_timeout=REPLY_SECONDS, problem_of=one.problem_of))


def _some(asked: Sequence[T]) -> Sequence[T]:
    return asked[:: max(1, -(-len(asked) // MAX_BODIES))]


@command(StudentError, DatasetError)
@stopped_by_sigterm()
def main(argv: Sequence[str] | None = None) -> int:
    """Train Rasa unless it is trained, and measure. Returns the exit code."""
    arguments = parser().parse_args(argv)
    figures = _figures(arguments)
    if arguments.out:
        write_report(arguments.out, report_of(figures, datetime.datetime.now(tz=datetime.UTC).date()), MARKS)
    print(table_of(figures).plain(), end="\n\n")
    print(json.dumps(figures))
    return 0


def _figures(arguments: argparse.Namespace) -> Json:
    require_proc()
    students = subjects_of(arguments.students)
    locale = arguments.locale
    if unable := [one.name for one in students if locale not in one.manifest.locales]:
        raise StudentError(f"{', '.join(unable)}: does not support {locale}")
    data = load(arguments.data, [locale])
    asked = data.part(arguments.partition, [locale])
    flags = "--install --python PATH, of a Python 3.8 to 3.10,"
    python, versions = environments.ready(RASA, arguments, flags)
    project = Project(arguments.project, python, locale, arguments.epochs)
    train, dev = draw_utterances(data.part("train", [locale]), arguments.utterances)
    training = project.train(train, dev, versions[RASA.distribution])
    benchmark = RasaBenchmark.of(arguments)
    with ExitStack() as stack:
        products = [stack.enter_context(benchmark.rasa(project, asked))]
        products += [stack.enter_context(benchmark.student(one, asked)) for one in students]
        benchmark.measure(products, asked)
        results = {one.title: one.figures(products[0]) for one in products}
    return {
        "locale": locale,
        "partition": arguments.partition,
        "utterances": {"train": len(train), arguments.partition: len(asked)},
        "rasa": {**versions, "epochs": arguments.epochs, "training_minutes": round(training["seconds"] / 60, 1)},
        "measured": {"rounds": arguments.rounds, "seconds": arguments.seconds},
        "machine": machine_class(),
        "found": results,
    }


def draw_utterances(train: Sequence[Utterance], count: int | None) -> tuple[list[Utterance], list[Utterance]]:
    """Draw utterances for training, always the same, and others for dev; without a count all and none.

    Raises:
        DatasetError: there are fewer than `count`.
    """
    if count is None:
        return list(train), []
    if count > len(train):
        raise DatasetError(f"--utterances {count}: the data has only {len(train)} training utterances")
    shuffled = random.Random(0).sample(train, len(train))
    return shuffled[:count], [replace(one, partition="dev") for one in shuffled[count : count + MAX_DEV_UTTERANCES]]


def table_of(figures: Json) -> Table:
    """The figures as a table."""
    rates = [f"requests a second, {count} connection{'s' * (count > 1)}" for count in CONNECTIONS]
    rows = []
    for title, one in figures["found"].items():
        cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in (one[name] for name in METRICS)]
        cells += [f"{one['p50_ratio']:.3f}", *(f"{ratio:.1f}" for ratio in one["per_second_ratio"].values())]
        memory = "-" if one["memory_mb"] is None else f"{one['memory_mb']} MB"
        rows.append([title, *cells, memory, f"{one['disk_mb']:.1f} MB", f"{one['start_seconds']:.1f} s"])
    return Table(["", *METRICS.values(), "p50, 1 connection", *rates, "memory", "on disk", "start"], rows)


def report_of(figures: Json, today: datetime.date) -> str:
    """The report in Markdown."""
    rasa, count = figures["rasa"], figures["utterances"]
    measured, default = figures["measured"], f" (its default is {EPOCHS})" if rasa["epochs"] != EPOCHS else ""
    return (
        f"Measured on {today.isoformat()} by `python -m benchmarks.rasa` on {figures['machine']}: Rasa {rasa['rasa']} "
        f"(Python {rasa['python']}), its default pipeline with {rasa['epochs']} epochs{default}, trained in "
        f"{rasa['training_minutes']:g} minutes on the {count['train']:,} training utterances of {figures['locale']}; "
        f"scored on {count[figures['partition']]:,} of {figures['partition']}; {measured['rounds']} rounds of "
        f"{measured['seconds']:g} s for each figure.\n\n{table_of(figures).markdown()}\n\n"
        "Accuracy in percent, with 95 % intervals; p50 and requests per second relative to Rasa, as medians over "
        f"rounds of the ratio within each round (Rasa's p50 is {figures['found']['Rasa']['p50_ms']:.1f} ms here). "
        "The servers run on the same core, one at a time, and the load generator on another. Where Rasa falls back to "
        f"`{rasa_project.FALLBACK_INTENT}`, its next most likely intent counts.\n"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Compare students with Rasa NLU."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rasa", description=about, allow_abbrev=False)
    flag = parser.add_argument
    flag("--data", required=True, metavar="DATA", help="labelled data: folder, tarball, file or hub:NAME")
    flag("--locale", required=True, metavar="LOCALE", help="locale of training and test utterances")
    add_students(parser)
    flag("--partition", choices=PARTITIONS, default="dev", help="part of the data to score on (default: %(default)s)")
    add(parser, "utterances", positive_int, "UTTERANCES", "number of training utterances to draw (default: all)")
    add(parser, "epochs", positive_int, "EPOCHS", "epochs of Rasa's training", EPOCHS)
    about = "folder for Rasa's data and model (default: %(default)s)"
    flag("--project", type=Path, default=Path(".peers/rasa-project"), metavar="DIR", help=about)
    add_environments(parser)
    add_measurement(parser, rounds=3, seconds=5.0, start_timeout=300.0)
    about = "Markdown file for the report, written between the file's marks if it has them (default: none)"
    flag("--out", type=Path, metavar="FILE", help=about)
    return parser


if __name__ == "__main__":
    sys.exit(main())
