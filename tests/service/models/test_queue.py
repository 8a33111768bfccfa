"""The queue: permits, order, deadlines, disconnected clients, event loop or thread."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from service.errors import ClientLeft, DeadlinePassed, InternalError, Overloaded
from service.http.context import RequestContext
from service.models.placement import MAX_SHARED_LOOP_SECONDS
from service.models.queue import GROUP_SECONDS, ModelQueue
from service.student.student import Question, Student

QUICK = MAX_SHARED_LOOP_SECONDS / 2
SLOW = MAX_SHARED_LOOP_SECONDS * 2
TEXT = "weck mich am freitag"
Scenario = Callable[[ModelQueue], Coroutine[Any, Any, Any]]


async def _silence() -> Any:
    await asyncio.Event().wait()


async def _gone() -> Any:
    return {"type": "http.disconnect"}


def make_context(receive: Callable[[], Awaitable[Any]] = _silence) -> RequestContext:
    return RequestContext("POST", "/v1/nlu", {}, "some-id", receive)


class Watched(Student):
    """A student that records its questions, and can be made to fail."""

    def __init__(self, student: Student) -> None:
        self.__dict__.update(student.__dict__)
        self.groups: list[list[str]] = []
        self.fails = False
        self.fails_on = ""
        self.ends: type[BaseException] | None = None

    def predict_each(self, texts: Any) -> Any:
        self.groups.append([question.text for question in texts])
        if self.ends is not None:
            raise self.ends
        if self.fails or any(text == self.fails_on for text, *_ in texts):
            raise RuntimeError("no")
        return super().predict_each(texts)


@pytest.fixture
def watched(student: Student) -> Watched:
    return Watched(student)


def run(watched: Student, scenario: Scenario, *, permits: int = 8, seconds: float = QUICK) -> Any:
    async def act() -> Any:
        queue = ModelQueue(watched, permits, seconds)
        queue.run_in_thread(seconds == SLOW)
        return await scenario(queue)

    return asyncio.run(act())


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
def test_answer_is_the_students(watched: Watched, seconds: float) -> None:
    answer = run(watched, lambda queue: queue.predict(make_context(), Question(TEXT, top_k=2)), seconds=seconds)

    assert answer[:-1] == watched.predict(TEXT, 2)[:-1]


def test_permits_are_bounded_and_come_back(watched: Watched) -> None:
    async def scenario(queue: ModelQueue) -> None:
        with queue.admit(5), queue.admit(3):
            with pytest.raises(Overloaded) as full:
                queue.admit(1)
            assert int(full.value.headers["retry-after"]) >= 1
        assert queue.free == 8
        with queue.admit(8) as permits:
            permits.give_back(2)
            assert queue.free == 2
        assert queue.free == 8

    run(watched, scenario)


def test_permits_come_back_after_a_failure(watched: Watched) -> None:
    async def scenario(queue: ModelQueue) -> int:
        with pytest.raises(ValueError, match="anything"), queue.admit(3):
            raise ValueError("anything")
        return queue.free

    assert run(watched, scenario) == 8


def test_texts_that_wait_are_answered_in_order_and_in_bounded_groups(watched: Watched) -> None:
    most = int(GROUP_SECONDS / QUICK)
    texts = [f"wetter {number}" for number in range(3 * most)]

    async def scenario(queue: ModelQueue) -> Any:
        return await asyncio.gather(*(queue.predict(make_context(), Question(text, top_k=1)) for text in texts))

    answers = run(watched, scenario)

    assert [text for group in watched.groups for text in group] == texts
    assert len(watched.groups[0]) == 1  # the queue was empty
    assert max(map(len, watched.groups)) == most
    assert [answer[:-1] for answer in answers] == [watched.predict(text)[:-1] for text in texts]


def test_sockets_are_served_between_groups(watched: Watched) -> None:
    async def scenario(queue: ModelQueue) -> list[int]:
        sizes = []
        asking = [asyncio.create_task(queue.predict(make_context(), Question(TEXT, top_k=1))) for _ in range(100)]
        while not all(task.done() for task in asking):
            await asyncio.sleep(0)
            sizes.append(len(watched.groups))
        return sizes

    sizes = run(watched, scenario)

    assert all(after - before <= 1 for before, after in itertools.pairwise(sizes))


def test_slow_student_does_not_block_the_loop(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(watched, "logits", lambda encoded: (released.wait(10), Student.logits(watched, encoded))[1])

    async def scenario(queue: ModelQueue) -> Any:
        asking = asyncio.create_task(queue.predict(make_context(), Question(TEXT, top_k=1)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not asking.done()  # and the loop runs
        released.set()
        return await asking

    assert run(watched, scenario, seconds=SLOW).domain[0].name == "alarm"


def test_queue_says_for_how_long_its_thread_runs_a_group(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(watched, "logits", lambda encoded: (released.wait(10), Student.logits(watched, encoded))[1])

    async def scenario(queue: ModelQueue) -> list[float]:
        seconds = [queue.thread_seconds]
        asking = asyncio.create_task(queue.predict(make_context(), Question(TEXT)))
        while queue.thread_seconds <= 0.01:
            await asyncio.sleep(0)
        seconds.append(queue.thread_seconds)
        released.set()
        await asking
        return [*seconds, queue.thread_seconds]

    before, during, after = run(watched, scenario, seconds=SLOW)

    assert (before, after) == (0, 0)
    assert during > 0.01


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
def test_late_text_is_dropped_without_work(watched: Watched, seconds: float) -> None:
    async def scenario(queue: ModelQueue) -> Any:
        late = make_context()
        late.deadline = time.perf_counter() - 1
        return await asyncio.gather(
            *(queue.predict(context, Question(TEXT, top_k=1)) for context in (make_context(), late, make_context())),
            return_exceptions=True,
        )

    first, dropped, last = run(watched, scenario, seconds=seconds)

    assert isinstance(dropped, DeadlinePassed)
    assert first.domain == last.domain
    assert sum(map(len, watched.groups)) == 2


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
def test_text_of_a_disconnected_client_is_not_run(watched: Watched, seconds: float) -> None:
    async def scenario(queue: ModelQueue) -> Any:
        contexts = (make_context(), make_context(_gone), make_context())
        return await asyncio.gather(
            *(queue.predict(context, Question(TEXT, top_k=1)) for context in contexts), return_exceptions=True
        )

    first, left, last = run(watched, scenario, seconds=seconds)

    assert isinstance(left, ClientLeft)
    assert first.domain == last.domain
    assert sum(map(len, watched.groups)) == 2


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
def test_failure_is_raised_to_its_request_and_the_queue_continues(watched: Watched, seconds: float) -> None:
    async def scenario(queue: ModelQueue) -> Any:
        watched.fails = True
        failed = await asyncio.gather(
            *(queue.predict(make_context(), Question(TEXT, top_k=1)) for _ in range(3)), return_exceptions=True
        )
        watched.fails = False
        return failed, await queue.predict(make_context(), Question(TEXT, top_k=1))

    failed, after = run(watched, scenario, seconds=seconds)

    assert [type(error) for error in failed] == [RuntimeError] * 3
    assert after.domain[0].name == "alarm"


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
def test_text_that_fails_does_not_affect_its_group(watched: Watched, seconds: float) -> None:
    watched.fails_on = "wetter"

    async def scenario(queue: ModelQueue) -> Any:
        texts = (TEXT, "musik", "wetter", TEXT)
        return await asyncio.gather(
            *(queue.predict(make_context(), Question(text, top_k=1)) for text in texts), return_exceptions=True
        )

    answers = run(watched, scenario, seconds=seconds)

    assert [isinstance(answer, RuntimeError) for answer in answers] == [False, False, True, False]
    assert answers[1].domain[0].name == "music"


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_end_of_the_process_stays_one(watched: Watched, seconds: float, end: type[BaseException]) -> None:
    watched.ends = end

    async def scenario(queue: ModelQueue) -> None:
        await asyncio.gather(*(queue.predict(make_context(), Question(TEXT)) for _ in range(3)))

    with pytest.raises(end):
        run(watched, scenario, seconds=seconds)


def test_request_fails_where_no_thread_can_be_started(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario(queue: ModelQueue) -> Any:
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", refuse)
            failed = await asyncio.gather(queue.predict(make_context(), Question(TEXT)), return_exceptions=True)
        return failed[0], await queue.predict(make_context(), Question(TEXT))

    failed, after = run(watched, scenario, seconds=SLOW)

    assert isinstance(failed, InternalError)
    assert after.domain[0].name == "alarm"


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
def test_cancelled_request_leaves_its_place(watched: Watched, seconds: float) -> None:
    async def scenario(queue: ModelQueue) -> Any:
        asking = [asyncio.create_task(queue.predict(make_context(), Question(TEXT, top_k=1))) for _ in range(4)]
        await asyncio.sleep(0)
        asking[2].cancel()
        return await asyncio.gather(*asking, return_exceptions=True)

    answers = run(watched, scenario, seconds=seconds)

    assert [isinstance(answer, BaseException) for answer in answers] == [False, False, True, False]


def test_thousand_interleaved_requests_never_mix(watched: Watched) -> None:
    words = itertools.product(("wetter", "musik", "weck"), ("freitag", "morgen", "neun", "x"), range(84))
    texts = [f"{word} am {day} um {number}" for word, day, number in words]

    async def scenario(queue: ModelQueue) -> Any:
        async def ask(text: str) -> Any:
            return text, (await queue.predict(make_context(), Question(text, top_k=3)))[:-1]

        return await asyncio.gather(*(ask(text) for text in texts))

    assert len(texts) >= 1000
    for text, answer in run(watched, scenario):
        assert answer == watched.predict(text, 3)[:-1]


def test_queue_may_be_moved_while_texts_wait(watched: Watched) -> None:
    async def scenario(queue: ModelQueue) -> Any:
        asking = [asyncio.create_task(queue.predict(make_context(), Question(TEXT, top_k=1))) for _ in range(60)]
        for number in range(20):
            await asyncio.sleep(0)
            queue.run_in_thread(number % 2 == 0)
        return await asyncio.gather(*asking)

    answers = run(watched, scenario)

    assert {answer[:1][0][0].name for answer in answers} == {"alarm"}
    assert sum(map(len, watched.groups)) == 60
