"""The plain application once more, started as the peers are: a control, which should come out at 1.

Started by ``python -m benchmarks.peers``.
"""

from __future__ import annotations

from benchmarks import plain
from benchmarks.peer_servers.answers import told


def main() -> int:
    """Serve until SIGTERM."""
    given = told()
    return plain.main(["--student", str(given.student), "--port", str(given.port)])


if __name__ == "__main__":
    main()
