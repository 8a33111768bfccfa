"""Command-line flags from settings: each field of a frozen dataclass is a flag of its command. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any

from training.text.corpus import located_files

TRACKERS = ("tensorboard", "mlflow", "wandb")  # also the names of their packages


def setting(
    default: Any,
    text: str,
    *,
    choices: Sequence[str] = (),
    several: bool = False,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    shown: str = "",
) -> Any:
    """A field of settings with its help text; its type is that of the default, None makes a switch (--name, --no-name).

    Allowed are numbers from `low` to `high`, one of `choices`, or `several` of them, comma-separated. `unit` is the
    placeholder of the value in the help, `shown` what the help calls the default where that differs from its value.
    """
    shown = shown or ("none" if default == "" else str(default))
    kind = {"choices": choices, "several": several, "low": low, "high": high, "unit": unit}
    return field(default=default, metadata={"help": f"{text} (default: {shown})", **kind})


def new_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A command's parser without flags."""
    return argparse.ArgumentParser(prog=f"python -m {command}", description=description, allow_abbrev=False)


def parser_of(command: str, description: str, settings: type) -> argparse.ArgumentParser:
    """A parser with the flags of every training run, and a flag for each setting."""
    parser = new_parser(command, description)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="CKPT", help="checkpoint folder to write")
    add("--resume", action="store_true", help="continue the interrupted run in --out exactly, or start it")
    every = "optimiser steps between saved states (default: %(default)s)"
    add("--save-every", type=at_least_one, default=200, metavar="STEPS", help=every)
    add("--threads", type=at_least_one, metavar="N", help="CPU threads (default: all cores)")
    add_track(parser)
    for f in fields(settings):
        has, convert = f.metadata, _converter(f.metadata, type(f.default))
        if f.default is None:
            add(flag_of(f.name), action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=has["help"])
        elif has["choices"] and not has["several"]:
            add(flag_of(f.name), default=argparse.SUPPRESS, choices=has["choices"], help=has["help"])
        else:
            shown = has["unit"] or f.name.upper()
            add(flag_of(f.name), type=convert, default=argparse.SUPPRESS, metavar=shown, help=has["help"])
    return parser


def add_track(parser: argparse.ArgumentParser) -> None:
    """The flag --track, "" where it is not given."""
    parser.add_argument(
        "--track",
        choices=TRACKERS,
        default="",
        help="report losses, rates and scores to TensorBoard, MLflow or Weights & Biases (default: none)",
    )


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def at_least_one(text: str) -> int:
    """The value of a flag that is 1 or more."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is out of range; allowed: 1 or more")
    return value


def _converter(allowed: Mapping[str, Any], kind: type) -> Callable[[str], Any]:
    """A function from text to the value of a setting; it raises argparse's error for values that are not allowed."""

    def convert(text: str) -> Any:
        value, low, high = kind(text), allowed["low"], allowed["high"]
        if (low is not None and value < low) or (high is not None and value > high):
            numbers = f"{low} or more" if high is None else f"{low} to {high}"
            raise argparse.ArgumentTypeError(f"{value} is out of range; allowed: {numbers}")
        if allowed["several"] and (unknown := [x for x in listed(text) if x not in allowed["choices"]]):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; allowed: {', '.join(allowed['choices'])}")
        return value

    convert.__name__ = kind.__name__  # argparse shows it in "invalid int value"
    return convert


def listed(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def file_names(text: str) -> str:
    """A setting of files and folders without their parent folders, which may name a person or a machine."""
    named = ((locale, Path(part).name if Path(part).exists() else part) for locale, part in located_files(text))
    return ",".join(dict.fromkeys(f"{locale}={name}" if locale else name for locale, name in named))
