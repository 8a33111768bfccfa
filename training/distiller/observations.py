"""Finished trials as observations: the level of each part of a pipeline, and what the student scored with it.

Read from rows of `training.distiller search`, or from the runs that Distiller's authors published.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.utterances import DatasetError
from training.distiller.space import CHOICES
from training.distiller.trials import ROWS

Row = dict[str, Any]

NOT_USED = "-"  # the level of a part that a pipeline does not have
PUBLISHED_FILE = "auto_distiller_tabular_data.csv"
PUBLISHED = {  # their columns by our names
    "hidden_loss": "intermediate_loss_type",
    "mi_alpha": "alpha",
    "layer_mapping": "intermediate_strategy",
    "prediction_loss": "kd_loss_type",
    "mixup": "mixup",
    "contextual": "contextual",
    "backtranslation": "backtranslation",
    "random": "random",
    "changed_share": "aug_p",
}
AUGMENTATIONS = ("contextual", "backtranslation", "random")  # numbers are places in their order; 0: left out


@dataclass(frozen=True)
class Observation:
    """One finished trial: `rows` of its data set, `value` in points, level of each part, ratio of score to teacher."""

    data: str
    student: str
    rows: int
    value: float
    levels: dict[str, str]
    ratio: float = 1.0


def read_rows(places: Sequence[Path]) -> list[Row]:
    """The rows of files, or of folders of searches. Raises DatasetError: one can't be read, or a line is no row."""
    found: list[Row] = []
    for place in places:
        file = place / ROWS if place.is_dir() else place
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{file}: cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                row["data"], row["student"], row["sampler"], row["pipeline"], row["features"]["rows"]
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(f"{file}:{number}: is no row of training.distiller search ({error!r})") from error
            found.append(row)
    return found


def levels_of(choices: Row) -> dict[str, str]:
    """The level of each part of the search space, from a trial's choices."""
    return {name: str(choices.get(name, NOT_USED)) for name in CHOICES}


def own(rows: Sequence[Row], samplers: Sequence[str] = ("random",)) -> list[Observation]:
    """The finished trials of these samplers; their value is the gain over the plain student, in points."""
    return [
        Observation(
            row["data"],
            row["student"],
            int(row["features"]["rows"]),
            row["score"] - row["plain"],
            levels_of(row["choices"]),
            row["ratio"] or 0.0,
        )
        for row in rows
        if row["sampler"] in samplers and row.get("state") == "complete"
    ]


def published(folder: Path) -> list[Observation]:
    """The authors' runs; their value is the score in points. Raises DatasetError: the file is not theirs."""
    file = folder / PUBLISHED_FILE
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [
            Observation(
                row["task"],
                f"{row['Model']} of {row['Teacher']}",
                int(row["#example"]),
                100 * float(row["score"]),
                {ours: _published_level(ours, row[theirs]) for ours, theirs in PUBLISHED.items()},
                float(row["ratio"]),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{file}: are not the authors' runs: {error}") from error


def _published_level(name: str, value: str) -> str:
    return ("0" if value == "0" else "1") if name in AUGMENTATIONS else value.lower()
