"""Shadow traffic: a second student also answers a share of the texts, after their replies; only agreement is kept.

No request may wait longer because of a shadow. Submitted texts are collected for a while, then run when no student of
the process has work. Such moments are frequent at half load and rare at full load, where texts are dropped: few may
wait, and none for long.

A request that arrives meanwhile may have to wait for the core, and finds the processor's caches swept. So texts are
collected, since the first one of several sweeps them and the others cost little more; but after a fraction of a
millisecond the thread yields to the event loop, and checks again before it continues. The run of a text is
onnxruntime's, without the interpreter. The thread has no lower priority than the loop's: it could be denied the core
while it holds the interpreter, and the loop would wait for both.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from service.errors import log_fault
from service.experiments.comparison import agreement
from service.models.queue import LoadedModel
from service.models.registry import ModelRegistry
from service.monitoring.metrics import Metrics, Tally
from service.student.student import Prediction, Question

MAX_WAITING = 64
MAX_WAIT_SECONDS = 1.0
COLLECT_SECONDS = 0.1  # from the first submitted text to the first check whether the process is idle
CHECK_SECONDS = 0.02  # between two such checks
SLICE_SECONDS = 0.3e-3  # after which the thread yields before it begins another text
YIELD_SECONDS = 50e-6
FAULT_SECONDS = 1.0  # pause after a fault: each writes a line to the log
AGREEMENT = ("different", "same")

Same = dict[str, bool | None]


class Waiting(NamedTuple):
    """A text that waits for the shadow: what it is asked, and what the primary student answered."""

    primary: str
    shadow: LoadedModel
    question: Question
    prediction: Prediction
    until: float


class ShadowRunner:
    """The shadow traffic of one process. To be used on the event loop."""

    def __init__(self, registry: ModelRegistry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._waiting: deque[Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Future[list[Same | None]] | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many texts wait or run."""
        return len(self._waiting)

    def start_series(self, primary: LoadedModel, shadow: LoadedModel) -> None:
        """Start the series of two students at zero, so that their first count is seen as an increase."""
        self._metrics.shadow_dropped.labels(shadow.name)
        common = _common_heads(primary, shadow) if primary is not shadow else set()
        for task in (*common, "exact") if common else ():
            for agrees in AGREEMENT:
                self._metrics.shadow.labels(primary.name, shadow.name, task, agrees)

    def submit(self, primary: LoadedModel, shadow: LoadedModel, question: Question, prediction: Prediction) -> None:
        """Let the shadow answer a text that was answered, if there is time for it.

        Nothing is done or counted where the two are the same or have no head in common, the shadow does not know the
        locale, or labels were filtered.
        """
        filtered = question.domains is not None or question.intents is not None
        if self._closed or filtered or shadow.student is primary.student or not _common_heads(primary, shadow):
            return
        locale = None
        if question.locale is not None and (locale := shadow.locales.get(question.locale)) is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._drop(shadow)
            return
        asked = Question(question.text, locale)
        self._waiting.append(Waiting(primary.name, shadow, asked, prediction, time.monotonic() + MAX_WAIT_SECONDS))
        if self._timer is None and self._work is None:
            self._check_in(COLLECT_SECONDS)

    def close(self) -> None:
        """Drop the texts that wait. A text that runs is not waited for."""
        self._closed = True
        for pending in (self._timer, self._work):
            if pending is not None:
                pending.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft().shadow)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _check_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        # by way of `call_soon`, so that requests that have been read are started first
        self._timer = loop.call_later(seconds, loop.call_soon, self._tick)

    def _tick(self) -> None:
        """Run the texts that wait, or check again later."""
        self._timer = None
        now = time.monotonic()
        while self._waiting and self._waiting[0].until < now:
            self._drop(self._waiting.popleft().shadow)
        if not self._waiting:
            return
        if not self._is_idle():
            self._check_in(CHECK_SECONDS)
            return
        self._work = asyncio.get_running_loop().run_in_executor(self._thread, self._compare, [*self._waiting])
        self._work.add_done_callback(self._finish)

    def _is_idle(self) -> bool:
        return all(model.queue.is_idle for model in self._registry.models.values())

    def _compare(self, group: Sequence[Waiting]) -> list[Same | None]:
        """Where the students agree, text by text, while the process is idle; ends with None for one that fails.

        Runs in the thread.
        """
        found: list[Same | None] = []
        try:
            ends = 0.0
            for waiting in group:
                if time.perf_counter() >= ends:
                    time.sleep(YIELD_SECONDS)
                    if self._closed or not self._is_idle():
                        break
                    ends = time.perf_counter() + SLICE_SECONDS
                answer = waiting.shadow.student.predict_each([waiting.question])[0]
                found.append(agreement({"primary": waiting.prediction, "shadow": answer}))
        except BaseException as fault:  # noqa: BLE001 - the libraries raise others than `Exception`
            log_fault(fault, "(shadow)")
            found.append(None)
        return found

    def _finish(self, done: asyncio.Future[list[Same | None]]) -> None:
        self._work = None
        if done.cancelled():  # closed
            return
        found = done.result()
        for same in found:
            waiting = self._waiting.popleft()
            if same is not None:
                self._metrics.defer(self._count, waiting.primary, waiting.shadow.name, same)
        if None in found:
            self._check_in(FAULT_SECONDS)
        elif self._waiting:
            self._check_in(CHECK_SECONDS)

    def _count(self, tally: Tally, primary: str, shadow: str, same: Same) -> None:
        for task, agrees in same.items():
            if agrees is not None:
                tally.add(self._metrics.shadow.labels(primary, shadow, task, AGREEMENT[agrees]), 1)

    def _drop(self, shadow: LoadedModel) -> None:
        self._metrics.defer(Tally.add, self._metrics.shadow_dropped.labels(shadow.name), 1)


def _common_heads(one: LoadedModel, other: LoadedModel) -> set[str]:
    return set(one.student.manifest.labels.heads) & set(other.student.manifest.labels.heads)
