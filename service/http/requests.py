"""Request bodies: read within limits of size and time, and parsed by the model of their endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError
from starlette.types import Message, Receive

from service.errors import BodyTimeout, BodyTooLarge, ClientLeft, InvalidRequest, UnsupportedMediaType

Outcome = Literal["accepted", "corrected", "abandoned"]
Body = TypeVar("Body", bound=BaseModel)

MAX_TOP_K = 20
MAX_REPEATED_NAME = 32  # maximum length of a field's name that a message repeats
MAX_ITEMS = 4096  # upper bound of `Settings.max_batch`; parsing stops there, since it blocks all other requests
MAX_ALLOWED_LABELS = 1000
MAX_COMPARED = 16
MAX_PROBLEMS = 64  # beyond these, problems of a body are not listed: a hundred thousand would take half a second

REQUEST_EXAMPLE: JsonDict = {"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], model: type[Body], max_bytes: int, seconds: float
) -> Body:
    """Read the body of a request, chunked or not, and parse it.

    Raises:
        UnsupportedMediaType: its declared type is not JSON.
        BodyTooLarge: as soon as its declared or received size exceeds `max_bytes`.
        BodyTimeout: it took longer than `seconds`.
        ClientLeft: the connection closed before its end.
        BadHttp: its chunks are invalid.
        InvalidRequest: it is not JSON or does not fit `model`; the message names the field and what is allowed.
    """
    if headers.get(b"content-type") != b"application/json" and media_type(headers) != b"application/json":
        raise UnsupportedMediaType
    return parse_body(await read_bytes(receive, headers, max_bytes, seconds), model)


def media_type(headers: Mapping[bytes, bytes]) -> bytes:
    """The declared media type of a body, in lower case and without parameters; empty if none is declared."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


async def read_bytes(receive: Receive, headers: Mapping[bytes, bytes], max_bytes: int, seconds: float) -> bytes:
    """Read the body of a request, chunked or not, whatever its media type.

    Raises:
        BodyTooLarge, BodyTimeout, ClientLeft, BadHttp: as `read_body`.
    """
    declared = headers.get(b"content-length", b"").lstrip(b"0")  # `int` refuses thousands of digits
    if declared.isdigit() and int(declared) > max_bytes:
        raise BodyTooLarge(limit=max_bytes)
    message = poll(receive)  # most bodies arrive together with their headers and need no timer
    if message is not None and message["type"] == "http.request" and not message.get("more_body", False):
        raw: bytes = message.get("body", b"")
        if len(raw) > max_bytes:
            raise BodyTooLarge(limit=max_bytes)
    else:
        try:
            async with asyncio.timeout(seconds):
                raw = await _collect(receive, max_bytes, message or await receive())
        except TimeoutError:
            raise BodyTimeout({"connection": "close"}, seconds=seconds) from None
    return raw


def poll(receive: Receive) -> Message | None:
    """The next ASGI message if there is one, else None; never waits."""
    step = receive()
    try:
        step.send(None)  # type: ignore[attr-defined]  # typed as awaitable, but a coroutine
    except StopIteration as done:
        message: Message = done.value
        return message
    step.close()  # type: ignore[attr-defined]
    return None


async def _collect(receive: Receive, max_bytes: int, message: Message) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(limit=max_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()


def parse_body(raw: bytes, model: type[Body]) -> Body:
    """A body as its schema. Raises the service's error that names the field, and what is wrong with it."""
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problem = describe(error, model)
        if error.error_count() > 1 or error.errors(include_input=False, include_url=False)[0]["type"] != "json_invalid":
            raise InvalidRequest(problem=problem) from None
        return _parse_again(raw, model, problem)


def _parse_again(raw: bytes, model: type[Body], problem: str) -> Body:
    """Parse a body that pydantic's parser refuses as a whole with the standard library.

    That accepts an escaped lone surrogate; the model then names the field that has it, and in a batch only that item
    fails.
    """
    try:
        return model.model_validate(json.loads(raw.decode()))
    except ValidationError as error:
        raise InvalidRequest(problem=describe(error, model)) from None
    except UnicodeDecodeError:
        raise InvalidRequest(problem="body: is not UTF-8") from None
    except (ValueError, RecursionError):
        raise InvalidRequest(problem=problem) from None


def describe(error: ValidationError, model: type[BaseModel], whole: str = "body") -> str:
    """The first problem of a body that does not fit `model`: the field and what is allowed, without any value of it.

    `whole` stands for the field if the problem is not in a single field.
    """
    if error.error_count() > MAX_PROBLEMS:
        return f"{whole}: has more than {MAX_PROBLEMS} problems; allowed fields: {', '.join(model.model_fields)}"
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    kind, where = first["type"], ".".join(str(part) for part in first["loc"]) or whole
    if kind == "json_invalid":
        return f"{whole}: {first['msg'][0].lower()}{first['msg'][1:]}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{where}: should be a JSON object"
    if kind == "extra_forbidden":
        *parents, name = map(str, first["loc"])
        allowed = "" if parents else f"; allowed: {', '.join(model.model_fields)}"
        return f"{'.'.join([*parents, _name_or_placeholder(name)])}: no such field{allowed}"
    if kind == "missing":
        return f"{where}: is required"
    return f"{where}: {first['msg'].removeprefix('Input ').removeprefix('String ')}"


def _name_or_placeholder(name: str) -> str:
    """A field's name if it looks like a name; anything else could be a user's text."""
    return name if name.isidentifier() and name.isascii() and len(name) <= MAX_REPEATED_NAME else "(unnamed)"


def _readable(text: str) -> str:
    """Refuse texts that are blank or that a tokenizer can't read."""
    if not text or text.isspace():
        raise PydanticCustomError("blank", "must hold at least one character that is not white space")
    if "\0" in text:
        raise PydanticCustomError("nul", "must not hold NUL (U+0000)")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("surrogate", "must not hold a lone surrogate (U+D800 to U+DFFF)") from None
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


AllowedLabels = Annotated[
    list[str] | None,
    Field(
        min_length=1,
        max_length=MAX_ALLOWED_LABELS,
        description="names that the answer is limited to; `kept` in the reply is their share of the probability. "
        "Default: all",
    ),
]


ReadableText = Annotated[
    str,
    AfterValidator(_readable),
    Field(
        description="the user's request, spoken or typed; not only white space",
        examples=["weck mich am freitag um neun uhr auf"],
        json_schema_extra={"minLength": 1},
    ),
]


class TextRequest(_Strict):
    """A text and its locale."""

    text: ReadableText
    locale: Annotated[str, Field(description="BCP-47 tag of a locale of the student", examples=["de-DE"])]
    top_k: Annotated[
        int | None,
        Field(ge=1, le=MAX_TOP_K, description="number of domains and intents in `ranking`; without it, no ranking"),
    ] = None


class NluItem(TextRequest):
    """One text to understand."""

    allowed_domains: AllowedLabels = None
    allowed_intents: AllowedLabels = None


ModelName = Annotated[
    str | None,
    Field(
        description="name or alias of a loaded student; default: that of the experiment's arm, else `default`",
        examples=["s"],
    ),
]


class NluRequest(NluItem):
    """Body of ``POST /v1/nlu``."""

    model_config = ConfigDict(json_schema_extra={"examples": [REQUEST_EXAMPLE]})

    model: ModelName = None


class DomainRequest(TextRequest):
    """Body of ``POST /v1/domain``."""

    model_config = ConfigDict(json_schema_extra={"examples": [REQUEST_EXAMPLE]})

    allowed_domains: AllowedLabels = None
    model: Annotated[
        str | None, Field(description="name or alias of a loaded student; default: `domain`, else `default`")
    ] = None


class CompareRequest(TextRequest):
    """Body of ``POST /v1/compare``."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**REQUEST_EXAMPLE, "models": ["s", "xs"]}]})

    models: Annotated[
        list[str] | None,
        Field(min_length=1, max_length=MAX_COMPARED, description="names or aliases of loaded students; default: all"),
    ] = None


class FeedbackRequest(_Strict):
    """Body of ``POST /v1/feedback``."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"request_id": "9f86d081884c7d65", "outcome": "accepted"}]}
    )

    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="of the answer", examples=["9f86"])]
    outcome: Annotated[
        Outcome,
        Field(description="the user accepted the answer, corrected it, or gave up"),
    ]
    arm: Annotated[
        str | None,
        Field(description="of the answer, if any: counted there if this process does not remember the answer"),
    ] = None


def _item_or_error(value: Any) -> NluItem | InvalidRequest:
    """An item of a batch, or its error, so that the others are answered."""
    try:
        return NluItem.model_validate(value)
    except ValidationError as error:
        return InvalidRequest(problem=describe(error, NluItem, whole="item"))


class BatchRequest(_Strict):
    """Body of ``POST /v1/nlu/batch``. An item that can't be answered has an error in its place."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [REQUEST_EXAMPLE]}]})

    items: Annotated[
        list[Annotated[NluItem | InvalidRequest, PlainValidator(_item_or_error, json_schema_input_type=NluItem)]],
        Field(min_length=1, max_length=MAX_ITEMS, description="texts, answered in this order"),
    ]
    model: Annotated[
        str | None, Field(description="name or alias of a loaded student; default: `default`", examples=["s"])
    ] = None
