"""The command ``python -m loadtest [--host URL] [--users N] [--seconds S] [--rate R] [--students DIR] ...``.

Without ``--host`` it starts the service itself. Prints a table, and as the last line one JSON object with the same
figures. Exit code: 0 each request had a valid reply, 1 some had none or there were no requests, 2 could not test.
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
from loadtest.load.target import running_service, texts_for, wait_until_ready
from loadtest.load.texts import load_texts
from service.extras import require
from service.student.shipped import named_folder


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Run a load test. Returns the exit code."""
    arguments = parser().parse_args(argv)
    options = Options.of(arguments)
    require("loadtest", "locust")
    load_texts(options.texts_path, options.locale)  # before a service is started in vain
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
    made = argparse.ArgumentParser(prog="python -m loadtest", description=about, allow_abbrev=False)
    target = made.add_mutually_exclusive_group()
    target.add_argument("--host", metavar="URL", help="service to test, such as http://127.0.0.1:8000 (default: one "
                        "that is started for the test on a free port)")  # fmt: skip
    target.add_argument("--students", type=named_folder, metavar="DIR", help="for the service that is started: a "
                        "student, a folder that holds some, or a shipped student by name (default: the shipped "
                        "ones)")  # fmt: skip
    add(made, "users", positive_int, "USERS", "users, each with a connection", 8)
    add(made, "seconds", positive_int, "SECONDS", "duration, in seconds", 10)
    about = "processes that make the load; one makes some 1,000 requests per second"
    add(made, "processes", positive_int, "PROCESSES", about, 1)
    add_start_timeout(made, 30.0)
    add_options(made)
    return made


if __name__ == "__main__":
    sys.exit(main())
