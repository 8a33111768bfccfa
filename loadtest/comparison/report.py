"""The report of ``python -m loadtest.compare``: figures of the rounds, differences, and the recommended student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from loadtest.load.machine import machine, versions
from loadtest.load.students import manifests_of
from service.student.manifest import Manifest, StudentError
from training.data.utterances import Utterance
from training.evaluation.paired import changes, compare
from training.evaluation.requirements import Requirement, choose
from training.evaluation.scoring import NOT_MEASURED, PredictedLabels, Scorecard, interval

Json = dict[str, Any]

FRONT, LOCALES, PHASES = "front", "locales", "phases"  # file names of the figures
SHOWN_PHASES = ("queue", "tokenize", "inference", "decode")
JUDGING_METRICS = ("exact_match", "intent_accuracy", "domain_f1", "slot_f1")  # in order of preference
TITLES = {
    "exact_match": "exact match",
    "intent_accuracy": "intent accuracy",
    "slot_f1": "slot F1",
    "domain_f1": "domain F1",
}
RATIOS = ("p50_ms", "p99_ms", "throughput_per_second", "sustained_per_second", "start_seconds", "memory_mb")
MAX_LISTED = 10  # changed utterances in the report; a separate file contains all


@dataclass
class Subject:
    """A compared student, its answers and its rounds."""

    name: str
    folder: Path
    manifest: Manifest
    answers: list[PredictedLabels] = field(default_factory=list)
    rounds: list[Json] = field(default_factory=list)

    @property
    def disk_bytes(self) -> int:
        """Size of all files of its folder."""
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())


def subjects_of(folders: Sequence[Path]) -> list[Subject]:
    """The students of some folders (`manifests_of`). Names that occur twice are extended by parent folders, so that
    versions of a student can be compared.

    Raises:
        StudentError: a folder is not a student and contains none, or occurs twice.
    """
    manifests = manifests_of(folders)
    names = [manifest.name for manifest in manifests.values()]
    depth = 0
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in manifests]
    return [Subject(name, path, manifest) for name, (path, manifest) in zip(names, manifests.items(), strict=True)]


def cost_of(rounds: Sequence[Json], disk_bytes: int) -> Json:
    """The cost of serving, as medians of the rounds; `range` holds their minimum and maximum."""
    cost: Json = {"disk_mb": round(disk_bytes / 1e6, 2)}
    for name in [name for name in rounds[0] if name != "phases"]:
        values = [one[name] for one in rounds]
        cost[name] = None if None in values else round(median(values), 4)
    cost["phases"] = {
        phase: {name: round(median(one["phases"][phase][name] for one in rounds), 4) for name in percentiles}
        for phase, percentiles in rounds[0]["phases"].items()
    }
    cost["range"] = {
        name: [min(one[name] for one in rounds), max(one[name] for one in rounds)]
        for name in RATIOS
        if cost[name] is not None
    }
    return cost


def ratios_of(rounds: Sequence[Json], first: Sequence[Json]) -> Json:
    """Figures relative to the first student's: the median over rounds of the ratio within each round."""
    ratios = {}
    for name in RATIOS:
        pairs = [(own[name], other[name]) for own, other in zip(rounds, first, strict=True)]
        is_complete = all(own and other for own, other in pairs)
        ratios[name] = round(median(own / other for own, other in pairs), 3) if is_complete else None
    return ratios


def judging_metric(students: Mapping[str, Json]) -> str:
    """The metric by which students are ranked: the first of `JUDGING_METRICS` that all of them have.

    Raises:
        StudentError: there is none.
    """
    for name in JUDGING_METRICS:
        if all(student["quality"]["mean"].get(name) for student in students.values()):
            return name
    raise StudentError("the students have no head in common for which the data has labels")


def front_of(students: Mapping[str, Json], metric: str) -> set[str]:
    """The Pareto front: students that no other student dominates in accuracy and latency."""
    points = {name: (s["quality"]["mean"][metric][0], -s["cost"]["p50_ms"]) for name, s in students.items()}
    return {
        name
        for name, own in points.items()
        if not any(all(b >= a for a, b in zip(own, other, strict=True)) and other != own for other in points.values())
    }


def recommendation(report: Json) -> str:
    """Which student to take, and the gain and cost of smaller ones on the Pareto front."""
    students, metric = report["students"], report["judged_by"]
    best = max(students, key=lambda name: students[name]["quality"]["mean"][metric][0])
    if len(students) == 1:
        return f"Only {best} was measured; name others to compare it with."
    title, to_best = TITLES[metric], report["to_best"]
    level = [name for name in students if name != best and to_best[name][2] >= 0]
    smallest = min([best, *level], key=lambda name: float(students[name]["cost"]["disk_mb"]))
    text = f"{best} is the most accurate ({students[best]['quality']['mean'][metric][0]:.1f} % {title})."
    if smallest != best:
        text += (
            f" {smallest} is smaller, and not shown to be worse ({signed(to_best[smallest])} points): take {smallest}."
        )
    for name in sorted(students, key=lambda name: students[name]["cost"]["p50_ms"]):
        if name in (best, smallest) or not students[name]["is_on_front"]:
            continue
        own, other = students[name], students[best]
        text += (
            f" {name} takes {ratios_of(own['rounds'], other['rounds'])['p50_ms']:.2f} of {best}'s time and "
            f"{own['cost']['disk_mb'] / other['cost']['disk_mb']:.2f} of its disk, for {signed(to_best[name])} points "
            f"of {title}: take it where that is good enough."
        )
    if worse := [name for name in students if not students[name]["is_on_front"]]:
        text += f" Another is both faster and as accurate as {', '.join(worse)}."
    return text


def signed(difference: Sequence[float] | None) -> str:
    """A difference with its interval; None is not measured."""
    if difference is None:
        return NOT_MEASURED
    value, low, high = difference
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def report_of(
    subjects: Sequence[Subject], utterances: Sequence[Utterance], required: Sequence[Requirement], with_texts: bool
) -> tuple[Json, dict[str, list[Json]]]:
    """The report of measured students; and by file name the answers that differ from the first student's.

    Without texts there are no such files, and the report holds no utterance.

    Raises:
        StudentError: the students have no metric in common.
    """
    cards = {subject.name: Scorecard.of(utterances, subject.answers) for subject in subjects}
    students = {subject.name: _student(subject, cards[subject.name], subjects[0]) for subject in subjects}
    metric = judging_metric(students)
    front = front_of(students, metric)
    for name, student in students.items():
        student["is_on_front"] = name in front
    best = cards[max(students, key=lambda name: students[name]["quality"]["mean"][metric][0])]
    first, comparisons, changed = subjects[0], [], {}
    for subject in subjects[1:]:
        rows = list(changes(utterances, subject.answers, first.answers))
        file = f"changed-{subject.name.replace('/', '-')}.jsonl" if with_texts else None
        if file:
            changed[file] = rows
        comparisons.append(
            {
                "student": subject.name,
                "baseline": first.name,
                **compare(cards[subject.name], cards[first.name]),
                "changed": len(rows),
                "utterances": len(utterances),
                "file": file,
                "examples": rows[:: max(1, len(rows) // MAX_LISTED)][:MAX_LISTED] if with_texts else [],
            }
        )
    report: Json = {
        "date": datetime.now(UTC).date().isoformat(),
        "students": students,
        "judged_by": metric,
        "to_best": {name: _difference(card, best, metric) for name, card in cards.items()},
        "comparisons": comparisons,
        "required": choose(students, required) if required else None,
        "utterances": cards[first.name].sizes,
        "slots_annotated": cards[first.name].annotated,
        "mean_over": cards[first.name].over,
        "machine": machine(),
        "versions": versions(),
    }
    return report | {"recommendation": recommendation(report)}, changed


def _student(subject: Subject, card: Scorecard, first: Subject) -> Json:
    manifest, scored = subject.manifest, card.report()
    return {
        "size": manifest.size,
        "precision": manifest.precision,
        "digest": manifest.digest,
        "parameters": manifest.architecture.parameters,
        "quality": {"locales": scored["locales"], "mean": scored["mean"]},
        "cost": cost_of(subject.rounds, subject.disk_bytes),
        "to_first": ratios_of(subject.rounds, first.rounds),
        "rounds": subject.rounds,
    }


def _difference(card: Scorecard, other: Scorecard, metric: str) -> list[float]:
    resampled = interval(card.mean_samples()[metric] - other.mean_samples()[metric])
    return [round(value, 3) for value in (card.mean()[metric] - other.mean()[metric], *resampled)]
