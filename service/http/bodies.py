"""Request bodies: read under limits of size and time, parsed by the model of their endpoint."""

from __future__ import annotations

import asyncio
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import Message, Receive

from service.errors import BodyTimeout, BodyTooLarge, ClientLeft, InvalidRequest
from service.http.context import Call, poll
from service.http.requests import describe

Body = TypeVar("Body", bound=BaseModel)


async def read_body(call: Call, receive: Receive, most_bytes: int, seconds: float) -> bytes:
    """The body of a request, chunked or not.

    Raises:
        BodyTooLarge: as soon as its declared or received size exceeds `most_bytes`.
        BodyTimeout: it took longer than `seconds`.
        ClientLeft: the connection closed before its end.
    """
    declared = call.headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > most_bytes:
        raise BodyTooLarge(limit=most_bytes)
    message = poll(receive)  # most bodies are there with their headers, and need no timer
    if message is not None and message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > most_bytes:
            raise BodyTooLarge(limit=most_bytes)
        return body
    try:
        async with asyncio.timeout(seconds):
            return await _collect(receive, most_bytes, message or await receive())
    except TimeoutError:
        raise BodyTimeout({"connection": "close"}, seconds=seconds) from None


async def _collect(receive: Receive, most_bytes: int, message: Message) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most_bytes:
            raise BodyTooLarge(limit=most_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
        message = await receive()


def parse(raw: bytes, model: type[Body]) -> Body:
    """A body as an instance of its model.

    Raises:
        InvalidRequest: it is no JSON or does not fit; the message names the field and what is allowed there.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problem = describe(error, model)
        if error.error_count() > 1 or error.errors(include_input=False, include_url=False)[0]["type"] != "json_invalid":
            raise InvalidRequest(problem=problem) from None
        return _parse_again(raw, model, problem)


def _parse_again(raw: bytes, model: type[Body], problem: str) -> Body:
    """Parse what the fast parser refused as a whole.

    Python's own reads an escaped lone surrogate; the model then names the field that holds it, and in a batch only
    that item fails.
    """
    try:
        return model.model_validate(json.loads(raw.decode()))
    except ValidationError as error:
        raise InvalidRequest(problem=describe(error, model)) from None
    except UnicodeDecodeError:
        raise InvalidRequest(problem="body: is not UTF-8") from None
    except (ValueError, RecursionError):
        raise InvalidRequest(problem=problem) from None
