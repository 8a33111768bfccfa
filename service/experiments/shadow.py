"""A second student that answers a share of the texts, too, once their replies are sent; only agreement is kept.

Nobody waits for a shadow, so nobody should wait longer because of one. What is offered is gathered for a while, and
then run in moments in which no student of the process has anything to do. They come often at half load and hardly ever
at full load: there texts are dropped, since few may wait, and none for long.

A request that comes in meanwhile may have to wait for the core, and finds the processor's caches swept. So texts are
gathered, since it is the first of several that sweeps them, and the others cost little more; but after a fraction of a
millisecond the thread gives way to the event loop, and looks again before it goes on. The run of a text is
onnxruntime's, without the interpreter. The thread has no lower priority than the loop's: it could be kept from the core
while it holds the interpreter, and the loop would wait for both.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from prometheus_client import Counter

from service.errors import UnknownLocale, log_fault
from service.experiments.comparison import agreement
from service.models.registry import Engine, Loaded
from service.monitoring.metrics import Metrics, Tally
from service.student.student import Prediction, Question

MOST_WAITING = 64
MOST_SECONDS = 1.0  # for which a text may wait
GATHER_SECONDS = 0.1  # from an offer to the first look whether there is time for it
LOOK_SECONDS = 0.02  # from one look in vain to the next
AT_ONCE_SECONDS = 0.3e-3  # after which no further text is begun before the thread has given way
GIVE_WAY_SECONDS = 50e-6
FAULT_SECONDS = 1.0  # after a fault nothing is tried for so long: each costs a line in the log
AGREEMENT = ("different", "same")

Same = dict[str, bool | None]


class Offered(NamedTuple):
    """A text that waits for the shadow: what it is asked, and what the primary student said."""

    primary: str
    shadow: Loaded
    question: Question
    prediction: Prediction
    until: float


class Shadow:
    """What one process runs in the shadow of its replies. To be used on the event loop.

    Usage::

        shadow = Shadow(engine, metrics)
        shadow.offer(primary, second, question, prediction)  # the reply is sent
        shadow.close()
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._waiting: deque[Offered] = deque()
        self._thread = ThreadPoolExecutor(1, "shadow")
        self._look: asyncio.TimerHandle | None = None
        self._work: asyncio.Future[list[Same | None]] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many texts wait, or run."""
        return len(self._waiting)

    def expect(self, primary: Loaded, shadow: Loaded) -> None:
        """Begin the series of two students with zero: the increase to a first count is not seen."""
        self._metrics.shadow_dropped.labels(shadow.name)
        heads, others = (set(loaded.student.manifest.labels.heads) for loaded in (primary, shadow))
        common = heads & others if primary is not shadow else set()
        for task in (*common, "exact") if common else ():
            for agrees in AGREEMENT:
                self._metrics.shadow.labels(primary.name, shadow.name, task, agrees)

    def offer(self, primary: Loaded, shadow: Loaded, question: Question, prediction: Prediction) -> None:
        """Let a second student answer a text that was answered, if there is time for it.

        Nothing is done or counted where the two can't be compared: they are the same, have no head in common, the
        second does not know the locale, or only some labels were allowed.
        """
        if self._closed or not _are_comparable(primary, shadow, question):
            return
        try:
            locale = None if question.locale is None else shadow.locale_for(question.locale)
        except UnknownLocale:
            return
        if len(self._waiting) >= MOST_WAITING:
            self._drop(shadow)
            return
        asked = Question(question.text, locale)
        self._waiting.append(Offered(primary.name, shadow, asked, prediction, time.monotonic() + MOST_SECONDS))
        if self._look is None and self._work is None:
            self._look_in(GATHER_SECONDS)

    def close(self) -> None:
        """Drop what waits. What has begun is not waited for."""
        self._closed = True
        for pending in (self._look, self._work):
            if pending is not None:
                pending.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft().shadow)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        # not from the timer itself: requests that have been read are begun first
        self._look = loop.call_later(seconds, loop.call_soon, self._look_around)

    def _look_around(self) -> None:
        """Begin with what waits, or look again later."""
        self._look = None
        now = time.monotonic()
        while self._waiting and self._waiting[0].until < now:
            self._drop(self._waiting.popleft().shadow)
        if not self._waiting:
            return
        if not self._is_quiet():
            self._look_in(LOOK_SECONDS)
            return
        self._work = asyncio.get_running_loop().run_in_executor(self._thread, self._compare, [*self._waiting])
        self._work.add_done_callback(self._finish)

    def _is_quiet(self) -> bool:
        """Whether no student has anything to do."""
        return all(loaded.lane.is_idle for loaded in self._engine.students.values())

    def _compare(self, group: Sequence[Offered]) -> list[Same | None]:
        """What the students agree on, text by text, as long as there is time; None, and no more, for one that fails.

        Runs in the thread.
        """
        found: list[Same | None] = []
        try:
            ends = 0.0
            for offered in group:
                if time.perf_counter() >= ends:
                    time.sleep(GIVE_WAY_SECONDS)
                    if self._closed or not self._is_quiet():
                        break
                    ends = time.perf_counter() + AT_ONCE_SECONDS
                said = offered.shadow.student.predict_each([offered.question])[0]
                found.append(agreement({"primary": offered.prediction, "shadow": said}))
        except BaseException as fault:  # noqa: BLE001 - of the tokenizer's and onnxruntime's, not all are `Exception`s
            log_fault(fault, "(shadow)")
            found.append(None)
        return found

    def _finish(self, done: asyncio.Future[list[Same | None]]) -> None:
        self._work = None
        if done.cancelled():  # closed
            return
        found = done.result()
        for same in found:
            offered = self._waiting.popleft()
            if same is not None:
                self._metrics.defer(self._count, offered.primary, offered.shadow.name, same)
        if None in found:
            self._look_in(FAULT_SECONDS)
        elif self._waiting:
            self._look_in(LOOK_SECONDS)

    def _count(self, tally: Tally, primary: str, shadow: str, same: Same) -> None:
        for task, agrees in same.items():
            if agrees is not None:
                tally.add(self._metrics.shadow.labels(primary, shadow, task, AGREEMENT[agrees]), 1)

    def _drop(self, shadow: Loaded) -> None:
        self._metrics.defer(_add, self._metrics.shadow_dropped.labels(shadow.name))


def _are_comparable(primary: Loaded, shadow: Loaded, question: Question) -> bool:
    if shadow.student is primary.student or question.domains is not None or question.intents is not None:
        return False
    heads, others = (set(loaded.student.manifest.labels.heads) for loaded in (primary, shadow))
    return not heads.isdisjoint(others)


def _add(tally: Tally, counter: Counter) -> None:
    tally.add(counter, 1)
