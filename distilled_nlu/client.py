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
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from distilled_nlu.served import (
    ApiError,
    Comparison,
    ConnectionFailed,
    DeadlinePassed,
    FeedbackResult,
    Json,
    ModelIdentity,
    ModelSummary,
    NluError,
    Outcome,
    ServedResult,
    Timings,
    read,
    read_answer,
    read_comparison,
    read_domain,
    read_error,
    read_model,
    read_result,
)
from service.extras import require

require("client")

import httpx  # noqa: E402

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

RETRIED = (429, 503)  # HTTP status
NOT_ANSWERED = (httpx.ConnectError, httpx.RemoteProtocolError)
DEADLINE_PASSED = 504
TIMEOUT = 10.0  # seconds, without a deadline
FIRST_DELAY = 0.05  # seconds, if the service names none; doubled each time
MAX_DELAY = 2.0
MAX_DEADLINE_MS = 3_600_000


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request, and how its reply is read."""

    method: str
    path: str
    body: Json | None
    read: Callable[[Any], T]
    client_key: str | None = None
    statuses: tuple[int, ...] = (200,)


class _Attempts:
    """The attempts of one call: the options of the next one, and how long to wait before it."""

    def __init__(self, call: _Call[Any], retries: int, deadline: float | None) -> None:
        self.call = call
        self._left = retries
        self._ends = None if deadline is None else time.monotonic() + deadline
        self._delay = FIRST_DELAY

    def options(self) -> Json:
        """The arguments of ``httpx.Client.request``. Raises DeadlinePassed if no time is left."""
        headers = {}
        timeout = TIMEOUT
        if self._ends is not None:
            timeout = self._ends - time.monotonic()
            if timeout <= 0:
                raise DeadlinePassed("the deadline passed before the request was sent")
            if self.call.body is not None:
                headers["x-deadline-ms"] = str(min(MAX_DEADLINE_MS, max(1, int(timeout * 1000))))
        if self.call.client_key is not None:
            headers["x-client-key"] = self.call.client_key
        return {
            "method": self.call.method,
            "url": self.call.path,
            "json": self.call.body,
            "headers": headers,
            "timeout": timeout,
        }

    def delay_after(self, problem: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next attempt; None if there is none, by kind of problem, number or deadline."""
        if isinstance(problem, httpx.Response):
            repeat = problem.status_code in RETRIED and problem.status_code not in self.call.statuses
            named = problem.headers.get("retry-after", "") if repeat else ""
        else:
            repeat, named = isinstance(problem, NOT_ANSWERED), ""
        if not repeat or not self._left:
            return None
        self._left -= 1
        # half of it is random, so that clients that were refused together don't come back together
        delay = float(named) if named.isdigit() else self._delay * random.uniform(0.5, 1)
        self._delay = min(2 * self._delay, MAX_DELAY)
        return None if self._ends is not None and time.monotonic() + delay >= self._ends else delay


class _Base:
    """What both clients share: settings, and the requests by name."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        locale: str | None = None,
        model: str | None = None,
        deadline: float | None = None,
        retries: int = 2,
    ) -> None:
        if deadline is not None and deadline <= 0:
            raise ValueError(f"deadline is {deadline}; allowed: seconds above 0, or None")
        if retries < 0:
            raise ValueError(f"retries is {retries}; allowed: 0 or more")
        self.url = url.rstrip("/")
        self.locale = locale
        self.model = model
        self.deadline = deadline
        self.retries = retries
        self._headers = {} if api_key is None else {"x-api-key": api_key}

    def _item(
        self,
        text: str,
        locale: str | None,
        top_k: int | None,
        allowed_domains: Sequence[str] | None = None,
        allowed_intents: Sequence[str] | None = None,
    ) -> Json:
        used = self.locale if locale is None else locale
        if used is None:
            raise ValueError("locale is missing; pass it, or give the client a default one")
        given = {
            "top_k": top_k,
            "allowed_domains": None if allowed_domains is None else list(allowed_domains),
            "allowed_intents": None if allowed_intents is None else list(allowed_intents),
        }
        return {"text": text, "locale": used, **_without_none(given)}

    def _nlu(self, text: str, item: Json, model: str | None, client_key: str | None) -> _Call[ServedResult]:
        body = item | self._named(model)
        return _Call("POST", "/v1/nlu", body, lambda reply: read_result(text, reply), client_key)

    def _domain(self, text: str, item: Json, model: str | None) -> _Call[ServedResult]:
        return _Call("POST", "/v1/domain", item | self._named(model), lambda reply: read_domain(text, reply))

    def _batch(
        self, texts: Sequence[str], locale: str | Sequence[str] | None, top_k: int | None, model: str | None
    ) -> _Call[list[ServedResult | ApiError]]:
        if isinstance(texts, str):
            raise TypeError("texts is a string; batch takes several texts, client(text) takes one")
        locales = [locale] * len(texts) if locale is None or isinstance(locale, str) else list(locale)
        if len(locales) != len(texts):
            raise ValueError(f"{len(locales)} locales for {len(texts)} texts; give one locale, or one for each text")
        items = [self._item(text, each, top_k) for text, each in zip(texts, locales, strict=True)]
        body = {"items": items} | self._named(model)
        return _Call(
            "POST",
            "/v1/nlu/batch",
            body,
            lambda reply: [read_answer(text, one) for text, one in zip(texts, reply["results"], strict=True)],
        )

    def _compare(self, text: str, item: Json, models: Sequence[str] | None) -> _Call[Comparison]:
        body = item | ({} if models is None else {"models": list(models)})
        return _Call("POST", "/v1/compare", body, lambda reply: read_comparison(text, reply))

    def _feedback(self, request_id: str, outcome: Outcome, arm: str | None) -> _Call[FeedbackResult]:
        body = {"request_id": request_id, "outcome": outcome, **_without_none({"arm": arm})}
        return _Call("POST", "/v1/feedback", body, lambda reply: read(FeedbackResult, reply))

    def _models(self) -> _Call[list[ModelSummary]]:
        return _Call("GET", "/v1/models", None, lambda reply: [read_model(one) for one in reply["models"]])

    def _ready(self) -> _Call[bool]:
        return _Call("GET", "/readyz", None, lambda reply: "error" not in reply, statuses=(200, 503))

    def _named(self, model: str | None) -> Json:
        return _without_none({"model": self.model if model is None else model})


class Client(_Base):
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

    def _send(self, call: _Call[T]) -> T:
        attempts = _Attempts(call, self.retries, self.deadline)
        while True:
            problem: httpx.Response | httpx.TransportError
            try:
                problem = self._http.request(**attempts.options())
            except httpx.TransportError as error:
                problem = error
            delay = attempts.delay_after(problem)
            if delay is None:
                return _outcome(call, problem)
            time.sleep(delay)


class AsyncClient(_Base):
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

    async def _send(self, call: _Call[T]) -> T:
        attempts = _Attempts(call, self.retries, self.deadline)
        while True:
            problem: httpx.Response | httpx.TransportError
            try:
                problem = await self._http.request(**attempts.options())
            except httpx.TransportError as error:
                problem = error
            delay = attempts.delay_after(problem)
            if delay is None:
                return _outcome(call, problem)
            await asyncio.sleep(delay)


def _outcome(call: _Call[T], reply: httpx.Response | httpx.TransportError) -> T:
    """The answer in the last reply of a call; raises the error that it stands for."""
    if isinstance(reply, httpx.TimeoutException):
        raise DeadlinePassed(f"no answer in time ({type(reply).__name__})") from reply
    if isinstance(reply, httpx.TransportError):
        raise ConnectionFailed(f"{type(reply).__name__}: {reply}") from reply
    try:
        body = reply.json()
        if reply.status_code in call.statuses:
            return call.read(body)
        error = read_error(body, reply.status_code)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as problem:  # of a proxy, or of something else that listens there
        request_id = reply.headers.get("x-request-id", "unknown")
        message = f"HTTP {reply.status_code} is no reply of this service ({type(problem).__name__})"
        raise ApiError(reply.status_code, "unknown_reply", message, request_id) from problem
    if reply.status_code == DEADLINE_PASSED:
        raise DeadlinePassed(error.message) from error
    raise error


def _without_none(body: Json) -> Json:
    return {name: value for name, value in body.items() if value is not None}
