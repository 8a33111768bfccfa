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
from training.evaluation.correlation import correlate
from training.evaluation.effects import METRICS, MIN_UTTERANCES, Metric, Values
from training.evaluation.scoring import MEAN, mean_locales
from training.studies.effects_figures import draw
from training.studies.effects_text import SIMILARITIES, TASKS, Json, listed, render
from training.studies.layout import Layout
from training.studies.results import Study, compared_encoders, read_results

DIGITS = 6


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
    values = {task: effects.values_of(task, references, runs, classes, weights) for task, runs in study.runs.items()}
    comparisons, left_out = _comparisons(study, values)
    report = {
        "title": study.recipe.get("title") or "Study",
        "notes": list(study.recipe.get("notes") or []),
        "partition": study.partition,
        "sets": list(next(iter(references.values())).sets),
        "seeds": list(study.recipe["seeds"]),
        "tasks": list(study.runs),
        "utterances": {name: {key: len(rows) for key, rows in x.sets.items()} for name, x in references.items()},
        "mean_over": mean_locales(references),
        "is_parallel": len({reference.ids for reference in references.values()}) == 1,
        "resamples": effects.RESAMPLES,
        "missing": _missing(study) + left_out,
        "encoders": study.encoders,
        "corpora": study.corpora,
        "comparisons": comparisons,
        "absolute": [row for task in study.runs for row in _absolute(task, values[task], study)],
        "teachers": study.teachers,
        "similarity": study.similarity,
        "fewest_point_utterances": study.min_point_utterances,
        "correlations": _correlations(study),
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
            lost = [seed for seed in study.recipe["seeds"] if seed not in runs.get(name, {})]
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
    """Effects of one metric by encoder, set and locale; the p values are corrected over all judged cells."""
    runs, over, sets = study.runs[task], mean_locales(study.references), next(iter(study.references.values())).sets
    cells: list[Json] = []
    found: list[effects.Effect | None] = []
    compared = [name for name in encoders if name in runs and name != baseline]
    for encoder, name, locale in itertools.product(compared, sets, (*study.references, MEAN)):
        size = [len(study.references[x].sets[name]) for x in (over if locale == MEAN else [locale])]
        keys = (metric.name, encoder, name, locale), (metric.name, baseline, name, locale)
        seeds = sorted(runs[encoder]), sorted(runs[baseline])
        effect = effects.compare_runs(values, keys, seeds) if all(key in values for key in keys) else None
        is_small = min(size) < MIN_UTTERANCES
        judged = effect is not None and effect.seeds > 1 and not is_small
        cell = {"encoder": encoder, "set": name, "locale": locale, "utterances": sum(size)}
        cells.append({**cell, "is_small": is_small, "is_judged": judged})
        found.append(effect)
    p_holm = effects.corrected(found, [cell["is_judged"] for cell in cells])
    for cell, effect, p in zip(cells, found, p_holm, strict=True):
        cell.update(vars(effect) if effect else {"change": None}, p_holm=p)
        cell["mark"] = effects.mark_of(effect, p) if effect and p is not None else ""
        cell["verdict"] = _verdict(cell, metric)
    return {"task": task, "metric": metric._asdict(), "cells": cells}


def _verdict(cell: Json, metric: Metric) -> str:
    if not cell["is_judged"]:
        return "not judged"
    if not cell["mark"]:
        return "no difference shown"
    return "better" if (cell["change"] > 0) == metric.is_higher_better else "worse"


def _absolute(task: str, values: Values, study: Study) -> list[Json]:
    """Mean and standard deviation over the seeds of every metric, in percent."""
    rows = []
    for (metric, encoder, name, locale), (own, *_) in values.items():
        row = {"task": task, "metric": metric, "encoder": encoder, "set": name, "locale": locale}
        spread = float(own.std(ddof=1)) if len(own) > 1 else None
        rows.append({**row, "mean": float(own.mean()), "sd": spread, "seeds": sorted(study.runs[task][encoder])})
    return rows


def _correlations(study: Study) -> list[Json]:
    """Effect against similarity over domains and locales, of each encoder of the recipe, task and measure."""
    if not study.similarity or not study.recipe["comparisons"]:
        return []
    baseline = study.recipe["comparisons"][0]["baseline"]
    found = []
    for encoder, (task, runs) in itertools.product(study.recipe.get("similarity_encoders") or [], study.runs.items()):
        if encoder not in runs or baseline not in runs:
            continue
        points, few, undefined = _points(study, task, encoder, baseline)
        y, clusters = np.array([p["change"] for p in points]), [p["domain"] for p in points]
        for measure in SIMILARITIES:
            correlations = correlate(np.array([p[measure] for p in points]), y, clusters)
            found.append(
                {
                    "encoder": encoder,
                    "baseline": baseline,
                    "task": task,
                    "measure": measure,
                    "metric": METRICS[task][0]._asdict(),
                    "points": points,
                    "domains": len(set(clusters)),
                    "too_few_utterances": few,
                    "undefined": undefined,
                    **{name: vars(x) for name, x in correlations.items()},
                }
            )
    return found


def _points(study: Study, task: str, encoder: str, baseline: str) -> tuple[list[Json], int, int]:
    """Points of (domain, locale); how many have too few utterances; how many have a baseline of 0."""
    points, few, undefined = [], 0, 0
    runs, classes = study.runs[task], len(study.domains)
    sides = ({encoder: runs[encoder]}, {baseline: runs[baseline]})
    for locale in [locale for locale in study.similarity["locales"] if locale in study.references]:
        reference, domains = study.references[locale], study.similarity["locales"][locale]
        change = effects.domain_change(task, reference, *sides, locale, classes)
        counts = np.bincount(reference.domain[reference.domain >= 0], minlength=classes)
        for i, domain in enumerate(study.domains):
            if domain not in domains or not counts[i]:
                continue
            if min(int(counts[i]), domains[domain].get("utterances") or math.inf) < study.min_point_utterances:
                few += 1
            elif not math.isfinite(change[i]):
                undefined += 1
            else:
                similarity = {name: float(domains[domain][name]) for name in SIMILARITIES}
                points.append({"domain": domain, "locale": locale, "change": float(change[i]), **similarity})
    return points, few, undefined
