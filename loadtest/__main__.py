"""The command ``python -m loadtest [--host URL] [--users N] [--seconds S] [--rate R] [--students DIR] ...``.

Without ``--host`` it starts the service itself. Prints a table, and as the last line one JSON object with the same
figures. Exit code: 0 if each request had a valid reply, 1 if some had none or there were no requests, 2 on an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from loadtest.load.command import FAILED, command
from loadtest.load.headless import run_locust
from loadtest.load.options import Options, add, add_options, add_start_timeout, positive_int
from loadtest.load.report import figures_of, is_success, table_of
from loadtest.load.students import student_argument
from loadtest.load.target import running_service, texts_for, wait_until_ready
from loadtest.load.texts import load_texts
from service.extras import require


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run a load test. Returns the exit code."""
    arguments = parser().parse_args(argv)
    options = Options.of(arguments)
    require("loadtest", "locust")
    load_texts(options.texts_path, options.locale)  # fail before the service is started
    with _target(arguments) as host:
        selection = texts_for(options, host)
        recorder = run_locust(host, arguments.users, arguments.seconds, arguments.processes, options)
    figures = figures_of(recorder, selection, host=host, users=arguments.users, asked_rate=options.rate)
    print(table_of(figures))
    print(json.dumps(figures))
    return 0 if is_success(figures) else FAILED


@contextmanager
def _target(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.host is None:
        with running_service(arguments.students, arguments.start_timeout) as server:
            yield server.url
    else:
        host = arguments.host.rstrip("/")
        wait_until_ready(host, arguments.start_timeout)
        yield host


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "Load test of the service."
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=about, allow_abbrev=False)
    target = parser.add_mutually_exclusive_group()
    about = "service to test, such as http://127.0.0.1:8000 (default: start one on a free port)"
    target.add_argument("--host", metavar="URL", help=about)
    about = "student folder, folder of students or shipped student to serve (default: the shipped students)"
    target.add_argument("--students", type=student_argument, metavar="DIR", help=about)
    add(parser, "users", positive_int, "USERS", "users, each with a connection", 8)
    add(parser, "seconds", positive_int, "SECONDS", "duration, in seconds", 10)
    about = "load generator processes; each sends about 1,000 requests per second"
    add(parser, "processes", positive_int, "PROCESSES", about, 1)
    add_start_timeout(parser, 30.0)
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
