"""What clients send, as models with examples, and what is said of a body that does not fit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

Outcome = Literal["accepted", "corrected", "abandoned"]

TOP_K_LIMIT = 20
LONGEST_NAME_REPEATED = 32
MOST_ITEMS = 4096  # that `Settings.max_batch` may allow; parsing stops there, since it holds up everybody else
MOST_ALLOWED = 1000  # names in a filter
MOST_COMPARED = 16
MOST_PROBLEMS = 64  # of a body that are looked at one by one: listing a hundred thousand takes half a second

REQUEST_EXAMPLE: JsonDict = {"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}


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


AllowedLabels = Annotated[
    list[str] | None,
    Field(
        min_length=1,
        max_length=MOST_ALLOWED,
        description="names that may be answered; `kept` in the reply says how much of the probability they had. "
        "All if left out",
    ),
]


class _Text(_Request):
    """A text in a locale."""

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


class NluItem(_Text):
    """One text to understand."""

    allowed_domains: AllowedLabels = None
    allowed_intents: AllowedLabels = None


ModelName = Annotated[
    str | None,
    Field(
        description="name or alias of a loaded student; if left out, the one of the experiment's arm, else `default`",
        examples=["s"],
    ),
]


class NluRequest(NluItem):
    """Body of ``POST /v1/nlu``."""

    model_config = ConfigDict(json_schema_extra={"examples": [REQUEST_EXAMPLE]})

    model: ModelName = None


class DomainRequest(_Text):
    """Body of ``POST /v1/domain``."""

    model_config = ConfigDict(json_schema_extra={"examples": [REQUEST_EXAMPLE]})

    allowed_domains: AllowedLabels = None
    model: Annotated[
        str | None, Field(description="name or alias of a loaded student; if left out, `domain`, else `default`")
    ] = None


class CompareRequest(_Text):
    """Body of ``POST /v1/compare``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**REQUEST_EXAMPLE, "models": ["s", "xs"]}]})

    models: Annotated[
        list[str] | None,
        Field(
            min_length=1, max_length=MOST_COMPARED, description="names or aliases of loaded students; all if left out"
        ),
    ] = None


class FeedbackRequest(_Request):
    """Body of ``POST /v1/feedback``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"request_id": "9f86d081884c7d65", "outcome": "accepted"}]}
    )

    request_id: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="of the answer that this is about", examples=["9f86"])
    ]
    outcome: Annotated[
        Outcome,
        Field(description="the user went on with the answer, changed it, or gave up"),
    ]
    arm: Annotated[
        str | None, Field(description="of the answer, if it had one: counted there where the answer is not remembered")
    ] = None


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
    model: Annotated[
        str | None, Field(description="name or alias of a loaded student; `default` if left out", examples=["s"])
    ] = None
