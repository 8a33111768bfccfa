"""A loaded student and its queue: deadlines, order of arrival, groups, faults.

Waiting texts are answered in groups, each text by a run of its own (see `Student.predict_each`). A run fills the
processor's caches, so tokenising five texts, running five and decoding five is faster than five times all three. A
group is what has arrived so far; the queue never waits for more, and a group is small enough not to delay health checks
and refusals.

A native library may panic: it raises a `BaseException` that is no `Exception`, and may be broken from then on. The text
that caused it is answered with an internal error, and the queue refuses texts until the student was tested again
(`service.models.reload`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service import errors
from service.errors import ENDINGS, log_fault
from service.http.context import RequestContext
from service.http.requests import TextRequest, poll
from service.models.cache import AnswerCache
from service.models.permits import Admission
from service.monitoring.student_metrics import StudentMetrics
from service.monitoring.timings import Timings
from service.student.student import Prediction, Question, Student

PredictionOrError = Prediction | BaseException

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


class Permits:
    """Permits of a student; the rest is given back at the end of the ``with`` block."""

    __slots__ = ("_admission", "_items")

    def __init__(self, admission: Admission, items: int) -> None:
        self._admission = admission
        self._items = items

    def give_back(self, items: int) -> None:
        """Give back some permits early."""
        self._items -= items
        admission = self._admission
        admission.free += items
        if admission.line:
            admission.serve_line()

    def __enter__(self) -> Permits:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._items)


class ModelQueue:
    """The queue of one student: its permits, its waiting texts, and where they run.

    Usage::

        with queue.admit(len(items)) as permits:  # raises Overloaded at once
            prediction = await queue.predict(context, Question(text))
            permits.give_back(1)

    Attributes:
        permits: see `Admission`.
        problem: why the student is out of service; None while it is in service.
        has_panicked: a native library panicked while it ran the student.
        on_panic: called on the event loop after each panic.
    """

    def __init__(self, student: Student, permits: int, seconds_per_text: float) -> None:
        self.permits = Admission(permits, seconds_per_text)
        self.seconds_per_text = seconds_per_text
        self.problem: str | None = None
        self.has_panicked = False
        self.on_panic: Callable[[], None] = lambda: None
        self._student = student
        self._group = max(1, int(GROUP_SECONDS / seconds_per_text))
        self._waiting: deque[QueuedText] = deque()
        self._busy = False
        self._thread: ThreadPoolExecutor | None = None
        self._group_began: float | None = None

    @property
    def in_thread(self) -> bool:
        """Whether texts run in a thread, rather than on the event loop."""
        return self._thread is not None

    @property
    def free(self) -> int:
        """The number of free permits."""
        return self.permits.free

    @property
    def is_idle(self) -> bool:
        """Whether no text waits or runs. Thread-safe."""
        return self.permits.free == self.permits.total and not self._busy

    @property
    def thread_seconds(self) -> float:
        """For how long the thread has been running the present group; 0 if it does not run."""
        began = self._group_began
        return 0.0 if began is None else time.monotonic() - began

    def run_in_thread(self, enabled: bool) -> None:
        """Run texts in a thread, or else on the event loop, from the next group on."""
        if enabled != self.in_thread:
            self._thread = ThreadPoolExecutor(1, "student") if enabled else None

    def admit(self, items: int) -> Permits:
        """Take permits for some texts.

        Raises:
            Overloaded: too few are left; the error says when to retry.
        """
        permits = self.permits
        if items > permits.free:
            raise permits.overloaded()
        permits.free -= items
        return Permits(permits, items)

    async def admit_in_turn(self, context: RequestContext, items: int) -> Permits:
        """Take permits for a batch, after waiting in line if too few are left. A batch of one text does not wait.

        Raises:
            Overloaded, DeadlinePassed: as `Admission.take_in_turn`.
            ClientLeft: the client disconnected while the batch waited.
            NotReady: the student is out of service.
        """
        if items == 1 or (items <= self.permits.free and not self.permits.line):
            permits = self.admit(items)
        else:
            seconds = None if context.deadline is None else context.deadline - time.perf_counter()
            await self.permits.take_in_turn(items, seconds)
            permits = Permits(self.permits, items)
        try:
            _check(context, waited=True)
            if self.problem is not None:
                raise _out_of_service(self.problem)
        except BaseException:
            permits.give_back(items)
            raise
        return permits

    async def predict(self, context: RequestContext, question: Question) -> Prediction:
        """The student's answer to a text.

        Raises:
            DeadlinePassed: the deadline passed while the text waited; no work was done.
            ClientLeft: the client disconnected while the text waited; no work was done.
            NotReady: the student is out of service.
            InternalError: a native library panicked; it is logged.
        """
        if self.problem is not None:
            raise _out_of_service(self.problem)
        loop = asyncio.get_running_loop()
        if not self._busy and self._thread is None:  # nothing waits
            self._busy = True
            loop.call_soon(self._serve)
            _check(context)
            try:
                return self._student.predict_each([question])[0]
            except (Exception, *ENDINGS):
                raise
            except BaseException as panic:  # noqa: BLE001 - the libraries raise more than `Exception`
                self.take_out(panic, context.request_id)
            raise errors.InternalError
        waiting = QueuedText(context, question, loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._serve)
        return await waiting.answer

    def take_out(self, panic: BaseException, request_id: str) -> None:
        """Take the student out of service after a panic, and refuse the texts that wait."""
        log_fault(panic, request_id)
        self.has_panicked = True
        if self.problem is None:
            self.problem = f"student {self._student.manifest.name} is tested again after a panic of a native library"
        waiting = [*self._waiting]
        self._waiting.clear()
        self._settle(waiting, [_out_of_service(self.problem) for _ in waiting])
        self.on_panic()

    def put_back(self) -> None:
        """Put the student back into service."""
        self.problem = None

    def _serve(self) -> None:
        """Answer the next group; if there are more texts, again after the event loop has served sockets.

        Whatever is raised, each text of the group is settled and the queue continues.
        """
        group = self._next_group()
        if not group:
            self._busy = False
            return
        questions = [waiting.question for waiting in group]
        loop = asyncio.get_running_loop()
        outcomes: Sequence[PredictionOrError] = [errors.InternalError() for _ in group]
        if self._thread is None:
            try:
                outcomes = self._outcomes(questions)
            finally:
                try:
                    self._settle(group, outcomes)
                finally:
                    loop.call_soon(self._serve)  # after the replies of this group
            return
        self._group_began = time.monotonic()
        try:
            work = loop.run_in_executor(self._thread, self._outcomes, questions)
        except RuntimeError as error:  # no thread can be started
            log_fault(error, "(queue)")
            loop.call_soon(self._serve)
            self._settle(group, outcomes)
        else:
            work.add_done_callback(lambda done: self._finish(group, done))

    def _finish(self, group: Sequence[QueuedText], done: asyncio.Future[list[PredictionOrError]]) -> None:
        outcomes: Sequence[PredictionOrError] = [errors.InternalError() for _ in group]
        self._group_began = None
        try:
            outcomes = done.result()
        finally:
            self._settle(group, outcomes)
            self._serve()

    def _outcomes(self, questions: Sequence[Question]) -> list[PredictionOrError]:
        """An answer or an error for each text; one that fails does not affect the others of its group."""
        try:
            return [*self._student.predict_each(questions)]
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - raised where the answer is awaited
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
            except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
                self._settle([waiting], [error])
            else:
                group.append(waiting)
        return group

    def _settle(self, group: Sequence[QueuedText], outcomes: Sequence[PredictionOrError]) -> None:
        panics: list[tuple[BaseException, str]] = []
        for waiting, outcome in zip(group, outcomes, strict=True):
            failure = outcome if isinstance(outcome, Exception) else None
            if isinstance(outcome, BaseException) and failure is None:
                panics.append((outcome, waiting.context.request_id))
                failure = errors.InternalError()
            if waiting.answer.done():  # its request was cancelled
                continue
            if failure is not None:
                waiting.answer.set_exception(failure)
            elif not isinstance(outcome, BaseException):
                waiting.answer.set_result(outcome)
        for panic, request_id in panics:
            self.take_out(panic, request_id)


def _check(context: RequestContext, *, waited: bool = False) -> None:
    if context.deadline is not None and time.perf_counter() > context.deadline:
        raise errors.DeadlinePassed
    if waited and (message := poll(context.receive)) is not None and message["type"] == "http.disconnect":
        raise errors.ClientLeft


def _out_of_service(problem: str) -> errors.NotReady:
    return errors.NotReady({"retry-after": "1"}, reason=problem)
