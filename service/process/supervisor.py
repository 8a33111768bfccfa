"""Several workers behind one port: started, replaced when they die, reloaded together, stopped together.

The supervisor serves nothing and loads no student. It holds the port, and starts processes that run
`service.process.worker`, each with a listening socket of its own, over which the kernel spreads connections
(SO_REUSEPORT; a shared socket would give most of them to one process). A worker stops when the supervisor dies.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from service.monitoring.metrics import SHARED_FOLDER, WorkerDeaths
from service.process.channel import Channel, Greet, Json, ReloadError, Report, StartError
from service.settings import Settings

MAX_FAILED_STARTS = 3
FIRST_PAUSE, MAX_PAUSE = 0.25, 5.0  # seconds between failed starts of one worker; the first failure costs none
STOP_MARGIN = 5.0  # seconds beyond the workers' own limits before they are killed


log = logging.getLogger("service")


def merged(outcomes: Sequence[Json], failed: Sequence[str]) -> Json:
    """The outcome of a reload, from that of each worker that reloaded and from why others could not."""
    refused = itertools.chain(*(outcome["refused"] for outcome in outcomes), failed)
    return {**outcomes[0], "refused": list(dict.fromkeys(refused)), "workers": len(outcomes)}


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failed starts in a row: none after the first, then twice as long each time."""
    return 0.0 if failures < 2 else min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 10))


@dataclass(eq=False)
class Worker:
    """The slot of one worker, whose process is replaced when it dies.

    Attributes:
        name: in metrics and log; a successor keeps it, and the counters.
        process: that runs now, if any.
        channel: to the process.
        report: what it serves, once its students are loaded.
        refusal: why it can't start, if it reports that.
        failures: how many processes in a row died before their students were loaded.
    """

    name: str
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    report: Report | None = None
    refusal: str | None = None
    failures: int = 0

    def signal(self, number: int) -> None:
        """Send a signal to the process if there is one."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Keeps workers running, until `stop` is called.

    `command` is what a worker runs, with its task (see `_run`) as one more argument; for the rest see `supervise`.

    Attributes:
        workers: the slots, each kept filled.
    """

    def __init__(
        self, command: Sequence[str], settings: Settings, count: int, bound: socket.socket, greet: Greet
    ) -> None:
        self._command = command
        self._settings = settings
        self.workers = [Worker(f"worker{number}") for number in range(count)]
        self._bound = bound
        self._greet: Greet | None = greet
        self._patience = settings.drain_delay + settings.drain_seconds + STOP_MARGIN
        self._served = False  # whether any worker has ever loaded its students
        self._problem: str | None = None
        self._stopping = asyncio.Event()
        self._hurried = False
        self._one_reload = asyncio.Lock()
        self._code = 0

    async def run(self, on_death: Callable[[str], None]) -> int:
        """Serve until stopped; `on_death` gets the name of each worker that dies before. Returns the exit code.

        Raises:
            StartError: no worker ever loaded its students.
        """
        await asyncio.gather(*(self._keep(worker, on_death) for worker in self.workers))
        if self._problem is not None:
            raise StartError(self._problem)
        return self._code

    def stop(self, number: int) -> None:
        """Pass on a signal that asks to stop; a second SIGTERM as SIGINT, which makes workers stop faster."""
        if not self._stopping.is_set():
            self._stopping.set()
            asyncio.get_running_loop().call_later(self._patience, self._kill)
        elif number == signal.SIGTERM:
            if self._hurried:
                return
            number = signal.SIGINT
        self._hurried = number == signal.SIGINT
        for worker in self.workers:  # one that still starts has nothing to drain
            worker.signal(number if worker.report else signal.SIGTERM)

    async def _keep(self, worker: Worker, on_death: Callable[[str], None]) -> None:
        """Run a process in the worker's slot, and replace it, until the service stops."""
        while not self._stopping.is_set():
            end = await self._run(worker)
            worker.failures = 0 if worker.report else worker.failures + 1
            worker.report = None
            if self._stopping.is_set():
                return
            if not self._served and (problem := self._why_hopeless(worker, end)):
                self._problem = problem
                self.stop(signal.SIGTERM)
                return
            on_death(worker.name)
            log.error("%s died: %s", worker.name, worker.refusal or end)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_after(worker.failures))

    async def _run(self, worker: Worker) -> str:
        """Run a process in the worker's slot. Returns in words how it ended."""
        ours, theirs = socket.socketpair()
        worker.channel, worker.refusal = await Channel.open(ours), None
        task = {
            "name": worker.name,
            "settings": self._settings.model_dump(mode="json"),
            "family": self._bound.family,
            "address": self._bound.getsockname(),
            "channel": theirs.fileno(),
            "patient": any(
                other.report for other in self.workers
            ),  # others serve: don't listen before the students are loaded
        }
        try:
            with theirs:
                worker.process = await asyncio.create_subprocess_exec(
                    *self._command,
                    json.dumps(task),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # a terminal's Ctrl-C signals only the supervisor
                )
            if self._stopping.is_set():
                worker.signal(signal.SIGTERM)
            await worker.channel.converse(self._reload, partial(self._receive, worker))
            return _in_words(await worker.process.wait())
        except OSError as error:
            return f"not started: {error}"
        finally:
            await worker.channel.close()
            worker.channel = worker.process = None

    def _receive(self, worker: Worker, message: Json) -> None:
        if "refused" in message:
            worker.refusal = message["refused"]
            return
        worker.report = message["loaded"]
        self._served = True
        log.info("%s serves", worker.name)
        reports = [worker.report for worker in self.workers if worker.report]
        if self._greet and len(reports) == len(self.workers):
            self._greet(reports)
            self._greet = None

    async def _reload(self) -> Json:
        """Have every worker reload. One that dies meanwhile is left out: its successor loads the new students."""
        async with self._one_reload:
            asked = {worker.name: worker.channel.reload() for worker in self.workers if worker.channel}
            answers = await asyncio.gather(*asked.values(), return_exceptions=True)
        outcomes = [answer for answer in answers if isinstance(answer, dict)]
        failed = [
            f"{name}: {error}" for name, error in zip(asked, answers, strict=True) if isinstance(error, ReloadError)
        ]
        if not outcomes:
            raise ReloadError("; ".join(failed))
        return merged(outcomes, failed)

    def _why_hopeless(self, worker: Worker, end: str) -> str | None:
        """Why no worker can be expected to start, if so."""
        if worker.refusal is not None:
            return worker.refusal
        if all(worker.failures >= MAX_FAILED_STARTS for worker in self.workers):
            return f"no worker starts: each died {MAX_FAILED_STARTS} times, at last by {end}; the log above says more"
        return None

    def _kill(self) -> None:
        log.error("workers did not stop within %g s and are killed", self._patience)
        self._code = 1
        for worker in self.workers:
            worker.signal(signal.SIGKILL)


def supervise(settings: Settings, count: int, bound: socket.socket, greet: Greet) -> int:
    """Serve with `count` workers until SIGTERM or SIGINT. Returns the exit code: 0, or 1 if one had to be killed.

    `bound` holds the address for them (SO_REUSEPORT) without listening itself. `greet` is called once, with what all
    workers serve when they first do.

    Raises:
        StartError: no worker starts.
    """

    async def run() -> int:
        supervisor = Supervisor([sys.executable, "-m", "service.process.worker"], settings, count, bound, greet)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, supervisor.stop, number)
        with _metrics_folder() as folder:
            os.environ[SHARED_FOLDER] = folder  # for the workers, too
            return await supervisor.run(WorkerDeaths().count)

    return asyncio.run(run())


def _metrics_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for the workers' metrics: in memory where possible, since a write to a file may wait for a disk."""
    memory = "/dev/shm"
    place = memory if os.access(memory, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="nlu-metrics-", dir=place, ignore_cleanup_errors=True)


def _in_words(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
