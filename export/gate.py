"""The gate that a quantised student passes: what it may lose, and which parts stay in fp32 where it loses more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from export.folder import ExportError
from export.graph import SESSION, quantisable_nodes, quantise_int8
from service.student.decoding import softmax
from service.student.student import open_session

log = logging.getLogger("export.onnx")

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
        """Before less after."""
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
    """A quantised graph: which nodes stay in fp32, and its greatest loss."""

    kept: tuple[str, ...]
    worst: Loss

    def passes(self, most: float) -> bool:
        """Whether it loses no more than `most` points anywhere."""
        return self.worst.points <= most + ROUNDING


class Gate:
    """Finds a quantised graph that loses at most so many points of any gated metric in any locale.

    Usage::

        trial = Gate(0.5, score, sentences).quantise(fp32, int8)
    """

    def __init__(
        self,
        most: float,
        score: Callable[[Path], Scores],
        sentences: Sequence[Sequence[int]],
        any_cpu: bool = True,
    ) -> None:
        """Set the budget.

        Args:
            most: Points of percent that may be lost.
            score: The scores of a graph on the evaluated data.
            sentences: Piece ids of some sentences, on which it shows how sensitive a node is.
            any_cpu: As for `quantise_int8`.
        """
        self.most, self._score, self._sentences, self._any_cpu = most, score, sentences, any_cpu
        self.trials: list[Trial] = []

    def quantise(self, source: Path, target: Path) -> Trial:
        """Write a quantised graph that passes: plain, or with as few nodes in fp32 as a bisection finds.

        Nodes are kept in the order of what quantising each alone does to the probabilities, most sensitive first.

        Raises:
            ExportError: none passes; the message names metric and locale.
        """
        before = self._score(source)
        plain = self._try(source, target, before, ())
        if plain.passes(self.most):
            return plain
        log.info("int8 loses %s; looking for the nodes to keep in fp32", plain.worst)
        order = self._by_sensitivity(source, target)
        passing, most_failed, count = None, 0, 1
        while passing is None and most_failed < len(order):
            trial = self._try(source, target, before, order[:count])
            passing = trial if trial.passes(self.most) else None
            most_failed, count = (most_failed, count) if passing else (count, min(2 * count, len(order)))
        while passing is not None and len(passing.kept) - most_failed > 1:
            middle = (most_failed + len(passing.kept)) // 2
            trial = self._try(source, target, before, order[:middle])
            passing, most_failed = (trial, most_failed) if trial.passes(self.most) else (passing, middle)
        if passing is None:
            best = min(self.trials, key=lambda trial: trial.worst.points)
            raise ExportError(
                f"int8 loses {best.worst}; allowed: {self.most:g}. {len(self.trials)} graphs were tried, with up to "
                f"{len(order)} nodes in fp32; train with more care for it, allow more, or --precision fp32"
            )
        quantise_int8(source, target, keep=passing.kept, any_cpu=self._any_cpu)
        return passing

    def report(self, chosen: Trial) -> dict[str, Any]:
        """What the manifest says of it."""
        return {
            "max_drop": self.most,
            "worst": {**vars(chosen.worst), "points": round(chosen.worst.points, 4)},
            "kept_in_fp32": list(chosen.kept),
            "search": [
                {"kept_in_fp32": len(trial.kept), "worst": str(trial.worst), "passes": trial.passes(self.most)}
                for trial in self.trials
            ],
        }

    def _try(self, source: Path, target: Path, before: Scores, kept: Sequence[str]) -> Trial:
        quantise_int8(source, target, keep=kept, any_cpu=self._any_cpu)
        trial = Trial(tuple(kept), losses(before, self._score(target))[0])
        self.trials.append(trial)
        log.info("%d nodes in fp32: loses %s", len(kept), trial.worst)
        return trial

    def _by_sensitivity(self, source: Path, scratch: Path) -> list[str]:
        """The quantisable nodes, those first that cost most when they alone are quantised."""
        expected = probabilities(source, self._sentences)
        moved = {}
        for name in tqdm(quantisable_nodes(source), desc="sensitivity", unit="node", leave=False, disable=None):
            quantise_int8(source, scratch, only=[name], any_cpu=self._any_cpu)
            moved[name] = distance(expected, probabilities(scratch, self._sentences))
        return sorted(moved, key=lambda name: -moved[name])


def probabilities(graph: Path, sentences: Sequence[Sequence[int]]) -> list[list[NDArray[np.float32]]]:
    """The probabilities of every head of a graph for each sentence, as the service runs it: alone."""
    session = open_session(graph, SESSION)
    names = [output.name for output in session.get_outputs() if output.name.endswith("_logits")]
    return [
        [softmax(logits[0]) for logits in session.run(names, {"input_ids": np.array([ids], np.int64)})]
        for ids in sentences
    ]


def distance(one: Sequence[Sequence[NDArray[Any]]], other: Sequence[Sequence[NDArray[Any]]]) -> float:
    """The mean total variation distance of probabilities, 0 to 1."""
    moved = [
        np.abs(a - b).sum(axis=-1).mean() / 2
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    return float(np.mean(moved))
