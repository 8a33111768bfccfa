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
import importlib.util
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from loadtest.comparison.document import html, markdown
from loadtest.comparison.quality import answers_of_service
from loadtest.comparison.report import Subject, report_of
from loadtest.comparison.requirements import RequirementError, check_locales, parse
from loadtest.comparison.serving import Bench
from loadtest.comparison.text import TITLE, blocks_of, table_of, verdict_of
from loadtest.load.closed_loop import LoadError
from loadtest.load.target import TargetError, usable_cores
from loadtest.options import positive, positive_int
from service.student.manifest import Manifest, StudentError, read_manifest
from training.data.datasets import DatasetError, load
from training.data.files import write_atomically
from training.data.utterances import PARTITIONS, Utterance

Json = dict[str, Any]

NONE_FITS = 1
CANNOT_MEASURE = 2
INTERRUPTED = 130
MISSING_MATPLOTLIB = "matplotlib is not installed: pip install 'distilled-nlu[loadtest]'"
SHARED_CORE = "Service and load generator shared one core: latencies and rates are worse than the service's own."
MOST_BODIES = 2000  # texts that are sent over and over, evenly taken from all


def main(argv: Sequence[str] | None = None) -> int:
    """Compare. Returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(given)
    try:
        if importlib.util.find_spec("matplotlib") is None:
            raise TargetError(MISSING_MATPLOTLIB)
        if arguments.out.exists() and not arguments.out.is_dir():
            raise TargetError(f"--out: {arguments.out} is a file; it should be a folder, there or not")
        required = [parse(text) for text in arguments.require]
        subjects = subjects_of(arguments.students)
        utterances, left_out = _utterances(arguments, subjects)
        check_locales(required, list(dict.fromkeys(one.locale for one in utterances)))
        _measure(subjects, utterances, _bench(arguments), arguments.rounds)
        report, changed = report_of(subjects, utterances, required, arguments.texts)
    except (StudentError, DatasetError, TargetError, LoadError, RequirementError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_MEASURE
    except KeyboardInterrupt:
        return INTERRUPTED
    report |= {
        "partition": arguments.partition,
        "data": Path(arguments.data).name,
        "left_out": left_out,
        "measured": {"rounds": arguments.rounds, "seconds": arguments.seconds, "bound_ms": arguments.p99_bound},
        "command": command_of(given),
        "warning": None if len(usable_cores()) > 1 else SHARED_CORE,
    }
    return _write(report, changed, arguments.out)


def subjects_of(folders: Sequence[Path]) -> list[Subject]:
    """The students of some folders: student folders, or folders that hold some. Names that occur twice grow by the
    folder above, so that two versions of a student can be compared.

    Raises:
        StudentError: a folder is none, or was given before.
    """
    found: dict[Path, Manifest] = {}
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob("*/manifest.json"))
        for one in [folder] if (folder / "manifest.json").is_file() or not inside else inside:
            if one.resolve() in found:
                raise StudentError(f"{one}: was given before")
            found[one.resolve()] = read_manifest(one)
    names = [manifest.name for manifest in found.values()]
    depth = 0
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in found]
    return [Subject(name, path, manifest) for name, (path, manifest) in zip(names, found.items(), strict=True)]


def _utterances(arguments: argparse.Namespace, subjects: Sequence[Subject]) -> tuple[list[Utterance], list[str]]:
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


def _bench(arguments: argparse.Namespace) -> Bench:
    cores = usable_cores()
    return Bench(arguments.seconds, arguments.p99_bound, arguments.patience, cores[:1], cores[-1:])


def _measure(subjects: Sequence[Subject], utterances: Sequence[Utterance], bench: Bench, rounds: int) -> None:
    """Rounds in which the students take turns; in every other round in reverse, so that drift falls on all alike."""
    step = max(1, -(-len(utterances) // MOST_BODIES))
    bodies = [orjson.dumps({"text": one.text, "locale": one.locale}) for one in utterances[::step]]
    for number in range(1, rounds + 1):
        for subject in subjects if number % 2 else reversed(subjects):

            def say(found: str, where: str = f"{subject.name}, round {number} of {rounds}") -> None:
                print(f"{where}: {found}", file=sys.stderr, flush=True)

            def ask(url: str, subject: Subject = subject) -> None:
                if not subject.answers:
                    subject.answers.extend(answers_of_service(url, utterances))

            subject.rounds.append(bench.serve(subject.folder, bodies, ask, say))


def _write(report: Json, changed: dict[str, list[Json]], out: Path) -> int:
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
        print(f"error: {error.filename or out}: can't be written: {error.strerror or error}", file=sys.stderr)
        return CANNOT_MEASURE
    print(table_of(report), report["recommendation"], sep="\n\n")
    required = report["required"]
    if required:
        print(f"\n{verdict_of(required)}")
    print(json.dumps(report))
    return NONE_FITS if required and required["fits"] is None else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest.compare", description="Which student is good enough?")
    parser.add_argument("--students", type=Path, nargs="+", required=True, metavar="DIR", help="student folders, or "
                        "folders that hold some; the others are compared with the first")  # fmt: skip
    parser.add_argument("--data", required=True, help="labelled data: folder, tarball, file or hub:NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="REPORT", help="folder for the report")
    parser.add_argument("--partition", choices=PARTITIONS, default="dev", help="of the data (default: dev)")
    parser.add_argument("--locales", metavar="A,B", help="compare in these (default: those that all students know)")
    parser.add_argument("--require", action="append", default=[], metavar="BOUND", help="what a student must reach: "
                        "'exact_match>=57', 'slot_f1@de-DE>=70', 'p99_ms<=3'; may be given several times")  # fmt: skip
    parser.add_argument("--no-texts", dest="texts", action="store_false", help="write no utterance anywhere: a report "
                        "that may be published where the data may not")  # fmt: skip
    parser.add_argument("--p99-bound", type=positive, default=5.0, metavar="MS", help="milliseconds within which the "
                        "99th percentile has to stay at the highest rate (default: 5)")  # fmt: skip
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="rounds, whose median counts "
                        "(default: 3)")  # fmt: skip
    parser.add_argument("--seconds", type=positive, default=4.0, metavar="S", help="duration of each measurement "
                        "(default: 4)")  # fmt: skip
    parser.add_argument("--patience", type=positive, default=60.0, metavar="S", help="seconds for a service to be "
                        "ready (default: 60)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
