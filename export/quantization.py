"""The gate that int8 passes: what it may lose, and which nodes stay in fp32 where it loses more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from export.folder import ExportError
from export.graph import quantisable_nodes, quantise_int8
from service.student.decoding import FloatArray, softmax
from service.student.predictor import Predictor
from service.student.tokenization import Encoded

log = logging.getLogger(__name__)

GATED = ("domain_accuracy", "intent_accuracy", "slot_f1", "exact_match")
ROUNDING = 1e-9

Scores = Mapping[str, Mapping[str, float]]  # by locale and metric, in percent


@dataclass(frozen=True)
class Loss:
    """What a metric loses in a locale, in points of percent; negative where it gains."""

    locale: str
    metric: str
    before: float
    after: float

    @property
    def points(self) -> float:
        """Before minus after."""
        return self.before - self.after

    def __str__(self) -> str:
        return f"{self.points:.2f} points of {self.metric} in {self.locale} ({self.before:.2f} -> {self.after:.2f})"


def losses(before: Scores, after: Scores) -> list[Loss]:
    """The losses of every gated metric in every locale, greatest first."""
    found = [
        Loss(locale, metric, float(values[metric]), float(after[locale][metric]))
        for locale, values in before.items()
        for metric in GATED
        if metric in values
    ]
    return sorted(found, key=lambda loss: -loss.points)


@dataclass(frozen=True)
class Trial:
    """A quantised graph: the nodes that stay in fp32, its greatest loss, and whether that is within the budget."""

    kept: tuple[str, ...]
    worst: Loss
    passes: bool


@dataclass
class Gate:
    """Finds a quantised graph that loses at most `max_drop` points of any gated metric in any locale.

    Usage::

        gate = Gate(0.5, score, open_graph, sentences)
        chosen = gate.quantise(fp32, int8)

    `score` gives the scores of a graph on the evaluated data. `open_graph` and `sentences` serve to measure how
    sensitive a node is. `any_cpu` is that of `quantise_int8`.
    """

    max_drop: float
    score: Callable[[Path], Scores]
    open_graph: Callable[[Path], Predictor]
    sentences: Sequence[Encoded]
    any_cpu: bool = True

    def __post_init__(self) -> None:
        self.trials: list[Trial] = []

    def quantise(self, source: Path, target: Path) -> Trial:
        """Write a quantised graph that passes: plain, or with as few nodes in fp32 as a bisection finds.

        Nodes are kept in the order of what quantising each alone does to the probabilities, most sensitive first.

        Raises:
            ExportError: none passes; the message names metric and locale.
        """
        before = self.score(source)
        passing = self._try(source, target, before, [])
        if passing.passes:
            return passing
        log.info("int8 loses %s; looking for the nodes to keep in fp32", passing.worst)
        nodes = self.by_sensitivity(source, target)
        failed, count = 0, 1
        while not (passing := self._try(source, target, before, nodes[:count])).passes:
            if count >= len(nodes):
                best = min(self.trials, key=lambda trial: trial.worst.points)
                raise ExportError(
                    f"int8 loses {best.worst}; allowed: {self.max_drop:g}. {len(self.trials)} graphs were tried, with "
                    f"up to {count} nodes in fp32; train with more care for it, allow more, or --precision fp32"
                )
            failed, count = count, min(2 * count, len(nodes))
        while len(passing.kept) - failed > 1:
            middle = (failed + len(passing.kept)) // 2
            trial = self._try(source, target, before, nodes[:middle])
            passing, failed = (trial, failed) if trial.passes else (passing, middle)
        quantise_int8(source, target, keep=passing.kept, any_cpu=self.any_cpu)
        return passing

    def report(self, chosen: Trial) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "max_drop": self.max_drop,
            "worst": {**vars(chosen.worst), "points": round(chosen.worst.points, 4)},
            "kept_in_fp32": list(chosen.kept),
            "search": [
                {"kept_in_fp32": len(trial.kept), "worst": str(trial.worst), "passes": trial.passes}
                for trial in self.trials
            ],
        }

    def by_sensitivity(self, source: Path, scratch: Path) -> list[str]:
        """The quantisable nodes, those first that move the probabilities most when they alone are quantised."""
        expected = self._probabilities(source)
        moved = {}
        for name in tqdm(quantisable_nodes(source), desc="sensitivity", unit="node", leave=False, disable=None):
            quantise_int8(source, scratch, only=[name], any_cpu=self.any_cpu)
            pairs = zip(expected, self._probabilities(scratch), strict=True)
            moved[name] = np.mean([np.abs(a - b).sum(axis=-1).mean() / 2 for a, b in pairs])  # total variation
        return sorted(moved, key=lambda name: -moved[name])

    def _try(self, source: Path, target: Path, before: Scores, kept: Sequence[str]) -> Trial:
        quantise_int8(source, target, keep=kept, any_cpu=self.any_cpu)
        worst = losses(before, self.score(target))[0]
        trial = Trial(tuple(kept), worst, worst.points <= self.max_drop + ROUNDING)
        self.trials.append(trial)
        log.info("%d nodes in fp32: loses %s", len(kept), worst)
        return trial

    def _probabilities(self, graph: Path) -> list[FloatArray]:
        """The probabilities of every head for each sentence."""
        predictor = self.open_graph(graph)
        return [softmax(logits[0]) for encoded in self.sentences for logits in predictor.logits(encoded).values()]
