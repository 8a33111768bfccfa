"""What clients receive, as models with examples; OpenAPI is made from them.

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
    confidence: Annotated[float, Field(ge=0, le=1, description="probability; calibrated where the student is")]


class Slot(_Reply):
    """A slot: `value` is `text[start:end]`, counted in code points of the text as it was sent."""

    name: str
    value: str
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    confidence: Annotated[
        float, Field(ge=0, le=1, description="made up of those of its words as the student's calibration says")
    ]


class ModelIdentity(_Reply):
    """Which student answered."""

    name: str
    precision: str
    digest: Annotated[str, Field(description="first 12 hex digits of the graph's sha256")]


class PhaseTimes(_Reply):
    """Milliseconds from the request's arrival to the decoded answer; the ``Server-Timing`` header says the same."""

    queue: Annotated[float, Field(description="until work began: the body read, parsed and checked")]
    tokenize: float
    inference: float
    decode: float
    total: float


class Ranking(_Reply):
    """The `top_k` best of each head, best first; null for a head that the student doesn't have."""

    domain: list[Label] | None
    intent: list[Label] | None


InScope = Annotated[
    bool | None,
    Field(description="whether the text is a request that the student may know; null where it is not calibrated"),
]


class Kept(_Reply):
    """The share of probability that the allowed labels had among all; null for a head that was not filtered."""

    domain: Annotated[float, Field(ge=0, le=1)] | None
    intent: Annotated[float, Field(ge=0, le=1)] | None


class NluReply(_Reply):
    """Answer to one text. `domain`, `intent` or `slots` is null where the student has no such head."""

    model_config = ConfigDict(json_schema_extra={"examples": [REPLY_EXAMPLE]})

    domain: Label | None
    intent: Label | None
    slots: list[Slot] | None
    in_scope: InScope
    locale: Annotated[str, Field(description="the locale in which the text was read")]
    fallback_from: Annotated[
        str | None, Field(description="the locale asked for, only where another stood in for it by configuration")
    ] = None
    truncated: Annotated[bool, Field(description="the text is longer than the student reads; its end was not seen")]
    cached: Annotated[bool, Field(description="the answer comes from the cache; its phases took no time")]
    model: ModelIdentity
    request_id: str
    timings_ms: PhaseTimes
    ranking: Annotated[Ranking | None, Field(description="only where `top_k` was given")] = None
    kept: Annotated[Kept | None, Field(description="only where labels were filtered: confidences are among these")] = (
        None
    )
    arm: Annotated[str | None, Field(description="the arm of the experiment that chose the student, if one did")] = None


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
    ranking: Annotated[list[Label] | None, Field(description="only where `top_k` was given")] = None
    kept: Annotated[float | None, Field(ge=0, le=1, description="only where domains were filtered")] = None


class ErrorDetail(_Reply):
    """What went wrong. It never repeats the text of a request."""

    code: str
    message: str
    request_id: str


class ErrorReply(_Reply):
    """The one shape of every error."""

    model_config = ConfigDict(json_schema_extra={"examples": [ERROR_EXAMPLE]})

    error: ErrorDetail


class BatchReply(_Reply):
    """Answers in the order of the items, each a result or an error."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"results": [REPLY_EXAMPLE, ERROR_EXAMPLE]}]})

    results: list[NluReply | ErrorReply]


class Agreement(_Reply):
    """Whether all students that answered and have the head agree; null where fewer than two do."""

    domain: bool | None
    intent: bool | None
    slots: bool | None
    exact: Annotated[bool | None, Field(description="in all of these")]


class Differences(_Reply):
    """The answers where not all students agree, by name. Of slots, those that not all have found."""

    domain: dict[str, str] | None = None
    intent: dict[str, str] | None = None
    slots: dict[str, list[Slot]] | None = None


class CompareReply(_Reply):
    """The answers of several students to one text, by name; an error for one that can't answer."""

    results: dict[str, NluReply | ErrorReply]
    agreement: Agreement
    differences: Differences
    request_id: str


class FeedbackReply(_Reply):
    """What became of feedback."""

    request_id: str
    outcome: Outcome
    arm: Annotated[str | None, Field(description="for which it was counted; null outside of an experiment")]
    counted: Annotated[bool, Field(description="false: there was feedback on this request before")]
    remembered: Annotated[
        bool,
        Field(description="false: in no arm, long ago, or answered by another process; counted for the `arm` sent"),
    ]


class ModelSummary(_Reply):
    """A loaded student and what its manifest says of it."""

    name: str
    default: Annotated[bool, Field(description="answers when a request names no model")]
    aliases: Annotated[list[str], Field(description="further names that it answers to")]
    size: str
    precision: str
    digest: str
    heads: list[str]
    locales: list[str]
    max_length: Annotated[int, Field(description="tokens read of a text")]
    calibrated: bool
    parameters: int
    domains: list[str]
    intents: list[str]
    slots: Annotated[list[str], Field(description="slot names, without B- and I-")]
    accuracy: dict[str, Any]
    latency: dict[str, Any]
    parity: dict[str, Any]
    calibration: Annotated[dict[str, Any] | None, Field(description="temperatures, scope, and what was measured")]


class ModelsReply(_Reply):
    """What is loaded, and what was refused and why."""

    models: list[ModelSummary]
    refused: list[str]


class Reloaded(_Reply):
    """What a reload did with a student: loaded (new or changed), unchanged, kept (its new version is bad), dropped."""

    name: str
    digest: Annotated[str | None, Field(description="of what serves now; null where nothing does")]
    change: Literal["loaded", "unchanged", "kept", "dropped"]


class ReloadReply(_Reply):
    """What a reload did."""

    students: list[Reloaded]
    refused: list[str]
    workers: Annotated[int, Field(ge=1, description="processes that reloaded")] = 1


class HealthReply(_Reply):
    """A yes from a health check."""

    status: str
