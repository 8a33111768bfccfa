"""The number of worker processes: one for each core that this process may use, by affinity and its cgroups' quota.

A container that may use two cores sees all cores of the machine. With one process for each, it would be throttled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

ROOT = Path("/")


class Workers(NamedTuple):
    """A number of processes, and the reason for it, for the log."""

    number: int
    reason: str


def choose_workers(configured: int | Literal["auto"], affinity: int | None = None, root: Path = ROOT) -> Workers:
    """The configured number of workers or, for "auto", the number of cores: the quota is rounded down, at least 1.

    `affinity` is the number of cores by affinity, by default that of this process; `root` has ``/proc`` and ``/sys``.
    """
    if configured != "auto":
        return Workers(configured, "as set")
    cores = usable_cores() if affinity is None else affinity
    quota = cpu_quota(root)
    if quota is None:
        return Workers(cores, f"affinity {cores} cores, no cgroup quota")
    return Workers(min(cores, max(1, int(quota))), f"affinity {cores} cores, cgroup quota {quota:g} cores")


def usable_cores() -> int:
    """The number of cores that this process may run on, by affinity and cpusets."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPU time, in cores, that this process's cgroup and its parents allow: the minimum. None for no limit."""
    quotas = [quota for folder in _cgroup_folders(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    words = _read(folder / "cpu.max").split()  # version 2: "150000 100000" or "max 100000"
    words = words or [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]  # 1: -1 for no limit
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _cgroup_folders(root: Path) -> Iterator[Path]:
    """This process's cgroup and its visible parents, in each hierarchy that may limit CPU time."""
    own: dict[str, str] = {}  # controller -> path of the cgroup; version 2 has one hierarchy, under ""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            controller = ""
        elif kind.startswith("cgroup ") and "cpu" in kind.split()[-1].split(","):
            controller = "cpu"
        else:
            continue
        _, _, _, top, point, *_ = mount.split()
        if controller in own:
            yield from _upwards(root / point.lstrip("/"), PurePosixPath(top), PurePosixPath(own[controller]))


def _upwards(mounted: Path, top: PurePosixPath, path: PurePosixPath) -> Iterator[Path]:
    """The folders of a cgroup and its parents below the mounted cgroup `top`; only `mounted` if it is not below."""
    if path.is_relative_to(top) and ".." not in path.parts:
        below = path.relative_to(top)
        yield from (mounted / folder for folder in (below, *below.parents))
    else:
        yield mounted


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
