"""Memory of a process and its descendants. Needs psutil, of the extra `loadtest`."""

from __future__ import annotations

import psutil


def memory_of(process: int) -> int | None:
    """Proportional set size of a process and its descendants, in bytes; None if it is not available."""
    try:
        top = psutil.Process(process)
        total: int = sum(one.memory_full_info().pss for one in (top, *top.children(recursive=True)))
        return total
    except (psutil.Error, AttributeError):  # a process has just ended, or the system has no proportional sizes
        return None
