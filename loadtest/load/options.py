"""Flags shared by several commands: their names, types, defaults and help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """Texts and rate of ``python -m loadtest`` and ``locust -f loadtest/locustfile.py``; each field is a flag."""

    texts: str | None = None
    locale: str | None = None
    locales: str | None = None
    batch_share: float = 0.1
    batch_size: int = 16
    model: str | None = None
    rate: float = 100.0
    reply_timeout: float = 5.0

    @classmethod
    def of(cls, parsed: object) -> Options:
        """The options among parsed arguments; empty strings, from locust's web page, count as not set."""
        values = {field.name: getattr(parsed, field.name, None) for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if value not in (None, "")})

    def flags(self) -> list[str]:
        """The command line that parses to these options."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]

    @property
    def texts_path(self) -> Path | None:
        """Where the texts are; None for the sample."""
        return Path(self.texts) if self.texts else None

    @property
    def locale_names(self) -> list[str] | None:
        """The locales to send; None for those of the student."""
        return list(self.locale_weights) or None

    @property
    def locale_weights(self) -> dict[str, float]:
        """Relative number of clients by locale; empty for equal weights."""
        return weights_of(self.locales) if self.locales else {}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `Options` to a parser, argparse's own or locust's."""
    default = Options()
    add_texts(parser, str)
    about = "comma-separated locales to send, optionally with relative numbers of clients"
    add(parser, "locales", locales, "A=3,B", f"{about} (default: the student's locales, equally)")
    add(parser, "batch-share", share, "SHARE", "share of requests that are batches, 0 to 1", default.batch_share)
    add(parser, "batch-size", positive_int, "TEXTS", "texts of a batch", default.batch_size)
    add(parser, "model", str, "NAME", "student to ask (default: the service's default)")
    about = "requests per second of all users together, evenly paced; 0 sends as soon as replies arrive"
    add(parser, "rate", not_negative, "RATE", about, default.rate)
    add_reply_timeout(parser)


def add_texts(parser: argparse.ArgumentParser, type_: Callable[[str], Any] = Path) -> None:
    """Add the flags that choose the texts to send."""
    about = "JSONL file with utt or text, and locale; text file with one text per line; or a folder of these"
    add(parser, "texts", type_, "PATH", f"{about} (default: the packaged sample)")
    add(parser, "locale", str, "LOCALE", "locale of texts without one (default: none)")


def add_reply_timeout(parser: argparse.ArgumentParser) -> None:
    """Add the flag of the maximum time for a reply."""
    about = "maximum time for a reply, in seconds; a later one is a failure"
    add(parser, "reply-timeout", positive, "SECONDS", about, Options.reply_timeout)


def add_start_timeout(parser: argparse.ArgumentParser, default: float) -> None:
    """Add the flag of the maximum time for a server to start."""
    add(parser, "start-timeout", positive, "SECONDS", "maximum time until a server is ready, in seconds", default)


def add_measurement(parser: argparse.ArgumentParser, rounds: int, seconds: float, start_timeout: float) -> None:
    """Add the flags of a `Benchmark`, with their defaults."""
    add(parser, "rounds", positive_int, "ROUNDS", "rounds of measurements; their medians are reported", rounds)
    add(parser, "seconds", positive, "SECONDS", "duration of each measurement, in seconds", seconds)
    add_start_timeout(parser, start_timeout)


def add(
    parser: argparse.ArgumentParser,
    name: str,
    type_: Callable[[str], Any],
    metavar: str,
    help_: str,
    default: Any = None,
) -> None:
    """Add a flag; its help contains the default literally, as locust's web page does not expand ``%(default)s``."""
    shown = "" if default is None else f" (default: {default})"
    parser.add_argument(f"--{name}", type=type_, metavar=metavar, help=help_ + shown, default=default)


def weights_of(value: str) -> dict[str, float]:
    """Parse locales with optional weights: ``de-DE=3,fr-FR`` is three to one.

    Raises:
        argparse.ArgumentTypeError: a weight is not a number above 0.
    """
    parts = (part.partition("=") for part in value.split(",") if part.strip())
    return {name.strip(): positive(weight) if sign else 1.0 for name, sign, weight in parts}


def locales(value: str) -> str:
    """Validate a list of locales with optional weights; returns it unchanged."""
    weights_of(value)
    return value


def share(value: str) -> float:
    """A number from 0 to 1."""
    return _number(value, lambda number: 0 <= number <= 1, "a number from 0 to 1")


def chance(value: str) -> float:
    """A number between 0 and 1."""
    return _number(value, lambda number: 0 < number < 1, "a number between 0 and 1")


def positive(value: str) -> float:
    """A number above 0."""
    return _number(value, lambda number: number > 0, "a number above 0")


def not_negative(value: str) -> float:
    """A number from 0."""
    return _number(value, lambda number: number >= 0, "0 or more")


def positive_int(value: str) -> int:
    """A whole number from 1."""
    return int(_number(value, lambda number: number >= 1 and number == int(number), "a whole number from 1"))


def _number(value: str, is_allowed: Callable[[float], bool], allowed: str) -> float:
    try:
        number = float(value)
        if abs(number) < float("inf") and is_allowed(number):
            return number
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{value!r} should be {allowed}")
