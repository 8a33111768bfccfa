"""The report of a study with tasks, from the results of its runs: report.md, report.json and figures.

`write_report` reads RUNS/results alone, so it needs no model or data set. Missing results are named and left out; a
result that can't be read is an error.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from training.data.files import write_atomically
from training.evaluation import effects
from training.evaluation.effects import METRICS, MIN_UTTERANCES, Columns, Metric, Values
from training.evaluation.scoring import MEAN, mean_locales
from training.studies.effects_figures import draw
from training.studies.effects_text import TASKS, Json, listed, render
from training.studies.layout import Layout, name_of
from training.studies.results import Study, compared_encoders, read_results

DIGITS = 6
MIN_NATS = 1.5  # that an encoder must end below the unigram entropy of its held-out text


def write_report(runs: Path) -> Json:
    """Write report.md, report.json and the figures into `runs`. Returns what report.json holds.

    Raises ReportError: a required result is missing, or one can't be read.
    """
    report = report_of(read_results(Layout(runs)))
    report["figures"] = draw(report, runs)
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(runs / "report.json", text.encode())
    write_atomically(runs / "report.md", render(report).encode())
    return report


def report_of(study: Study) -> Json:
    """The content of report.json, in percent, without the names of the figures."""
    references, classes = study.references, len(study.domains)
    weights = effects.weights_by_locale(references)
    values = {
        task: effects.values_of(task, references, runs, classes, weights, study.nested)
        for task, runs in study.runs.items()
    }
    comparisons, left_out = _comparisons(study, values)
    report = {
        "title": study.recipe.get("title") or "Study",
        "notes": list(study.recipe.get("notes") or []),
        "partition": study.partition,
        "sets": list(next(iter(references.values())).sets),
        "seeds": list(study.recipe["seeds"]),
        "encoder_seeds": study.recipe["encoder_seeds"],
        "selection_share": study.recipe.get("finetune", {}).get("selection_share", 1.0),
        "tasks": list(study.runs),
        "utterances": {name: {key: len(rows) for key, rows in x.sets.items()} for name, x in references.items()},
        "mean_over": mean_locales(references),
        "is_parallel": len({reference.ids for reference in references.values()}) == 1,
        "resamples": effects.RESAMPLES,
        "missing": _missing(study) + left_out,
        "encoders": study.encoders,
        "min_nats": MIN_NATS,
        "controls": list(study.recipe.get("controls") or []),
        "unlearned": unlearned(study),
        "corpora": study.corpora,
        "contrasts": _contrasts(study, values),
        "comparisons": comparisons,
        "absolute": [row for task in study.runs for row in _absolute(task, values[task], study)],
        "teachers": study.teachers,
        "similarity": study.similarity,
        "slopes": [slope for task in study.runs if (slope := _slope(study, task, values[task]))],
    }
    return {name: _rounded(value) for name, value in report.items()}


def _comparisons(study: Study, values: dict[str, Values]) -> tuple[list[Json], list[str]]:
    """Every comparison with its tables; a line for each comparison and task without results."""
    comparisons: list[Json] = []
    left_out: list[str] = []
    for comparison in study.recipe["comparisons"]:
        title, baseline, encoders = comparison["title"], comparison["baseline"], list(comparison["encoders"])
        tables: list[Json] = []
        for task, runs in study.runs.items():
            if baseline in runs and any(name in runs for name in encoders):
                tables += [_table(study, baseline, encoders, task, metric, values[task]) for metric in METRICS[task]]
            else:
                missing = f"no results of the baseline {baseline}, or of any encoder compared with it"
                left_out.append(f"comparison “{title}”, {TASKS[task]}: left out, {missing}")
        comparisons.append({"title": title, "baseline": baseline, "encoders": encoders, "tables": tables})
    return comparisons, left_out


def _rounded(value: Any) -> Any:
    """Floats rounded; None for those that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(x) for x in value]
    if isinstance(value, float):
        return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
    return value


def _missing(study: Study) -> list[str]:
    """A line for each encoder and task with missing runs, and for unused results."""
    lines = []
    for task, runs in study.runs.items():
        for name in compared_encoders(study.recipe):
            lost = [name_of(seeds) for seeds in study.asked(name) if seeds not in runs.get(name, {})]
            if lost:
                lines.append(f"{TASKS[task]}, {name}: no result of seed{'s' * (len(lost) > 1)} {listed(lost)}")
    for teacher, texts in study.teachers.items():
        unmeasured = [kind for kind in ("generic", "task") if kind not in texts]
        seen = "text that it held out also occurs in its training text"
        lines += [f"noise of {teacher}: every {kind} {seen}" for kind in unmeasured]
    if study.unasked:
        lines.append(f"not used, as the recipe has other tasks, seeds or another partition: {', '.join(study.unasked)}")
    return lines


def _table(study: Study, baseline: str, encoders: list[str], task: str, metric: Metric, values: Values) -> Json:
    """Effects of one metric by encoder, set and locale: exploratory, without correction for their number."""
    runs, over, sets = study.runs[task], mean_locales(study.references), next(iter(study.references.values())).sets
    cells: list[Json] = []
    columns = _columns(study, task)
    compared = [name for name in encoders if name in runs and name != baseline]
    for encoder, name, locale in itertools.product(compared, sets, (*study.references, MEAN)):
        size = [len(study.references[x].sets[name]) for x in (over if locale == MEAN else [locale])]
        keys = (metric.name, encoder, name, locale), (metric.name, baseline, name, locale)
        effect = effects.compare_runs(values, keys[:1], keys[1:], columns)
        is_small = min(size) < MIN_UTTERANCES
        judged = effect is not None and effect.seeds > 1 and not is_small
        cell = {"encoder": encoder, "set": name, "locale": locale, "utterances": sum(size)}
        cell |= {"is_small": is_small, "is_judged": judged, **(vars(effect) if effect else {"change": None})}
        cell["mark"] = effects.mark_of(effect) if effect and judged else ""
        cells.append({**cell, "verdict": _verdict(cell, metric)})
    return {"task": task, "metric": metric._asdict(), "cells": cells}


def _verdict(cell: Json, metric: Metric) -> str:
    if not cell["is_judged"]:
        return "not judged"
    if not cell["mark"]:
        return "no difference shown"
    return "better" if (cell["change"] > 0) == metric.is_higher_better else "worse"


def _absolute(task: str, values: Values, study: Study) -> list[Json]:
    """Mean and standard deviation of every metric over the encoder seeds, or over those of fine-tuning; in percent."""
    rows = []
    for (metric, encoder, name, locale), (own, *_) in values.items():
        row = {"task": task, "metric": metric, "encoder": encoder, "set": name, "locale": locale}
        spread = float(own.std(ddof=1)) if len(own) > 1 else None
        seeds = [name_of(seeds) for seeds in sorted(study.runs[task][encoder])]
        level = effects.columns_of(study.runs[task][encoder], encoder in study.nested).level
        rows.append({**row, "mean": float(own.mean()), "sd": spread, "level": level, "seeds": seeds})
    return rows


def _columns(study: Study, task: str) -> dict[str, Columns]:
    return {name: effects.columns_of(runs, name in study.nested) for name, runs in study.runs[task].items()}


def _contrasts(study: Study, values: dict[str, Values]) -> list[Json]:
    """The contrasts named beforehand, on each task's first metric: one family, corrected for its number (Holm 1979).

    A contrast without results, or with one seed, stays in the family's number with a p value of 1.
    """
    found: list[Json] = []
    for contrast, task in itertools.product(study.recipe["contrasts"], study.runs):
        metric, columns = METRICS[task][0], _columns(study, task)
        sides = [[(metric.name, name, study.partition, MEAN) for name in contrast[x]] for x in ("runs", "baseline")]
        effect = effects.compare_runs(values[task], sides[0], sides[1], columns)
        judged = effect is not None and effect.seeds > 1
        entry = {**contrast, "task": task, "metric": metric._asdict(), "is_judged": judged}
        found.append({**entry, **(vars(effect) if effect else {"change": None})})
    p_values = np.array([entry["p_value"] if entry["is_judged"] else 1.0 for entry in found])
    for entry, p in zip(found, effects.holm(p_values).tolist() if found else [], strict=True):
        entry["p_holm"] = p
        entry["mark"] = "*" if entry["is_judged"] and p < 1 - effects.LEVEL else ""
        entry["verdict"] = _verdict(entry, METRICS[entry["task"]][0])
    return found


def unlearned(study: Study) -> list[Json]:
    """The encoders, but for controls, less than `MIN_NATS` below the unigram entropy of their held-out text."""
    found = []
    for name, facts in study.encoders.items():
        for seed, scores in facts["seeds"].items() if name not in (study.recipe.get("controls") or []) else ():
            if "unigram_entropy" not in scores:
                continue  # too little text to hold some out, or hidden states alone were compared
            below = scores["unigram_entropy"] - scores["held_out_loss"]
            if below < MIN_NATS:
                found.append({"encoder": name, "seed": seed, "nats_below": below})
    return found


def _slope(study: Study, task: str, values: Values) -> Json | None:
    """The slope of a task's first metric against the distance of the transfer set; None without results."""
    metric, columns, points = METRICS[task][0], _columns(study, task), []
    names = [name for name in study.recipe["similarity"]["runs"] if name in columns and name in study.similarity]
    if len(names) < 2 or len({columns[name] for name in names}) > 1:
        return None
    for name in names:
        for locale, measured in study.similarity[name].items():
            if (metric.name, name, study.partition, locale) in values:
                points.append({"encoder": name, "locale": locale, "divergence": measured["divergence"]})
    found = [values[metric.name, point["encoder"], study.partition, point["locale"]] for point in points]
    draws = effects.seed_draws(len(columns[names[0]].seeds), 0, effects.RESAMPLES)
    effect = effects.slope_of(found, [p["divergence"] for p in points], [p["locale"] for p in points], draws)
    for point, own in zip(points, found, strict=True):
        point["value"] = float(own[0].mean())
    entry = {"task": task, "metric": metric._asdict(), "points": points, "encoders": names}
    return {**entry, **vars(effect)} if effect else None
