"""Rasa's HTTP API, as its NLU server has it since 3.0: ``/model/parse``, ``/status``, ``/version``.

Out-of-scope text is answered as Rasa's FallbackClassifier does: `nlu_fallback` is the intent and the first of the
ranking, followed by the student's own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.endpoints import DIGITS, Endpoints, json_reply
from service.errors import ServiceError
from service.http.context import Context, Json, Reply
from service.http.requests import NluRequest, ReadableText
from service.models.queue import Answer
from service.protocols.query import locale_of, query_of

VERSION = "3.6.0"  # of Rasa's API; clients compare it
MINIMUM_COMPATIBLE_VERSION = "3.0.0"
FALLBACK_INTENT = "nlu_fallback"
FALLBACK_CONFIDENCE = 1.0  # whether a text is in scope is decided by a threshold, and has no probability
RANKING_LENGTH = 10  # as that of Rasa's DIETClassifier
EXTRACTOR = "distilled_nlu"
WORD = re.compile(r"\S+")


def _parameter(name: str, description: str, **schema: Any) -> Json:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


# Parameters of the query, for OpenAPI.
TOKEN = _parameter("token", "an API key, as Rasa's clients send it", type="string")
QUERY = (
    _parameter("locale", "locale of the text, such as de-DE; default: `--default-locale`", type="string"),
    _parameter("model", "name or alias of a loaded student; default: as `/v1/nlu`", type="string"),
    TOKEN,
)


class ParseRequest(BaseModel):
    """Body of ``POST /model/parse``. Further fields are ignored, as Rasa does."""

    model_config = ConfigDict(
        strict=True, frozen=True, json_schema_extra={"examples": [{"text": "weck mich am freitag um neun uhr auf"}]}
    )

    text: ReadableText
    message_id: Annotated[
        str | None, Field(max_length=256, description="repeated in the reply; default: the id of the request")
    ] = None
    lang: Annotated[
        str | None, Field(description="locale of the text, as Botfront sends it; `locale` in the query comes first")
    ] = None


class RasaIntent(BaseModel):
    """An intent; its name is null if the student has no intents."""

    name: str | None
    confidence: Annotated[float, Field(ge=0, le=1)]


class RasaEntity(BaseModel):
    """A slot: `value` is `text[start:end]`, counted in code points."""

    entity: str
    start: int
    end: int
    confidence_entity: Annotated[float, Field(ge=0, le=1)]
    value: str
    extractor: str


class ParseReply(BaseModel):
    """Answer to one text, in Rasa's format."""

    text: str
    intent: RasaIntent
    entities: list[RasaEntity]
    text_tokens: Annotated[
        list[tuple[int, int]],
        Field(description="start and end of each word between white space"),
    ]
    intent_ranking: list[RasaIntent]
    message_id: str


class StatusReply(BaseModel):
    """The default student, as Rasa describes its model."""

    model_file: str
    model_id: Annotated[str, Field(description="first 12 hex digits of the graph's sha256")]
    num_active_training_jobs: int


class VersionReply(BaseModel):
    """The version of Rasa whose API this is."""

    version: str
    minimum_compatible_version: str


class RasaError(BaseModel):
    """An error in Rasa's format."""

    version: str
    status: Literal["failure"]
    message: str
    reason: Annotated[str, Field(description="kind of error, such as `UnknownLocale`")]
    details: dict[str, Any]
    help: str | None
    code: Annotated[int, Field(description="HTTP status")]


@dataclass(frozen=True, eq=False)
class RasaEndpoints:
    """Rasa's endpoints of one application."""

    own: Endpoints

    async def parse(self, context: Context, body: ParseRequest) -> Reply:
        """Intent and entities of one text, as Rasa's NLU server answers.

        An experiment splits these requests as it splits those of `/v1/nlu`.
        """
        query = query_of(context, ("locale", "model", "token", "emulation_mode"))
        if query.get("emulation_mode"):
            raise errors.InvalidRequest(problem="emulation_mode: is not supported")
        own, name = self.own, query.get("model")
        sent = query.get("locale", body.lang)
        locale = locale_of(sent, own.settings.default_locale, own.registry.choose(name))
        item = NluRequest(text=body.text, locale=locale, model=name, top_k=RANKING_LENGTH)
        route = own.router.route(context, item)
        context.model = route.model.name
        try:
            answer = await route.model.answer(context, item)
        except Exception as error:
            own.router.record_failure(route, error)
            raise
        context.timings = answer.timings
        context.after_reply = partial(own.record_turn, route, answer)
        return json_reply(_parse_body(body, answer, context.request_id))

    async def status(self, context: Context) -> Reply:
        """The default student; 503 while none is ready."""
        query_of(context, ("token",))
        identity = self.own.registry.choose(None).student.identity
        return json_reply(
            {"model_file": identity["name"], "model_id": identity["digest"], "num_active_training_jobs": 0}
        )

    async def version(self, _: Context) -> Reply:
        """The version of Rasa whose API this is."""
        return json_reply({"version": VERSION, "minimum_compatible_version": MINIMUM_COMPATIBLE_VERSION})


def rasa_error(error: ServiceError, _: str) -> Json:
    """The body of `RasaError`."""
    return {
        "version": VERSION,
        "status": "failure",
        "message": error.message,
        "reason": type(error).__name__,
        "details": {},
        "help": None,
        "code": error.row.status,
    }


def _parse_body(body: ParseRequest, answer: Answer, request_id: str) -> Json:
    """The body of `ParseReply`."""
    prediction = answer.prediction
    ranking: list[Json] = [
        {"name": name, "confidence": round(confidence, DIGITS)} for name, confidence in prediction.intent or ()
    ]
    if prediction.in_scope is False:
        ranking.insert(0, {"name": FALLBACK_INTENT, "confidence": FALLBACK_CONFIDENCE})
    return {
        "text": body.text,
        "intent": ranking[0] if ranking else {"name": None, "confidence": 0.0},
        "entities": [
            {
                "entity": name,
                "start": start,
                "end": end,
                "confidence_entity": round(confidence, DIGITS),
                "value": value,
                "extractor": EXTRACTOR,
            }
            for name, value, start, end, confidence in prediction.slots or ()
        ],
        "text_tokens": [match.span() for match in WORD.finditer(body.text)],
        "intent_ranking": ranking,
        "message_id": request_id if body.message_id is None else body.message_id,
    }
