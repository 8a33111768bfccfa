"""The command ``python -m loadtest.compare --students DIR [DIR ...] --data DATA --out REPORT [--require BOUND ...]``.

Which student is good enough, and what does it cost? Each student is served by the real service, in turns with the
others, and measured through HTTP: accuracy per locale, latency by phase, the highest rate that keeps a latency bound,
throughput, memory, start, size on disk. Writes ``report.md``, ``report.json`` and ``report.html`` (one page that needs
nothing else) into the folder REPORT, with their pictures, and for each student the utterances that it answers otherwise
than the first one. Prints a table, and as the last line one JSON object.

``--require "exact_match>=57" --require "p99_ms<=3"`` names the smallest student that fits. Exit code: 0 measured, and a
student fits what is required; 1 none does; 2 could not measure.
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
from loadtest.comparison.requirements import check_locales, parse
from loadtest.comparison.serving import ServingBenchmark
from loadtest.comparison.text import TITLE, blocks_of, table_of, verdict_of
from loadtest.load.command import FAILED, command
from loadtest.load.options import add, add_measurement, positive
from loadtest.load.students import add_students
from loadtest.load.target import TargetError, usable_cores
from service.extras import require
from service.student.manifest import StudentError
from training.data.datasets import SAMPLE, DatasetError, load
from training.data.files import write_atomically
from training.data.utterances import PARTITIONS, Utterance

Json = dict[str, Any]

SHARED_CORE = "Service and load generator shared one core: latencies and rates are worse than the service's own."
MAX_BODIES = 2000  # texts that are sent over and over, evenly taken from all


@command(StudentError, DatasetError)
def main(argv: Sequence[str] | None = None) -> int:
    """Compare. Returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(given)
    require("loadtest", "matplotlib")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise TargetError(f"--out: {arguments.out} is a file; it should be a folder, there or not")
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
        "command": command_of(given),
        "warning": None if len(usable_cores()) > 1 else SHARED_CORE,
    }
    _write(report, changed, arguments.out)
    print(table_of(report), report["recommendation"], sep="\n\n")
    if report["required"]:
        print(f"\n{verdict_of(report['required'])}")
    print(json.dumps(report))
    return FAILED if report["required"] and report["required"]["fits"] is None else 0


def _utterances(arguments: argparse.Namespace, subjects: Sequence[Subject]) -> tuple[list[Utterance], list[str]]:
    """The utterances in locales that all students know, and the locales that are left out."""
    known = [set(subject.manifest.locales) for subject in subjects]
    common = [locale for locale in subjects[0].manifest.locales if all(locale in locales for locales in known)]
    left_out = sorted(set[str]().union(*known) - set(common))
    if not common:
        raise StudentError(f"there is no locale that all students know; they know {', '.join(left_out)}")
    asked = arguments.locales.split(",") if arguments.locales else None
    if asked and (unknown := sorted(set(asked) - set(common))):
        raise StudentError(f"--locales: {', '.join(unknown)} is not among {', '.join(common)}, which all students know")
    found = load(arguments.data, asked or common).part(arguments.partition, asked)
    return [utterance for utterance in found if utterance.locale in common], left_out


def command_of(given: Sequence[str]) -> str:
    """The command line without what lies above its files and folders, which may name a person or a machine."""
    shown = [Path(part).name if Path(part).is_absolute() else part for part in given]
    return shlex.join(["python", "-m", "loadtest.compare", *shown])


def _measure(subjects: Sequence[Subject], utterances: Sequence[Utterance], benchmark: ServingBenchmark) -> None:
    """Rounds in which the students take turns; in every other round in reverse, so that drift falls on all alike."""
    step = max(1, -(-len(utterances) // MAX_BODIES))
    bodies = [orjson.dumps({"text": one.text, "locale": one.locale}) for one in utterances[::step]]
    for number in range(1, benchmark.rounds + 1):
        for subject in subjects if number % 2 else reversed(subjects):

            def say(found: str, name: str = subject.name, number: int = number) -> None:
                benchmark.say(name, number, found)

            def ask(url: str, subject: Subject = subject) -> None:
                if not subject.answers:
                    subject.answers.extend(answers_of_service(url, utterances))

            subject.rounds.append(benchmark.serve(subject.folder, bodies, ask, say))


def _write(report: Json, changed: dict[str, list[Json]], out: Path) -> None:
    from loadtest.comparison.figures import draw  # needs matplotlib

    blocks = blocks_of(report)
    try:
        for file, rows in changed.items():
            write_atomically(out / file, b"".join(orjson.dumps(row) + b"\n" for row in rows))
        out.mkdir(parents=True, exist_ok=True)
        pictures = draw(report, out)
        write_atomically(out / "report.html", html(TITLE, blocks, pictures).encode())
        write_atomically(out / "report.md", markdown(TITLE, blocks).encode())
        write_atomically(out / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise TargetError(f"{error.filename or out}: can't be written: {error.strerror or error}") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Which student is good enough?"
    made = argparse.ArgumentParser(prog="python -m loadtest.compare", description=about, allow_abbrev=False)
    add_students(made)
    made.add_argument("--data", default=str(SAMPLE), metavar="DATA", help="labelled data: folder, tarball, file or "
                      "hub:NAME (default: the packaged sample)")  # fmt: skip
    made.add_argument("--out", type=Path, required=True, metavar="REPORT", help="folder for the report")
    made.add_argument("--partition", choices=PARTITIONS, default="dev", help="part of the data (default: %(default)s)")
    add(made, "locales", str, "A,B", "comma-separated locales to compare in (default: those that all students know)")
    made.add_argument("--require", action="append", default=[], metavar="BOUND", help="what a student must reach: "
                      "'exact_match>=57', 'slot_f1@de-DE>=70', 'p99_ms<=3'; may be given several times (default: "
                      "nothing)")  # fmt: skip
    made.add_argument("--no-texts", dest="texts", action="store_false", help="write no utterance anywhere: a report "
                      "that may be published where the data may not")  # fmt: skip
    about = "time within which the 99th percentile has to stay at the highest rate, in milliseconds"
    add(made, "p99-bound", positive, "MILLISECONDS", about, 5.0)
    add_measurement(made, rounds=3, seconds=4.0, start_timeout=60.0)
    return made


if __name__ == "__main__":
    sys.exit(main())
