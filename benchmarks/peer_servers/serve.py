"""Start a framework's server with a student, in the framework's environment. ``benchmarks.peers`` runs this.

python -m benchmarks.peer_servers.serve litserve --student DIR --port 8000 --scratch DIR
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peer_servers.answers import FOLDER

DEFAULTS, BATCHED = "defaults", "batched"


class ServeOptions(NamedTuple):
    """Options of a server."""

    student: Path
    is_batched: bool
    port: int
    scratch: Path


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    arguments = parser().parse_args(argv)
    os.environ[FOLDER] = str(arguments.student)
    app = importlib.import_module(f"benchmarks.peer_servers.{arguments.peer}_app")
    options = ServeOptions(arguments.student, arguments.setting == BATCHED, arguments.port, arguments.scratch)
    if command := app.serve(options):
        os.execv(sys.executable, [sys.executable, *command])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "A student behind another framework, on the loopback interface."
    parser = argparse.ArgumentParser(description=about, allow_abbrev=False)
    parser.add_argument("peer", help="the framework, as in the catalogue")
    parser.add_argument("--student", type=Path, required=True, metavar="DIR", help="student folder")
    about = "its defaults, or its own batching (default: %(default)s)"
    parser.add_argument("--setting", choices=(DEFAULTS, BATCHED), default=DEFAULTS, help=about)
    parser.add_argument("--port", type=int, required=True, help="port to listen on")
    parser.add_argument("--scratch", type=Path, required=True, metavar="DIR", help="folder for the framework's files")
    return parser


if __name__ == "__main__":
    main()
