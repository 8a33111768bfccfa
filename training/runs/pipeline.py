"""Pipelines: the settings of a distillation on task data, as a small TOML file.

    teacher_weight = 0.7
    prediction_loss = "mse"
    hidden_loss = "mi"
    layer_mapping = "emd"
    mi_alpha = 0.5
    mixup = 0.4
    augmentation = "contextual:0.3:0.15,typed:0.5"

Names are those of the flags of `training.finetune`; what is left out has the flag's default. Files and folders
(teacher, masked language model, paraphrases) are no part of it.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.data.paraphrases import Paraphrases
from training.data.policy import CONTEXTUAL, PARAPHRASED, Policy, Rewriter, parse_policy
from training.data.utterances import Utterance
from training.models.contextual import ContextualWords
from training.models.devices import processes
from training.runs.flags import flag_of, parser_of
from training.runs.settings import FinetuneSettings

PIPELINE = (
    "teacher_weight",
    "prediction_loss",
    "temperature",
    "hidden_loss",
    "hidden_weight",
    "layer_mapping",
    "mi_alpha",
    "mixup",
    "augmentation",
    "augmented_share",
    "substituted_share",
    "views",
)
SHARES = ("augmented_share", "substituted_share")  # which --augmentation replaces


class PipelineError(ValueError):
    """An invalid pipeline; the message names file and entry, and what is allowed."""


def read_pipeline(file: Path) -> dict[str, Any]:
    """The settings of a pipeline file. Raises PipelineError: it can't be read, or has an entry that is not allowed."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{file}: cannot be read: {error}") from error
    return checked(content, str(file))


def checked(content: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Settings of a pipeline with the types of the flags. Raises PipelineError: one is unknown or out of range."""
    if unknown := [name for name in content if name not in PIPELINE]:
        raise PipelineError(f"{place}: unknown {', '.join(unknown)}; allowed: {', '.join(PIPELINE)}")
    parser = parser_of(place, "", FinetuneSettings)
    parser.exit_on_error = False
    try:
        flags = [f"{flag_of(name)}={value}" for name, value in content.items()]
        found = vars(parser.parse_args([f"--out={place}", *flags]))
        parse_policy(found.get("augmentation", ""))
    except (argparse.ArgumentError, ValueError) as error:
        raise PipelineError(f"{place}: {error}") from error
    return {name: found[name] for name in content}


def with_pipeline(args: argparse.Namespace) -> argparse.Namespace:
    """Parsed flags of `training.finetune` with the settings of --pipeline for those that were not given.

    `from_pipeline` are all of them, for the log. Raises PipelineError: see `read_pipeline`.
    """
    found = read_pipeline(args.pipeline) if args.pipeline else {}
    for name, value in found.items():
        if not hasattr(args, name):
            setattr(args, name, value)
    args.from_pipeline = found
    return args


def pipeline_of(settings: FinetuneSettings) -> dict[str, Any]:
    """The pipeline of a run, for `training.json`."""
    return {name: getattr(settings, name) for name in PIPELINE}


def as_toml(pipeline: Mapping[str, Any]) -> str:
    """A pipeline file."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in pipeline.items())


def policy_of(
    settings: FinetuneSettings, utterances: Sequence[Utterance], masked_model: ContextualWords | None = None
) -> Policy | None:
    """The augmentation policy of a run; None: the shares of rewritten utterances say what is done.

    Raises ValueError: a policy and such a share are given, or model or paraphrases of the policy are missing or unused.
    """
    steps = parse_policy(settings.augmentation)
    names = [step.name for step in steps]
    for name, setting in ((CONTEXTUAL, "masked_model"), (PARAPHRASED, "paraphrases")):
        given = getattr(settings, setting) or (name == CONTEXTUAL and masked_model is not None)
        if name in names and not given:
            raise ValueError(f"--augmentation {name}: needs {flag_of(setting)}")
        if getattr(settings, setting) and name not in names:
            raise ValueError(f"{flag_of(setting)}: is used by --augmentation {name}:SHARE alone")
    if not settings.augmentation:
        return None
    defaults = FinetuneSettings()
    if other := [name for name in SHARES if getattr(settings, name) != getattr(defaults, name)]:
        raise ValueError(f"--augmentation and {flag_of(other[0])} exclude each other: a policy has shares of its own")
    more: dict[str, Rewriter] = {}
    if CONTEXTUAL in names:
        more[CONTEXTUAL] = masked_model or ContextualWords.of(settings.masked_model, processes().device)
    if PARAPHRASED in names:
        more[PARAPHRASED] = Paraphrases(Path(settings.paraphrases), utterances)
    return Policy(steps, utterances, more)
