"""Shadow traffic: a second student also answers a share of the texts, after their replies; only agreement is counted.

Shadow traffic must not delay requests. Submitted texts are collected for a while, then run when no student of the
process has work. Such moments are frequent at half load and rare at full load, when texts are dropped: few may wait,
and none for long.

A request that arrives meanwhile may wait for the core, and finds cold caches. So texts are run several at once: the
first fills the caches, and the others cost little more. After a fraction of a millisecond the thread yields to the
event loop, and checks again before it continues. During inference onnxruntime releases the interpreter lock (GIL). The
thread's priority is not lowered: it could lose the core while it holds the GIL, and the event loop would wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from service.errors import ENDINGS, log_fault
from service.experiments.comparison import agreement
from service.models.queue import LoadedModel
from service.models.registry import ModelRegistry
from service.monitoring.metrics import Metrics, Tally
from service.student.student import Prediction, Question

MAX_WAITING = 64
MAX_WAIT_SECONDS = 1.0
COLLECT_SECONDS = 0.1  # from the first submitted text to the first check for an idle process
CHECK_SECONDS = 0.02  # between two such checks
SLICE_SECONDS = 0.3e-3  # after which the thread yields before the next text
YIELD_SECONDS = 50e-6
FAULT_SECONDS = 1.0  # pause after a fault: each writes a line to the log
AGREEMENT = ("different", "same")

Same = dict[str, bool | None]


class ShadowText(NamedTuple):
    """A text that waits for the shadow, with the primary student's answer."""

    primary: str
    shadow: LoadedModel
    question: Question
    prediction: Prediction
    until: float


class ShadowRunner:
    """The shadow traffic of one process. Its methods must be called on the event loop."""

    def __init__(self, registry: ModelRegistry, metrics: Metrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._waiting: deque[ShadowText] = deque()
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Future[list[Same | BaseException]] | None = None
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
        """Let the shadow answer a text, too, if the process becomes idle in time.

        Nothing is run or counted if the two students are the same or have no head in common, the shadow lacks the
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
        until = time.monotonic() + MAX_WAIT_SECONDS
        self._waiting.append(ShadowText(primary.name, shadow, Question(question.text, locale), prediction, until))
        if self._timer is None and self._work is None:
            self._check_in(COLLECT_SECONDS)

    def close(self) -> None:
        """Drop the waiting texts; does not wait for one that runs."""
        self._closed = True
        for pending in (self._timer, self._work):
            if pending is not None:
                pending.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft().shadow)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _check_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        # through `call_soon`, so that requests that have been read start first
        self._timer = loop.call_later(seconds, loop.call_soon, self._tick)

    def _tick(self) -> None:
        """Run the waiting texts, or check again later."""
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

    def _compare(self, group: Sequence[ShadowText]) -> list[Same | BaseException]:
        """Compare the students, text by text, while the process is idle; the result ends with what one raises.

        Runs in the thread.
        """
        agreements: list[Same | BaseException] = []
        try:
            ends = 0.0
            for waiting in group:
                if time.perf_counter() >= ends:
                    time.sleep(YIELD_SECONDS)
                    if self._closed or not self._is_idle() or waiting.shadow.queue.problem is not None:
                        break
                    ends = time.perf_counter() + SLICE_SECONDS
                answer = waiting.shadow.student.predict_each([waiting.question])[0]
                agreements.append(agreement({"primary": waiting.prediction, "shadow": answer}))
        except BaseException as fault:  # noqa: BLE001 - the libraries raise more than `Exception`
            agreements.append(fault)
        return agreements

    def _finish(self, done: asyncio.Future[list[Same | BaseException]]) -> None:
        self._work = None
        if done.cancelled():  # closed
            return
        failed = False
        for same in done.result():
            waiting = self._waiting.popleft()
            if isinstance(same, dict):
                self._metrics.defer(self._count, waiting.primary, waiting.shadow.name, same)
                continue
            failed = True
            if isinstance(same, (Exception, *ENDINGS)):
                log_fault(same, "(shadow)")
            else:
                waiting.shadow.queue.take_out(same, "(shadow)")
        if failed:
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
