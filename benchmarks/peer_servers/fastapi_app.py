"""The plain application, started as the peers are: a control, whose ratio should be 1."""

from __future__ import annotations

from benchmarks import plain
from benchmarks.peer_servers.serve import ServeOptions


def serve(options: ServeOptions) -> None:
    """Serve until SIGTERM."""
    plain.main(["--student", str(options.student), "--port", str(options.port)])
