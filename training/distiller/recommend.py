"""Recommend a pipeline for new data: a regressor from features of the data and parts of the pipeline to the ratio of
student to teacher, fitted on the rows of searches (AutoDistiller: He et al. 2021, section 5).
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor

from training.data.files import write_atomically
from training.data.policy import CONTEXTUAL, KINDS, PARAPHRASED
from training.data.utterances import DatasetError
from training.distiller.observations import levels_of
from training.distiller.space import CHOICES, suggest
from training.runs.pipeline import as_toml

Row = dict[str, Any]
Features = dict[str, float | None]
Floats = NDArray[np.float64]

MIN_DATA_SETS = 2
MODELS = 20  # each fitted on a bootstrap of the data sets and of their trials
RANDOM_CANDIDATES = 500
NEAREST = 3
LOGARITHMIC = ("rows", "rows_per_intent", "intents", "slot_types", "domains")
REGRESSOR: dict[str, Any] = {"max_iter": 80, "learning_rate": 0.08, "max_depth": 3, "min_samples_leaf": 5}


@dataclass(frozen=True)
class Recommended:
    """A pipeline with the predicted ratio of student to teacher, and its 95 % interval."""

    pipeline: dict[str, Any]
    ratio: float
    low: float
    high: float

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        interval = [round(self.low, 4), round(self.high, 4)]
        return {"ratio": round(self.ratio, 4), "interval": interval, "pipeline": self.pipeline}


@dataclass(frozen=True)
class Neighbour:
    """A data set of the rows, its distance in standard deviations of the features, and the best pipeline on it."""

    data: str
    distance: float
    ratio: float
    pipeline: dict[str, Any]


class Recommender:
    """Models of the ratio, fitted on finished trials of one student or several."""

    def __init__(self, rows: Sequence[Row], seed: int = 0) -> None:
        """Fit. Raises DatasetError: the rows hold too few data sets with finished trials."""
        self._rows = [row for row in rows if row.get("state") == "complete" and row.get("ratio") is not None]
        self._data = sorted({row["data"] for row in self._rows})
        if len(self._data) < MIN_DATA_SETS:
            found = f"{len(self._rows)} finished trials on {len(self._data)} data sets"
            raise DatasetError(f"{found}; a recommendation needs at least {MIN_DATA_SETS} data sets")
        self._students = sorted({row["student"] for row in self._rows})
        self._names = sorted({name for row in self._rows for name in row["features"]})
        self._levels = [(name, str(level)) for name, levels in CHOICES.items() for level in levels]
        self._seed = seed
        inputs = np.stack([self._inputs(row["features"], row["student"], row["choices"]) for row in self._rows])
        ratios = np.array([row["ratio"] for row in self._rows])
        places = {name: [i for i, row in enumerate(self._rows) if row["data"] == name] for name in self._data}
        rng = random.Random(seed)
        self._models = []
        for number in range(MODELS):
            drawn = rng.choices(self._data, k=len(self._data))
            chosen = [i for name in drawn for i in rng.choices(places[name], k=len(places[name]))]
            model = HistGradientBoostingRegressor(random_state=number, **REGRESSOR)
            self._models.append(model.fit(inputs[chosen], ratios[chosen]))

    def recommend(self, features: Features, student: str, top: int, is_contextual: bool = False) -> list[Recommended]:
        """The pipelines with the highest predicted ratios for data with these features, best first.

        Candidates are those of the rows and random ones; contextual augmentation is one of their parts where asked.
        Raises DatasetError: the rows have no such student.
        """
        if student not in self._students:
            raise DatasetError(f"student {student!r}: the rows have none; allowed: {', '.join(self._students)}")
        candidates = self._candidates(is_contextual)
        inputs = np.stack([self._inputs(features, student, choices) for choices, _ in candidates])
        predicted = np.stack([model.predict(inputs) for model in self._models])
        means, (low, high) = predicted.mean(axis=0), np.percentile(predicted, [2.5, 97.5], axis=0)
        best = np.argsort(-means, kind="stable")[:top]
        return [Recommended(candidates[i][1], float(means[i]), float(low[i]), float(high[i])) for i in best]

    def nearest(self, features: Features, student: str) -> list[Neighbour]:
        """The data sets whose features are nearest, and what won there."""
        by_data = {row["data"]: self._numbers(row["features"]) for row in self._rows if row["student"] == student}
        table = np.stack(list(by_data.values()))
        scale = np.where(table.std(axis=0) > 0, table.std(axis=0), 1.0)
        gaps = np.nan_to_num((table - self._numbers(features)) / scale)
        distances = np.sqrt(np.square(gaps).mean(axis=1))
        found = []
        for place in np.argsort(distances, kind="stable")[:NEAREST]:
            name = list(by_data)[place]
            won = max(
                (row for row in self._rows if row["data"] == name and row["student"] == student),
                key=lambda row: float(row["ratio"]),
            )
            found.append(Neighbour(name, round(float(distances[place]), 2), won["ratio"], won["pipeline"]))
        return found

    def _candidates(self, is_contextual: bool) -> list[tuple[Row, dict[str, Any]]]:
        """Choices and pipelines, each pipeline once."""
        left_out = {PARAPHRASED} if is_contextual else {PARAPHRASED, CONTEXTUAL}
        available = [name for name in KINDS if name not in left_out]
        found = [(row["choices"], row["pipeline"]) for row in self._rows]
        found = [x for x in found if is_contextual or not x[0].get(CONTEXTUAL)]
        rng = random.Random(self._seed)
        for _ in range(RANDOM_CANDIDATES):
            trial = _RandomTrial(rng)
            pipeline = suggest(trial, available)
            found.append((trial.params, pipeline))
        return list({json.dumps(pipeline, sort_keys=True): (choices, pipeline) for choices, pipeline in found}.values())

    def _numbers(self, features: Features) -> Floats:
        """Features in the order of their names, counts as logarithms, NaN where there is none."""
        values = [(name, features.get(name)) for name in self._names]
        return np.array(
            [math.nan if x is None else math.log1p(x) if name in LOGARITHMIC else float(x) for name, x in values]
        )

    def _inputs(self, features: Features, student: str, choices: Row) -> Floats:
        levels = levels_of(choices)
        parts = [float(levels[name] == level) for name, level in self._levels]
        of_student = [float(student == name) for name in self._students]
        return np.concatenate([self._numbers(features), of_student, parts])


class _RandomTrial:
    """A trial of random choices."""

    def __init__(self, rng: random.Random) -> None:
        self._rng, self.params = rng, dict[str, Any]()

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.params[name] = self._rng.choice(choices)
        return self.params[name]


def write_pipelines(found: Sequence[Recommended], out: Path) -> list[Path]:
    """Write each pipeline as `pipeline-1.toml`, ... into a folder. Returns the files."""
    files = []
    for number, one in enumerate(found, start=1):
        files.append(out / f"pipeline-{number}.toml")
        header = f"# Predicted ratio of student to teacher: {one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]\n"
        write_atomically(files[-1], f"{header}{as_toml(one.pipeline)}".encode())
    return files
