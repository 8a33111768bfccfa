"""What clients send and receive, as models with examples; OpenAPI is made from them.

Requests are parsed with these models. Replies are built as plain dicts in `replies.py`, which is faster, and a test
holds them against the models here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

TOP_K_LIMIT = 20
LONGEST_NAME_REPEATED = 32
MOST_ITEMS = 4096  # that `Settings.max_batch` may allow; parsing stops there, since it holds up everybody else
MOST_PROBLEMS = 64  # of a body that are looked at one by one: listing a hundred thousand takes half a second

REQUEST_EXAMPLE: JsonDict = {"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}
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
ERROR_EXAMPLE: JsonDict = {
    "error": {
        "code": "unknown_locale",
        "message": "locale: student s does not know it; known: de-DE, es-ES, fr-FR, it-IT",
        "request_id": "9f86d081884c7d65",
    }
}


def describe(error: ValidationError, model: type[BaseModel], whole: str = "body") -> str:
    """The first problem of a body that does not fit `model`: the field and what is allowed, without any value sent.

    `whole` is what a problem is put down to that lies in no single field.
    """
    if error.error_count() > MOST_PROBLEMS:
        return f"{whole}: does not fit in more than {MOST_PROBLEMS} places; allowed: {', '.join(model.model_fields)}"
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    kind, where = first["type"], ".".join(str(part) for part in first["loc"]) or whole
    if kind == "json_invalid":
        return f"{whole}: {first['msg'][0].lower()}{first['msg'][1:]}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{where}: should be a JSON object"
    if kind == "extra_forbidden":
        return f"{_repeatable(where)}: no such field; allowed: {', '.join(model.model_fields)}"
    if kind == "missing":
        return f"{where}: is required"
    return f"{where}: {first['msg'].removeprefix('Input ').removeprefix('String ')}"


def _repeatable(name: str) -> str:
    """A field's name as the client wrote it, if it looks like a name; anything else could be text of a user."""
    return name if name.isidentifier() and name.isascii() and len(name) <= LONGEST_NAME_REPEATED else "(unnamed)"


def _readable(text: str) -> str:
    """Refuse what a tokenizer can't read or a person can't have meant."""
    if not text or text.isspace():
        raise PydanticCustomError("blank", "must hold at least one character that is not white space")
    if "\0" in text:
        raise PydanticCustomError("nul", "must not hold NUL (U+0000)")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("surrogate", "must not hold a lone surrogate (U+D800 to U+DFFF)") from None
    return text


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NluItem(_Request):
    """One text to understand."""

    text: Annotated[
        str,
        AfterValidator(_readable),
        Field(
            description="what the user said or typed; not only white space",
            examples=["weck mich am freitag um neun uhr auf"],
            json_schema_extra={"minLength": 1},
        ),
    ]
    locale: Annotated[str, Field(description="BCP-47 tag that the student knows", examples=["de-DE"])]
    top_k: Annotated[
        int | None,
        Field(ge=1, le=TOP_K_LIMIT, description="how many domains and intents `ranking` lists; none if left out"),
    ] = None


ModelName = Annotated[
    str | None, Field(description="name of a loaded student; the default one if left out", examples=["s"])
]


class NluRequest(NluItem):
    """Body of ``POST /v1/nlu``."""

    model_config = ConfigDict(json_schema_extra={"examples": [REQUEST_EXAMPLE]})

    model: ModelName = None


class ItemFault:
    """Stands for an item of a batch that is no `NluItem`, so that its neighbours are answered all the same.

    Not a model: clients never see one, so OpenAPI must not either.
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem


def _item_or_fault(value: Any) -> NluItem | ItemFault:
    try:
        return NluItem.model_validate(value)
    except ValidationError as error:
        return ItemFault(describe(error, NluItem, whole="item"))


class BatchRequest(_Request):
    """Body of ``POST /v1/nlu/batch``. An item that can't be answered gets an error in its place."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [REQUEST_EXAMPLE]}]})

    items: Annotated[
        list[Annotated[NluItem | ItemFault, PlainValidator(_item_or_fault, json_schema_input_type=NluItem)]],
        Field(min_length=1, max_length=MOST_ITEMS, description="texts, answered in this order"),
    ]
    model: ModelName = None


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Label(_Reply):
    """A domain or an intent."""

    name: str
    confidence: Annotated[float, Field(ge=0, le=1, description="softmax probability, not calibrated")]


class Slot(_Reply):
    """A slot: `value` is `text[start:end]`, counted in code points of the text as it was sent."""

    name: str
    value: str
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]
    confidence: Annotated[float, Field(ge=0, le=1, description="that of its least sure word")]


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


class NluReply(_Reply):
    """Answer to one text. `domain`, `intent` or `slots` is null where the student has no such head."""

    model_config = ConfigDict(json_schema_extra={"examples": [REPLY_EXAMPLE]})

    domain: Label | None
    intent: Label | None
    slots: list[Slot] | None
    in_scope: Annotated[bool | None, Field(description="null: this student is not calibrated")]
    locale: Annotated[str, Field(description="the locale in which the text was read")]
    fallback_from: Annotated[
        str | None, Field(description="the locale asked for, only where another stood in for it by configuration")
    ] = None
    truncated: Annotated[bool, Field(description="the text is longer than the student reads; its end was not seen")]
    cached: Annotated[bool, Field(description="the answer was remembered; its phases took no time")]
    model: ModelIdentity
    request_id: str
    timings_ms: PhaseTimes
    ranking: Annotated[Ranking | None, Field(description="only where `top_k` was given")] = None


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


class ModelSummary(_Reply):
    """A loaded student and what its manifest says of it."""

    name: str
    default: Annotated[bool, Field(description="answers when a request names no model")]
    size: str
    precision: str
    digest: str
    heads: list[str]
    locales: list[str]
    max_length: Annotated[int, Field(description="pieces read of a text")]
    calibrated: bool
    parameters: int
    domains: list[str]
    intents: list[str]
    slots: Annotated[list[str], Field(description="slot names, without B- and I-")]
    accuracy: dict[str, Any]
    latency: dict[str, Any]
    parity: dict[str, Any]


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
