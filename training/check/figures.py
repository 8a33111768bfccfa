"""The figures of the HTML report, as SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from training.check.classifier import Predictions
from training.check.confident import confusion_matrix
from training.check.report import Report
from training.data.utterances import PARTITIONS
from training.studies.drawing import COLOURS, GRID, STYLE, heat_map, svg_of

MAX_BARS = 40
MAX_CONFUSED = 16  # labels in a confusion matrix
MAX_MATRICES = 6  # of the languages with most utterances


def figures(report: Report) -> dict[str, str]:
    """The SVG of each figure by its title."""
    drawn = {}
    with matplotlib.rc_context(STYLE):
        for head, names in report.counts.items():
            if len(names) > 1:
                drawn[f"Utterances by {head}" if head != "slot" else "Spans by slot"] = svg_of(_bars(names))
        drawn["Tokens of an utterance"] = svg_of(_lengths(report))
        for predictions in sorted(report.predictions, key=lambda one: -len(one.rows))[:MAX_MATRICES]:
            if (matrix := _confusion(predictions)) is not None:
                drawn[f"Confused {report.head}s ({predictions.language})"] = svg_of(matrix)
    return drawn


def _bars(names: Mapping[str, Mapping[str, int]]) -> Figure:
    """Horizontal bars of the most frequent labels, stacked by partition."""
    ordered = sorted(names, key=lambda name: (-sum(names[name].values()), name))
    shown = ordered[:MAX_BARS]
    figure = Figure(figsize=(7.5, 1.1 + 0.19 * len(shown)), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(shown))
    for partition, colour in zip(PARTITIONS, COLOURS, strict=False):
        values = np.array([names[name].get(partition, 0) for name in shown])
        if values.any():
            axis.barh(shown, values, left=left, height=0.75, color=colour, label=partition)
        left += values
    axis.margins(y=0.5 / max(1, len(shown)))
    axis.invert_yaxis()
    axis.grid(axis="x", color=GRID, linewidth=0.6)
    axis.tick_params(axis="y", length=0, labelsize=7.5)
    axis.set_xlabel("utterances" if len(ordered) <= MAX_BARS else f"the {MAX_BARS} most frequent of {len(ordered)}")
    figure.legend(loc="outside upper right", ncols=len(PARTITIONS), frameon=False)
    return figure


def _lengths(report: Report) -> Figure:
    """The distribution of tokens, a line for each locale."""
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    axis = figure.subplots()
    locales = [u.locale for u in report.utterances]
    for place, locale in enumerate(sorted(set(locales))):
        counts = Counter(t for t, own in zip(report.lengths.tokens, locales, strict=True) if own == locale)
        top = max(counts)
        shares = [100 * counts[length] / counts.total() for length in range(top + 1)]
        axis.step(range(top + 1), shares, where="mid", color=COLOURS[place % len(COLOURS)], label=locale, linewidth=1.2)
    axis.grid(color=GRID, linewidth=0.6)
    axis.set_xlabel(f"tokens, with the two special ones (student {report.lengths.student})")
    axis.set_ylabel("utterances, %")
    axis.legend(frameon=False, ncols=2)
    return figure


def _confusion(predictions: Predictions) -> Figure | None:
    """The confusion matrix of the labels that are most confused; None if none is."""
    matrix = confusion_matrix(predictions)
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    errors = wrong.sum(axis=0) + wrong.sum(axis=1)
    chosen = sorted(np.argsort(-errors, kind="stable")[:MAX_CONFUSED].tolist())
    chosen = [label for label in chosen if errors[label]]
    if not chosen:
        return None
    part = wrong[np.ix_(chosen, chosen)]
    names = [predictions.names[label] for label in chosen]
    return heat_map(part, names, "predicted")
