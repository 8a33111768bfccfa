"""A second student that answers a share of the texts, too, once their replies are sent; only agreement is kept.

Nobody waits for a shadow, so nobody should wait longer because of one. A text that is offered waits for a moment in
which no student of the process has anything to do. Such moments come often at half load and hardly ever at full load:
there texts are dropped, since few may wait, and none for long. The moment is looked for on the event loop, less and
less often while it does not come, and the thread looks once more before it begins: it gets the interpreter when the
loop lets go of it, which it also does while it runs a text.

The run itself is onnxruntime's, without the interpreter. The thread has no lower priority than the loop's: it would be
kept from its core while it holds the interpreter, and the loop would wait for both.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from prometheus_client import Counter

from service.comparison import agreement
from service.engine import Engine, Loaded
from service.errors import UnknownLocale, log_fault
from service.metrics import Metrics, Tally
from service.student import Prediction, Question

MOST_WAITING = 16
MOST_SECONDS = 1.0  # for which a text may wait
LOOK_SECONDS = 2e-3  # from an offer to the first look whether there is time for it
MOST_LOOK_SECONDS = 64e-3  # ... and from look to look, once there was none for long
SLACKEN = 1.25  # from one look in vain to the next
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
        self._work: asyncio.Future[Same | None] | None = None
        self._pause = LOOK_SECONDS
        self._closed = False

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
            self._look_again(self._pause)

    def close(self) -> None:
        """Drop what waits. What has begun is not waited for, nor counted."""
        self._closed = True
        for pending in (self._look, self._work):
            if pending is not None:
                pending.cancel()
        while self._waiting:
            self._drop(self._waiting.popleft().shadow)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _look_again(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        # not from the timer itself: requests that have been read are begun first
        self._look = loop.call_later(seconds, loop.call_soon, self._look_around)

    def _look_around(self) -> None:
        """Begin with the text that waits longest, or look again later."""
        self._look = None
        if self._closed:
            return
        now = time.monotonic()
        while self._waiting and self._waiting[0].until < now:
            self._drop(self._waiting.popleft().shadow)
        if not self._waiting:
            self._pause = LOOK_SECONDS
        elif not self._is_quiet():
            self._look_later()
        else:
            offered = self._waiting.popleft()
            self._work = asyncio.get_running_loop().run_in_executor(self._thread, self._compare, offered)
            self._work.add_done_callback(lambda done: self._finish(offered, done))

    def _look_later(self) -> None:
        self._pause = min(SLACKEN * self._pause, MOST_LOOK_SECONDS)
        self._look_again(self._pause)

    def _is_quiet(self) -> bool:
        """Whether no student has anything to do."""
        return all(loaded.lane.is_idle for loaded in self._engine.students.values())

    def _compare(self, offered: Offered) -> Same | None:
        """What the two students agree on; None if there is no time for it after all. Runs in the thread."""
        if not self._is_quiet():
            return None
        said = offered.shadow.student.predict_each([offered.question])[0]
        return agreement({"primary": offered.prediction, "shadow": said})

    def _finish(self, offered: Offered, done: asyncio.Future[Same | None]) -> None:
        self._work = None
        if done.cancelled():
            return
        if (fault := done.exception()) is not None:
            log_fault(fault, "(shadow)")
            self._look_again(FAULT_SECONDS)
        elif (same := done.result()) is None:
            self._waiting.appendleft(offered)
            self._look_later()
        else:
            self._metrics.defer(self._count, offered.primary, offered.shadow.name, same)
            self._pause = LOOK_SECONDS
            if self._waiting:
                self._look_again(0.0)

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
