"""A client of the service, blocking and for asyncio; needs the extra ``[client]`` (httpx).

Usage::

    from distilled_nlu.client import AsyncClient, Client

    with Client("http://localhost:8000", api_key=KEY, deadline=0.5) as nlu:
        result = nlu("weck mich um neun uhr", locale="de-DE")
        result.intent.name, [(slot.name, slot.value) for slot in result.slots]

    async with AsyncClient("http://localhost:8000") as nlu:
        results = await nlu.batch(["wie wird das wetter", "spiel musik"], locale="de-DE")

Requests that the service refuses because it is overloaded or not ready (429, 503) are sent again after the time that it
names (``Retry-After``), as are those that could not be sent; within the deadline, if there is one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

from distilled_nlu.served import (
    ApiError,
    Comparison,
    ConnectionFailed,
    DeadlinePassed,
    FeedbackResult,
    ModelIdentity,
    ModelSummary,
    NluError,
    Outcome,
    ServedResult,
    Timings,
)
from service.extras import require

require("client")

import httpx  # noqa: E402

from distilled_nlu.calls import Attempts, Call, Requests, outcome  # noqa: E402

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "Comparison",
    "ConnectionFailed",
    "DeadlinePassed",
    "FeedbackResult",
    "ModelIdentity",
    "ModelSummary",
    "NluError",
    "ServedResult",
    "Timings",
]

T = TypeVar("T")


class Client(Requests):
    """A blocking client of a service; threads may share it. Close it, or use it as a context manager.

    Args:
        url: of the service, such as "http://localhost:8000".
        api_key: if the service needs one.
        locale: of texts for which none is passed.
        model: name or alias of the student for requests that name none; by default the service chooses.
        deadline: seconds for a call, attempts and waits included. The service is told what is left of it, and does no
            work on a text that would be late. None: no deadline, and 10 seconds for each attempt.
        retries: how often a request is sent again that was refused with 429 or 503, or that could not be sent.
        transport: of httpx, for tests and special connections.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        locale: str | None = None,
        model: str | None = None,
        deadline: float | None = None,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key=api_key, locale=locale, model=model, deadline=deadline, retries=retries)
        self._http = httpx.Client(base_url=self.url, headers=self._headers, transport=transport)

    def __call__(
        self,
        text: str,
        *,
        locale: str | None = None,
        top_k: int | None = None,
        allowed_domains: Sequence[str] | None = None,
        allowed_intents: Sequence[str] | None = None,
        model: str | None = None,
        client_key: str | None = None,
    ) -> ServedResult:
        """Understand one text.

        Args:
            text: a user's request, spoken or typed.
            locale: its locale.
            top_k: how many domains and intents to rank; by default only the best.
            allowed_domains: limit the answer to these domains.
            allowed_intents: limit the answer to these intents.
            model: name or alias of the student.
            client_key: a stable, opaque key of the user or session: keeps it in one arm of an experiment.

        Raises:
            ApiError: the service refused the request.
            DeadlinePassed: there was no answer in time.
            ConnectionFailed: the service could not be reached.
            ValueError: there is no locale.
        """
        item = self._item(text, locale, top_k, allowed_domains, allowed_intents)
        return self._send(self._nlu(text, item, model, client_key))

    def batch(
        self,
        texts: Sequence[str],
        *,
        locale: str | Sequence[str] | None = None,
        top_k: int | None = None,
        model: str | None = None,
    ) -> list[ServedResult | ApiError]:
        """Understand several texts, in one request; an `ApiError` stands in the place of one that can't be answered.

        Args:
            texts: users' requests, at most the service's `--max-batch`.
            locale: one for all texts, or one for each.
            top_k: how many domains and intents to rank.
            model: name or alias of the student.

        Raises:
            NluError: as `Client.__call__`, for the request as a whole.
            ValueError: there is not one locale for each text.
            TypeError: `texts` is a single string.
        """
        return self._send(self._batch(texts, locale, top_k, model))

    def domain(
        self,
        text: str,
        *,
        locale: str | None = None,
        top_k: int | None = None,
        allowed_domains: Sequence[str] | None = None,
        model: str | None = None,
    ) -> ServedResult:
        """The domain alone; the result has no intents and no slots. Raises as `Client.__call__`."""
        return self._send(self._domain(text, self._item(text, locale, top_k, allowed_domains), model))

    def compare(
        self, text: str, *, locale: str | None = None, top_k: int | None = None, models: Sequence[str] | None = None
    ) -> Comparison:
        """The answers of several students, by default of all, to one text. Raises as `Client.__call__`."""
        return self._send(self._compare(text, self._item(text, locale, top_k), models))

    def feedback(self, request_id: str, outcome: Outcome, *, arm: str | None = None) -> FeedbackResult:
        """Report what became of an answer; pass its `arm`, if it has one. Raises as `Client.__call__`."""
        return self._send(self._feedback(request_id, outcome, arm))

    def models(self) -> list[ModelSummary]:
        """The loaded students. Raises as `Client.__call__`."""
        return self._send(self._models())

    def is_ready(self) -> bool:
        """Whether every student is loaded and tested. Raises ConnectionFailed or DeadlinePassed without an answer."""
        return self._send(self._ready())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        attempts = Attempts(call, self.retries, self.deadline)
        while True:
            problem: httpx.Response | httpx.TransportError
            try:
                problem = self._http.request(**attempts.options())
            except httpx.TransportError as error:
                problem = error
            delay = attempts.delay_after(problem)
            if delay is None:
                return outcome(call, problem)
            time.sleep(delay)


class AsyncClient(Requests):
    """The client for asyncio: as `Client`, with coroutines. Use it as an async context manager, or `aclose` it."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        locale: str | None = None,
        model: str | None = None,
        deadline: float | None = None,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, api_key=api_key, locale=locale, model=model, deadline=deadline, retries=retries)
        self._http = httpx.AsyncClient(base_url=self.url, headers=self._headers, transport=transport)

    async def __call__(
        self,
        text: str,
        *,
        locale: str | None = None,
        top_k: int | None = None,
        allowed_domains: Sequence[str] | None = None,
        allowed_intents: Sequence[str] | None = None,
        model: str | None = None,
        client_key: str | None = None,
    ) -> ServedResult:
        """Understand one text; see `Client.__call__`."""
        item = self._item(text, locale, top_k, allowed_domains, allowed_intents)
        return await self._send(self._nlu(text, item, model, client_key))

    async def batch(
        self,
        texts: Sequence[str],
        *,
        locale: str | Sequence[str] | None = None,
        top_k: int | None = None,
        model: str | None = None,
    ) -> list[ServedResult | ApiError]:
        """Understand several texts, in one request; see `Client.batch`."""
        return await self._send(self._batch(texts, locale, top_k, model))

    async def domain(
        self,
        text: str,
        *,
        locale: str | None = None,
        top_k: int | None = None,
        allowed_domains: Sequence[str] | None = None,
        model: str | None = None,
    ) -> ServedResult:
        """The domain alone; see `Client.domain`."""
        return await self._send(self._domain(text, self._item(text, locale, top_k, allowed_domains), model))

    async def compare(
        self, text: str, *, locale: str | None = None, top_k: int | None = None, models: Sequence[str] | None = None
    ) -> Comparison:
        """The answers of several students to one text; see `Client.compare`."""
        return await self._send(self._compare(text, self._item(text, locale, top_k), models))

    async def feedback(self, request_id: str, outcome: Outcome, *, arm: str | None = None) -> FeedbackResult:
        """Report what became of an answer; see `Client.feedback`."""
        return await self._send(self._feedback(request_id, outcome, arm))

    async def models(self) -> list[ModelSummary]:
        """The loaded students."""
        return await self._send(self._models())

    async def is_ready(self) -> bool:
        """Whether every student is loaded and tested; see `Client.is_ready`."""
        return await self._send(self._ready())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        attempts = Attempts(call, self.retries, self.deadline)
        while True:
            problem: httpx.Response | httpx.TransportError
            try:
                problem = await self._http.request(**attempts.options())
            except httpx.TransportError as error:
                problem = error
            delay = attempts.delay_after(problem)
            if delay is None:
                return outcome(call, problem)
            await asyncio.sleep(delay)
