"""Servers that start processes of their own: found, stopped for a moment, and gone in the end.

A framework's processes may leave its process group, outlive their parent, or overwrite what they were started with.
So those count that have the server's mark in their environment, that are in its session, and all that descend from
such a one.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import psutil

from loadtest.load.target import TargetError, on_cores, wait_until

PROC = Path("/proc")
MARK = "LOADTEST_PEER_MARK"
POLL_SECONDS = 0.05
STOP_SECONDS = 10.0  # from SIGTERM to SIGKILL
GONE_SECONDS = 10.0  # from SIGKILL to an error
LAST_LINES = 40
TELLING = ("error", "exception", "cannot", "failed", "no module")
FREEZE_SECONDS, FREEZE_POLL = 2.0, 0.002


class Server:
    """A started server with all its processes."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], mark: str, output: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._mark = mark
        self._output = output

    @property
    def is_alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process.poll() is None

    def family(self) -> list[psutil.Process]:
        """The processes that live now."""
        there = {process.pid: process for process in psutil.process_iter(["ppid", "status", "environ"])}
        there = {pid: process for pid, process in there.items() if process.info["status"] != psutil.STATUS_ZOMBIE}
        ours = {pid for pid, process in there.items() if self._has_marked(process)}
        while more := {pid for pid, process in there.items() if process.info["ppid"] in ours} - ours:
            ours |= more
        return [there[pid] for pid in sorted(ours)]

    def _has_marked(self, process: psutil.Process) -> bool:
        with suppress(OSError):  # it may have ended
            marked = (process.info["environ"] or {}).get(MARK) == self._mark
            return marked or os.getsid(process.pid) == self._process.pid
        return False

    def freeze(self) -> None:
        """Stop its processes for a while; those too that start meanwhile."""
        deadline = time.monotonic() + FREEZE_SECONDS
        while (family := self.family()) and time.monotonic() < deadline:
            if all(process.info["status"] == psutil.STATUS_STOPPED for process in family):
                break
            self._send(signal.SIGSTOP)
            time.sleep(FREEZE_POLL)

    def thaw(self) -> None:
        """Let them go on."""
        self._send(signal.SIGCONT)

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let them go on for a while: at other times, what a server does without work is not the others' loss."""
        self.thaw()
        try:
            yield
        finally:
            self.freeze()

    def stop(self) -> None:
        """Ask it to stop, and kill what is left of it.

        Raises:
            TargetError: a process outlives even that.
        """
        try:
            self.thaw()
            if self.is_alive:
                self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:  # also when Ctrl-C comes twice
            self._kill()

    def wait_until(self, missing: Callable[[], str | None], start_timeout: float) -> None:
        """As `loadtest.load.target.wait_until`; the error says what the server said."""
        try:
            wait_until(missing, start_timeout, lambda: self.is_alive)
        except TargetError as error:
            raise TargetError(f"{self.name} did not start: {error}; it said: {self.last_words()}") from None

    def _kill(self) -> None:
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.family():
            self._send(signal.SIGKILL)
            self._process.poll()
            if time.monotonic() > deadline:
                raise TargetError(f"{self.name}: {len(left)} of its processes can't be stopped")
            time.sleep(POLL_SECONDS)
        self._process.wait(GONE_SECONDS)

    def last_words(self) -> str:
        """The line of its output that most likely says what is wrong."""
        self._output.seek(0)
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        return last_words(lines)

    def _send(self, number: signal.Signals) -> None:
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    cores: Collection[int] | None,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start a server on some cores, in `folder`; in the end all its processes are gone."""
    mark = secrets.token_hex(8)
    with (folder / "output.log").open("w+b") as output:
        with on_cores(cores):  # inherited
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {}), MARK: mark},
            )
        server = Server(name, process, mark, output)
        try:
            yield server
        finally:
            server.stop()


def require_proc() -> None:
    """Raise TargetError where the system has no ``/proc``."""
    if not PROC.is_dir():
        raise TargetError("needs Linux: processes are found in /proc")


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, so that no server is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_words(lines: Sequence[str]) -> str:
    """Of what a program said, the last line that tells of an error, or else the last."""
    recent = lines[-LAST_LINES:]
    telling = [line for line in recent if any(word in line.lower() for word in TELLING)]
    return (telling or list(recent) or ["nothing"])[-1]
