"""Permits: large batches get their turn beside many smaller requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DeadlinePassed, Overloaded
from service.http.context import RequestContext
from service.models import permits as module
from service.models.queue import ModelQueue, Permits
from service.student.student import Student

BODY = {"text": "weck mich am freitag um neun", "locale": "de-DE"}
PAUSE_SECONDS = 0.02  # of a client after a refusal
Scenario = Callable[[ModelQueue], Coroutine[Any, Any, Any]]


def run(scenario: Scenario, total: int = 8) -> Any:
    async def act() -> Any:
        return await scenario(ModelQueue(Student.__new__(Student), total, 1e-3))  # no text runs

    return asyncio.run(act())


async def _silence() -> Any:
    await asyncio.Event().wait()


async def admit_in_turn(queue: ModelQueue, items: int, seconds: float | None = None) -> Permits:
    """Admit a batch whose deadline is in `seconds`."""
    deadline = None if seconds is None else time.perf_counter() + seconds
    context = RequestContext("POST", "/v1/nlu/batch", {}, "some-id", _silence, deadline=deadline)
    return await queue.admit_in_turn(context, items)


async def settle() -> None:
    """Let other tasks run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_permits_that_are_given_back_are_kept_for_the_batch_that_waits() -> None:
    async def scenario(queue: ModelQueue) -> None:
        running = [queue.admit(1) for _ in range(8)]
        batch = asyncio.create_task(admit_in_turn(queue, 6))
        await settle()
        for number, permits in enumerate(running[:6], start=1):
            permits.give_back(1)
            await settle()
            assert batch.done() == (number == 6)
            with pytest.raises(Overloaded):  # a single text is refused at once, and does not take what the batch needs
                queue.admit(1)
        batch.result().give_back(6)
        assert queue.free == 6

    run(scenario)


def test_batches_have_their_turn_in_the_order_of_arrival() -> None:
    async def scenario(queue: ModelQueue) -> list[int]:
        order: list[int] = []

        async def take(items: int) -> None:
            permits = await admit_in_turn(queue, items)
            order.append(items)
            await settle()
            permits.give_back(items)

        first = queue.admit(8)
        batches = [asyncio.create_task(take(items)) for items in (5, 2, 3)]
        await settle()
        first.give_back(8)
        await asyncio.gather(*batches)
        assert queue.free == 8
        return order

    assert run(scenario) == [5, 2, 3]


@pytest.mark.parametrize(("seconds", "error"), [(0.0, DeadlinePassed), (-1.0, DeadlinePassed), (None, Overloaded)])
def test_batch_leaves_the_line_when_its_time_is_over(
    seconds: float | None, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_TURN_SECONDS", 0.0)

    async def scenario(queue: ModelQueue) -> None:
        running = queue.admit(5)
        with pytest.raises(error):
            await admit_in_turn(queue, 4, seconds)
        assert queue.free == 3
        running.give_back(5)
        assert queue.free == 8

    run(scenario)


def test_cancelled_batch_leaves_its_place_to_the_next() -> None:
    async def scenario(queue: ModelQueue) -> None:
        running = queue.admit(6)
        first = asyncio.create_task(admit_in_turn(queue, 7))
        second = asyncio.create_task(admit_in_turn(queue, 2))
        await settle()
        first.cancel()
        await settle()
        second.result().give_back(2)
        running.give_back(6)
        assert queue.free == 8

    run(scenario)


def test_line_is_bounded_by_the_texts_before_a_batch_and_not_by_its_size() -> None:
    async def scenario(queue: ModelQueue) -> None:
        queue.admit(8)
        waiting = [asyncio.create_task(admit_in_turn(queue, items)) for items in (2, 5, 8)]
        await settle()
        with pytest.raises(Overloaded):
            await admit_in_turn(queue, 2)
        assert not any(batch.done() for batch in waiting)
        for batch in waiting:
            batch.cancel()

    run(scenario)


def test_batch_of_one_text_does_not_wait() -> None:
    async def scenario(queue: ModelQueue) -> None:
        with queue.admit(8), pytest.raises(Overloaded):
            await admit_in_turn(queue, 1)

    run(scenario)


@given(st.lists(st.tuples(st.sampled_from(("single", "batch", "end", "cancel")), st.integers(1, 8)), max_size=60))
def test_no_permit_is_lost_or_given_twice(steps: list[tuple[str, int]]) -> None:
    async def scenario(queue: ModelQueue) -> None:
        held: list[tuple[Permits, int]] = []
        waiting: list[tuple[asyncio.Task[Permits], int]] = []
        for step, number in steps:
            if step == "single" and queue.free:
                held.append((queue.admit(1), 1))
            elif step == "batch":
                waiting.append((asyncio.create_task(admit_in_turn(queue, number)), number))
            elif step == "end" and held:
                permits, items = held.pop(number % len(held))
                permits.give_back(items)
            elif step == "cancel" and waiting:
                waiting.pop(number % len(waiting))[0].cancel()
            await settle()
            held += [(task.result(), items) for task, items in waiting if task.done() and not task.exception()]
            waiting = [(task, items) for task, items in waiting if not task.done()]
            assert 0 <= queue.free <= 8
            assert sum(items for _, items in held) + queue.free <= 8
        while held or waiting:  # each batch that waits gets its turn
            for permits, items in held:
                permits.give_back(items)
            await settle()
            held = [(task.result(), items) for task, items in waiting if task.done()]
            waiting = [(task, items) for task, items in waiting if not task.done()]
            assert held or not waiting
        assert queue.free == 8

    run(scenario)


def test_largest_batches_are_answered_beside_a_steady_load_of_smaller_ones(make_client: Any) -> None:
    """16 clients with batches of 16, and 2 with batches of 64: all 128 permits are always taken."""
    client = make_client()

    async def send(items: int) -> bool:
        status = (await client.http.post("/v1/nlu/batch", json={"items": [BODY] * items})).status_code
        if status == 429:
            await asyncio.sleep(PAUSE_SECONDS)
        return bool(status == 200)

    async def load() -> None:
        done = asyncio.Event()

        async def small() -> None:
            while not done.is_set():
                await send(16)

        async def large() -> None:
            answered = 0
            while answered < 3:
                answered += await send(64)

        loading = [asyncio.create_task(small()) for _ in range(16)]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(large(), large())
        finally:
            done.set()
            await asyncio.gather(*loading)

    client.call(load)

    assert client.app.state.registry.models["s"].queue.free == 128
