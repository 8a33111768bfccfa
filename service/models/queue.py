"""A loaded student and its queue: admission, deadlines, order of arrival, event loop or thread.

A student runs on the event loop if possible: a thread lowers its rate. Beside a faster one, a slow student runs in a
thread (onnxruntime releases the GIL meanwhile), so that it does not delay the other's texts.

Waiting texts are answered in groups, each text by a run of its own (see `Student.predict_each`). A run fills the
processor's caches, so tokenising five texts, running five and decoding five is faster than five times all three. A
group is what has arrived so far; the queue never waits for more, and a group is small enough not to delay health checks
and refusals.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service import errors
from service.errors import ServiceError
from service.http.context import RequestContext
from service.http.requests import TextRequest, poll
from service.models.cache import AnswerCache
from service.monitoring.student_metrics import StudentMetrics
from service.monitoring.timings import Timings
from service.student.student import Prediction, Question, Student

PredictionOrError = Prediction | Exception

MAX_SHARED_LOOP_SECONDS = 0.5e-3  # a slower student runs in a thread if a faster one is served beside it
MAX_LOOP_SECONDS = 5e-3  # a slower student always runs in a thread: health checks wait for the loop
LONG_TEXT = 256  # characters; for each as many, a text counts as one more of a group
GROUP_SECONDS = 10e-3


class Answer(NamedTuple):
    """The answer to one text: question, prediction, whether it comes from the cache, and the timings."""

    question: Question
    prediction: Prediction
    cached: bool
    timings: Timings


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A loaded student, with its queue, metrics and cache.

    Attributes:
        name: that of its manifest.
        locales: the locales that requests may have, each with the student's locale that is used for it.
        cache: of its answers, if it is on.
        max_text_chars: maximum length of a text, in code points.
        folder: where it was loaded from.
        fingerprint: of the files in that folder.
    """

    name: str
    student: Student
    queue: ModelQueue
    metrics: StudentMetrics
    locales: Mapping[str, str]
    cache: AnswerCache | None
    max_text_chars: int
    folder: Path
    fingerprint: object

    async def answer(self, context: RequestContext, item: TextRequest, began: float | None = None) -> Answer:
        """The answer to one text. `began` is the start of its time, by default the request's arrival.

        Raises:
            ServiceError: as `ModelQueue.admit` and `answer_admitted`.
        """
        with self.queue.admit(1):
            return await self.answer_admitted(context, item, began)

    async def answer_admitted(self, context: RequestContext, item: TextRequest, began: float | None = None) -> Answer:
        """The same as `answer`, for a text that has its permit.

        Raises:
            ServiceError: as `question_of` and `ModelQueue.predict`.
        """
        question = self.question_of(item)
        cache, key, prediction = self.cache, b"", None
        if cache is not None:
            key = cache.key(question)
            prediction = cache.get(key, question.text)
            self.metrics.count_look_up(hit=prediction is not None)
        cached = prediction is not None
        if prediction is None:
            prediction = await self.queue.predict(context, question)
            if cache is not None:
                cache.put(key, prediction)
        total = time.perf_counter() - (context.began if began is None else began)
        tokenize, inference, decode = (0.0, 0.0, 0.0) if cached else prediction.phases
        queue = max(0.0, total - (tokenize + inference + decode))
        return Answer(question, prediction, cached, Timings(queue, tokenize, inference, decode, total))

    def question_of(self, item: TextRequest) -> Question:
        """The question for the student: the text, the student's locale, and the allowed labels.

        Raises:
            TextTooLarge, UnknownLocale, MissingHead, InvalidRequest: the student can't answer it.
        """
        if len(item.text) > self.max_text_chars:
            raise errors.TextTooLarge(count=len(item.text), limit=self.max_text_chars)
        locale = self.locales.get(item.locale)
        if locale is None:
            raise errors.UnknownLocale(model=self.name, known=", ".join(sorted(self.locales)))
        domains = intents = None
        if (names := getattr(item, "allowed_domains", None)) is not None:
            domains = self._numbers_of("domain", "allowed_domains", names)
        if (names := getattr(item, "allowed_intents", None)) is not None:
            intents = self._numbers_of("intent", "allowed_intents", names)
        return Question(item.text, locale, item.top_k or 1, domains, intents)

    def require_head(self, head: str, field: str) -> None:
        """Raise MissingHead unless the student has a head; `field` is the request's field that needs it."""
        heads = self.student.manifest.labels.heads
        if head not in heads:
            raise errors.MissingHead(field=field, model=self.name, head=head, heads=", ".join(heads))

    def _numbers_of(self, head: str, field: str, names: Collection[str]) -> tuple[int, ...]:
        self.require_head(head, field)
        try:
            return self.student.numbers_of(head, names)
        except KeyError:
            problem = f"{field}: has a name that student {self.name} does not know; GET /v1/models lists the known ones"
            raise errors.InvalidRequest(problem=problem) from None


class QueuedText(NamedTuple):
    """A text in the queue."""

    context: RequestContext
    question: Question
    answer: asyncio.Future[Prediction]


class ModelQueue:
    """The queue of one student: its permits, its waiting texts, and where they run.

    Usage::

        with queue.admit(len(items)) as permits:  # raises Overloaded at once
            prediction = await queue.predict(context, Question(text))
            permits.give_back(1)
    """

    def __init__(self, student: Student, permits: int, seconds_per_text: float) -> None:
        self.free = permits
        self.seconds_per_text = seconds_per_text
        self._student = student
        self._permits = permits
        self._group = max(1, int(GROUP_SECONDS / seconds_per_text))
        self._waiting: deque[QueuedText] = deque()
        self._busy = False
        self._thread: ThreadPoolExecutor | None = None

    @property
    def in_thread(self) -> bool:
        """Whether texts run in a thread, rather than on the event loop."""
        return self._thread is not None

    @property
    def is_idle(self) -> bool:
        """Whether no text waits or runs. Thread-safe."""
        return self.free == self._permits and not self._busy

    def run_in_thread(self, enabled: bool) -> None:
        """Run texts in a thread, or else on the event loop, from the next group on."""
        if enabled != self.in_thread:
            self._thread = ThreadPoolExecutor(1, "student") if enabled else None

    def admit(self, items: int) -> Permits:
        """Take permits for some texts.

        Raises:
            Overloaded: too few are left; the error says when to retry.
        """
        if items > self.free:
            seconds = max(1, math.ceil((self._permits - self.free) * self.seconds_per_text))
            raise errors.Overloaded({"retry-after": str(seconds)}, limit=self._permits)
        self.free -= items
        return Permits(self, items)

    async def predict(self, context: RequestContext, question: Question) -> Prediction:
        """The student's answer to a text.

        Raises:
            DeadlinePassed: the deadline passed while the text waited; no work was done.
            ClientLeft: the client disconnected while the text waited; no work was done.
        """
        loop = asyncio.get_running_loop()
        if not self._busy and self._thread is None:  # nothing waits
            self._busy = True
            loop.call_soon(self._serve)
            _check(context)
            return self._student.predict_each([question])[0]
        waiting = QueuedText(context, question, loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._serve)
        return await waiting.answer

    def _serve(self) -> None:
        """Answer the next group; if there are more texts, again after the event loop has served sockets."""
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

    def _finish(self, group: Sequence[QueuedText], done: asyncio.Future[list[PredictionOrError]]) -> None:
        _settle(group, done.result())
        self._serve()

    def _outcomes(self, questions: Sequence[Question]) -> list[PredictionOrError]:
        """An answer or an error for each text; one that fails does not affect the others of its group."""
        try:
            return [*self._student.predict_each(questions)]
        except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
            if len(questions) == 1:
                return [error]
            return [self._outcomes([question])[0] for question in questions]

    def _next_group(self) -> list[QueuedText]:
        """The next texts to answer. Drops requests that have expired or whose client has disconnected."""
        group: list[QueuedText] = []
        room = self._group
        while self._waiting and room > 0:
            waiting = self._waiting.popleft()
            room -= 1 + len(waiting.question.text) // LONG_TEXT
            try:
                _check(waiting.context, waited=True)
            except ServiceError as error:
                _settle([waiting], [error])
            else:
                group.append(waiting)
        return group


class Permits:
    """Permits of a queue; the rest is given back at the end of the ``with`` block."""

    __slots__ = ("_items", "_queue")

    def __init__(self, queue: ModelQueue, items: int) -> None:
        self._queue = queue
        self._items = items

    def give_back(self, items: int) -> None:
        """Give back some permits early."""
        self._items -= items
        self._queue.free += items

    def __enter__(self) -> Permits:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._items)


def assign_threads(queues: Collection[ModelQueue]) -> None:
    """Decide which of the queues of one process run in threads."""
    fastest = min((queue.seconds_per_text for queue in queues), default=0.0)
    for queue in queues:
        seconds = queue.seconds_per_text
        queue.run_in_thread(seconds > MAX_LOOP_SECONDS or seconds > max(MAX_SHARED_LOOP_SECONDS, fastest))


def _check(context: RequestContext, *, waited: bool = False) -> None:
    if context.deadline is not None and time.perf_counter() > context.deadline:
        raise errors.DeadlinePassed
    if waited and (message := poll(context.receive)) is not None and message["type"] == "http.disconnect":
        raise errors.ClientLeft


def _settle(group: Sequence[QueuedText], outcomes: Sequence[PredictionOrError]) -> None:
    for waiting, outcome in zip(group, outcomes, strict=True):
        if waiting.answer.done():  # its request was cancelled
            continue
        if isinstance(outcome, Exception):
            waiting.answer.set_exception(outcome)
        else:
            waiting.answer.set_result(outcome)
