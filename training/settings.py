"""Settings of a training command: a frozen dataclass whose fields are flags, inherited when a run is resumed."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

log = logging.getLogger(__name__)

SettingsType = TypeVar("SettingsType")


def setting(
    default: Any, text: str, choices: tuple[str, ...] | None = None, low: float | None = None, high: float | None = None
) -> Any:
    """A field with its help text and what is allowed: one of `choices`, or a number from `low` to `high`."""
    return field(default=default, metadata={"help": text, "choices": choices, "low": low, "high": high})


def add_flags(parser: argparse.ArgumentParser, settings: type) -> None:
    """One flag a field; what is not given is absent from the parsed namespace."""
    for f in fields(settings):
        shown = f" ({f.default})" if f.default not in ("", None) else ""
        parser.add_argument(
            _flag(f.name),
            type=_checked(f.metadata, type(f.default)),
            default=argparse.SUPPRESS,
            choices=f.metadata["choices"],
            metavar=None if f.metadata["choices"] else f.name.upper(),
            help=f.metadata["help"] + shown,
        )


def settle(settings: type[SettingsType], args: argparse.Namespace, inherited: Mapping[str, Any] | None) -> SettingsType:
    """Settings given, else inherited from the run that is resumed, else default; logged with where each comes from.

    Raises:
        ValueError: a given setting differs from the one of the run that is resumed.
    """
    names = [f.name for f in fields(settings)]  # type: ignore[arg-type]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if inherited is not None:
        for name, value in given.items():
            if inherited[name] != value:
                raise ValueError(f"{_flag(name)} {value} differs from the interrupted run's {inherited[name]}")
    settled = settings(**{**(inherited or {}), **given})
    for name in names:
        origin = "given" if name in given else "inherited" if inherited else "default"
        log.info("%-16s %s (%s)", name, getattr(settled, name), origin)
    return settled


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _checked(metadata: Mapping[str, Any], kind: type) -> Any:
    def convert(text: str) -> Any:
        value = kind(text)
        low, high = metadata["low"], metadata["high"]
        if (low is not None and value < low) or (high is not None and value > high):
            allowed = f"{low} or more" if high is None else f"{low} to {high}"
            raise argparse.ArgumentTypeError(f"{value} is out of range; allowed: {allowed}")
        return value

    convert.__name__ = kind.__name__  # argparse names it in "invalid int value"
    return convert
