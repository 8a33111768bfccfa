"""Read and check the results of a study: missing ones are left out, one that can't be read is an error."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from training.data.files import read_json
from training.evaluation.effects import Outcomes, Reference, Seeds
from training.evaluation.scoring import Ints
from training.studies.effects_text import TASKS, Json
from training.studies.layout import Layout, name_of

RunsByTask = dict[str, dict[str, dict[Seeds, dict[str, Outcomes]]]]  # task to encoder to seeds to locale

OUTCOMES = {"dc": ("domain",), "icner": ("intent_errors", "slot_errors")}


class ReportError(ValueError):
    """A result that is missing or can't be read; the message names its file."""


@dataclass(frozen=True)
class Study:
    """The results of a study; `unasked` names those that the recipe does not use."""

    recipe: Json
    partition: str
    domains: list[str]
    references: dict[str, Reference]
    runs: RunsByTask
    unasked: list[str]
    encoders: Json
    corpora: Json
    similarity: Json
    teachers: Json

    @property
    def nested(self) -> set[str]:
        """The encoders that the recipe makes with several seeds."""
        return {name for name, seeds in self.recipe["encoder_seeds"].items() if len(seeds) > 1}

    def asked(self, encoder: str) -> list[Seeds]:
        """The seeds with which the recipe makes and fine-tunes an encoder."""
        return list(product(map(int, self.recipe["encoder_seeds"][encoder]), map(int, self.recipe["seeds"])))


def read_results(layout: Layout) -> Study:
    """Read and check the results of a study with tasks.

    Raises ReportError: a required result is missing, or one can't be read.
    """
    results = layout.results
    with reading(layout.recipe) as recipe:
        tasks = list(recipe["tasks"])
        asked = {
            name: set(product(map(int, seeds), map(int, recipe["seeds"])))
            for name, seeds in recipe["encoder_seeds"].items()
        }
        for comparison in recipe["comparisons"]:
            _ = comparison["title"], comparison["baseline"], list(comparison["encoders"])
        for contrast in recipe["contrasts"]:
            _ = contrast["title"], list(contrast["baseline"]), list(contrast["runs"])
        _ = list(recipe["similarity"]["runs"])
        if unmade := [name for name in compared_encoders(recipe) if name not in asked]:
            raise ValueError(f"encoder_seeds lacks {', '.join(unmade)}")
        if unknown := set(tasks) - set(TASKS):
            raise ValueError(f"unknown tasks {sorted(unknown)}; allowed: {', '.join(TASKS)}")
    with reading(layout.references) as found:
        partition, domains = str(found["partition"]), [str(name) for name in found["domains"]]
        references = {name: _reference(value, partition, len(domains)) for name, value in found["locales"].items()}
        if not references:
            raise ValueError("no locale")
    optional: dict[str, Json] = {}
    for name in ("encoders", "corpora", "similarity", "teachers"):
        optional[name] = {}
        if (results / f"{name}.json").is_file():
            with reading(results / f"{name}.json") as optional[name]:
                _check(name, optional[name])
    runs, unasked = _runs(results / "runs", tasks, asked, partition, references, len(domains))
    order = [*compared_encoders(recipe), *optional["encoders"]]
    runs = {task: {x: found[x] for x in dict.fromkeys([*order, *found]) if x in found} for task, found in runs.items()}
    return Study(recipe, partition, domains, references, runs, unasked, **optional)


def compared_encoders(recipe: Json) -> list[str]:
    """The encoders of contrasts, comparisons and similarity, in order, each once."""
    contrasts = [name for c in recipe["contrasts"] for name in (*c["baseline"], *c["runs"])]
    others = [name for c in recipe["comparisons"] for name in (c["baseline"], *c["encoders"])]
    return list(dict.fromkeys([*contrasts, *others, *recipe["similarity"]["runs"]]))


def _runs(
    folder: Path,
    tasks: list[str],
    asked: dict[str, set[Seeds]],
    partition: str,
    references: dict[str, Reference],
    domains: int,
) -> tuple[RunsByTask, list[str]]:
    """The runs of these tasks, encoders and seeds on the partition; the names of the others."""
    runs: RunsByTask = {task: {} for task in tasks}
    unasked = []
    for file in sorted(folder.glob("*/*/*.json.gz")):
        with reading(file) as run:
            task, encoder, seeds = str(run["task"]), str(run["encoder"]), (int(run["encoder_seed"]), int(run["seed"]))
            name = name_of(seeds)
            if (task, encoder, name) != (*file.parts[-3:-1], file.name.removesuffix(".json.gz")):
                raise ValueError(f"is of task {task}, encoder {encoder} and seeds {name}, which its path contradicts")
            if task not in tasks or seeds not in asked.get(encoder, ()) or run["partition"] != partition:
                unasked.append(f"{task}/{encoder}/{name}")
                continue
            sizes, answered = {locale: len(x.ids) for locale, x in references.items()}, run["locales"]
            found = {locale: _outcomes(answered[locale], task, size, domains) for locale, size in sizes.items()}
            runs[task].setdefault(encoder, {})[seeds] = found
    return runs, unasked


@contextmanager
def reading(file: Path) -> Iterator[Any]:
    """The content of a JSON file; errors name the file."""
    try:
        yield read_json(file)
    except KeyError as error:
        raise ReportError(f"{file}: lacks {error}") from error
    except (OSError, EOFError, zlib.error, ValueError, TypeError, AttributeError) as error:
        raise ReportError(f"{file}: {error}") from error


def _check(name: str, content: Json) -> None:
    """Read the values that the report needs, so that an error names the file."""
    for entry in content.values():
        if name == "similarity":
            _ = [float(value["divergence"]) for value in entry.values()]
        elif name == "teachers":
            _ = [float(text["accuracy"]) for text in entry.values()]
        elif name == "encoders":
            _ = [[point["step"] for point in seed["curve"]] for seed in entry["seeds"].values()]
        else:
            _ = entry.get("title")


def _integers(values: Any, size: int, below: float, least: int = 0) -> Ints:
    found = np.array(values) if size else np.array(values, dtype=np.int64)
    if found.dtype.kind != "i" or found.shape != (size,) or (size and (found.min() < least or found.max() >= below)):
        raise ValueError(f"a list that is not of {size} integers from {least} to below {below}")
    return found.astype(np.int64)


def _reference(value: Json, partition: str, domains: int) -> Reference:
    ids = tuple(str(name) for name in value["ids"])
    size = len(ids)
    if not size:
        raise ValueError("a locale without utterances")
    tails = {name: _integers(rows, len(rows), size) for name, rows in value["tails"].items()}
    domain, slots = _integers(value["domain"], size, domains, -1), _integers(value["slots"], size, math.inf)
    return Reference(ids, domain, slots, {partition: np.arange(size), **tails})


def _outcomes(value: Json, task: str, size: int, domains: int) -> Outcomes:
    ranges = {"domain": (domains, -1), "intent_errors": (2, 0), "slot_errors": (math.inf, 0)}
    return {name: _integers(value[name], size, *ranges[name]) for name in OUTCOMES[task]}
