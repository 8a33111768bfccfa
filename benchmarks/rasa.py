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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from benchmarks.floor import CANNOT_MEASURE, FLAGS, INTERRUPTED, SERVICE, WARM_UP
from benchmarks.peer_servers import environments, rasa_project
from benchmarks.peer_servers.catalogue import RASA
from benchmarks.peer_servers.environments import InstallError
from benchmarks.peer_servers.processes import PROC, Server, stopped_by_sigterm
from benchmarks.peer_servers.rasa_project import EPOCHS, Project
from benchmarks.peers_report import machine_class, write_report
from loadtest.compare import subjects_of
from loadtest.comparison.quality import answers_of_service
from loadtest.load import closed_loop
from loadtest.load.closed_loop import Check, LoadError, Measured
from loadtest.load.memory import memory_of
from loadtest.load.target import TargetError, on_cores, started_server, usable_cores
from loadtest.options import positive, positive_int
from service.student.manifest import StudentError
from training.data.datasets import DatasetError, load
from training.data.utterances import PARTITIONS, Utterance
from training.evaluation.scoring import Answer, Scorecard

Json = dict[str, Any]

MARKS = "<!-- rasa: begin -->", "<!-- rasa: end -->"
MOST_BODIES = 500  # texts that are sent over and over, evenly taken from all
CONNECTIONS = (1, 8)
REPLY_SECONDS = 30.0
MOST_OTHERS = 500
METRICS = {"exact_match": "exact match", "intent_accuracy": "intent accuracy", "slot_f1": "slot F1"}
MEGA = 1e6


@dataclass
class Contender:
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
    rounds: list[dict[int, Measured]] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Train Rasa if need be, and measure. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    with stopped_by_sigterm():
        try:
            figures = _figures(arguments)
        except (StudentError, DatasetError, TargetError, LoadError, InstallError) as error:
            print(f"error: {error}", file=sys.stderr)
            return CANNOT_MEASURE
        except KeyboardInterrupt:
            return INTERRUPTED
    if arguments.out:
        write_report(arguments.out, report_of(figures, datetime.datetime.now(tz=datetime.UTC).date()), MARKS)
    print("\n".join(table_of(figures)), end="\n\n")
    print(json.dumps(figures))
    return 0


def _figures(arguments: argparse.Namespace) -> Json:
    if not PROC.is_dir():
        raise TargetError("needs Linux: processes are found in /proc")
    students = subjects_of(arguments.students)
    locale = arguments.locale
    if ignorant := [one.name for one in students if locale not in one.manifest.locales]:
        raise StudentError(f"{', '.join(ignorant)}: does not know {locale}")
    data = load(arguments.data, [locale])
    asked = data.part(arguments.partition, [locale])
    python, versions = _environment(arguments)
    project = Project(arguments.project, python, locale, arguments.epochs)
    learnt, others = drawn(data.part("train", [locale]), arguments.utterances)
    made = project.train(learnt, others, versions[RASA.distribution])
    cores = usable_cores()
    with ExitStack() as stack:
        serving = [_rasa(project, asked, cores[:1], arguments.patience)]
        serving += [_student(one.name, one.folder, asked, cores[:1], arguments.patience) for one in students]
        contenders = [stack.enter_context(one) for one in serving]
        scores = _measure(contenders, asked, cores[-1:], arguments.rounds, arguments.seconds)
        found = {one.title: _found(one, contenders[0]) | scores[one.title] for one in contenders}
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
    return mixed[:count], [replace(one, partition="dev") for one in mixed[count : count + MOST_OTHERS]]


def _environment(arguments: argparse.Namespace) -> tuple[Path, dict[str, str]]:
    place = environments.find(RASA, arguments.environments)
    if place is None and arguments.install:
        print(f"installing {', '.join(RASA.requirements)}", file=sys.stderr, flush=True)
        environments.install(RASA, arguments.environments, arguments.python)
        place = environments.find(RASA, arguments.environments)
    if place is None:
        raise TargetError(
            "Rasa is not installed; --install --python PATH, of a Python 3.8 to 3.10, makes an environment for it in "
            f"{arguments.environments / RASA.name}"
        )
    return place


@contextmanager
def _rasa(project: Project, asked: Sequence[Utterance], cores: list[int], patience: float) -> Iterator[Contender]:
    print("Rasa: starting", file=sys.stderr, flush=True)
    with project.serving(cores, patience) as (url, server, seconds):
        bodies = [rasa_project.body_of(one.text) for one in _some(asked)]
        answers = partial(rasa_project.answers_of, url, asked)
        process, disk = server.family()[0].pid, project.model.stat().st_size
        yield Contender(
            "Rasa", url, process, seconds, disk, bodies, answers, rasa_project.PATH, rasa_project.problem_of, server
        )


@contextmanager
def _student(
    name: str, folder: Path, asked: Sequence[Utterance], cores: list[int], patience: float
) -> Iterator[Contender]:
    module = ["service", "--workers", "1", *FLAGS, "--students", str(folder)]
    with started_server(SERVICE, module, patience, cores) as server:
        bodies = [orjson.dumps({"text": one.text, "locale": one.locale}) for one in _some(asked)]
        disk = sum(file.stat().st_size for file in folder.iterdir())
        answers = partial(answers_of_service, server.url, asked)
        yield Contender(f"student {name}", server.url, server.process, server.start_seconds, disk, bodies, answers)


def _some(asked: Sequence[Utterance]) -> Sequence[Utterance]:
    return asked[:: max(1, -(-len(asked) // MOST_BODIES))]


def _measure(
    contenders: Sequence[Contender], asked: Sequence[Utterance], generator: list[int], rounds: int, seconds: float
) -> dict[str, Json]:
    """Accuracy of each, and in each round their load, one after the other, with the others' processes at rest.

    Raises:
        LoadError: one of them gave a wrong reply, or none.
    """
    scores = {}
    for one in contenders:
        print(f"{one.title}: {len(asked)} utterances", file=sys.stderr, flush=True)
        answers = [Answer(None, answer.intent, answer.slots) for answer in one.answers()]
        values = Scorecard.of(asked, answers).report()["mean"]
        scores[one.title] = {name: values[name] for name in METRICS}
        if one.server:
            one.server.freeze()
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
        for one in contenders:
            if one.server:
                one.server.thaw()
            with on_cores(generator):
                one.rounds.append({count: _load(one, count, seconds) for count in CONNECTIONS})
            if one.server:
                one.server.freeze()
    return scores


def _load(one: Contender, connections: int, seconds: float) -> Measured:
    found = closed_loop.measure(
        one.url,
        one.bodies,
        connections=connections,
        seconds=seconds,
        warm_up=WARM_UP * seconds,
        reply_timeout=REPLY_SECONDS,
        path=one.path,
        problem_of=one.problem_of,
    )
    for problem, count in found.failures.most_common(1):
        raise LoadError(f"{one.title} gave wrong replies, such as {count} times: {problem}")
    return found


def _found(one: Contender, baseline: Contender) -> Json:
    pairs = list(zip(one.rounds, baseline.rounds, strict=True))
    single = CONNECTIONS[0]
    memory = memory_of(one.process)
    return {
        "start_seconds": round(one.start_seconds, 2),
        "memory_mb": None if memory is None else round(memory / MEGA),
        "disk_mb": round(one.disk / MEGA, 1),
        "p50_ms": round(median(1e3 * mine[single].percentile(50) for mine, _ in pairs), 3),
        "p50_ratio": round(median(mine[single].percentile(50) / its[single].percentile(50) for mine, its in pairs), 4),
        "per_second_ratio": {
            str(count): round(median(mine[count].per_second / its[count].per_second for mine, its in pairs), 2)
            for count in CONNECTIONS
        },
    }


def table_of(figures: Json) -> list[str]:
    """The figures as a Markdown table."""
    rates = [f"requests a second, {count} connection{'s' * (count > 1)}" for count in CONNECTIONS]
    head = ["", *METRICS.values(), "p50, 1 connection", *rates, "memory", "on disk", "start"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for title, found in figures["found"].items():
        cells = [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in (found[name] for name in METRICS)]
        cells += [f"{found['p50_ratio']:.3f}", *(f"{ratio:.1f}" for ratio in found["per_second_ratio"].values())]
        memory = "-" if found["memory_mb"] is None else f"{found['memory_mb']} MB"
        cells += [memory, f"{found['disk_mb']:.1f} MB", f"{found['start_seconds']:.1f} s"]
        lines.append("| " + " | ".join([title, *cells]) + " |")
    return lines


def report_of(figures: Json, today: datetime.date) -> str:
    """The report in Markdown."""
    rasa, count = figures["rasa"], figures["utterances"]
    measured, default = figures["measured"], f" (its default is {EPOCHS})" if rasa["epochs"] != EPOCHS else ""
    lines = [
        f"Measured on {today.isoformat()} by `python -m benchmarks.rasa` on {figures['machine']}: Rasa {rasa['rasa']} "
        f"(Python {rasa['python']}), its default pipeline with {rasa['epochs']} epochs{default}, trained in "
        f"{rasa['training_minutes']:g} minutes on the {count['train']:,} training utterances of {figures['locale']}; "
        f"scored on {count[figures['partition']]:,} of {figures['partition']}; {measured['rounds']} rounds of "
        f"{measured['seconds']:g} s for each figure.",
        "",
        *table_of(figures),
        "",
        "Accuracy in percent, with 95 % intervals; p50 and requests a second to those of Rasa, each ratio taken within "
        f"a round, and the median of the rounds (Rasa's p50 is {figures['found']['Rasa']['p50_ms']:.1f} ms here). "
        "Each server has the same core to itself, the load generator another. Where Rasa is not sure and says "
        f"`{rasa_project.UNSURE}`, the intent counts that it holds most likely.",
    ]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rasa", description="Rasa NLU beside students.")
    add = parser.add_argument
    add("--data", required=True, help="labelled data: folder, tarball, file or hub:NAME")
    add("--locale", required=True, help="whose utterances Rasa learns, and all are asked about")
    add("--students", type=Path, nargs="+", required=True, metavar="DIR", help="student folders")
    add("--partition", choices=PARTITIONS, default="dev", help="of the data, to score on (default: dev)")
    add("--utterances", type=positive_int, metavar="N", help="draw so many to train on (default: all)")
    add(
        "--epochs",
        type=positive_int,
        default=EPOCHS,
        metavar="N",
        help=f"of Rasa's training (default: {EPOCHS}, as Rasa)",
    )
    add("--project", type=Path, default=Path(".peers/rasa-project"), metavar="DIR", help="where Rasa's data and model "
        "are kept (default: .peers/rasa-project)")  # fmt: skip
    add("--install", action="store_true", help="make Rasa's environment where it is missing (from PyPI)")
    add("--python", type=Path, default=Path(sys.executable), metavar="PATH", help="interpreter for that, 3.8 to 3.10")
    add("--environments", type=Path, default=Path(".peers"), metavar="DIR", help="where it is (default: .peers)")
    add("--rounds", type=positive_int, default=3, metavar="N", help="rounds, whose median counts (default: 3)")
    add("--seconds", type=positive, default=5.0, metavar="S", help="duration of each measurement (default: 5)")
    add("--patience", type=positive, default=300.0, metavar="S", help="seconds for a server to be ready (default: 300)")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the report to a Markdown file; between its marks where it has them",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
