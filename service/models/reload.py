"""Load students without a restart: on request, when their folder changes, or after a panic of a native library."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from service.errors import ENDINGS, log_fault
from service.http.context import Json
from service.models.queue import LoadedModel
from service.models.registry import Fingerprint, ModelRegistry, ModelSet
from service.models.threads import start_daemon_thread
from service.monitoring.metrics import Metrics
from service.student.manifest import StudentError

WATCH_SECONDS = 1.0
REBUILD_SECONDS = 60.0  # between two rebuilds of a student that panics and then passes its test
MAX_THREADS = 8  # that load, or hang
STOPPING = "the service is about to stop"

log = logging.getLogger("service")

Result = TypeVar("Result")


class LoadError(Exception):
    """Students were not loaded in time; the message is one sentence."""


class Reloader:
    """Loads the students of one process, one load at a time, each within `seconds`.

    New students are loaded and tested in a thread. They replace the old ones on the event loop, between texts. A load
    that takes too long is given up: its thread can't be stopped, and is left behind.

    Attributes:
        seconds: maximum time of a load.
    """

    def __init__(self, registry: ModelRegistry, metrics: Metrics, seconds: float) -> None:
        self._registry = registry
        self._metrics = metrics
        self.seconds = seconds
        self._one_at_a_time = asyncio.Lock()
        self._seen: dict[Path, Fingerprint] = {}
        self._threads: list[threading.Thread] = []
        self._waiting: set[asyncio.Future[Any]] = set()
        self._restoring: set[asyncio.Task[None]] = set()
        self._next_rebuild: dict[str, float] = {}
        registry.on_panic = self._restore_soon

    @property
    def has_threads(self) -> bool:
        """Whether a thread is loading students, or hangs."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def is_busy(self) -> bool:
        """Whether students are being loaded, or a student is being tested after a panic."""
        return bool(self._restoring) or self._one_at_a_time.locked()

    async def load(self) -> Json:
        """Load the students for the first time. Returns the change of each; never raises but to end the task."""
        async with self._one_at_a_time:
            if self._registry.draining:
                return self._registry.give_up(STOPPING)
            try:
                self._seen, prepared = await self._run(self._read)
            except ENDINGS:
                raise
            except LoadError as error:
                return self._registry.give_up(str(error))
            except BaseException as error:  # noqa: BLE001 - the libraries raise more than `Exception`
                log_fault(error, "(load)")
                return self._registry.give_up(f"loading failed with {type(error).__name__}; see the log")
            return self._registry.adopt(prepared)

    async def reload(self) -> Json:
        """Load new and changed students; one whose new version is invalid stays. Returns the change of each."""
        outcome = await self.load()
        self._metrics.reloads.labels("refused" if outcome["refused"] else "done").inc()
        changes = ", ".join(f"{student['name']} {student['change']}" for student in outcome["students"])
        log.info("students reloaded: %s", changes or "none")
        return outcome

    async def watch(self) -> None:
        """Reload whenever the students folder changes; never returns. A folder that does not answer is logged once."""
        problem = ""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                if await self._run(self._registry.fingerprint) != self._seen:
                    await self.reload()
                problem = ""
            except ENDINGS:
                raise
            except LoadError as error:
                if problem != str(error):
                    problem = str(error)
                    log.error("changes of the students folder are not noticed: %s", problem)
            except BaseException as error:  # noqa: BLE001 - keep watching
                log_fault(error, "(watch)")

    def stop(self) -> None:
        """Give up what is loading: the service is about to stop."""
        for done in self._waiting:
            if not done.done():
                done.set_exception(LoadError(STOPPING))

    def _read(self) -> tuple[dict[Path, Fingerprint], ModelSet]:
        seen = self._registry.fingerprint()  # first, so that a change while loading is noticed
        return seen, self._registry.prepare()

    async def _run(self, function: Callable[[], Result]) -> Result:
        """Run a function in a thread.

        Raises:
            LoadError: it takes too long, earlier ones hang, or the service is about to stop.
        """
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= MAX_THREADS:
            raise LoadError(f"{len(self._threads)} earlier loads hang; restart the service")
        thread, done = start_daemon_thread(function, "load")
        self._threads.append(thread)
        self._waiting.add(done)
        try:
            await asyncio.wait({done}, timeout=self.seconds)
        finally:
            self._waiting.discard(done)
        if not done.done():
            done.cancel()
            raise LoadError(
                f"{self._registry.opening}: not loaded within {self.seconds:g} s (--load-seconds); does its file "
                "system answer?"
            )
        return done.result()

    def _restore_soon(self, model: LoadedModel) -> None:
        task = asyncio.create_task(self._restore(model))
        self._restoring.add(task)
        task.add_done_callback(self._restoring.discard)

    async def _restore(self, model: LoadedModel) -> None:
        """Bring a student back after a panic: at once if it passes its test, and anew from its folder.

        It may be broken in a way that its golden sentences don't show, so it is loaded again in any case, but while it
        passes not too often: texts that make it panic each time must not keep the process busy.
        """
        try:
            await self._run(partial(model.student.check_golden, model.folder))
            model.queue.put_back()
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - the libraries raise more than `Exception`
            log.error("student %s fails its test after a panic: %s", model.name, _reason(error))
        async with self._one_at_a_time:
            replaced = self._registry.models.get(model.name) is not model
            if replaced or (model.queue.problem is None and time.monotonic() < self._next_rebuild.get(model.name, 0.0)):
                return
            self._next_rebuild[model.name] = time.monotonic() + REBUILD_SECONDS
            try:
                self._registry.adopt(await self._run(partial(self._registry.prepare_again, model)))
                log.warning("student %s was loaded again after a panic", model.name)
            except ENDINGS:
                raise
            except BaseException as error:  # noqa: BLE001 - the libraries raise more than `Exception`
                log.error("student %s was not loaded again after a panic: %s", model.name, _reason(error))


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, (LoadError, StudentError)) else type(error).__name__
