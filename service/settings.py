"""Every setting of the service: one frozen class, read from ``NLU_*`` environment variables and command line flags.

A field's description is its help text. A flag wins over the environment, the environment over the default. The service
does not start if a setting is unknown, out of range or contradictory, and says why in one sentence: a mistyped setting
that is ignored would be noticed only in production.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.student.manifest import StudentError
from service.student.shipped import SHIPPED_STUDENTS, named_folder

PREFIX = "NLU_"
MAX_WORKERS = 1024
LOCALE = re.compile(r"[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*")
STUDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class SettingsError(Exception):
    """An invalid setting; the message is one sentence that says what is allowed."""


def _workers(value: Any) -> Any:
    if value == "auto" or (str(value).isdecimal() and 1 <= int(value) <= MAX_WORKERS):
        return value if value == "auto" else int(value)
    raise ValueError(f"should be 'auto' or a number from 1 to {MAX_WORKERS}")


def _pairs(kind: re.Pattern[str], what: str) -> Callable[[Any], Any]:
    """A parser of ``a=b,c=d`` whose names all match `kind`; `what` describes the allowed form in an error."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [[name.strip() for name in pair.split("=")] for pair in value.split(",") if pair.strip()]
        if not all(len(pair) == 2 and all(kind.fullmatch(name) for name in pair) for pair in pairs):
            raise ValueError(f"should be {what}")
        if len({name for name, _ in pairs}) != len(pairs):
            raise ValueError("should not have the same name twice before a '='")
        return dict(pairs)

    return read


def _students(value: Any) -> Any:
    try:
        return named_folder(value)
    except StudentError as error:
        raise ValueError(f"can't be used: {error}") from None


class Settings(BaseSettings):
    """Settings of the service, read from the environment; `read_settings` reads flags, too."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    students: Annotated[
        Path,
        BeforeValidator(_students),
        Field(
            description="folder of student folders, or one student folder, or the name of a shipped student ('s', "
            "'xs'), or hub:OWNER/NAME@REVISION"
        ),
    ] = SHIPPED_STUDENTS
    aliases: Annotated[
        dict[str, str],
        NoDecode,
        BeforeValidator(_pairs(STUDENT, "pairs of names such as default=s,fast=xs")),
        Field(
            description="comma-separated pairs ALIAS=STUDENT; 'default' answers requests that name no student (without "
            "it 's' if loaded, else the first), 'domain' answers /v1/domain (without it the default student)"
        ),
    ] = {}
    experiment_file: Annotated[
        Path | None,
        Field(description="TOML file of an A/B split or shadow traffic, read again when it changes"),
    ] = None
    host: Annotated[str, Field(min_length=1, description="address to listen on; 0.0.0.0 for all IPv4 interfaces")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    workers: Annotated[
        int | Literal["auto"],
        BeforeValidator(_workers),
        Field(
            description="number of worker processes; 'auto' is one for each core that the service may use, by its CPU "
            "affinity and the container's quota"
        ),
    ] = "auto"
    permits: Annotated[
        int,
        Field(
            ge=1,
            le=1 << 20,
            description="maximum number of texts that wait or run at once, for each student of a process; beyond that "
            "requests are answered 429",
        ),
    ] = 128
    deadline_ms: Annotated[
        int | None,
        Field(
            ge=1,
            description="deadline of a text, in milliseconds from its request's arrival; if inference has not started "
            "by then, it is answered 504; the header x-deadline-ms sets it for one request",
        ),
    ] = None
    cache_entries: Annotated[
        int,
        Field(ge=0, le=1 << 24, description="answers in the cache of each student of a process; 0 turns the cache off"),
    ] = 0
    default_locale: Annotated[
        str | None,
        Field(
            pattern=f"^{LOCALE.pattern}$",
            description="locale of texts whose request names none, which only Rasa's API and the V2 protocol allow; "
            "without it, the locale of a student that knows only one",
        ),
    ] = None
    locale_fallback: Annotated[
        dict[str, str],
        NoDecode,
        BeforeValidator(_pairs(LOCALE, "pairs of locales such as de-AT=de-DE,de-CH=de-DE")),
        Field(description="comma-separated pairs REQUESTED=USED of locales: the first is answered as the second"),
    ] = {}
    api_keys_file: Annotated[
        Path | None,
        Field(
            description="file of API keys, one a line, read again when it changes; without it, requests need no key",
        ),
    ] = None
    watch: Annotated[
        bool, Field(description="reload students when their folders change; POST /v1/models/reload does so on request")
    ] = False
    load_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=86_400,
            description="maximum time to load the students, at the start and at a reload, in seconds; after that the "
            "students loaded before still serve",
        ),
    ] = 120.0
    hang_seconds: Annotated[
        float,
        Field(
            ge=0.1,
            le=3600,
            description="time without a heartbeat after which one of several workers is killed and replaced, in "
            "seconds",
        ),
    ] = 30.0
    max_body_bytes: Annotated[
        int,
        Field(
            ge=1024, le=1 << 30, description="maximum size of a request body, in bytes; a larger one is answered 413"
        ),
    ] = 1 << 20
    max_batch: Annotated[
        int, Field(ge=1, le=4096, description="maximum number of items in a batch; more are answered 413")
    ] = 64
    max_text_chars: Annotated[
        int,
        Field(ge=1, le=1 << 20, description="maximum length of a text, in code points; a longer one is answered 413"),
    ] = 20_000
    body_seconds: Annotated[
        int,
        Field(
            ge=1,
            le=3600,
            description="maximum time for a request's body to arrive, in seconds; else it is answered 408",
        ),
    ] = 10
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="least severe level that is logged")
    ] = "info"
    tracing: Annotated[
        bool,
        Field(
            description="send a span for each request by OpenTelemetry, set up by its OTEL_* variables; needs [tracing]"
        ),
    ] = False
    drain_delay: Annotated[
        float,
        Field(
            ge=0,
            le=3600,
            description="time between SIGTERM, when /readyz turns 503, and the closing of the socket, in seconds, so "
            "that load balancers stop sending requests",
        ),
    ] = 2.0
    drain_seconds: Annotated[
        int, Field(ge=1, le=3600, description="maximum time for requests in flight to finish after that, in seconds")
    ] = 30

    @model_validator(mode="after")
    def _check_contradictions(self) -> Self:
        if self.max_text_chars > self.max_body_bytes:
            raise ValueError(
                f"max_text_chars ({self.max_text_chars}) must not exceed max_body_bytes ({self.max_body_bytes}): "
                "a text that long never fits a body"
            )
        if self.max_batch > self.permits:
            raise ValueError(
                f"max_batch ({self.max_batch}) must not exceed permits ({self.permits}): "
                "a batch that large is never admitted"
            )
        return self


def read_settings(argv: Sequence[str]) -> Settings:
    """Settings from command line flags and, where no flag is given, ``NLU_*`` environment variables.

    Raises:
        SettingsError: something is unknown, out of range or contradictory.
        SystemExit: ``--help`` was asked for.
    """
    _refuse_unknown_variables(os.environ)
    flags = _read_flags(argv)
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise SettingsError(_sentence(error, flags)) from None


def flag_of(name: str) -> str:
    """The command line flag of a setting: ``max_batch`` is ``--max-batch``."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a setting: ``max_batch`` is ``NLU_MAX_BATCH``."""
    return PREFIX + name.upper()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def parser() -> argparse.ArgumentParser:
    """The command line, built from the fields of `Settings`."""
    parser = _Parser(
        prog="python -m service",
        description="Serve NLU students over HTTP.",
        epilog="Each flag is also an environment variable, such as NLU_MAX_BATCH; a flag wins.",
        allow_abbrev=False,
    )
    for name, field in Settings.model_fields.items():
        options: dict[str, Any] = {"action": argparse.BooleanOptionalAction} if field.annotation is bool else {}
        parser.add_argument(
            flag_of(name),
            dest=name,
            default=argparse.SUPPRESS,
            help=f"{field.description} (default: {shown_default(field)})".replace("%", "%%"),
            **options or {"metavar": _metavar(name, field)},
        )
    return parser


def shown_default(field: FieldInfo) -> str:
    """The default of a setting, as shown in help texts."""
    default = field.default
    if isinstance(default, Path):
        return "the shipped students"
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default in (None, {}) else str(default)


def _read_flags(argv: Sequence[str]) -> dict[str, Any]:
    known, unknown = parser().parse_known_args(list(argv))
    if unknown:
        flags = [flag_of(name) for name in Settings.model_fields]
        first = unknown[0].split("=")[0]
        raise SettingsError(f"unknown argument {first}{_suggest(first, flags)}; see --help")
    return vars(known)


def _refuse_unknown_variables(environ: Iterable[str]) -> None:
    known = [variable_of(name) for name in Settings.model_fields]
    for variable in environ:
        if variable.upper().startswith(PREFIX) and variable.upper() not in known:
            hint = _suggest(variable.upper(), known)
            raise SettingsError(f"unknown environment variable {variable}{hint}; known: {', '.join(known)}")


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _metavar(name: str, field: FieldInfo) -> str:
    units = {
        "students": "DIR",
        "deadline_ms": "MILLISECONDS",
        "max_body_bytes": "BYTES",
        "max_text_chars": "CHARACTERS",
    }
    units |= dict.fromkeys(("load_seconds", "hang_seconds", "body_seconds", "drain_delay", "drain_seconds"), "SECONDS")
    kind = str(field.annotation)
    return units.get(name) or ("N" if "int" in kind else "PATH" if "Path" in kind else "TEXT")


def _sentence(error: ValidationError, flags: Container[str]) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    name = str(first["loc"][0])
    source = flag_of(name) if name in flags else variable_of(name)
    allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    return f"{source}={first['input']} is not allowed: it {allowed}"
