"""Replace students while others answer: on request, or when their folder changes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from service.errors import log_fault
from service.models.registry import Engine, Fingerprint, Outcome
from service.monitoring.metrics import Metrics

WATCH_SECONDS = 1.0

log = logging.getLogger("service")


class Reloader:
    """Loads the students of one process, one reload at a time.

    What is new is loaded, warmed and tested in a thread; the exchange happens on the event loop, between two texts.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._one_at_a_time = asyncio.Lock()
        self._seen: dict[Path, Fingerprint] = {}

    async def load(self) -> Outcome:
        """Load the students for the first time."""
        async with self._one_at_a_time:
            self._seen = await asyncio.to_thread(self._engine.fingerprint)  # what changes from now on is a change
            return self._engine.adopt(await asyncio.to_thread(self._engine.prepare))

    async def reload(self) -> Outcome:
        """Load what is new or changed; students whose new version is bad serve on. Returns what was done with each."""
        outcome = await self.load()
        self._metrics.reloads.labels("refused" if outcome["refused"] else "done").inc()
        changes = ", ".join(f"{student['name']} {student['change']}" for student in outcome["students"])
        log.info("students reloaded: %s", changes or "none")
        return outcome

    async def watch(self) -> None:
        """Reload whenever the students folder changes, for ever."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if await asyncio.to_thread(self._engine.fingerprint) == self._seen:
                continue
            try:
                await self.reload()
            except Exception as error:  # noqa: BLE001 - the next change must find a watcher
                log_fault(error, "(watch)")
