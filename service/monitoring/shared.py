"""Metrics of several processes: each counts in files of a shared folder, and a scrape of any adds them up.

The files are those of prometheus_client's multiprocess mode, mapped into memory. Its own ones are sparse, so on a full
file system the first write to a new page kills the process with SIGBUS. These have all their blocks before they are
mapped, so it is an OSError when a file grows: the process continues, and its new series are missing in ``/metrics``.

A process counts alone, in no files, unless `count_as` is called. prometheus_client itself would decide by the
environment variable `FOLDER_VARIABLE`, which may come from another program.
"""

from __future__ import annotations

import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
MEMORY = "/dev/shm"  # preferred: a write to a file elsewhere may wait for a disk
BYTES_OF_A_PROCESS = 1 << 20  # must be free at the start; the files of a process with two students take about a third
FIRST_BYTES = 1 << 16  # of each file, doubled as needed

values.ValueClass = values.MutexValue

log = logging.getLogger("service")


class NoFolderError(Exception):
    """There is no folder for the metrics; the message is one sentence."""


class SharedFile(MmapedDict):
    """A file of numbers by name, whose blocks all exist.

    Raises:
        OSError: there is no space for it, now or for a new name.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            _create(path)
        super().__init__(str(path))  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        needed = self._used + len(key.encode()) + 32  # with its length, padding, number and time
        capacity = self._capacity
        while capacity < needed:
            capacity *= 2
        if capacity > self._capacity:
            _extend(self._f.fileno(), capacity)
            self._m = mmap.mmap(self._f.fileno(), capacity)
            self._capacity = capacity
        super()._init_value(key)  # type: ignore[no-untyped-call]


class SharedValue:
    """A number in a file of this process; prometheus_client calls its methods."""

    def __init__(self, file: SharedFile, key: str, lock: Lock) -> None:
        self._file = file
        self._key = key
        self._lock = lock
        self._value: float = file.read_value(key)[0]  # type: ignore[no-untyped-call]

    def inc(self, amount: float) -> None:
        """Increase the number."""
        with self._lock:
            self._value += amount
            self._file.write_value(self._key, self._value, 0.0)  # type: ignore[no-untyped-call]

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the number."""
        with self._lock:
            self._value = value
            self._file.write_value(self._key, value, timestamp or 0.0)  # type: ignore[no-untyped-call]

    def get(self) -> float:
        """The number."""
        return self._value

    def set_exemplar(self, exemplar: object) -> None:
        """Exemplars are not kept."""

    def get_exemplar(self) -> None:
        """No exemplar."""


class SharedFiles:
    """The files of one process in the shared folder. Those of a dead process of the same name are continued."""

    def __init__(self, folder: Path, process: str) -> None:
        self.folder = folder
        self._process = process
        self._files: dict[str, SharedFile] = {}
        self._lock = Lock()
        self._is_full = False

    def value(
        self,
        kind: str,
        metric: str,
        name: str,
        label_names: Iterable[str],
        label_values: Iterable[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> SharedValue | values.MutexValue:
        """The number of one series. It is in the memory of this process only if there is no space for it."""
        prefix = f"{kind}_{multiprocess_mode}" if kind == "gauge" else kind
        key = mmap_key(metric, name, [*label_names], [*label_values], help_text)
        try:
            with self._lock:
                if prefix not in self._files:
                    self._files[prefix] = SharedFile(self.folder / f"{prefix}_{self._process}.db")
                return SharedValue(self._files[prefix], key, self._lock)
        except OSError as error:
            if not self._is_full:
                self._is_full = True
                log.error(
                    "metrics: cannot write to %s: %s; new series of this process are missing in /metrics",
                    self.folder,
                    error.strerror,
                )
            return values.MutexValue(  # type: ignore[no-untyped-call]
                kind, metric, name, label_names, label_values, help_text
            )

    def drop_gauges(self, process: str) -> None:
        """Drop the gauges of a dead process; its counters stay."""
        mark_process_dead(process, str(self.folder))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the files. The numbers can't be changed any more."""
        for file in self._files.values():
            file.close()  # type: ignore[no-untyped-call]


_own: SharedFiles | None = None  # the files of this process, if it does not count alone


def count_as(process: str, folder: str) -> SharedFiles:
    """Count in files of this folder under this name. Call it before the first metric is created."""
    global _own
    _own = SharedFiles(Path(folder), process)
    values.ValueClass = _own.value
    return _own


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics in the Prometheus text format, added up over all processes; `registry` are those of this one."""
    if _own is not None:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(_own.folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)


@contextmanager
def shared_folder(processes: int) -> Iterator[str]:
    """A new folder for the metrics of so many processes, removed afterwards.

    It is made in the first of these that is writable and has the space: the folder that `FOLDER_VARIABLE` names,
    ``/dev/shm``, that of ``TMPDIR``, ``/tmp``, ``/var/tmp``.

    Raises:
        NoFolderError: there is none.
    """
    size = processes * BYTES_OF_A_PROCESS
    named = os.environ.get(FOLDER_VARIABLE), MEMORY, os.environ.get("TMPDIR"), "/tmp", "/var/tmp"
    problems = []
    for place in dict.fromkeys(filter(None, named)):
        try:
            folder = _make_folder(place, size)
        except OSError as error:
            problems.append(f"{place}: {error.strerror}")
        else:
            break
    else:
        raise NoFolderError(
            f"no folder for the metrics of several workers, with {size >> 20} MiB: {'; '.join(problems)}; set "
            f"{FOLDER_VARIABLE} to a writable folder with that space, or use --workers 1"
        )
    if problems:
        log.warning("metrics: cannot use %s", "; ".join(problems))
    log.info("metrics are counted in %s", folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder(place: str, size: int) -> str:
    folder = tempfile.mkdtemp(prefix="nlu-metrics-", dir=place)
    probe = Path(folder, "probe")
    try:
        with probe.open("wb") as file:
            _extend(file.fileno(), size)
        probe.unlink()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _create(path: Path) -> None:
    """Create a file that is complete once it has its name, since other processes read it."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb") as file:
            _extend(file.fileno(), FIRST_BYTES)
        new.rename(path)
    except OSError:
        with suppress(OSError):
            new.unlink()
        raise


def _extend(file: int, size: int) -> None:
    """Extend a file with zeros that are written, so that its blocks exist."""
    end = os.fstat(file).st_size
    while end < size:
        end += os.pwrite(file, bytes(size - end), end)
