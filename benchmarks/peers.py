"""The command ``python -m benchmarks.peers [--student DIR] [--peers A,B] [--install] [--out REPORT.md] ...``.

The same student, tokeniser included, behind other serving frameworks, each with its documented defaults and with its
own batching, as ratios from one run: our service, a plain FastAPI application and one framework after the other take
turns on the same core with the same texts, and the load generator sits on another. While a framework waits for its
turn, its processes are stopped, unless ``--keep-running``. Answers are compared with the student's own, before and
while it is measured.

Frameworks' requirements exclude each other, so each has a virtual environment of its own below ``--environments``;
``--install`` makes those that are missing. Peers that are not there are named and left out. Runs from a checkout, on
Linux.

Prints a table, and as the last line one JSON object with the same figures; ``--out`` writes the report as Markdown.
Exit code: 0 measured (at least one peer), 2 could not measure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.floor import CANNOT_MEASURE, INTERRUPTED, Subject
from benchmarks.floor_report import Figures
from benchmarks.peer_servers import environments
from benchmarks.peer_servers.bench import Bench, Round
from benchmarks.peer_servers.catalogue import PEERS, Peer
from benchmarks.peer_servers.environments import InstallError
from benchmarks.peer_servers.processes import PROC, stopped_by_sigterm
from benchmarks.peers_report import (
    figures_of_rounds,
    machine_class,
    plain_rates,
    report_of,
    summary_of,
    table_of,
    write_report,
)
from loadtest.load.closed_loop import LoadError
from loadtest.load.machine import machine, versions
from loadtest.load.target import TargetError, usable_cores
from loadtest.load.texts import TextsError, load_texts
from loadtest.options import positive, positive_int
from service.ask import SHIPPED
from service.student.manifest import StudentError

ENVIRONMENTS = Path(".peers")
Places = dict[str, tuple[Path, dict[str, str]]]  # a peer's interpreter, and the versions there


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each peer. Returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(given)
    with stopped_by_sigterm():
        try:
            figures = _figures(arguments)
        except (StudentError, TextsError, TargetError, LoadError) as error:
            print(f"error: {error}", file=sys.stderr)
            return CANNOT_MEASURE
        except KeyboardInterrupt:
            return INTERRUPTED
    if arguments.out and "service" in figures:
        today = datetime.datetime.now(tz=datetime.UTC).date()
        write_report(arguments.out, report_of(figures, PEERS, _command(given), today))
    if "service" in figures:
        print(table_of(figures), end="\n\n")
    print(json.dumps(figures))
    measured = [found for peer in figures["peers"].values() for found in peer["settings"].values()]
    return 0 if any("failed" not in found for found in measured) else CANNOT_MEASURE


def _figures(arguments: argparse.Namespace) -> Figures:
    if not PROC.is_dir():
        raise TargetError("needs Linux: processes are found in /proc")
    subject = Subject(arguments.student, load_texts(arguments.texts, arguments.texts_locale))
    places, not_measured = _places(arguments)
    cores = usable_cores()
    bench = Bench(
        arguments.rounds,
        arguments.seconds,
        arguments.connections,
        arguments.patience,
        cores[:1],
        cores[-1:],
        arguments.keep_running,
    )
    figures: Figures = {
        "student": _identity(subject),
        "peers": {},
        "not_measured": not_measured,
        "measured": {
            "rounds": bench.rounds,
            "seconds": bench.seconds,
            "connections": list(bench.connections),
            "keep_running": bench.keeps_running,
        },
        "machine": machine()
        | {"class": machine_class(), "server_cores": bench.server, "generator_cores": bench.generator},
        "versions": versions(),
    }
    return figures | _measure(bench, subject, places, figures["peers"]) if places else figures


def _command(given: Sequence[str]) -> str:
    """The command line without where things lie on this machine, which changes no figure."""
    parser = argparse.ArgumentParser(add_help=False)
    for flag in ("--environments", "--out", "--python"):
        parser.add_argument(flag)
    parser.add_argument("--install", action="store_true")
    return shlex.join(["python", "-m", "benchmarks.peers", *parser.parse_known_args(given)[1]])


def _identity(subject: Subject) -> Figures:
    said = ("size", "precision", "digest", "locales", "texts")
    return {"name": subject.manifest.name} | {key: subject.figures()[key] for key in said}


def _measure(bench: Bench, subject: Subject, places: Places, peers: Figures) -> Figures:
    """Fill in the peers' figures; returns those of the service and of the plain application."""
    rounds: list[Round] = []
    with bench.baseline(subject) as baseline:
        for name, (python, found_versions) in places.items():
            peer = PEERS[name]
            print(f"{peer.title} {found_versions[peer.distribution]}: starting", file=sys.stderr, flush=True)
            found = bench.measure_peer(peer, python, subject, baseline)
            for setting, reason in found.failures.items():
                print(f"{peer.title}, {setting}: {reason}", file=sys.stderr, flush=True)
            peers[name] = {
                "title": peer.title,
                "versions": found_versions,
                "core_share": round(found.core_share, 3),
                "plain_fastapi_per_second": plain_rates(found.rounds),
                "settings": figures_of_rounds(found, peer.wires),
            }
            rounds += found.rounds
    return summary_of(rounds) if rounds else {}


def _places(arguments: argparse.Namespace) -> tuple[Places, dict[str, str]]:
    """Where each peer is, and why the others are not measured."""
    places: Places = {}
    missing: dict[str, str] = {}
    for peer in arguments.peers:
        problem = environments.missing_program(peer)
        place = environments.find(peer, arguments.environments)
        if place is None and problem is None and arguments.install:
            problem = _install(peer, arguments.environments, arguments.python)
            place = None if problem else environments.find(peer, arguments.environments)
        if place is None and problem is None:
            where = "" if arguments.environments == ENVIRONMENTS else f" --environments {arguments.environments}"
            command = f"python -m benchmarks.peers --peers {peer.name} --install{where}"
            problem = f"{peer.title} is not installed; {command} installs and measures it"
        if problem is None and place is not None:
            places[peer.name] = place
        else:
            missing[peer.name] = problem or ""
            print(problem, file=sys.stderr, flush=True)
    return places, missing


def _install(peer: Peer, folder: Path, python: Path) -> str | None:
    print(f"{peer.title}: installing {', '.join(peer.requirements)}", file=sys.stderr, flush=True)
    try:
        environments.install(peer, folder, python)
    except InstallError as error:
        return f"{peer.title} can't be installed: {error}"
    return None


def _peers(value: str) -> list[Peer]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(PEERS)}")
    if not names:
        raise argparse.ArgumentTypeError(f"names none; there are {', '.join(PEERS)}")
    return [PEERS[name] for name in dict.fromkeys(names)]


def _connections(value: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive_int(number) for number in value.split(",")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description="The same student behind other serving frameworks."
    )
    parser.add_argument("--student", type=Path, default=SHIPPED, metavar="DIR", help="student folder (the shipped one)")
    parser.add_argument("--peers", type=_peers, default=list(PEERS.values()), metavar="A,B", help="which, of "
                        f"{', '.join(PEERS)} (default: all that are there)")  # fmt: skip
    parser.add_argument("--install", action="store_true", help="make the environments that are missing (from PyPI; "
                        "some gigabytes)")  # fmt: skip
    parser.add_argument("--python", type=Path, default=Path(sys.executable), metavar="PATH", help="interpreter for "
                        "the environments that --install makes, 3.11 or newer (default: this one)")  # fmt: skip
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR", help="where the peers' "
                        f"environments are (default: {ENVIRONMENTS})")  # fmt: skip
    parser.add_argument("--rounds", type=positive_int, default=3, metavar="N", help="rounds, whose median counts "
                        "(default: 3)")  # fmt: skip
    parser.add_argument("--seconds", type=positive, default=2.0, metavar="S", help="duration of each measurement "
                        "(default: 2)")  # fmt: skip
    parser.add_argument("--connections", type=_connections, default=(1, 8, 32), metavar="N,N", help="numbers of "
                        "connections (default: 1,8,32)")  # fmt: skip
    parser.add_argument("--texts", type=Path, metavar="PATH", help="texts to send, as for python -m loadtest (default: "
                        "the project's sample)")  # fmt: skip
    parser.add_argument("--texts-locale", metavar="LOCALE", help="locale of texts that come without one")
    parser.add_argument("--patience", type=positive, default=120.0, metavar="S", help="seconds for a server to be "
                        "ready (default: 120)")  # fmt: skip
    parser.add_argument("--keep-running", action="store_true", help="do not stop a framework's processes while others "
                        "are measured; for those that take the pause amiss")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report to a Markdown file; between its "
                        "marks where the file has them")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
