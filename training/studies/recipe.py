"""Recipes: TOML files with runs, their text, and comparisons.

::

    title = "Which transfer set?"
    data = "../sample"                  # labelled data, relative to the recipe; or --data
    generic = "../sample/out_of_scope"  # plain sentences, GENERIC/<language>/<source>.txt[.gz]; or --generic
    locales = ["de-DE", "fr-FR"]
    partition = "dev"                   # the partition that is scored; or --partition

    [tokenizer]                         # settings of training.tokenizer: one tokenizer for all pretrained encoders
    vocabulary = 16000                  # or run = "encoder": that of an adopted run

    [corpora.mixed]                     # settings of training.corpus build
    ratio = "7:3"
    tokens = 4_000_000

    [pretrain]                          # settings of every run that is pretrained; [distill] and [finetune] likewise
    [runs.teacher]                      # settings of the run's command
    title = "teacher"
    command = "pretrain"                # adopt, pretrain, distill or finetune (the default)
    corpus = "mixed"                    # corpora of the recipe, sources in the languages of the locales, or files
    data = true                         # pretrain: also use the labelled training texts
    [runs.student]
    command = "distill"
    corpus = "mixed"
    teacher = "teacher"                 # init, teacher, start and tokenizer: runs, paths relative to --out that begin
                                        # with a dot, or whatever the command takes; teacher_cache: relative to --out
    [[comparisons]]
    title = "Transfer sets"
    baseline = "generic"
    runs = ["mixed"]

Without tasks, fine-tuned runs are compared, one seed each (`training.ladder`); some may be exported::

    [export]                            # settings of export.onnx
    runs = ["xs", "s"]                  # each becomes OUT/students/NAME
    precision = "auto"

    [plan]                              # facts for the report, as training.ladder --minutes writes them

With tasks, encoders are compared, each
fine-tuned once per task and seed (`training.study`)::

    [tasks]                             # heads of each compared encoder, beside the settings in [finetune]
    dc = "domain"
    icner = "intent,slots"

    [report]
    encoder_seeds = [1, 2, 3]           # each compared encoder that no other run is made from is made once for each
    seeds = [1, 2]                      # of fine-tuning, for each encoder
    controls = ["random"]               # encoders that need not have learned
    noise = {teacher = "mixed"}         # teachers whose word accuracy is measured, and their training text
    notes = ["A sentence for the report."]

    [[contrasts]]                       # named beforehand: one Holm family with all tasks; all else is exploratory
    title = "mixed against generic text"
    runs = ["mixed"]                    # of several runs, the mean
    baseline = ["generic"]

    [similarity]                        # score against distance of the transfer set, as a slope
    runs = ["near", "far"]              # each on a corpus a language, whose locales name that language alone
    locales = ["de-DE", "fr-FR"]
"""

from __future__ import annotations

import argparse
import itertools
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.data.datasets import HUB_PREFIX
from training.data.utterances import Partition
from training.runs.flags import listed, parser_of
from training.runs.settings import INHERITED, RANDOM, DistillSettings, FinetuneSettings, PretrainSettings
from training.text.budgets import TransferSet

SETTINGS = {"pretrain": PretrainSettings, "distill": DistillSettings, "finetune": FinetuneSettings}
ADOPT_SETTINGS = ("encoder", "revision", "layers", "tokens", "texts")
SHARED = ("data", "locales", "tokenizer")  # settings of runs and corpora that the recipe sets for all
TOKENIZER_SETTINGS = ("corpus", "tokenizer_lines", "vocabulary", "run")
CORPUS_SETTINGS = tuple(f.name for f in fields(TransferSet) if f.name not in ("data", "tokenizer", "generic"))
PARENTS = ("init", "teacher", "start", "tokenizer")  # settings that may name other runs

Settings = dict[str, bool | int | float | str]


class RecipeError(ValueError):
    """An invalid recipe; the message names file and entry, and what is allowed."""


class Entry(BaseModel):
    """A table of a recipe; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Run(Entry):
    """One run: its command and that command's settings, with those of the command's section."""

    title: str
    command: Literal["adopt", "pretrain", "distill", "finetune"]
    settings: Settings


class Comparison(Entry):
    """Runs compared with a baseline."""

    title: str
    baseline: str
    runs: tuple[str, ...]


class Contrast(Entry):
    """A comparison named beforehand: the mean of some runs against the mean of others."""

    title: str
    runs: tuple[str, ...] = Field(min_length=1)
    baseline: tuple[str, ...] = Field(min_length=1)


class Similarity(Entry):
    """Runs on texts at several distances from the task's, and the locales in which their scores are compared."""

    runs: tuple[str, ...] = ()
    locales: tuple[str, ...] = ()


class Export(Entry):
    """Runs that are exported, and settings of `export.onnx`; None is its default."""

    runs: tuple[str, ...] = ()
    precision: Literal["int8", "fp32", "auto"] | None = None
    max_drop: float | None = None


class ReportSettings(Entry):
    """Settings of the report on tasks."""

    encoder_seeds: tuple[int, ...] = Field(default=(1,), min_length=1)
    seeds: tuple[int, ...] = ()
    controls: tuple[str, ...] = ()
    noise: dict[str, str] = {}
    notes: tuple[str, ...] = ()


class Recipe(Entry):
    """A whole recipe; its names are those of the file."""

    title: str
    data: str = ""
    generic: str = ""
    locales: tuple[str, ...] = Field(min_length=1)
    partition: Partition = "dev"
    tokenizer: Settings = {}
    corpora: dict[str, Settings] = {}
    pretrain: Settings = {}
    distill: Settings = {}
    finetune: Settings = {}
    runs: dict[str, Run]
    tasks: dict[Literal["dc", "icner"], str] = {}
    contrasts: tuple[Contrast, ...] = ()
    comparisons: tuple[Comparison, ...] = Field(min_length=1)
    similarity: Similarity = Similarity()
    export: Export = Export()
    plan: dict[str, Any] = {}
    report: ReportSettings = ReportSettings()

    @model_validator(mode="before")
    @classmethod
    def _complete_runs(cls, content: Any) -> Any:
        """Give each run its name as title, its command, and the settings of the command's section."""
        runs = {}
        for name, entry in content.get("runs", {}).items():
            run = {"title": name, "command": "finetune", **entry}
            own = {key: run.pop(key) for key in [*run] if key not in ("title", "command")}
            runs[name] = {**run, "settings": {**content.get(run["command"], {}), **own}}
        return {**content, **({"runs": runs} if runs else {})}

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the locales, each once."""
        return tuple(dict.fromkeys(locale.split("-")[0] for locale in self.locales))

    @property
    def confirmatory(self) -> tuple[str, ...]:
        """The runs of the contrasts, in order."""
        return tuple(dict.fromkeys(name for c in self.contrasts for name in (*c.baseline, *c.runs)))

    @property
    def compared(self) -> tuple[str, ...]:
        """The runs of the contrasts, then those of the comparisons, then those of the similarity."""
        others = (name for c in self.comparisons for name in (c.baseline, *c.runs))
        return tuple(dict.fromkeys((*self.confirmatory, *others, *self.similarity.runs)))

    @property
    def replicated(self) -> tuple[str, ...]:
        """The encoders that are made once for each encoder seed: those compared from which no other run is made."""
        parents = {name for run in self.runs.values() for name in self.parents_of(run.settings)}
        return tuple(name for name in self.compared if self.tasks and name not in parents)

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds of a run."""
        if name in self.replicated:
            return self.report.encoder_seeds
        return (int(self.runs[name].settings.get("seed", 1)),)

    def text_of(self, name: str, locale: str) -> str:
        """The corpus of a run of the similarity in the language of a locale. Raises ValueError: there is not one."""
        language, named = locale.split("-")[0], listed(str(self.runs[name].settings.get("corpus", "")))
        found = [text for text in named if self.corpora.get(text, {}).get("locales") == language]
        if len(found) != 1:
            allowed = f"allowed: runs with one corpus whose locales are {language!r}"
            raise ValueError(f"similarity: {name} has {len(found)} corpora of {language} alone; {allowed}")
        return found[0]

    @property
    def encoders(self) -> list[str]:
        """The runs that are pretrained or distilled."""
        return [name for name, run in self.runs.items() if run.command in ("pretrain", "distill")]

    @property
    def adopted(self) -> list[str]:
        """The runs that are adopted."""
        return [name for name, run in self.runs.items() if run.command == "adopt"]

    @property
    def finetuned(self) -> list[str]:
        """The runs that are fine-tuned."""
        return [name for name, run in self.runs.items() if run.command == "finetune"]

    def is_run(self, setting: str, value: str) -> bool:
        """Whether a setting that may name a run does so; "random" and "teacher" as a start are no runs."""
        return value in self.runs and not (setting == "start" and value in (RANDOM, INHERITED))

    def parents_of(self, settings: Mapping[str, Any]) -> list[str]:
        """The runs that a run with these settings is made from."""
        named = [(key, value) for key in PARENTS for value in listed(str(settings.get(key, "")))]
        return list(dict.fromkeys(value for key, value in named if self.is_run(key, value)))

    def with_data(
        self, data: str | None, generic: str | None, partition: str | None, encoder: str | None = None
    ) -> Recipe:
        """The recipe with other data, and another encoder to adopt, except for None.

        Raises RecipeError: neither names labelled data.
        """
        other: dict[str, Any] = {"data": data, "generic": generic, "partition": partition}
        if encoder:
            change = {"encoder": encoder}
            other["runs"] = {
                name: run.model_copy(update={"settings": {**run.settings, **change}}) if run.command == "adopt" else run
                for name, run in self.runs.items()
            }
        settled = self.model_copy(update={name: value for name, value in other.items() if value})
        settled.require("data")
        return settled

    def require(self, name: Literal["data", "generic"]) -> str:
        """The labelled data or the plain sentences. Raises RecipeError: there are none."""
        found = self.data if name == "data" else self.generic
        if not found:
            raise RecipeError(f"the recipe names no {name}: give --{name}")
        return found


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises RecipeError: no such file, no TOML, or an entry that is missing, unknown or not allowed.
    """
    try:
        recipe = Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        _check(recipe)
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(map(_problem, error.errors()))}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe.model_copy(update={name: _located(getattr(recipe, name), path) for name in ("data", "generic")})


def _located(source: str, recipe: Path) -> str:
    return str(recipe.parent / source) if source and not source.startswith(HUB_PREFIX) else source


def _problem(error: Any) -> str:
    """What is wrong with an entry, and what is allowed."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        models: dict[Any, type[Entry]] = {
            "report": ReportSettings,
            "comparisons": Comparison,
            "contrasts": Contrast,
            "similarity": Similarity,
            "export": Export,
        }
        model = models.get(error["loc"][0], Recipe)
        return f"{where} is unknown; allowed: {', '.join(model.model_fields)}"
    return f"{where} is missing" if error["type"] == "missing" else f"{where}: {error['msg']}, not {error['input']!r}"


def _check(recipe: Recipe) -> None:
    """Raise ValueError for an unknown name, or a setting that its command lacks."""

    def require(entry: str, names: Iterable[str], known: Iterable[str]) -> None:
        if missing := [name for name in names if name not in [*known]]:
            raise ValueError(f"{entry}: unknown {', '.join(missing)}; allowed: {', '.join(known) or 'none'}")

    require("tokenizer", recipe.tokenizer, TOKENIZER_SETTINGS)
    for name, settings in recipe.corpora.items():
        require(f"corpora.{name}", settings, CORPUS_SETTINGS)
    for name, run in recipe.runs.items():
        _check_run(f"runs.{name}", run)
    try:
        TopologicalSorter({name: recipe.parents_of(run.settings) for name, run in recipe.runs.items()}).prepare()
    except CycleError as error:
        raise ValueError(f"runs: {' from '.join(reversed(error.args[1]))}: can't be made from itself") from error
    comparable = recipe.encoders if recipe.tasks else recipe.finetuned
    for comparison in recipe.comparisons:
        require(f"comparisons, {comparison.title!r}", (comparison.baseline, *comparison.runs), comparable)
    for contrast in recipe.contrasts:
        require(f"contrasts, {contrast.title!r}", (*contrast.baseline, *contrast.runs), comparable)
    require("similarity.runs", recipe.similarity.runs, comparable)
    require("similarity.locales", recipe.similarity.locales, recipe.locales)
    for name, locale in itertools.product(recipe.similarity.runs, recipe.similarity.locales):
        recipe.text_of(name, locale)
    if (recipe.contrasts or recipe.similarity.runs) and not recipe.tasks:
        raise ValueError("contrasts and similarity need tasks")
    require("tokenizer.run", [str(recipe.tokenizer["run"])] if "run" in recipe.tokenizer else [], recipe.adopted)
    require("export", recipe.export.runs, recipe.finetuned)
    report = recipe.report
    require("report.controls", report.controls, recipe.compared)
    require("report.noise", report.noise, [name for name in recipe.encoders if name not in recipe.replicated])
    require("report.noise", report.noise.values(), recipe.corpora)
    if bool(recipe.tasks) != bool(report.seeds):
        raise ValueError("tasks and report.seeds need each other: at least one task and one seed, or neither")


def _check_run(entry: str, run: Run) -> None:
    """Raise ValueError where the command would not take the settings."""
    settings = dict(run.settings)
    if run.command == "adopt":
        if unknown := sorted(set(settings) - set(ADOPT_SETTINGS)):
            raise ValueError(f"{entry}: unknown {', '.join(unknown)}; allowed for adopt: {', '.join(ADOPT_SETTINGS)}")
        if not settings.get("encoder"):
            raise ValueError(f"{entry}: encoder is missing")
        return
    if run.command == "pretrain" and not isinstance(settings.pop("data", False), bool):
        raise ValueError(f"{entry}: data; allowed: true or false")
    shared = ("data", "locales") if run.command == "finetune" else SHARED
    allowed = [f.name for f in fields(SETTINGS[run.command]) if f.name not in shared]
    if unknown := sorted(set(settings) - set(allowed)):
        raise ValueError(f"{entry}: unknown {', '.join(unknown)}; allowed for {run.command}: {', '.join(allowed)}")
    parser = parser_of(entry, "", SETTINGS[run.command])
    parser.exit_on_error = False
    try:
        parser.parse_args([f"--out={entry}", *flags_of(settings)])
    except argparse.ArgumentError as error:
        raise ValueError(f"{entry}: {error}") from error


def flags_of(settings: Mapping[str, Any]) -> list[str]:
    """Settings as a command's flags: a bare flag for True, none for False."""
    named = {f"--{name.replace('_', '-')}": value for name, value in settings.items() if value is not False}
    return [flag if value is True else f"{flag}={value}" for flag, value in named.items()]
