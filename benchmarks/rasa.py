"""The command ``python -m benchmarks.rasa --data DATA --locale de-DE --students DIR [DIR ...] [--out REPORT.md] ...``.

Rasa NLU as a whole product beside students: Rasa's default pipeline is trained on the training utterances of one
locale, and its server and this service take turns on the same core with the same texts. Accuracy as
`training.evaluate` scores it, through HTTP; latency with one connection, requests a second with one and with several,
as ratios of one run.

Rasa needs an environment of its own, with Python 3.8 to 3.10: ``--install --python PATH`` makes it below
``--environments``. What it was trained on and its model stay in ``--project``, and are used again. Its training takes
minutes an epoch on thousands of utterances: ``--utterances N`` draws as many of them, and with them up to 500 others to
choose a student's epoch on; both stand in PROJECT/utterances.jsonl, so that students can be trained on the same
(``python -m training.finetune --data PROJECT/utterances.jsonl``). Runs on Linux.

Prints a table, and as the last line one JSON object; ``--out`` writes the report as Markdown, between its marks where
the file has them. Exit code: 0 measured, 2 could not measure.
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
from benchmarks.peer_servers.processes import Server, require_proc, stopped_by_sigterm
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
from training.evaluation.scoring import Answer, Scorecard

Json = dict[str, Any]
T = TypeVar("T")

MARKS = "<!-- rasa: begin -->", "<!-- rasa: end -->"
MAX_BODIES = 500  # texts that are sent over and over, evenly taken from all
CONNECTIONS = (1, 8)
REPLY_SECONDS = 30.0
MAX_OTHERS = 500
METRICS = {"exact_match": "exact match", "intent_accuracy": "intent accuracy", "slot_f1": "slot F1"}
MEGA = 1e6


@dataclass
class Product:
    """What is measured: Rasa, or a student in the service. `process` is where the memory is looked up."""

    title: str
    url: str
    process: int
    start_seconds: float
    disk: int
    bodies: Sequence[bytes]
    answers: Callable[[], Iterator[Answer]]
    path: str = closed_loop.PATH
    problem_of: Check | None = None
    server: Server | None = None
    scores: Json = field(default_factory=dict)
    rounds: list[dict[int, Measured]] = field(default_factory=list)

    def figures(self, baseline: Product) -> Json:
        """What was found of it, its times as ratios to those of the baseline."""
        pairs = list(zip(self.rounds, baseline.rounds, strict=True))
        one, memory = CONNECTIONS[0], memory_of(self.process)
        p50 = [(mine[one].percentile(50), its[one].percentile(50)) for mine, its in pairs]
        rates = {n: [mine[n].per_second / its[n].per_second for mine, its in pairs] for n in CONNECTIONS}
        return {
            "start_seconds": round(self.start_seconds, 2),
            "memory_mb": None if memory is None else round(memory / MEGA),
            "disk_mb": round(self.disk / MEGA, 1),
            "p50_ms": round(median(1e3 * mine for mine, _ in p50), 3),
            "p50_ratio": round(median(mine / its for mine, its in p50), 4),
            "per_second_ratio": {str(count): round(median(ratios), 2) for count, ratios in rates.items()},
            **self.scores,
        }


class RasaBenchmark(Benchmark):
    """Measures Rasa and students in turns."""

    @contextmanager
    def rasa(self, project: Project, asked: Sequence[Utterance]) -> Iterator[Product]:
        """Rasa with the project's model, running."""
        print("Rasa: starting", file=sys.stderr, flush=True)
        with project.serving(self.server, self.start_timeout) as (url, server, seconds):
            texts = [Text(one.text, one.locale) for one in asked]
            bodies = [WIRE.body(text) for text in _some(texts)]
            process, disk = server.family()[0].pid, project.model.stat().st_size
            found = url, process, seconds, disk
            how = WIRE.path, lambda _, *reply: WIRE.problem_of(None, *reply), server
            yield Product("Rasa", *found, bodies, partial(rasa_project.answers_of, url, texts), *how)

    @contextmanager
    def student(self, student: Subject, asked: Sequence[Utterance]) -> Iterator[Product]:
        """The service with a student, running."""
        with self.service(student.folder) as server:
            bodies = [orjson.dumps({"text": one.text, "locale": one.locale}) for one in _some(asked)]
            answers = partial(answers_of_service, server.url, asked)
            found = server.url, server.process, server.start_seconds, student.disk_bytes
            yield Product(f"student {student.name}", *found, bodies, answers)

    def measure(self, products: Sequence[Product], asked: Sequence[Utterance]) -> None:
        """Accuracy of each, and in each round their load, one after the other, with the others' processes at rest.

        Raises:
            LoadError: one of them gave a wrong reply, or none.
        """
        for one in products:
            print(f"{one.title}: {len(asked)} utterances", file=sys.stderr, flush=True)
            answers = [Answer(None, answer.intent, answer.slots) for answer in one.answers()]
            values = Scorecard.of(asked, answers).report()["mean"]
            one.scores = {name: values[name] for name in METRICS}
            if one.server:
                one.server.freeze()
        for number in range(1, self.rounds + 1):
            for one in products:
                with one.server.awake() if one.server else nullcontext():
                    one.rounds.append({count: self._ask(one, count) for count in CONNECTIONS})
                self.say(one.title, number, f"{one.rounds[-1][CONNECTIONS[0]].per_second:.0f}/s with one connection")

    def _ask(self, one: Product, connections: int) -> Measured:
        measure = partial(closed_loop.measure, one.url, one.bodies, connections=connections, path=one.path)
        return self.load(one.title, partial(measure, reply_timeout=REPLY_SECONDS, problem_of=one.problem_of))


def _some(asked: Sequence[T]) -> Sequence[T]:
    return asked[:: max(1, -(-len(asked) // MAX_BODIES))]


@command(StudentError, DatasetError)
@stopped_by_sigterm()
def main(argv: Sequence[str] | None = None) -> int:
    """Train Rasa if need be, and measure. Returns the exit code."""
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
    if ignorant := [one.name for one in students if locale not in one.manifest.locales]:
        raise StudentError(f"{', '.join(ignorant)}: does not know {locale}")
    data = load(arguments.data, [locale])
    asked = data.part(arguments.partition, [locale])
    flags = "--install --python PATH, of a Python 3.8 to 3.10,"
    python, versions = environments.ready(RASA, arguments, flags)
    project = Project(arguments.project, python, locale, arguments.epochs)
    learnt, others = drawn(data.part("train", [locale]), arguments.utterances)
    made = project.train(learnt, others, versions[RASA.distribution])
    benchmark = RasaBenchmark.of(arguments)
    with ExitStack() as stack:
        products = [stack.enter_context(benchmark.rasa(project, asked))]
        products += [stack.enter_context(benchmark.student(one, asked)) for one in students]
        benchmark.measure(products, asked)
        found = {one.title: one.figures(products[0]) for one in products}
    return {
        "locale": locale,
        "partition": arguments.partition,
        "utterances": {"train": len(learnt), arguments.partition: len(asked)},
        "rasa": {**versions, "epochs": arguments.epochs, "training_minutes": round(made["seconds"] / 60, 1)},
        "measured": {"rounds": arguments.rounds, "seconds": arguments.seconds},
        "machine": machine_class(),
        "found": found,
    }


def drawn(train: Sequence[Utterance], count: int | None) -> tuple[list[Utterance], list[Utterance]]:
    """So many utterances, always the same, and others to choose by; all of them, and no others, without a number.

    Raises:
        DatasetError: there are fewer.
    """
    if count is None:
        return list(train), []
    if count > len(train):
        raise DatasetError(f"--utterances {count}: there are {len(train)} to train on")
    mixed = random.Random(0).sample(train, len(train))
    return mixed[:count], [replace(one, partition="dev") for one in mixed[count : count + MAX_OTHERS]]


def table_of(figures: Json) -> Table:
    """The figures as a table."""
    rates = [f"requests a second, {count} connection{'s' * (count > 1)}" for count in CONNECTIONS]
    rows = []
    for title, found in figures["found"].items():
        cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in (found[name] for name in METRICS)]
        cells += [f"{found['p50_ratio']:.3f}", *(f"{ratio:.1f}" for ratio in found["per_second_ratio"].values())]
        memory = "-" if found["memory_mb"] is None else f"{found['memory_mb']} MB"
        rows.append([title, *cells, memory, f"{found['disk_mb']:.1f} MB", f"{found['start_seconds']:.1f} s"])
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
        "Accuracy in percent, with 95 % intervals; p50 and requests a second to those of Rasa, each ratio taken within "
        f"a round, and the median of the rounds (Rasa's p50 is {figures['found']['Rasa']['p50_ms']:.1f} ms here). "
        "Each server has the same core to itself, the load generator another. Where Rasa is not sure and says "
        f"`{rasa_project.UNSURE}`, the intent counts that it holds most likely.\n"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Rasa NLU beside students."
    made = argparse.ArgumentParser(prog="python -m benchmarks.rasa", description=about, allow_abbrev=False)
    flag = made.add_argument
    flag("--data", required=True, metavar="DATA", help="labelled data: folder, tarball, file or hub:NAME")
    flag("--locale", required=True, metavar="LOCALE", help="locale that Rasa learns, and in which all are asked")
    add_students(made)
    flag("--partition", choices=PARTITIONS, default="dev", help="part of the data to score on (default: %(default)s)")
    add(
        made, "utterances", positive_int, "UTTERANCES", "number of utterances that are drawn to train on (default: all)"
    )
    add(made, "epochs", positive_int, "EPOCHS", "epochs of Rasa's training", EPOCHS)
    flag("--project", type=Path, default=Path(".peers/rasa-project"), metavar="DIR", help="folder for Rasa's data and "
         "model (default: %(default)s)")  # fmt: skip
    add_environments(made)
    add_measurement(made, rounds=3, seconds=5.0, start_timeout=300.0)
    flag("--out", type=Path, metavar="FILE", help="Markdown file for the report; between its marks where the file has "
         "them (default: none)")  # fmt: skip
    return made


if __name__ == "__main__":
    sys.exit(main())
