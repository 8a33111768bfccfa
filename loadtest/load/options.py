"""The options that ``python -m loadtest`` and ``locust -f loadtest/locustfile.py`` have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """What is sent, and how fast. The field's names are the flags' names."""

    texts: str | None = None
    texts_locale: str | None = None
    locales: str | None = None
    batch_share: float = 0.1
    batch_size: int = 16
    model: str | None = None
    rate: float = 100.0
    reply_timeout: float = 5.0

    @classmethod
    def of(cls, parsed: object) -> Options:
        """The options among parsed arguments; locust's web page leaves an empty string where nothing was given."""
        given = {field.name: getattr(parsed, field.name, None) for field in fields(cls)}
        return cls(**{name: value for name, value in given.items() if value not in (None, "")})

    def flags(self) -> list[str]:
        """The command line that parses to these options."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]

    @property
    def texts_path(self) -> Path | None:
        """Where the texts are; None for the sample."""
        return Path(self.texts) if self.texts else None

    @property
    def locale_names(self) -> list[str] | None:
        """The locales asked for; None for those that the model knows."""
        return list(weights_of(self.locales)) or None if self.locales else None

    @property
    def locale_weights(self) -> dict[str, float]:
        """How many clients there are of each locale asked for, relative to each other; empty for all alike."""
        return weights_of(self.locales) if self.locales else {}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser: argparse's own or locust's."""

    def add(name: str, type_: Callable[[str], Any], metavar: str, help_: str) -> None:
        parser.add_argument(name, type=type_, metavar=metavar, help=help_, default=getattr(defaults, _field(name)))

    defaults = Options()
    add("--texts", str, "PATH", "JSONL file with utt or text, and locale; text file, one a line; or a folder of these "
        "(default: the project's sample)")  # fmt: skip
    add("--texts-locale", str, "LOCALE", "locale of texts that come without one")
    add("--locales", locales, "A=3,B", "send only texts in these locales, from three times as many clients in A as in "
        "B (default: those that the model knows, all alike)")  # fmt: skip
    add("--batch-share", share, "SHARE", "share of requests that are batches, 0 to 1 (default: 0.1)")
    add("--batch-size", positive_int, "N", "texts of a batch (default: 16)")
    add("--model", str, "NAME", "student to ask (default: the service's default)")
    add("--rate", not_negative, "R", "requests per second of all users together, evenly paced; 0: as fast as replies "
        "come (default: 100)")  # fmt: skip
    add("--reply-timeout", positive, "SECONDS", "a reply that takes longer is a failure (default: 5)")


def weights_of(value: str) -> dict[str, float]:
    """Locales and their weights: ``de-DE=3,fr-FR`` is three to one.

    Raises:
        argparse.ArgumentTypeError: a weight is no number above 0.
    """
    parts = (part.partition("=") for part in value.split(",") if part.strip())
    return {name.strip(): positive(weight) if sign else 1.0 for name, sign, weight in parts}


def locales(value: str) -> str:
    """A list of locales with weights, as it was given."""
    weights_of(value)
    return value


def share(value: str) -> float:
    """A number from 0 to 1."""
    return _number(value, lambda number: 0 <= number <= 1, "a number from 0 to 1")


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


def _field(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
