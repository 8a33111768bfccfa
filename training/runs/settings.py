"""A training command's flags: its settings (a frozen dataclass, inherited when a run is resumed) and where it runs."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from training.models.checkpoint import load_resume_state
from training.models.devices import leave, processes
from training.models.errors import CheckpointError

log = logging.getLogger(__name__)

CHANGEABLE = ("learning_rate", "precision")  # on resume: what a run that went wrong may need to go on

SettingsType = TypeVar("SettingsType")


def setting(
    default: Any, text: str, choices: tuple[str, ...] | None = None, low: float | None = None, high: float | None = None
) -> Any:
    """A field with its help text and what is allowed: one of `choices`, or a number from `low` to `high`."""
    return field(default=default, metadata={"help": text, "choices": choices, "low": low, "high": high})


def parser_of(command: str, description: str, settings: type) -> argparse.ArgumentParser:
    """A parser with the flags that every training command has, and one flag a setting."""
    parser = argparse.ArgumentParser(prog=f"python -m {command}", description=description)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument(
        "--resume", action="store_true", help="continue the interrupted run in --out exactly; start it if there is none"
    )
    parser.add_argument(
        "--save-every", type=at_least_one, default=200, metavar="STEPS", help="steps between states (%(default)s)"
    )
    parser.add_argument("--threads", type=at_least_one, help="CPU threads (all)")
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
    return parser


def begin(
    command: str, settings: type[SettingsType], args: argparse.Namespace
) -> tuple[SettingsType, dict[str, Any] | None]:
    """Settings of the run, and the resume state where one is continued.

    Raises:
        CheckpointError: a finished run, one of another command, or a new run's --out is not an empty folder.
        ValueError: a given setting, other than rate and precision, differs from the one of the run that is resumed.
    """
    level = logging.INFO if processes().is_main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    state = load_resume_state(args.out) if args.resume and not is_untouched(args.out) else None
    if state is not None and state["command"] != command:
        raise CheckpointError(f"{args.out}: holds an interrupted run of {state['command']}, not of {command}")
    if state is None and not is_untouched(args.out):
        raise CheckpointError(f"{args.out}: is not empty; choose another --out, empty it, or --resume")
    processes().wait_for_everyone()  # before the first of them writes there
    if args.threads:
        torch.set_num_threads(args.threads)
    return _settle(settings, args, state["settings"] if state else None), state


def is_untouched(folder: Path) -> bool:
    """Whether nothing was saved there yet. What begins with a dot doesn't count: a killed run may have left it."""
    if not folder.is_dir():
        return not folder.exists()
    return all(file.name.startswith(".") or (file.is_dir() and is_untouched(file)) for file in folder.iterdir())


def report(run: Callable[[], dict[str, Any]]) -> int:
    """Run a command to its end and print its summary, one JSON object; or print what stopped it. Returns the exit code.

    2 for what the user can put right, 1 for a run that went wrong on its way; its last state can be resumed.
    """
    try:
        summary = run()
    except (FloatingPointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if processes().is_main_process:
        print(json.dumps(summary, ensure_ascii=False))
    leave()
    return 0


def _settle(
    settings: type[SettingsType], args: argparse.Namespace, inherited: Mapping[str, Any] | None
) -> SettingsType:
    """Settings given, else inherited from the run that is resumed, else default; logged with where each comes from.

    Raises:
        ValueError: a given setting differs from the one of the run that is resumed, and may not.
    """
    names = [f.name for f in fields(settings)]  # type: ignore[arg-type]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if inherited is not None:
        inherited = vars(settings(**inherited))  # with the defaults of settings that came after the run began
        for name, value in given.items():
            if inherited[name] != value and name not in CHANGEABLE:
                raise ValueError(f"{_flag(name)} {value} differs from the interrupted run's {inherited[name]}")
    settled = settings(**{**(inherited or {}), **given})
    for name in names:
        origin = "given" if name in given else "inherited" if inherited else "default"
        if inherited is not None and inherited[name] != getattr(settled, name):
            origin = f"given, {inherited[name]} until now"
        log.info("%-16s %s (%s)", name, getattr(settled, name), origin)
    return settled


def at_least_one(text: str) -> int:
    """A flag that counts something."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is out of range; allowed: 1 or more")
    return value


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


def listed(text: str) -> list[str]:
    """The parts of a comma-separated setting."""
    return [part.strip() for part in text.split(",") if part.strip()]


def file_names(text: str) -> str:
    """A setting of files and folders without what is above them, which may name a person or a machine."""
    return ",".join(dict.fromkeys(Path(part).name if Path(part).exists() else part for part in listed(text)))
