"""An earlier build, from which another one continues: its data, teacher and students, and what has changed since."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.student.manifest import MANIFEST_FILE
from training.building.kept import Kept, read_kept
from training.building.served import served_answers, values
from training.data.utterances import DatasetError, Slot, Utterance
from training.evaluation.mistakes import wrong_heads
from training.evaluation.scoring import PredictedLabels
from training.models.checkpoint import is_finished
from training.studies.layout import Layout
from training.studies.recipe import Recipe, read_recipe

RECIPE = "recipe.toml"  # in the folder of a build

Json = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Earlier:
    """A finished build: the size of its teacher, its sizes, its data."""

    out: Path
    teacher: str
    sizes: tuple[str, ...]
    data: Kept


def read_earlier(out: Path) -> Earlier:
    """Read a build. Raises DatasetError: the folder holds none, or its teacher is not trained; RecipeError."""
    if not (out / RECIPE).is_file():
        raise DatasetError(f"--from {out}: holds no {RECIPE}; allowed: the --out of an earlier build")
    recipe = read_recipe(out / RECIPE)
    teacher = _teacher_of(recipe)
    if not first_weights(out, teacher):
        raise DatasetError(f"--from {out}: has neither runs/{teacher} nor students/{teacher}; finish that build first")
    sizes = tuple(size for size in recipe.export.runs if (Layout(out).student(size) / MANIFEST_FILE).is_file())
    return Earlier(out, teacher, sizes, read_kept(out))


def _teacher_of(recipe: Recipe) -> str:
    """The run that others imitate, else the only one that is fine-tuned."""
    runs = {name: run for name, run in recipe.runs.items() if run.command == "finetune"}
    return next((str(run.settings["teacher"]) for run in runs.values() if "teacher" in run.settings), next(iter(runs)))


def first_weights(out: Path, size: str) -> str:
    """The checkpoint of a size in a build's folder, else its exported student, whose weights are rounded; "": none."""
    layout = Layout(out.resolve())
    if is_finished(layout.run(size)):
        return str(layout.run(size))
    return str(layout.student(size)) if (layout.student(size) / MANIFEST_FILE).is_file() else ""


def joined(new: Kept, old: Kept, alone: bool) -> Kept:
    """New data beside that of an earlier build, or `alone`; what was left out or moved is logged.

    A new row takes the place of an old one with the same text or id. A text that stands in the old data keeps its
    partition: on dev, no student should be scored that was trained on it.
    """
    partition = {_text_key(u): u.partition for u in old.utterances}
    kept = [replace(u, partition=partition.get(_text_key(u), u.partition)) for u in new.utterances]
    moved = sum(a.partition != b.partition for a, b in zip(kept, new.utterances, strict=True))
    if moved:
        log.info("%d utterances stay in the partition that they had in the earlier build", moved)
    texts, ids = {_text_key(u) for u in kept}, {(u.locale, u.id) for u in kept}
    left = [i for i, u in enumerate(old.utterances) if _text_key(u) not in texts and (u.locale, u.id) not in ids]
    taken = len(old.utterances) - len(left)
    if alone:
        log.info("%d utterances of the earlier build are not in the data, and left out (--only-new)", len(left))
        return Kept(tuple(kept), new.places)
    log.info("%d utterances of the earlier build, %d of them replaced by new ones", len(old.utterances), taken)
    log.info("%d utterances of the new data, %d of them with a new text or id", len(kept), len(kept) - taken)
    return Kept(
        (*(old.utterances[i] for i in left), *kept),
        (*(old.places[i] for i in left), *new.places),
    )


def _text_key(utterance: Utterance) -> tuple[str, str]:
    return utterance.locale, utterance.text


def changes(earlier: Path, out: Path, sizes: Sequence[str], data: Kept) -> Json:
    """What each student of the sizes that both builds have answers otherwise on dev, as served.

    `mended` were wrong and are right, `broken` the reverse. Raises CheckpointError: a student can't be used.
    """
    rows = [i for i, utterance in enumerate(data.utterances) if utterance.partition == "dev"]
    dev = [data.utterances[i] for i in rows]
    found: Json = {}
    for size in sizes:
        folders = [Layout(build).student(size) for build in (earlier, out)]
        if not all((folder / MANIFEST_FILE).is_file() for folder in folders):
            continue
        before, now = ([answer.labels for answer in served_answers(folder, dev)] for folder in folders)
        answers = list(zip(rows, before, now, strict=True))
        found[size] = changed(data, answers)
    return {"from": earlier.resolve().name, "students": found}


def changed(data: Kept, answers: Sequence[tuple[int, PredictedLabels, PredictedLabels]]) -> Json:
    """The changes between two answers to each of some rows of the data."""
    listed: dict[str, list[Json]] = {"mended": [], "broken": []}
    otherwise_wrong = 0
    for row, before, now in answers:
        utterance = data.utterances[row]
        was_right, is_now = not wrong_heads(utterance, before), not wrong_heads(utterance, now)
        if was_right != is_now:
            texts = {"before": _said(utterance, before), "now": _said(utterance, now)}
            about = {"place": data.places[row], "locale": utterance.locale, "text": utterance.text}
            labels = {"intent": utterance.intent, "slots": [list(pair) for pair in values(utterance, utterance.slots)]}
            listed["mended" if is_now else "broken"].append({**about, **labels, **texts})
        elif not is_now and _said(utterance, before) != _said(utterance, now):
            otherwise_wrong += 1
    return {**listed, "otherwise_wrong": otherwise_wrong}


def _said(utterance: Utterance, answer: PredictedLabels) -> Json:
    slots: Sequence[Slot] = answer.slots or ()
    return {"intent": answer.intent, "slots": [list(pair) for pair in values(utterance, slots)]}


def change_lines(found: Json, best: str, most: int) -> list[str]:
    """The changes in lines: counts of each student, and the first utterances of the best one."""
    lines = []
    for size, of_size in found["students"].items():
        mended, broken = len(of_size["mended"]), len(of_size["broken"])
        lines.append(f"{size}, against that of {found['from']}: dev has {mended} mended and {broken} broken answers.")
    of_best: Mapping[str, list[Json]] = found["students"].get(best, {"broken": [], "mended": []})
    for kind in ("broken", "mended"):
        lines += [
            f"  {kind}: {one['text']!r} [{label(one)}]: {label(one['before'])} -> {label(one['now'])}"
            for one in of_best[kind][:most]
        ]
        if (more := len(of_best[kind]) - most) > 0:
            lines.append(f"  and {more} more {kind}")
    return lines


def label(labels: Mapping[str, Any]) -> str:
    """Intent and slots in a few words."""
    slots = ", ".join(f"{name}={value}" for name, value in labels["slots"])
    return f"{labels['intent']}{f' ({slots})' if slots else ''}"
