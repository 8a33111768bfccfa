"""Replies, as models with examples; OpenAPI is made from them.

`endpoints` builds replies as plain dicts, which is faster; a test checks them against these models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from service.http.requests import Outcome

REPLY_EXAMPLE: JsonDict = {
    "domain": {"name": "alarm", "confidence": 0.991},
    "intent": {"name": "alarm_set", "confidence": 0.984},
    "slots": [
        {"name": "date", "value": "freitag", "start": 13, "end": 20, "confidence": 0.967},
        {"name": "time", "value": "neun uhr", "start": 24, "end": 32, "confidence": 0.958},
    ],
    "in_scope": None,
    "locale": "de-DE",
    "truncated": False,
    "cached": False,
    "model": {"name": "s", "precision": "int8", "digest": "0f5c21d9a6b3"},
    "request_id": "9f86d081884c7d65",
    "timings_ms": {"queue": 0.08, "tokenize": 0.01, "inference": 0.39, "decode": 0.02, "total": 0.5},
}
DOMAIN_EXAMPLE: JsonDict = {name: value for name, value in REPLY_EXAMPLE.items() if name not in ("intent", "slots")}
ERROR_EXAMPLE: JsonDict = {
    "error": {
        "code": "unknown_locale",
        "message": "locale: student s does not know it; known: de-DE, es-ES, fr-FR, it-IT",
        "request_id": "9f86d081884c7d65",
    }
}


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Label(_Reply):
    """A domain or an intent."""

    name: str
    confidence: Annotated[float, Field(ge=0, le=1, description="probability; calibrated if the student is")]


class Slot(_Reply):
    """A slot: `value` is `text[start:end]`, counted in code points of the original text."""

    name: str
    value: str
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    confidence: Annotated[
        float, Field(ge=0, le=1, description="combined from those of its words by the student's calibration")
    ]


class ModelIdentity(_Reply):
    """Which student answered."""

    name: str
    precision: str
    digest: Annotated[str, Field(description="first 12 hex digits of the graph's sha256")]


class PhaseTimes(_Reply):
    """Milliseconds from the request's arrival to the decoded answer; also in the ``Server-Timing`` header."""

    queue: Annotated[float, Field(description="waiting, and reading and parsing the request")]
    tokenize: float
    inference: float
    decode: float
    total: float


class Ranking(_Reply):
    """The `top_k` most probable labels of each head, best first; null for a head that the student lacks."""

    domain: list[Label] | None
    intent: list[Label] | None


InScope = Annotated[
    bool | None,
    Field(description="whether the text is a kind of request that the student was trained on; null if not calibrated"),
]


class Kept(_Reply):
    """The allowed labels' share of the probability of all labels; null for a head that was not filtered."""

    domain: Annotated[float, Field(ge=0, le=1)] | None
    intent: Annotated[float, Field(ge=0, le=1)] | None


class NluReply(_Reply):
    """Answer to one text. `domain`, `intent` or `slots` is null if the student lacks that head."""

    model_config = ConfigDict(json_schema_extra={"examples": [REPLY_EXAMPLE]})

    domain: Label | None
    intent: Label | None
    slots: list[Slot] | None
    in_scope: InScope
    locale: Annotated[str, Field(description="the locale in which the text was answered")]
    fallback_from: Annotated[
        str | None, Field(description="the requested locale, only if `--locale-fallback` replaced it")
    ] = None
    truncated: Annotated[bool, Field(description="the text exceeds the student's `max_length`; the rest was ignored")]
    cached: Annotated[bool, Field(description="the answer comes from the answer cache; its phases took no time")]
    model: ModelIdentity
    request_id: str
    timings_ms: PhaseTimes
    ranking: Annotated[Ranking | None, Field(description="only if `top_k` was sent")] = None
    kept: Annotated[Kept | None, Field(description="only if labels were filtered; confidences are among these")] = None
    arm: Annotated[str | None, Field(description="the experiment's arm that chose the student, if any")] = None


class DomainReply(_Reply):
    """The domain of one text."""

    model_config = ConfigDict(json_schema_extra={"examples": [DOMAIN_EXAMPLE]})

    domain: Label
    in_scope: InScope
    locale: str
    fallback_from: str | None = None
    truncated: bool
    cached: bool
    model: ModelIdentity
    request_id: str
    timings_ms: PhaseTimes
    ranking: Annotated[list[Label] | None, Field(description="only if `top_k` was sent")] = None
    kept: Annotated[float | None, Field(ge=0, le=1, description="only if domains were filtered")] = None


class ErrorDetail(_Reply):
    """An error. It never contains the text of a request."""

    code: str
    message: str
    request_id: str


class ErrorReply(_Reply):
    """The body of every error."""

    model_config = ConfigDict(json_schema_extra={"examples": [ERROR_EXAMPLE]})

    error: ErrorDetail


class BatchReply(_Reply):
    """Answers in the order of the items, each a result or an error."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"results": [REPLY_EXAMPLE, ERROR_EXAMPLE]}]})

    results: list[NluReply | ErrorReply]


class Agreement(_Reply):
    """Whether all students that answered and have the head agree; null if fewer than two do."""

    domain: bool | None
    intent: bool | None
    slots: bool | None
    exact: Annotated[bool | None, Field(description="in all of these tasks")]


class Differences(_Reply):
    """The answers in tasks where the students differ, by student. For slots: those that not all students found."""

    domain: dict[str, str] | None = None
    intent: dict[str, str] | None = None
    slots: dict[str, list[Slot]] | None = None


class CompareReply(_Reply):
    """The answers of several students to one text, by student; an error for one that can't answer."""

    results: dict[str, NluReply | ErrorReply]
    agreement: Agreement
    differences: Differences
    request_id: str


class FeedbackReply(_Reply):
    """How feedback was counted."""

    request_id: str
    outcome: Outcome
    arm: Annotated[str | None, Field(description="arm for which it was counted; null outside of an experiment")]
    counted: Annotated[bool, Field(description="false if there was feedback on this request before")]
    remembered: Annotated[
        bool,
        Field(description="whether the process remembers the answer; if not, the feedback counts for the `arm` sent"),
    ]


class ModelSummary(_Reply):
    """A loaded student, as described by its manifest."""

    name: str
    default: Annotated[bool, Field(description="answers requests that name no model")]
    aliases: Annotated[list[str], Field(description="other names of the student")]
    size: str
    precision: str
    digest: str
    heads: list[str]
    locales: list[str]
    max_length: Annotated[int, Field(description="maximum number of tokens of a text; the rest is ignored")]
    runs_on: Annotated[
        Literal["event_loop", "thread"],
        Field(description="where its texts run; chosen from the manifests, so the same in each worker"),
    ]
    calibrated: bool
    parameters: int
    domains: list[str]
    intents: list[str]
    slots: Annotated[list[str], Field(description="slot names, without B- and I-")]
    accuracy: dict[str, Any]
    latency: dict[str, Any]
    parity: dict[str, Any]
    calibration: Annotated[dict[str, Any] | None, Field(description="temperatures, scope thresholds, and measurements")]


class ModelsReply(_Reply):
    """The loaded students, and why folders were refused."""

    models: list[ModelSummary]
    refused: list[str]


class Reloaded(_Reply):
    """The result of a reload for a student: loaded (new or changed), unchanged, kept (new version invalid), dropped."""

    name: str
    digest: Annotated[str | None, Field(description="of the version that serves now; null if none does")]
    change: Literal["loaded", "unchanged", "kept", "dropped"]


class ReloadReply(_Reply):
    """The result of a reload."""

    students: list[Reloaded]
    refused: list[str]
    workers: Annotated[int, Field(ge=1, description="processes that reloaded")] = 1


class HealthReply(_Reply):
    """A passed health check."""

    status: str
