"""Start a framework's server around a student, in the framework's environment: ``benchmarks.peers`` runs this.

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


class Given(NamedTuple):
    """What a server is started with."""

    student: Path
    is_batched: bool
    port: int
    scratch: Path


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM."""
    arguments = parser().parse_args(argv)
    os.environ[FOLDER] = str(arguments.student)
    app = importlib.import_module(f"benchmarks.peer_servers.{arguments.peer}_app")
    given = Given(arguments.student, arguments.setting == BATCHED, arguments.port, arguments.scratch)
    if command := app.serve(given):
        os.execv(sys.executable, [sys.executable, *command])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    about = "A student behind another framework, on the loopback interface."
    made = argparse.ArgumentParser(description=about, allow_abbrev=False)
    made.add_argument("peer", help="the framework, as in the catalogue")
    made.add_argument("--student", type=Path, required=True, metavar="DIR", help="student folder")
    made.add_argument("--setting", choices=(DEFAULTS, BATCHED), default=DEFAULTS, help="its defaults, or its own "
                      "batching (default: %(default)s)")  # fmt: skip
    made.add_argument("--port", type=int, required=True, help="port to listen on")
    made.add_argument("--scratch", type=Path, required=True, metavar="DIR", help="folder for what the framework writes")
    return made


if __name__ == "__main__":
    main()
