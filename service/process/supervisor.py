"""The supervisor of several workers on one port: starts them, replaces those that die or hang, reloads and stops them.

It loads no students and answers no requests. It reserves the port, and starts processes that run
`service.process.worker`, each with a listening socket of its own, over which the kernel distributes connections
(SO_REUSEPORT; with a shared socket most would go to one process). A worker stops when the supervisor dies.
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
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from service.errors import ENDINGS, log_fault
from service.monitoring.metrics import WorkerMetrics
from service.monitoring.shared import FOLDER_VARIABLE, NoFolderError, shared_folder
from service.process.channel import BEATS, Announce, Channel, Json, ReloadError, Report, StartError
from service.process.signals import RELOAD, STOP
from service.settings import Settings

MAX_FAILED_STARTS = 3
FIRST_PAUSE, MAX_PAUSE = 0.25, 5.0  # seconds between failed starts of a worker; none after the first
STOP_MARGIN = 5.0  # seconds beyond the workers' own limits before they are killed
MAX_RELOADS = 2  # that run or wait, of those that signals requested

log = logging.getLogger("service")


def merge_outcomes(outcomes: Sequence[Json], failed: Sequence[str]) -> Json:
    """The outcome of a reload, from those of the workers that reloaded and the errors of those that failed."""
    refused = itertools.chain(*(outcome["refused"] for outcome in outcomes), failed)
    return {**outcomes[0], "refused": list(dict.fromkeys(refused)), "workers": len(outcomes)}


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failed starts in a row: none after the first, then doubled each time."""
    return 0.0 if failures < 2 else min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 10))


@dataclass(eq=False)
class Worker:
    """A worker, whose process is replaced when it dies.

    Attributes:
        name: in metrics and log; a replaced process keeps it, and the counters.
        process: the running process, if any.
        channel: to the process.
        report: of the process, once its students are loaded.
        refusal: the reason why it can't start, if it sent one.
        failures: number of processes in a row that died before their students were loaded.
        has_beaten: a heartbeat has arrived from the process.
        last_sign: `time.monotonic()` of its last message, or of its start.
    """

    name: str
    process: asyncio.subprocess.Process | None = None
    channel: Channel | None = None
    report: Report | None = None
    refusal: str | None = None
    failures: int = 0
    has_beaten: bool = False
    last_sign: float = 0.0

    def signal(self, number: int) -> None:
        """Send a signal to the process if there is one."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Keeps workers running, until `stop` is called.

    `command` starts a worker, with its task (see `_run`) as a further argument; for the rest see `supervise`.

    Attributes:
        workers: the workers.
    """

    def __init__(
        self, command: Sequence[str], settings: Settings, count: int, bound: socket.socket, announce: Announce
    ) -> None:
        self._command = command
        self._settings = settings
        self.workers = [Worker(f"worker{number}") for number in range(count)]
        self._bound = bound
        self._announce: Announce | None = announce
        self._stop_seconds = settings.drain_delay + settings.drain_seconds + STOP_MARGIN
        self._served = False  # whether any worker has ever loaded its students
        self._problem: str | None = None
        self._stopping = asyncio.Event()
        self._stopping_fast = False
        self._one_reload = asyncio.Lock()
        self._reloading: set[asyncio.Task[None]] = set()
        self._code = 0

    async def run(self, on_death: Callable[[str], None], on_hang: Callable[[], None] = lambda: None) -> int:
        """Run the workers until stopped. Returns the exit code.

        `on_death` gets the name of each worker that dies; `on_hang` is called for each that hung and was killed.

        Raises:
            StartError: no worker ever loaded its students.
        """
        watching = asyncio.create_task(self._watch(on_hang))
        await asyncio.gather(*(self._keep(worker, on_death) for worker in self.workers))
        watching.cancel()
        if self._problem is not None:
            raise StartError(self._problem)
        return self._code

    def stop(self, number: int) -> None:
        """Pass on a signal to stop: SIGQUIT as SIGTERM; a second SIGTERM as SIGINT, with which workers stop faster."""
        number = signal.SIGTERM if number == signal.SIGQUIT else number
        if not self._stopping.is_set():
            self._stopping.set()
            asyncio.get_running_loop().call_later(self._stop_seconds, self._kill)
        elif number == signal.SIGTERM:
            if self._stopping_fast:
                return
            number = signal.SIGINT
        self._stopping_fast = number == signal.SIGINT
        for worker in self.workers:  # a worker that still starts has nothing to drain
            worker.signal(number if worker.report else signal.SIGTERM)

    def reload_soon(self) -> None:
        """Reload every worker, as a signal requests; the outcome is logged."""
        if len(self._reloading) < MAX_RELOADS:  # else one that waits will see the latest changes
            task = asyncio.create_task(self._reload_and_log())
            self._reloading.add(task)
            task.add_done_callback(self._reloading.discard)

    async def _reload_and_log(self) -> None:
        try:
            outcome = await self._reload()
            refused = "; ".join(outcome["refused"]) or "none"
            log.info("%d workers reloaded their students, refused: %s", outcome["workers"], refused)
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - the workers continue
            log_fault(error, "(reload)")

    async def _watch(self, on_hang: Callable[[], None]) -> None:
        """Kill the workers that hang: they are replaced as those that die.

        A worker must send a heartbeat every `Settings.hang_seconds`; the first one, once it has imported its modules,
        within `Settings.load_seconds`. If this process did not run itself, as in a paused container, all get more time.
        """
        period = self._settings.hang_seconds / BEATS
        last = time.monotonic()
        while True:
            await asyncio.sleep(period)
            now = time.monotonic()
            paused, last = now - last > 2 * period, now
            for worker in self.workers:
                if paused:
                    worker.last_sign = now
                limit = self._settings.hang_seconds if worker.has_beaten else self._settings.load_seconds
                if worker.process is None or self._stopping.is_set() or now - worker.last_sign <= limit:
                    continue
                log.error("%s hangs: no heartbeat for %.0f s; it is killed", worker.name, now - worker.last_sign)
                worker.last_sign = now
                on_hang()
                worker.signal(signal.SIGKILL)

    async def _keep(self, worker: Worker, on_death: Callable[[str], None]) -> None:
        """Run the worker's process, and replace it when it dies, until the service stops."""
        while not self._stopping.is_set():
            end = await self._run(worker)
            worker.failures = 0 if worker.report else worker.failures + 1
            worker.report = None
            if self._stopping.is_set():
                return
            if not self._served and (problem := self._fatal_problem(worker, end)):
                self._problem = problem
                self.stop(signal.SIGTERM)
                return
            on_death(worker.name)
            log.error("%s died: %s", worker.name, worker.refusal or end)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_after(worker.failures))

    async def _run(self, worker: Worker) -> str:
        """Run the worker's process. Returns a description of its end."""
        ours, theirs = socket.socketpair()
        worker.channel, worker.refusal = await Channel.open(ours), None
        worker.last_sign, worker.has_beaten = time.monotonic(), False
        task = {
            "name": worker.name,
            "settings": self._settings.model_dump(mode="json"),
            "family": self._bound.family,
            "address": self._bound.getsockname(),
            "channel": theirs.fileno(),
            # if others serve: start although the experiment file is invalid
            "patient": any(other.report for other in self.workers),
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
            await worker.channel.listen(self._reload, partial(self._receive, worker))
            return _describe_exit(await worker.process.wait())
        except OSError as error:
            return f"not started: {error}"
        finally:
            await worker.channel.close()
            worker.channel = worker.process = None

    def _receive(self, worker: Worker, message: Json) -> None:
        worker.last_sign = time.monotonic()
        if "alive" in message:
            worker.has_beaten = True
            return
        if "refused" in message:
            worker.refusal = message["refused"]
            return
        worker.report = message["loaded"]
        self._served = True
        log.info("%s is serving", worker.name)
        reports = [worker.report for worker in self.workers if worker.report]
        if self._announce and len(reports) == len(self.workers):
            self._announce(reports)
            self._announce = None

    async def _reload(self) -> Json:
        """Reload every worker. One that dies meanwhile is left out: its replacement loads the new students."""
        async with self._one_reload:
            reloads = {worker.name: worker.channel.reload() for worker in self.workers if worker.channel}
            answers = await asyncio.gather(*reloads.values(), return_exceptions=True)
        outcomes = [answer for answer in answers if isinstance(answer, dict)]
        failed = [
            f"{name}: {error}" for name, error in zip(reloads, answers, strict=True) if isinstance(error, ReloadError)
        ]
        if not outcomes:
            raise ReloadError("; ".join(failed))
        return merge_outcomes(outcomes, failed)

    def _fatal_problem(self, worker: Worker, end: str) -> str | None:
        """The reason why no worker can start, if there is one."""
        if worker.refusal is not None:
            return worker.refusal
        if all(worker.failures >= MAX_FAILED_STARTS for worker in self.workers):
            return f"no worker starts: each died {MAX_FAILED_STARTS} times, the last with {end}; see the log above"
        return None

    def _kill(self) -> None:
        log.error("killing workers that did not stop within %g s", self._stop_seconds)
        self._code = 1
        for worker in self.workers:
            worker.signal(signal.SIGKILL)


def supervise(settings: Settings, count: int, bound: socket.socket, announce: Announce) -> int:
    """Serve with `count` workers until a signal to stop. Returns the exit code: 0, or 1 if one had to be killed.

    `bound` reserves their address (SO_REUSEPORT) without listening itself. `announce` is called once, with the reports
    of all workers.

    Raises:
        StartError: no worker starts, or there is no folder for the metrics.
    """

    async def run() -> int:
        supervisor = Supervisor([sys.executable, "-m", "service.process.worker"], settings, count, bound, announce)
        loop = asyncio.get_running_loop()
        for number in STOP:
            loop.add_signal_handler(number, supervisor.stop, number)
        loop.add_signal_handler(RELOAD, supervisor.reload_soon)
        with shared_folder(count + 1) as folder:
            os.environ[FOLDER_VARIABLE] = folder  # for the workers, too
            metrics = WorkerMetrics(folder)
            return await supervisor.run(metrics.count_death, metrics.count_hang)

    try:
        return asyncio.run(run())
    except NoFolderError as error:
        raise StartError(error) from None


def _describe_exit(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
