"""A study's recipe: a TOML file that names texts, encoders, tasks and what is compared.

::

    title = "Which transfer set?"

    [data]
    task = "../sample"                  # labelled data, relative to the recipe; or --task
    generic = "../sample/out_of_scope"  # plain sentences; or --generic
    locales = ["de-DE", "fr-FR"]
    partition = "dev"                   # what is scored; or --partition

    [tokenizer]                         # flags of training.tokenizer
    vocabulary = 16000

    [corpora.mixed]                     # flags of training.corpus build
    ratio = "7:3"
    tokens = 4_000_000

    [pretrain]                          # flags of every encoder that is pretrained; [distill] and [finetune] likewise
    [encoders.teacher]                  # flags of training.pretrain or training.distill
    title = "teacher"
    command = "pretrain"
    corpus = "mixed"                    # corpora and encoders are named as in the recipe

    [tasks]                             # heads that each compared encoder is fine-tuned with
    dc = "domain"
    icner = "intent,slots"

    [report]
    seeds = [1, 2, 3]                   # of fine-tuning
    similarity_encoders = ["mixed"]     # whose effect is related to how near a domain is to the generic text
    fewest_point_utterances = 20        # that a domain needs in a language to be a point of that relation
    noise = {teacher = "mixed"}         # teachers whose word accuracy is measured, each with a text that it held out
    [[report.comparisons]]
    title = "Transfer sets"
    baseline = "generic"
    encoders = ["mixed"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from training.evaluation.correlation import FEWEST_POINT_UTTERANCES

TASKS = ("dc", "icner")
COMMANDS = ("pretrain", "distill")
PARENTS = ("init", "teacher", "start")  # settings that may name another encoder of the recipe
STARTS = ("random", "teacher")  # but not as a start, where these say how the first weights are made
_SECTIONS = ("title", "data", "tokenizer", "corpora", *COMMANDS, "encoders", "finetune", "tasks", "report")


class RecipeError(ValueError):
    """A recipe that can't be used; the message names file and entry, and what is allowed."""


@dataclass(frozen=True)
class Encoder:
    """One encoder: how it is made, and of which others."""

    name: str
    title: str
    command: str
    settings: Mapping[str, Any]

    @property
    def corpus(self) -> str:
        """The recipe's name of the text that it learns from."""
        return str(self.settings["corpus"])


@dataclass(frozen=True)
class Recipe:
    """A whole study. `settings` hold flags of commands by section; everything else has the names of the file."""

    title: str
    task: str
    generic: str
    locales: tuple[str, ...]
    partition: str
    tokenizer: Mapping[str, Any]
    corpora: Mapping[str, Mapping[str, Any]]
    encoders: Mapping[str, Encoder]
    finetune: Mapping[str, Any]
    tasks: Mapping[str, str]
    seeds: tuple[int, ...]
    comparisons: tuple[Mapping[str, Any], ...]
    similarity_encoders: tuple[str, ...] = ()
    fewest_point_utterances: int = FEWEST_POINT_UTTERANCES
    noise: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the locales, each once."""
        return tuple(dict.fromkeys(locale.split("-")[0] for locale in self.locales))

    @property
    def compared(self) -> tuple[str, ...]:
        """The encoders that are fine-tuned: baselines and what is compared with them, in order."""
        names = (name for c in self.comparisons for name in (c["baseline"], *c["encoders"]))
        return tuple(dict.fromkeys(names))

    def with_data(self, task: str | None, generic: str | None, partition: str | None) -> Recipe:
        """The recipe with other data, where given.

        Raises:
            RecipeError: it names none and none is given.
        """
        settled = replace(
            self,
            task=task or self.task,
            generic=generic or self.generic,
            partition=partition or self.partition,
        )
        for name in ("task", "generic"):
            if not getattr(settled, name):
                raise RecipeError(f"the recipe names no {name} data: give --{name}")
        return settled


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: no such file, no TOML, or an entry that is missing, unknown or names nothing.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    try:
        recipe = _recipe_of(content, path.parent)
        _check(recipe)
    except KeyError as error:
        raise RecipeError(f"{path}: {error.args[0]} is missing") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe


def _recipe_of(content: Mapping[str, Any], folder: Path) -> Recipe:
    unknown = sorted(set(content) - set(_SECTIONS))
    if unknown:
        raise ValueError(f"unknown sections {', '.join(unknown)}; allowed: {', '.join(_SECTIONS)}")
    data, report = content["data"], content["report"]

    def located(name: str) -> str:
        value = str(data.get(name, ""))
        return str(folder / value) if value and not value.startswith("hub:") else value

    return Recipe(
        title=content["title"],
        task=located("task"),
        generic=located("generic"),
        locales=tuple(data["locales"]),
        partition=data.get("partition", "dev"),
        tokenizer=content.get("tokenizer", {}),
        corpora=content["corpora"],
        encoders={name: _encoder_of(name, entry, content) for name, entry in content["encoders"].items()},
        finetune=content.get("finetune", {}),
        tasks=content["tasks"],
        seeds=tuple(report["seeds"]),
        comparisons=tuple(report["comparisons"]),
        similarity_encoders=tuple(report.get("similarity_encoders", ())),
        fewest_point_utterances=int(report.get("fewest_point_utterances", FEWEST_POINT_UTTERANCES)),
        noise=report.get("noise", {}),
        notes=tuple(report.get("notes", ())),
    )


def _encoder_of(name: str, entry: Mapping[str, Any], content: Mapping[str, Any]) -> Encoder:
    command = entry["command"]
    if command not in COMMANDS:
        raise ValueError(f"encoders.{name}: command {command!r}; allowed: {', '.join(COMMANDS)}")
    own = {key: value for key, value in entry.items() if key not in ("title", "command")}
    return Encoder(name, entry.get("title", name), command, {**content.get(command, {}), **own})


def _check(recipe: Recipe) -> None:
    """Raise ValueError where a name stands for nothing."""

    def require(what: str, names: Any, known: Any) -> None:
        missing = [str(name) for name in names if name not in known]
        if missing:
            raise ValueError(f"{what} names {', '.join(missing)}; known: {', '.join(map(str, known)) or 'none'}")

    for encoder in recipe.encoders.values():
        require(f"encoders.{encoder.name}: corpus", [encoder.corpus], recipe.corpora)
    require("[tasks]", recipe.tasks, TASKS)
    require("report.comparisons", recipe.compared, recipe.encoders)
    require("report.similarity_encoders", recipe.similarity_encoders, recipe.compared)
    require("report.noise", recipe.noise, recipe.encoders)
    require("report.noise", recipe.noise.values(), recipe.corpora)
    if recipe.similarity_encoders and not recipe.noise:
        raise ValueError("report.similarity_encoders needs report.noise: its first teacher tells how alike texts are")
    if not recipe.seeds or not recipe.comparisons:
        raise ValueError("report needs at least one seed and one comparison")
