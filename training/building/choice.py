"""The recommended student of a build: the smallest that is good enough, by its own rule or by requirements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.building.kept import Kept
from training.evaluation.requirements import Requirement, RequirementError, check_locales, choose, parse
from training.evaluation.scoring import MEAN, METRICS

COSTS = ("disk_mb", "graph_ms")  # that a build measures; those under load are `loadtest.compare`'s
TOKENS = "16"  # of the text for which `graph_ms` is the time of one run of the graph
RECOMMENDED_WITHIN = 1.0  # points of exact match behind the best student, of the smallest one that is good enough

Json = dict[str, Any]


def requirements_of(texts: Sequence[str]) -> list[Requirement]:
    """The values of --require. Raises RequirementError: one is invalid, or is no figure that a build measures."""
    return [parse(text, COSTS) for text in texts]


def check_measurable(required: Sequence[Requirement], data: Kept) -> None:
    """Raise RequirementError where a requirement names a locale or a metric that dev has no labels for."""
    check_locales(required, list(dict.fromkeys(u.locale for u in data.part("dev"))))
    measured = data.metrics()
    for one in required:
        if one.figure in METRICS and one.figure not in measured:
            allowed = f"allowed: {', '.join([*measured, *COSTS])}"
            needed = " and ".join(METRICS[one.figure])
            raise RequirementError(f"{one}: dev has no labels for it, which needs {needed}; {allowed}")


def recommended(students: Mapping[str, Json]) -> str:
    """The smallest student, of facts in students.json, whose quality is close to that of the best one."""

    def quality(name: str) -> float:
        mean = students[name]["quality"][MEAN]
        return float(mean.get("exact_match") or mean.get("intent_accuracy") or 0.0)

    enough = max(map(quality, students)) - RECOMMENDED_WITHIN
    return min((name for name in students if quality(name) >= enough), key=lambda name: float(students[name]["bytes"]))


def choice(students: Mapping[str, Json], required: Sequence[Requirement]) -> Json:
    """What `training.evaluation.requirements.choose` says of facts in students.json."""
    return choose({name: _figures(facts) for name, facts in students.items()}, required)


def _figures(facts: Json) -> Json:
    quality = {
        locale: {name: [value] for name, value in found.items() if value is not None}
        for locale, found in facts["quality"].items()
    }
    mean = quality.pop(MEAN)
    milliseconds = facts["microseconds"][TOKENS] / 1000
    return {
        "quality": {"locales": quality, "mean": mean},
        "cost": {"disk_mb": facts["bytes"] / 1e6, "graph_ms": milliseconds},
    }
