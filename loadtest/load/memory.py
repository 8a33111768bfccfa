"""How much memory a process and those that it started hold. Needs psutil, of the extra `loadtest`."""

from __future__ import annotations

import psutil


def memory_of(process: int) -> int | None:
    """Bytes of a process and all below it; what they share counts once. None where the system does not tell."""
    try:
        top = psutil.Process(process)
        total: int = sum(one.memory_full_info().pss for one in (top, *top.children(recursive=True)))
        return total
    except (psutil.Error, AttributeError):  # one has just ended, or the system knows no proportional sizes
        return None
