"""The command ``python -m loadtest [--host URL] [--users N] [--seconds S] [--rate R] [--students DIR] ...``.

Without ``--host`` it starts the service itself. Prints a table, and as the last line one JSON object with the same
figures. Exit code: 0 each request had a valid reply, 1 some had none or there were no requests, 2 could not test.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loadtest.load.headless import LocustError, run_locust
from loadtest.load.report import figures_of, is_success, table_of
from loadtest.load.target import TargetError, running_service, texts_for, wait_until_ready
from loadtest.load.texts import TextsError, load_texts
from loadtest.options import Options, add_options, positive, positive_int

FAILED = 1
CANNOT_TEST = 2
INTERRUPTED = 130
MISSING_LOCUST = "locust is not installed: pip install 'distilled-nlu[loadtest]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a load test. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    options = Options.of(arguments)
    try:
        if importlib.util.find_spec("locust") is None:
            raise LocustError(MISSING_LOCUST)
        load_texts(options.texts_path, options.texts_locale)  # before a service is started in vain
        with _target(arguments) as host:
            selection = texts_for(options, host)
            recorder = run_locust(host, arguments.users, arguments.seconds, arguments.processes, options)
    except (TextsError, TargetError, LocustError) as error:
        print(f"error: {error}", file=sys.stderr)
        return CANNOT_TEST
    except KeyboardInterrupt:
        return INTERRUPTED
    figures = figures_of(recorder, selection, host=host, users=arguments.users, asked_rate=options.rate)
    print(table_of(figures))
    print(json.dumps(figures))
    return 0 if is_success(figures) else FAILED


@contextmanager
def _target(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.host is None:
        with running_service(arguments.students, arguments.patience) as host:
            yield host
    else:
        host = arguments.host.rstrip("/")
        wait_until_ready(host, arguments.patience)
        yield host


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description="Load test of the service.")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--host", metavar="URL", help="service to test, such as http://127.0.0.1:8000 (default: "
                        "started for the test on a free port)")  # fmt: skip
    target.add_argument("--students", type=Path, metavar="DIR", help="students of the service that is started "
                        "(default: the shipped one)")  # fmt: skip
    parser.add_argument("--users", type=positive_int, default=8, metavar="N", help="connections (default: 8)")
    parser.add_argument("--seconds", type=positive_int, default=10, metavar="S", help="duration (default: 10)")
    parser.add_argument("--processes", type=positive_int, default=1, metavar="N", help="processes that make the load; "
                        "one makes some 1,000 requests per second (default: 1)")  # fmt: skip
    parser.add_argument("--patience", type=positive, default=30.0, metavar="S", help="seconds for the service to be "
                        "ready (default: 30)")  # fmt: skip
    add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
