"""The command ``python -m benchmarks.peers [--student DIR] [--peers A,B] [--install] [--out REPORT.md] ...``.

The same student, tokenizer included, behind other serving frameworks, each with its documented defaults and with its
own batching, as ratios from one run: this service, a plain FastAPI application and one framework after the other take
turns on one core with the same texts, and the load generator runs on another. While others are measured, the processes
of a framework are suspended, unless ``--keep-running``. Answers are compared with the student's own before and during
the measurement.

The frameworks' requirements conflict, so each has a virtual environment of its own below ``--environments``;
``--install`` creates missing ones. Peers that are not installed are reported and skipped. Runs from a checkout, on
Linux.

Prints a table, and as the last line one JSON object with the same figures; ``--out`` writes the report as Markdown.
Exit code: 0 if at least one peer was measured, else 2.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.floor import MeasuredStudent
from benchmarks.floor_report import Figures
from benchmarks.peer_servers import environments
from benchmarks.peer_servers.bench import PeerBenchmark, PeerRound
from benchmarks.peer_servers.catalogue import PEERS, Peer
from benchmarks.peer_servers.environments import InstallError, add_environments
from benchmarks.peer_servers.processes import require_proc, stopped_by_sigterm
from benchmarks.peers_report import (
    figures_of_rounds,
    machine_class,
    plain_rates,
    report_of,
    summary_of,
    table_of,
    write_report,
)
from loadtest.load.command import CANNOT_TEST, command
from loadtest.load.options import add_measurement, add_texts, positive_int
from loadtest.load.students import add_student
from loadtest.load.texts import load_texts
from service.student.manifest import StudentError

Places = dict[str, tuple[Path, dict[str, str]]]  # a peer's interpreter, and the versions there


@command(StudentError)
@stopped_by_sigterm()
def main(argv: Sequence[str] | None = None) -> int:
    """Measure each peer. Returns the exit code."""
    command_line = sys.argv[1:] if argv is None else list(argv)
    arguments = parser().parse_args(command_line)
    figures = _figures(arguments)
    if "service" in figures:
        if arguments.out:
            today = datetime.datetime.now(tz=datetime.UTC).date()
            write_report(arguments.out, report_of(figures, PEERS, _command(command_line), today))
        print(table_of(figures), end="\n\n")
    print(json.dumps(figures))
    settings = [setting for peer in figures["peers"].values() for setting in peer["settings"].values()]
    return 0 if any("failed" not in setting for setting in settings) else CANNOT_TEST


def _figures(arguments: argparse.Namespace) -> Figures:
    require_proc()
    student = MeasuredStudent(arguments.student, load_texts(arguments.texts, arguments.locale))
    places, not_measured = _places(arguments)
    benchmark = PeerBenchmark.of(arguments, connections=arguments.connections, keeps_running=arguments.keep_running)
    figures: Figures = {
        "student": {"name": student.name} | student.figures(),
        "peers": {},
        "not_measured": not_measured,
        **benchmark.setup(connections=[*benchmark.connections], keep_running=benchmark.keeps_running),
    }
    figures["machine"]["class"] = machine_class()
    return figures | _measure(benchmark, student, places, figures["peers"]) if places else figures


def _command(command_line: Sequence[str]) -> str:
    """The command line without the flags that only name paths of this machine."""
    paths = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_environments(paths)
    paths.add_argument("--out")
    return shlex.join(["python", "-m", "benchmarks.peers", *paths.parse_known_args(command_line)[1]])


def _measure(benchmark: PeerBenchmark, student: MeasuredStudent, places: Places, peers: Figures) -> Figures:
    """Add the peers' figures to `peers`; returns those of the service and of the plain application."""
    rounds: list[PeerRound] = []
    with benchmark.baseline(student) as baseline:
        for name, (python, versions) in places.items():
            peer = PEERS[name]
            print(f"{peer.title} {versions[peer.distribution]}: starting", file=sys.stderr, flush=True)
            measurements = benchmark.measure_peer(peer, python, student, baseline)
            for setting, reason in measurements.failures.items():
                print(f"{peer.title}, {setting}: {reason}", file=sys.stderr, flush=True)
            peers[name] = {
                "title": peer.title,
                "versions": versions,
                "core_share": round(measurements.core_share, 3),
                "plain_fastapi_per_second": plain_rates(measurements.rounds),
                "settings": figures_of_rounds(measurements, peer.settings),
            }
            rounds += measurements.rounds
    return summary_of(rounds) if rounds else {}


def _places(arguments: argparse.Namespace) -> tuple[Places, dict[str, str]]:
    """The interpreters of installed peers, and why other peers are not measured."""
    places: Places = {}
    missing: dict[str, str] = {}
    for peer in arguments.peers:
        try:
            places[peer.name] = environments.ready(peer, arguments, f"--peers {peer.name} --install")
        except InstallError as error:
            missing[peer.name] = str(error)
            print(error, file=sys.stderr, flush=True)
    return places, missing


def _peers(value: str) -> list[Peer]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; allowed: {', '.join(PEERS)}")
    if not names:
        raise argparse.ArgumentTypeError(f"names no framework; allowed: {', '.join(PEERS)}")
    return [PEERS[name] for name in dict.fromkeys(names)]


def _connections(value: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(positive_int(number) for number in value.split(",")))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Measure the same student behind other serving frameworks."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=about, allow_abbrev=False)
    add_student(parser)
    about = f"comma-separated, of {', '.join(PEERS)} (default: all that are installed)"
    parser.add_argument("--peers", type=_peers, default=list(PEERS.values()), metavar="A,B", help=about)
    add_environments(parser)
    add_measurement(parser, rounds=3, seconds=2.0, start_timeout=120.0)
    about = "comma-separated numbers of connections (default: 1,8,32)"
    parser.add_argument("--connections", type=_connections, default=(1, 8, 32), metavar="N,N", help=about)
    add_texts(parser)
    about = "do not suspend a framework's processes while others are measured; for frameworks that react to the pause"
    parser.add_argument("--keep-running", action="store_true", help=about)
    about = "Markdown file for the report, written between the file's marks if it has them (default: none)"
    parser.add_argument("--out", type=Path, metavar="FILE", help=about)
    return parser


if __name__ == "__main__":
    sys.exit(main())
