"""All checks of a data set, as one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.check import confident, duplicates, labels, languages, lengths, outliers, slots
from training.check.classifier import Predictions, Progress, predict_out_of_fold
from training.check.findings import KINDS, Finding
from training.data.utterances import Utterance

Json = dict[str, Any]
HEADS = ("intent", "domain")  # the classifier learns the first that the data has


@dataclass(frozen=True)
class Settings:
    """What the checks depend on besides the data: a seed, the training utterances below which an intent is rare, and
    the student folder whose tokenizer counts tokens.
    """

    student: Path
    seed: int = 0
    rare: int = labels.MIN_UTTERANCES


@dataclass(frozen=True)
class Report:
    """The findings of each kind, in the order of `KINDS`, and figures.

    `skipped` says which checks did not take place, and why. `lengths` holds those of each utterance.
    """

    utterances: Sequence[Utterance]
    places: Sequence[str]
    counts: Mapping[str, Mapping[str, Mapping[str, int]]]
    findings: Mapping[str, Sequence[Finding]]
    lengths: lengths.Lengths
    head: str
    predictions: Sequence[Predictions]
    skipped: Sequence[str]

    def concerned(self, kind: str) -> int:
        """How many utterances the findings of a kind concern."""
        return len({row for finding in self.findings[kind] for row in finding.rows})

    def as_json(self) -> Json:
        """The whole report; utterances are given with their place, text and labels."""
        kinds: Json = {}
        for kind, found in self.findings.items():
            title, level, advice = KINDS[kind]
            facts = {"title": title, "level": level, "advice": advice}
            listed = [self._finding(finding) for finding in found]
            kinds[kind] = {**facts, "count": len(found), "utterances": self.concerned(kind), "findings": listed}
        return {
            "utterances": len(self.utterances),
            "counts": self.counts,
            "findings": kinds,
            "lengths": lengths.summary(self.utterances, self.lengths),
            "accuracy": self.accuracy(),
            "skipped": list(self.skipped),
        }

    def accuracy(self) -> dict[str, float]:
        """Out-of-fold accuracy of the simple classifier by language, in percent."""
        return {p.language: round(100 * float((p.predicted == p.given).mean()), 2) for p in self.predictions}

    def row(self, position: int) -> Json:
        """An utterance as the report shows it."""
        u = self.utterances[position]
        values = [{"name": slot.name, "value": u.value(slot)} for slot in u.slots]
        place = {"place": self.places[position]} if self.places else {}
        names = ("id", "locale", "partition", "text", "domain", "intent")
        return {**place, **{name: getattr(u, name) for name in names}, "slots": values}

    def _finding(self, finding: Finding) -> Json:
        rows = [self.row(row) for row in finding.rows]
        pairs = [[self.row(row) for row in pair] for pair in finding.pairs]
        return {"message": finding.message, **finding.details, "rows": rows, **({"pairs": pairs} if pairs else {})}


def check(
    utterances: Sequence[Utterance],
    places: Sequence[str],
    settings: Settings,
    progress: Progress = lambda _: None,
) -> Report:
    """Run all checks. `places` names each utterance's file and line, or is empty; `progress` is told what begins.

    The same data and settings give the same report. Raises StudentError: no student to count tokens with.
    """
    head = next((head for head in HEADS if any(getattr(u, head) is not None for u in utterances)), HEADS[0])
    progress("tokens")
    measured = lengths.measure(utterances, settings.student)
    predictions = predict_out_of_fold(utterances, head, settings.seed, progress)
    checks: dict[str, Callable[[], Sequence[Finding]]] = {
        "contradictions": lambda: duplicates.contradictions(utterances),
        "leaks": lambda: duplicates.leaks(utterances),
        "label_variants": lambda: labels.variants(utterances),
        "unseen_labels": lambda: labels.unseen(utterances),
        "label_errors": lambda: confident.label_errors(predictions, head),
        "wrong_language": lambda: languages.wrong_languages(utterances),
        "near_leaks": lambda: duplicates.near_leaks(utterances),
        "rare_intents": lambda: labels.rare_intents(utterances, settings.rare),
        "confused_intents": lambda: confident.confused(predictions, head),
        "slot_overlaps": lambda: slots.overlaps(utterances),
        "too_long": lambda: lengths.too_long(measured),
        "unknown_tokens": lambda: lengths.unknown_tokens(measured),
        "outliers": lambda: outliers.outliers(utterances, settings.seed, progress),
        "duplicates": lambda: duplicates.repeated(utterances),
    }
    findings: dict[str, Sequence[Finding]] = {}
    for kind in KINDS:
        progress(kind.replace("_", " "))
        findings[kind] = checks[kind]()
    skipped = _skipped(utterances, predictions, head)
    counts = labels.counts(utterances)
    return Report(utterances, places, counts, findings, measured, head, predictions, skipped)


def _skipped(utterances: Sequence[Utterance], predictions: Sequence[Predictions], head: str) -> list[str]:
    reasons = []
    if not predictions:
        reasons.append(f"label errors and confused intents: no language has two labels of a domain or intent ({head})")
    if not any(utterance.slots for utterance in utterances):
        reasons.append("slots that share values: no utterance has a slot")
    if len({utterance.partition for utterance in utterances}) == 1:
        reasons.append(f"leaks and unseen labels: all utterances are in {utterances[0].partition}")
    if unknown := languages.unknown_languages(utterances):
        reasons.append(f"languages: those of {', '.join(unknown)} are not known to py3langid")
    sizes = [sum(u.locale == locale for u in utterances) for locale in {u.locale for u in utterances}]
    if max(sizes) < outliers.MIN_TEXTS:
        reasons.append(f"outliers: no locale has {outliers.MIN_TEXTS} utterances")
    return reasons
