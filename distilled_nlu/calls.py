"""What both clients of the service share: requests and how their replies are read, attempts, and errors."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import httpx

from distilled_nlu.served import (
    ApiError,
    Comparison,
    ConnectionFailed,
    DeadlinePassed,
    FeedbackResult,
    Json,
    ModelSummary,
    Outcome,
    ServedResult,
    read,
    read_answer,
    read_comparison,
    read_domain,
    read_error,
    read_model,
    read_result,
)

T = TypeVar("T")

RETRIED = (429, 503)  # HTTP status
NOT_ANSWERED = (httpx.ConnectError, httpx.RemoteProtocolError)
DEADLINE_PASSED = 504
TIMEOUT = 10.0  # seconds, without a deadline
FIRST_DELAY = 0.05  # seconds, if the service names none; doubled each time
MAX_DELAY = 2.0
MAX_DEADLINE_MS = 3_600_000


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and how its reply is read."""

    method: str
    path: str
    body: Json | None
    read: Callable[[Any], T]
    client_key: str | None = None
    statuses: tuple[int, ...] = (200,)


class Attempts:
    """The attempts of one call: the options of the next one, and how long to wait before it."""

    def __init__(self, call: Call[Any], retries: int, deadline: float | None) -> None:
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


class Requests:
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

    def _nlu(self, text: str, item: Json, model: str | None, client_key: str | None) -> Call[ServedResult]:
        body = item | self._named(model)
        return Call("POST", "/v1/nlu", body, lambda reply: read_result(text, reply), client_key)

    def _domain(self, text: str, item: Json, model: str | None) -> Call[ServedResult]:
        return Call("POST", "/v1/domain", item | self._named(model), lambda reply: read_domain(text, reply))

    def _batch(
        self, texts: Sequence[str], locale: str | Sequence[str] | None, top_k: int | None, model: str | None
    ) -> Call[list[ServedResult | ApiError]]:
        if isinstance(texts, str):
            raise TypeError("texts is a string; batch takes several texts, client(text) takes one")
        locales = [locale] * len(texts) if locale is None or isinstance(locale, str) else list(locale)
        if len(locales) != len(texts):
            raise ValueError(f"{len(locales)} locales for {len(texts)} texts; give one locale, or one for each text")
        items = [self._item(text, each, top_k) for text, each in zip(texts, locales, strict=True)]
        body = {"items": items} | self._named(model)
        return Call(
            "POST",
            "/v1/nlu/batch",
            body,
            lambda reply: [read_answer(text, one) for text, one in zip(texts, reply["results"], strict=True)],
        )

    def _compare(self, text: str, item: Json, models: Sequence[str] | None) -> Call[Comparison]:
        body = item | ({} if models is None else {"models": list(models)})
        return Call("POST", "/v1/compare", body, lambda reply: read_comparison(text, reply))

    def _feedback(self, request_id: str, outcome: Outcome, arm: str | None) -> Call[FeedbackResult]:
        body = {"request_id": request_id, "outcome": outcome, **_without_none({"arm": arm})}
        return Call("POST", "/v1/feedback", body, lambda reply: read(FeedbackResult, reply))

    def _models(self) -> Call[list[ModelSummary]]:
        return Call("GET", "/v1/models", None, lambda reply: [read_model(one) for one in reply["models"]])

    def _ready(self) -> Call[bool]:
        return Call("GET", "/readyz", None, lambda reply: "error" not in reply, statuses=(200, 503))

    def _named(self, model: str | None) -> Json:
        return _without_none({"model": self.model if model is None else model})


def outcome(call: Call[T], reply: httpx.Response | httpx.TransportError) -> T:
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
