"""What a service answers, as typed results, and how they are read from its replies. Unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

from distilled_nlu.results import Label, Result, Slot

T = TypeVar("T")
Json = dict[str, Any]
Outcome = Literal["accepted", "corrected", "abandoned"]


class NluError(Exception):
    """A request has no answer."""


class ConnectionFailed(NluError):  # noqa: N818 - clear
    """The service could not be reached, or the connection broke."""


class DeadlinePassed(NluError):  # noqa: N818 - clear
    """The deadline, or without one the timeout, passed before there was an answer."""


class ApiError(NluError):
    """The service answered with an error.

    Attributes:
        status: HTTP status; 0 for an item of a batch.
        code: what kind of error it is, such as "unknown_locale".
        message: names the field and what is allowed.
        request_id: of the request, for the service's log.
    """

    def __init__(self, status: int, code: str, message: str, request_id: str) -> None:
        super().__init__(f"{code}: {message} (request {request_id})")
        self.status = status
        self.code = code
        self.message = message
        self.request_id = request_id


@dataclass(frozen=True)
class Timings:
    """Milliseconds of the phases in the service; `queue` is waiting and reading the request."""

    queue: float
    tokenize: float
    inference: float
    decode: float
    total: float


@dataclass(frozen=True)
class ModelIdentity:
    """The student that answered; `digest` is the first 12 hex digits of its graph's sha256."""

    name: str
    precision: str
    digest: str


@dataclass(frozen=True)
class ServedResult(Result):
    """The answer of a service to one text: a `Result`, and what the service says of it.

    Attributes:
        locale: the locale in which the text was answered.
        model: the student that answered.
        request_id: for feedback and for the service's log.
        timings_ms: the time of each phase in the service.
        cached: whether the answer comes from the service's cache.
        fallback_from: the requested locale, if the service replaced it.
        kept: the allowed labels' share of the probability, by head, if labels were filtered.
        arm: the arm of an experiment that chose the student, if any.
    """

    model: ModelIdentity
    request_id: str
    timings_ms: Timings
    cached: bool
    fallback_from: str | None = None
    kept: Mapping[str, float | None] | None = None
    arm: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The answers of several students to one text, an `ApiError` for one that can't answer.

    `agreement` says by task (domain, intent, slots, exact) whether those that have it agree; None if fewer than two do.
    `differences` has their answers where they differ, as in the API.
    """

    results: Mapping[str, ServedResult | ApiError]
    agreement: Mapping[str, bool | None]
    differences: Mapping[str, Any]
    request_id: str


@dataclass(frozen=True)
class FeedbackResult:
    """How feedback was counted; see the API."""

    request_id: str
    outcome: Outcome
    arm: str | None
    counted: bool
    remembered: bool


@dataclass(frozen=True)
class ModelSummary:
    """A loaded student, as its manifest describes it; see the API."""

    name: str
    default: bool
    aliases: tuple[str, ...]
    size: str
    precision: str
    digest: str
    heads: tuple[str, ...]
    locales: tuple[str, ...]
    max_length: int
    runs_on: str
    calibrated: bool
    parameters: int
    domains: tuple[str, ...]
    intents: tuple[str, ...]
    slots: tuple[str, ...]
    accuracy: Mapping[str, Any]
    latency: Mapping[str, Any]
    parity: Mapping[str, Any]
    calibration: Mapping[str, Any] | None


def read(kind: type[T], body: Json) -> T:
    """The fields of a dataclass. Raises KeyError if one is missing."""
    return kind(**{field.name: body[field.name] for field in fields(kind)})  # type: ignore[arg-type]


def read_error(body: Json, status: int = 0) -> ApiError:
    """The error of a reply or of an item."""
    found = body["error"]
    return ApiError(status, found["code"], found["message"], found["request_id"])


def read_answer(text: str, body: Json) -> ServedResult | ApiError:
    """An answer, or the error in its place."""
    return read_error(body) if "error" in body else read_result(text, body)


def read_result(text: str, body: Json) -> ServedResult:
    """The answer of ``/v1/nlu``."""
    ranking = body.get("ranking") or {}
    slots = body["slots"]
    return _served(
        text,
        body,
        domains=_labels(ranking.get("domain") or body["domain"]),
        intents=_labels(ranking.get("intent") or body["intent"]),
        slots=None if slots is None else tuple(read(Slot, slot) for slot in slots),
        kept=body.get("kept"),
    )


def read_domain(text: str, body: Json) -> ServedResult:
    """The answer of ``/v1/domain``."""
    kept = body.get("kept")
    domains = _labels(body.get("ranking") or body["domain"])
    kept_by_head = None if kept is None else {"domain": kept, "intent": None}
    return _served(text, body, domains=domains, intents=(), slots=None, kept=kept_by_head)


def _served(text: str, body: Json, **more: Any) -> ServedResult:
    return ServedResult(
        text=text,
        locale=body["locale"],
        in_scope=body["in_scope"],
        truncated=body["truncated"],
        model=read(ModelIdentity, body["model"]),
        request_id=body["request_id"],
        timings_ms=read(Timings, body["timings_ms"]),
        cached=body["cached"],
        fallback_from=body.get("fallback_from"),
        arm=body.get("arm"),
        **more,
    )


def read_comparison(text: str, body: Json) -> Comparison:
    """The answer of ``/v1/compare``."""
    results = {name: read_answer(text, one) for name, one in body["results"].items()}
    return Comparison(results, body["agreement"], body["differences"], body["request_id"])


def read_model(body: Json) -> ModelSummary:
    """One of ``/v1/models``."""
    return read(
        ModelSummary, {name: tuple(value) if isinstance(value, list) else value for name, value in body.items()}
    )


def _labels(found: Json | Sequence[Json] | None) -> tuple[Label, ...]:
    if found is None:
        return ()
    return tuple(read(Label, one) for one in ([found] if isinstance(found, dict) else found))
