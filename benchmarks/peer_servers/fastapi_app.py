"""The plain application once more, started as the peers are: a control, which should come out at 1."""

from __future__ import annotations

from benchmarks import plain
from benchmarks.peer_servers.serve import Given


def serve(given: Given) -> None:
    """Serve until SIGTERM."""
    plain.main(["--student", str(given.student), "--port", str(given.port)])
