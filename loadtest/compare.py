"""The command ``python -m loadtest.compare --students DIR [DIR ...] --data DATA --out REPORT [--require BOUND ...]``.

Which student is good enough, and what does it cost? The students take turns behind the real service and are measured
through HTTP: accuracy per locale, latency by phase, the highest rate within a latency bound, throughput, memory, start
time, size on disk. Writes ``report.md``, ``report.json`` and ``report.html`` (self-contained) into the folder REPORT,
with their figures, and for each student a file of the utterances that it answers differently from the first one. Prints
a table, and as the last line one JSON object.

``--require "exact_match>=57" --require "p99_ms<=3"`` names the smallest student that meets the requirements. Exit code:
0 if one does or nothing is required, 1 if none does, 2 on an error.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from loadtest.comparison.document import html, markdown
from loadtest.comparison.quality import answers_of_service
from loadtest.comparison.report import Subject, report_of, subjects_of
from loadtest.comparison.serving import ServingBenchmark
from loadtest.comparison.text import TITLE, blocks_of, table_of
from loadtest.load.command import FAILED, command
from loadtest.load.options import add, add_measurement, positive
from loadtest.load.students import add_students
from loadtest.load.target import TargetError, usable_cores
from service.extras import require
from service.student.manifest import StudentError
from training.data.datasets import SAMPLE, DatasetError, load
from training.data.files import write_atomically
from training.data.options import add_read_options, read_options
from training.data.utterances import PARTITIONS, Utterance
from training.evaluation.requirements import RequirementError, check_locales, parse, verdict_of

Json = dict[str, Any]

SHARED_CORE = "Service and load generator shared one core: latencies and rates are worse than the service's own."
MAX_BODIES = 2000  # different requests that the load generator cycles through


@command(StudentError, DatasetError, RequirementError)
def main(argv: Sequence[str] | None = None) -> int:
    """Compare students. Returns the exit code."""
    command_line = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(command_line)
    require("loadtest", "matplotlib")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise TargetError(f"--out: {arguments.out} is a file; it should be a folder, new or existing")
    required = [parse(text) for text in arguments.require]
    subjects = subjects_of(arguments.students)
    utterances, left_out = _utterances(arguments, subjects)
    check_locales(required, list(dict.fromkeys(one.locale for one in utterances)))
    _measure(subjects, utterances, ServingBenchmark.of(arguments, bound_ms=arguments.p99_bound))
    report, changed = report_of(subjects, utterances, required, arguments.texts)
    report |= {
        "partition": arguments.partition,
        "data": Path(arguments.data).name,
        "left_out": left_out,
        "measured": {"rounds": arguments.rounds, "seconds": arguments.seconds, "bound_ms": arguments.p99_bound},
        "command": command_of(command_line),
        "warning": None if len(usable_cores()) > 1 else SHARED_CORE,
    }
    _write(report, changed, arguments.out)
    print(table_of(report), report["recommendation"], sep="\n\n")
    if report["required"]:
        print(f"\n{verdict_of(report['required'])}")
    print(json.dumps(report))
    return FAILED if report["required"] and report["required"]["fits"] is None else 0


def _utterances(arguments: argparse.Namespace, subjects: Sequence[Subject]) -> tuple[list[Utterance], list[str]]:
    """The utterances in locales that all students support, and the locales that are left out."""
    supported = [set(subject.manifest.locales) for subject in subjects]
    common = [locale for locale in subjects[0].manifest.locales if all(locale in locales for locales in supported)]
    left_out = sorted(set[str]().union(*supported) - set(common))
    if not common:
        raise StudentError(f"the students have no locale in common; their locales: {', '.join(left_out)}")
    asked = arguments.locales.split(",") if arguments.locales else None
    if asked and (unknown := sorted(set(asked) - set(common))):
        raise StudentError(f"--locales: not all students support {', '.join(unknown)}; allowed: {', '.join(common)}")
    dataset = load(arguments.data, asked or common, options=read_options(arguments))
    selected = dataset.part(arguments.partition, asked)
    return [utterance for utterance in selected if utterance.locale in common], left_out


def command_of(command_line: Sequence[str]) -> str:
    """The command line with absolute paths shortened to their last part, since they may name a person or a machine."""
    shown = [Path(part).name if Path(part).is_absolute() else part for part in command_line]
    return shlex.join(["python", "-m", "loadtest.compare", *shown])


def _measure(subjects: Sequence[Subject], utterances: Sequence[Utterance], benchmark: ServingBenchmark) -> None:
    """Measure in rounds, in which the students take turns; every other one is reversed, against drift."""
    step = max(1, -(-len(utterances) // MAX_BODIES))
    bodies = [orjson.dumps({"text": one.text, "locale": one.locale}) for one in utterances[::step]]
    for number in range(1, benchmark.rounds + 1):
        for subject in subjects if number % 2 else reversed(subjects):

            def report_progress(text: str, name: str = subject.name, number: int = number) -> None:
                benchmark.report_progress(name, number, text)

            def ask(url: str, subject: Subject = subject) -> None:
                if not subject.answers:
                    subject.answers.extend(answers_of_service(url, utterances))

            subject.rounds.append(benchmark.measure_student(subject.folder, bodies, ask, report_progress))


def _write(report: Json, changed: dict[str, list[Json]], out: Path) -> None:
    from loadtest.comparison.figures import draw  # needs matplotlib

    blocks = blocks_of(report)
    try:
        for file, rows in changed.items():
            write_atomically(out / file, b"".join(orjson.dumps(row) + b"\n" for row in rows))
        out.mkdir(parents=True, exist_ok=True)
        figures = draw(report, out)
        write_atomically(out / "report.html", html(TITLE, blocks, figures).encode())
        write_atomically(out / "report.md", markdown(TITLE, blocks).encode())
        write_atomically(out / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise TargetError(f"{error.filename or out}: can't be written: {error.strerror or error}") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Which student is good enough?"
    parser = argparse.ArgumentParser(prog="python -m loadtest.compare", description=about, allow_abbrev=False)
    add_students(parser)
    about = "labelled data: folder, tarball, file or hub:NAME (default: the packaged sample)"
    parser.add_argument("--data", default=str(SAMPLE), metavar="DATA", help=about)
    parser.add_argument("--out", type=Path, required=True, metavar="REPORT", help="folder for the report")
    parser.add_argument(
        "--partition", choices=PARTITIONS, default="dev", help="part of the data (default: %(default)s)"
    )
    add(parser, "locales", str, "A,B", "comma-separated locales to compare (default: those that all students support)")
    about = "requirement, such as 'exact_match>=57', 'slot_f1@de-DE>=70' or 'p99_ms<=3'; repeatable (default: none)"
    parser.add_argument("--require", action="append", default=[], metavar="BOUND", help=about)
    about = "write no utterances, so that the report can be published where the data can't"
    parser.add_argument("--no-texts", dest="texts", action="store_false", help=about)
    about = "bound of the 99th percentile of latency for the highest rate, in milliseconds"
    add(parser, "p99-bound", positive, "MILLISECONDS", about, 5.0)
    add_measurement(parser, rounds=3, seconds=4.0, start_timeout=60.0)
    add_read_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
