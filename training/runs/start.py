"""Start, resume and end a training command."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from training.models.checkpoint import load_resume_state
from training.models.devices import leave, processes
from training.models.errors import CheckpointError
from training.runs.flags import flag_of
from training.runs.loop import State, Storage
from training.runs.tracking import require_tracker

log = logging.getLogger(__name__)

CHANGEABLE = ("learning_rate", "precision")  # on resume: a run that diverged may need other values

SettingsType = TypeVar("SettingsType")


def run_command(
    command: str,
    settings: type[SettingsType],
    args: argparse.Namespace,
    run: Callable[[SettingsType, Storage], dict[str, Any]],
) -> int:
    """Run a training command. Returns the exit code.

    2 for wrong settings or input, 1 for a run that failed; it can be resumed from its last state.
    """
    return report(lambda: run(*begin(command, settings, args)))


def begin(command: str, settings: type[SettingsType], args: argparse.Namespace) -> tuple[SettingsType, Storage]:
    """Settings and storage of a new or resumed run.

    Raises ValueError: the run is finished or another command's, --out of a new one is not empty, a given setting, other
    than rate and precision, differs from that of the resumed run, or the tracker's package is missing.
    """
    level = logging.INFO if processes().is_main_process else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    require_tracker(args.track)
    state = load_resume_state(args.out) if args.resume and not is_untouched(args.out) else None
    if state is not None and state["command"] != command:
        raise CheckpointError(f"{args.out}: holds an interrupted run of {state['command']}, not of {command}")
    if state is None and not is_untouched(args.out):
        raise CheckpointError(f"{args.out}: is not empty; choose another --out, empty it, or --resume")
    processes().wait_for_everyone()  # before one of them writes into the folder
    if args.threads:
        torch.set_num_threads(args.threads)
    settled = _settle(settings, args, state["settings"] if state else None)
    return settled, Storage(command, args.out, args.save_every, state, args.track)


def is_untouched(folder: Path) -> bool:
    """Whether the folder holds no run. Names that begin with a dot are ignored: a killed run may have left them."""
    if not folder.is_dir():
        return not folder.exists()
    return all(file.name.startswith(".") or (file.is_dir() and is_untouched(file)) for file in folder.iterdir())


def report(run: Callable[[], dict[str, Any]]) -> int:
    """Run and print the summary, one JSON object, or the error. Returns the exit code."""
    try:
        summary = run()
    except (FloatingPointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    if processes().is_main_process:
        print(json.dumps(summary, ensure_ascii=False))
    leave()
    return 0


def _settle(settings: type[SettingsType], args: argparse.Namespace, inherited: State | None) -> SettingsType:
    """The given settings, else those of the resumed run, else defaults; logged with their origin.

    Raises ValueError: a given setting differs from that of the resumed run and is not changeable.
    """
    names = [f.name for f in fields(settings)]  # type: ignore[arg-type]
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if inherited is not None:
        inherited = vars(settings(**inherited))  # with defaults for settings that the run did not have
        for name, value in given.items():
            if inherited[name] != value and name not in CHANGEABLE:
                raise ValueError(f"{flag_of(name)} {value} differs from the interrupted run's {inherited[name]}")
    settled = settings(**{**(inherited or {}), **given})
    for name in names:
        origin = "given" if name in given else "inherited" if inherited else "default"
        if name in (pipeline := getattr(args, "from_pipeline", {})):
            same = pipeline[name] == getattr(settled, name)
            origin = "pipeline" if same else f"given, {pipeline[name]} in the pipeline"
        if inherited is not None and inherited[name] != getattr(settled, name):
            origin = f"given, {inherited[name]} until now"
        log.info("%-16s %s (%s)", name, getattr(settled, name), origin)
    return settled
