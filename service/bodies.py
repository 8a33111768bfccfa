"""Request bodies: read under a size limit, parsed by the model that the route's signature names."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, get_type_hints

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import BodyTooLarge, ClientLeft, InvalidRequest, WrongMethod
from service.schemas import describe

Body = TypeVar("Body", bound=BaseModel)


class DirectRoute(APIRoute):
    """A route that FastAPI documents from its signature, and that reads and parses its body itself.

    Its endpoint is ``async def endpoint([request: Request,] [body: SomeModel]) -> Response``. Going past FastAPI's
    dependency solving makes a request cheaper, bounds a body while it is read, and keeps errors ours.
    """

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        hints = get_type_hints(endpoint)
        self._takes_request = "request" in hints
        self._model: type[BaseModel] | None = hints.get("body")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path is this route's."""
        if scope["method"] not in (methods := self.methods or set()):
            raise WrongMethod({"allow": ", ".join(sorted(methods))}, allowed=" or ".join(sorted(methods)))
        arguments: list[Request | BaseModel] = [Request(scope)] if self._takes_request else []
        if self._model is not None:
            raw = await read_body(scope, receive, scope["app"].state.settings.max_body_bytes)
            arguments.append(parse(raw, self._model))
        response: Response = await self.endpoint(*arguments)
        await response(scope, receive, send)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body of a request, chunked or not.

    Raises:
        BodyTooLarge: as soon as its declared or received size exceeds `limit`.
        ClientLeft: the connection closed before its end.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise BodyTooLarge(limit=limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit=limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse(raw: bytes, model: type[Body]) -> Body:
    """A body as an instance of its model.

    Raises:
        InvalidRequest: it is no JSON or does not fit; the message names the field and what is allowed there.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        if error.errors(include_input=False, include_url=False)[0]["type"] != "json_invalid":
            raise InvalidRequest(problem=describe(error, model)) from None
        return _parse_again(raw, model, describe(error, model))


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
