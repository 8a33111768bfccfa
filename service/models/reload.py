"""Reload students without a restart: on request, or when their folder changes."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from service.errors import log_fault
from service.http.context import Json
from service.models.registry import Fingerprint, ModelRegistry
from service.monitoring.metrics import Metrics

WATCH_SECONDS = 1.0

log = logging.getLogger("service")


class Reloader:
    """Loads the students of one process, one reload at a time.

    New students are loaded and tested in a thread. They replace the old ones on the event loop, between texts.
    """

    def __init__(self, registry: ModelRegistry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._one_at_a_time = asyncio.Lock()
        self._seen: dict[Path, Fingerprint] = {}

    async def load(self) -> Json:
        """Load the students for the first time."""
        async with self._one_at_a_time:
            self._seen = await asyncio.to_thread(
                self._registry.fingerprint
            )  # first, so that a change while loading is noticed
            return self._registry.adopt(await asyncio.to_thread(self._registry.prepare))

    async def reload(self) -> Json:
        """Load new and changed students; one whose new version is invalid stays. Returns the change of each."""
        outcome = await self.load()
        self._metrics.reloads.labels("refused" if outcome["refused"] else "done").inc()
        changes = ", ".join(f"{student['name']} {student['change']}" for student in outcome["students"])
        log.info("students reloaded: %s", changes or "none")
        return outcome

    async def watch(self) -> None:
        """Reload whenever the students folder changes; never returns."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if await asyncio.to_thread(self._registry.fingerprint) == self._seen:
                continue
            try:
                await self.reload()
            except Exception as error:  # noqa: BLE001 - keep watching
                log_fault(error, "(watch)")
