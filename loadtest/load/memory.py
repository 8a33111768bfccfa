"""How much memory a process and those that it started hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def memory_of(process: int) -> int | None:
    """Bytes of a process and all below it; what they share counts once. None where the system does not tell."""
    found = [_proportional(number) for number in _tree(process)]
    known = [size for size in found if size is not None]
    return sum(known) if known else None


def _tree(process: int) -> Iterator[int]:
    yield process
    for listed in PROC.glob(f"{process}/task/*/children"):
        for child in _read(listed).split():
            yield from _tree(int(child))


def _proportional(process: int) -> int | None:
    for line in _read(PROC / str(process) / "smaps_rollup").splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            return 1024 * int(rest.split()[0])
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # no such file system, or the process has just ended
        return ""
