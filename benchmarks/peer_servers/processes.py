"""Servers with child processes: find, suspend and stop all of them.

A framework's processes may leave its process group, outlive their parent, or overwrite their environment. So a process
belongs to a server if it has the server's mark in its environment, is in its session, or descends from such a process.
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
RECENT_LINES = 40
ERROR_WORDS = ("error", "exception", "cannot", "failed", "no module")
SUSPEND_SECONDS, SUSPEND_POLL = 2.0, 0.002


class ProcessTree:
    """A started server with all its processes."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], mark: str, output: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._mark = mark
        self._output = output

    @property
    def is_alive(self) -> bool:
        """Whether the started process still runs."""
        return self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The server's running processes."""
        running = {process.pid: process for process in psutil.process_iter(["ppid", "status", "environ"])}
        running = {pid: process for pid, process in running.items() if process.info["status"] != psutil.STATUS_ZOMBIE}
        own = {pid for pid, process in running.items() if self._is_marked(process)}
        while more := {pid for pid, process in running.items() if process.info["ppid"] in own} - own:
            own |= more
        return [running[pid] for pid in sorted(own)]

    def _is_marked(self, process: psutil.Process) -> bool:
        with suppress(OSError):  # it may have ended
            marked = (process.info["environ"] or {}).get(MARK) == self._mark
            return marked or os.getsid(process.pid) == self._process.pid
        return False

    def suspend(self) -> None:
        """Suspend all processes, including those that start meanwhile."""
        deadline = time.monotonic() + SUSPEND_SECONDS
        while (processes := self.processes()) and time.monotonic() < deadline:
            if all(process.info["status"] == psutil.STATUS_STOPPED for process in processes):
                break
            self._send(signal.SIGSTOP)
            time.sleep(SUSPEND_POLL)

    def resume(self) -> None:
        """Resume all processes."""
        self._send(signal.SIGCONT)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Resume all processes for the duration of a `with` block, and suspend them again."""
        self.resume()
        try:
            yield
        finally:
            self.suspend()

    def stop(self) -> None:
        """Terminate the server, and kill remaining processes.

        Raises:
            TargetError: a process survives.
        """
        try:
            self.resume()
            if self.is_alive:
                self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:  # also after a second Ctrl-C
            self._kill()

    def wait_until(self, missing: Callable[[], str | None], start_timeout: float) -> None:
        """As `loadtest.load.target.wait_until`; the error contains the server's error line."""
        try:
            wait_until(missing, start_timeout, lambda: self.is_alive)
        except TargetError as error:
            raise TargetError(f"{self.name} did not start: {error}; last output: {self.error_line()}") from None

    def _kill(self) -> None:
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.processes():
            self._send(signal.SIGKILL)
            self._process.poll()
            if time.monotonic() > deadline:
                raise TargetError(f"{self.name}: {len(left)} of its processes can't be stopped")
            time.sleep(POLL_SECONDS)
        self._process.wait(GONE_SECONDS)

    def error_line(self) -> str:
        """The line of the output that most likely contains the error."""
        self._output.seek(0)
        lines = [line.strip() for line in self._output.read().decode(errors="replace").splitlines() if line.strip()]
        return error_line(lines)

    def _send(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    cores: Collection[int] | None,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[ProcessTree]:
    """Run a server on some cores, in `folder`; at the end all its processes are stopped."""
    mark = secrets.token_hex(8)
    with (folder / "output.log").open("w+b") as output:
        try:
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
        except KeyboardInterrupt:  # the process may run already
            _kill_marked(mark)
            raise
        server = ProcessTree(name, process, mark, output)
        try:
            yield server
        finally:
            server.stop()


def _kill_marked(mark: str) -> None:
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get(MARK) == mark:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def require_proc() -> None:
    """Raise TargetError if the system has no ``/proc``."""
    if not PROC.is_dir():
        raise TargetError("needs Linux, as it reads /proc")


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C, so that all servers are stopped."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def error_line(lines: Sequence[str]) -> str:
    """The last line of an output that looks like an error, or else the last line."""
    recent = lines[-RECENT_LINES:]
    errors = [line for line in recent if any(word in line.lower() for word in ERROR_WORDS)]
    return (errors or list(recent) or ["nothing"])[-1]
