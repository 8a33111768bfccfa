# ruff: noqa: N818 - "raise UnknownLocale" is clear
"""Every error of a request, and the shape of error replies.

The table below holds status, `code`, public message and metric label of each error class. Messages are made from
limits, names that the server knows, and field names, **never from the text of a request**.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

# These end a task, a thread or the process. Anything else ends only a request: native libraries raise more than
# `Exception` (a panic of a Rust library is a `BaseException`).
ENDINGS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)

log = logging.getLogger("service")


class Row(NamedTuple):
    """One line of the table: HTTP status, `code` in the reply, public message template, label in metrics."""

    status: int
    code: str
    message: str
    label: str


TABLE: dict[str, Row] = {
    # class                status  code                  public message                                        label
    "BadHttp": Row(400, "bad_http", "not a valid HTTP/1.1 request: {problem}", "http"),
    "HeadTimeout": Row(408, "head_timeout", "the request's headers did not arrive in time", "head_time"),
    "HeadTooLarge": Row(431, "head_too_large", "the request's headers are larger than {limit} bytes", "head_size"),
    "InvalidRequest": Row(422, "invalid_request", "{problem}", "invalid"),
    "UnknownLocale": Row(422, "unknown_locale", "locale: student {model} does not know it; known: {known}", "locale"),
    "MissingHead": Row(422, "missing_head", "{field}: student {model} has no {head} head; it has {heads}", "head"),
    "UnknownModel": Row(404, "unknown_model", "model: no such student is loaded; loaded: {loaded}", "model"),
    "UnknownPath": Row(404, "not_found", "no such path; GET /docs lists them", "path"),
    "WrongMethod": Row(405, "method_not_allowed", "this path takes {allowed}", "method"),
    "UnsupportedMediaType": Row(415, "unsupported_media_type", "content-type should be application/json", "media_type"),
    "BodyTooLarge": Row(413, "body_too_large", "the body is larger than {limit} bytes", "body_size"),
    "BatchTooLarge": Row(413, "batch_too_large", "items: {count} given, at most {limit} allowed", "batch_size"),
    "TextTooLarge": Row(413, "text_too_large", "text: {count} code points given, at most {limit} allowed", "text_size"),
    "Unauthorized": Row(401, "unauthorized", "send a key as 'Authorization: Bearer KEY' or 'x-api-key: KEY'", "key"),
    "Forbidden": Row(403, "forbidden", "{problem}", "forbidden"),
    "BodyTimeout": Row(408, "body_timeout", "the body did not arrive within {seconds} s", "body_time"),
    "ReloadRefused": Row(409, "reload_refused", "{problems}; the students loaded before still serve", "reload"),
    "Overloaded": Row(429, "overloaded", "overloaded: at most {limit} texts may wait or run; retry later", "overload"),
    "DeadlinePassed": Row(504, "deadline_passed", "the deadline passed before inference started", "deadline"),
    "NotReady": Row(503, "not_ready", "not ready: {reason}", "not_ready"),
    "InternalError": Row(500, "internal_error", "internal error; find the request_id in the log", "internal"),
    "ClientLeft": Row(499, "client_left", "the client disconnected before the reply", "client_left"),
}


class ServiceError(Exception):
    """An error that is reported to the client. Each subclass must have its row in `TABLE`.

    Usage: ``raise BatchTooLarge(count=100, limit=64)``; the details fill the message template of the row. `headers` are
    added to the reply.
    """

    row: ClassVar[Row]

    def __init_subclass__(cls) -> None:
        """Take the class's row from the table."""
        cls.row = TABLE[cls.__name__]

    def __init__(self, headers: Mapping[str, str] | None = None, **details: object) -> None:
        self.headers = dict(headers or {})
        self.message = self.row.message.format(**details)
        super().__init__(self.message)


class BadHttp(ServiceError):
    """The bytes on the connection are not a valid HTTP request; the connection is closed."""


class HeadTimeout(ServiceError):
    """Request line and headers took too long; the connection is closed."""


class HeadTooLarge(ServiceError):
    """Request line and headers are too large; the connection is closed."""


class InvalidRequest(ServiceError):
    """The body is not JSON, or a field is missing, unknown, or of the wrong type."""


class UnknownLocale(ServiceError):
    """The student was not trained for the locale."""


class MissingHead(ServiceError):
    """The student was trained without the head that the request needs."""


class UnknownModel(ServiceError):
    """No student with that name is loaded."""


class UnknownPath(ServiceError):
    """No route has this path."""


class WrongMethod(ServiceError):
    """The path exists, but not for this method."""


class UnsupportedMediaType(ServiceError):
    """The body is not declared as JSON. Browsers send other bodies for any website, without asking the service."""


class BodyTooLarge(ServiceError):
    """The body exceeds `Settings.max_body_bytes`."""


class BatchTooLarge(ServiceError):
    """The batch exceeds `Settings.max_batch`."""


class TextTooLarge(ServiceError):
    """The text exceeds `Settings.max_text_chars`."""


class Unauthorized(ServiceError):
    """API keys are configured, and the request holds no valid one."""


class Forbidden(ServiceError):
    """The service's configuration does not allow the request."""


class BodyTimeout(ServiceError):
    """The body took longer than `Settings.body_seconds`."""


class ReloadRefused(ServiceError):
    """A student folder is invalid; the students loaded before still serve."""


class Overloaded(ServiceError):
    """`Settings.permits` texts are waiting or running; ``Retry-After`` says when to try again."""


class DeadlinePassed(ServiceError):
    """The deadline passed before inference started; no work was done on the text."""


class NotReady(ServiceError):
    """Students are loading, an expected one could not be loaded, or the service is about to stop."""


class InternalError(ServiceError):
    """An unexpected exception."""


class ClientLeft(ServiceError):
    """The client disconnected before the reply; the error is only counted."""


def error_body(error: ServiceError, request_id: str) -> dict[str, dict[str, str]]:
    """The JSON body of every error."""
    return {"error": {"code": error.row.code, "message": error.message, "request_id": request_id}}


def log_fault(error: BaseException, request_id: str) -> None:
    """Log an unexpected exception by type and place only: its message and values may hold a user's text."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " > ".join(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    log.error("request %s failed: %s at %s", request_id, type(error).__name__, places)


def reported(error: BaseException, request_id: str) -> ServiceError:
    """The error that the client gets. An unexpected one is logged and becomes an `InternalError`."""
    if isinstance(error, ServiceError):
        return error
    log_fault(error, request_id)
    return InternalError()
