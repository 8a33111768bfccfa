"""Admission: bounded permits, texts in order of arrival, and no work for those who can't use it any more.

A student runs on the event loop where it can: handing its work to a thread lowers its rate. Beside a
quicker one, a student that takes long runs in a thread of its own (onnxruntime lets go of the interpreter meanwhile),
or each of its texts would hold up the others'.

Texts that wait are answered in groups, each text by a run of its own (see `Student.predict_each`): a run sweeps the
processor's caches, so tokenising five texts, running five and decoding five is faster than five times all three. A
group is what has come in meanwhile, never waited for, and small enough not to hold up health checks and refusals.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from service.errors import ClientLeft, DeadlinePassed, Overloaded, ServiceError
from service.http.context import Call
from service.student.student import Prediction, Question, Student

Settled = Prediction | Exception

INLINE_SECONDS = 0.5e-3  # a text that takes longer runs in a thread, if a quicker student is served beside it
MOST_INLINE_SECONDS = 5e-3  # ... and if it takes as long as this, in any case: health checks wait for it
LONG_TEXT = 256  # characters; in a group a text counts once more for each so many
GROUP_SECONDS = 10e-3


class Waiting(NamedTuple):
    """A text in the queue of a lane."""

    call: Call
    question: Question
    answer: asyncio.Future[Prediction]


class Lane:
    """The way to one student: its permits, its queue, and where its texts run.

    Usage::

        with lane.admit(len(items)) as permits:  # raises Overloaded at once
            prediction = await lane.predict(call, Question(text))
            permits.give_back(1)
    """

    def __init__(self, student: Student, permits: int, seconds_per_text: float) -> None:
        self.free = permits
        self.seconds_per_text = seconds_per_text
        self._student = student
        self._permits = permits
        self._group = max(1, int(GROUP_SECONDS / seconds_per_text))
        self._queue: deque[Waiting] = deque()
        self._busy = False
        self._thread: ThreadPoolExecutor | None = None

    @property
    def in_thread(self) -> bool:
        """Whether texts run in a thread, rather than on the event loop."""
        return self._thread is not None

    @property
    def is_idle(self) -> bool:
        """Whether no text waits or runs. May be asked in any thread."""
        return self.free == self._permits and not self._busy

    def place(self, *, in_thread: bool) -> None:
        """Let texts run in a thread, or on the event loop, from the next group on."""
        if in_thread != self.in_thread:
            self._thread = ThreadPoolExecutor(1, "student") if in_thread else None

    def admit(self, items: int) -> Permits:
        """Permits for some texts.

        Raises:
            Overloaded: there are not as many left; says when to come again.
        """
        if items > self.free:
            seconds = max(1, math.ceil((self._permits - self.free) * self.seconds_per_text))
            raise Overloaded({"retry-after": str(seconds)}, limit=self._permits)
        self.free -= items
        return Permits(self, items)

    async def predict(self, call: Call, question: Question) -> Prediction:
        """The student's answer to a text, once its turn has come.

        Raises:
            DeadlinePassed: that was too late; nothing was done.
            ClientLeft: nobody waits for the answer any more; nothing was done.
        """
        loop = asyncio.get_running_loop()
        if not self._busy and self._thread is None:  # nobody is before us
            self._busy = True
            loop.call_soon(self._serve)
            _check(call)
            return self._student.predict_each([question])[0]
        waiting = Waiting(call, question, loop.create_future())
        self._queue.append(waiting)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._serve)
        return await waiting.answer

    def _serve(self) -> None:
        """Answer the texts at the head of the queue, and come again after a look at the sockets if there are more."""
        group = self._next_group()
        if not group:
            self._busy = False
            return
        questions = [waiting.question for waiting in group]
        loop = asyncio.get_running_loop()
        if self._thread is None:
            _settle(group, self._outcomes(questions))
            loop.call_soon(self._serve)
        else:
            work = loop.run_in_executor(self._thread, self._outcomes, questions)
            work.add_done_callback(lambda done: self._finish(group, done))

    def _finish(self, group: Sequence[Waiting], done: asyncio.Future[list[Settled]]) -> None:
        _settle(group, done.result())
        self._serve()

    def _outcomes(self, questions: Sequence[Question]) -> list[Settled]:
        """An answer or an error for each text; one that fails does not spoil the others of its group."""
        try:
            return [*self._student.predict_each(questions)]
        except Exception as error:  # noqa: BLE001 - theirs, who waits for an answer
            if len(questions) == 1:
                return [error]
            return [self._outcomes([question])[0] for question in questions]

    def _next_group(self) -> list[Waiting]:
        group: list[Waiting] = []
        room = self._group
        while self._queue and room > 0:
            waiting = self._queue.popleft()
            room -= 1 + len(waiting.question.text) // LONG_TEXT
            try:
                _check(waiting.call, waited=True)
            except ServiceError as error:
                _settle([waiting], [error])
            else:
                group.append(waiting)
        return group


def place(lanes: Collection[Lane]) -> None:
    """Let each of the lanes that serve together run where that is best for all."""
    quickest = min((lane.seconds_per_text for lane in lanes), default=0.0)
    for lane in lanes:
        seconds = lane.seconds_per_text
        lane.place(in_thread=seconds > MOST_INLINE_SECONDS or seconds > max(INLINE_SECONDS, quickest))


class Permits:
    """Permits taken from a lane; those not given back one by one are at the end of the ``with`` block."""

    __slots__ = ("_items", "_lane")

    def __init__(self, lane: Lane, items: int) -> None:
        self._lane = lane
        self._items = items

    def give_back(self, items: int) -> None:
        """Let others have them."""
        self._items -= items
        self._lane.free += items

    def __enter__(self) -> Permits:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._items)


def _check(call: Call, *, waited: bool = False) -> None:
    if call.is_late():
        raise DeadlinePassed
    if waited and call.has_left():
        raise ClientLeft


def _settle(group: Sequence[Waiting], outcomes: Sequence[Settled]) -> None:
    for waiting, outcome in zip(group, outcomes, strict=True):
        if waiting.answer.done():  # its request was cancelled meanwhile
            continue
        if isinstance(outcome, Exception):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(outcome)
