"""Requirements on a student, such as ``exact_match>=57`` and ``p99_ms<=3``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from training.evaluation.scoring import METRICS

Json = dict[str, Any]

QUALITY = tuple(METRICS)
COST = (
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "sustained_per_second",
    "throughput_per_second",
    "disk_mb",
    "memory_mb",
    "start_seconds",
)
_FORM = re.compile(r"\s*(\w+)(?:@([\w-]+))?\s*(>=|<=)\s*([0-9.]+)\s*")


class RequirementError(ValueError):
    """An invalid requirement; the message is one sentence that names the allowed values."""


class Requirement(NamedTuple):
    """A bound for one figure, of the mean over locales or of one locale."""

    figure: str
    locale: str | None
    is_minimum: bool
    bound: float

    def __str__(self) -> str:
        return f"{self._name}{'>=' if self.is_minimum else '<='}{self.bound:g}"

    @property
    def _name(self) -> str:
        return f"{self.figure}@{self.locale}" if self.locale else self.figure

    def problem(self, student: Json) -> str | None:
        """Why a student of the report does not meet the requirement, or None."""
        value = self._value(student)
        if value is None:
            return f"{self.figure} was not measured"
        if value >= self.bound if self.is_minimum else value <= self.bound:
            return None
        gap = f"{abs(value - self.bound):.2g} too {'low' if self.is_minimum else 'high'}"
        return f"{self._name} is {value:.4g}, should be {'>=' if self.is_minimum else '<='} {self.bound:g} ({gap})"

    def _value(self, student: Json) -> float | None:
        if self.figure not in QUALITY:
            cost: float | None = student["cost"][self.figure]
            return cost
        quality = student["quality"]
        scored = quality["locales"][self.locale] if self.locale else quality["mean"]
        figures = scored.get(self.figure)
        return float(figures[0]) if figures else None


def parse(text: str, costs: Sequence[str] = COST) -> Requirement:
    """Parse a requirement on a metric of quality, or on one of the `costs` that are measured.

    Raises:
        RequirementError: it is invalid.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise RequirementError(f"{text!r} should be a figure, >= or <=, and a number, such as exact_match>=57")
    figure, locale, sign, number = match.groups()
    allowed = QUALITY if locale else (*QUALITY, *costs)
    if figure not in allowed:
        raise RequirementError(f"{text!r}: {figure!r} should be one of {', '.join(allowed)}")
    try:
        bound = float(number)
    except ValueError:
        raise RequirementError(f"{text!r}: {number!r} is not a number") from None
    return Requirement(figure, locale, sign == ">=", bound)


def check_locales(requirements: Sequence[Requirement], scored: Sequence[str]) -> None:
    """Raise RequirementError if a requirement names a locale that is not scored."""
    for one in requirements:
        if one.locale and one.locale not in scored:
            raise RequirementError(f"{one}: {one.locale} is not scored; allowed: {', '.join(scored)}")


def choose(students: Mapping[str, Json], requirements: Sequence[Requirement]) -> Json:
    """The smallest student on disk that meets all requirements, and why others do not.

    Returns {"requirements": [...], "fits": name or None, "misfits": {name: [reason, ...]}}.
    """
    misfits = {}
    for name, student in students.items():
        problems = [problem for problem in (one.problem(student) for one in requirements) if problem]
        if problems:
            misfits[name] = problems
    fitting = [name for name in students if name not in misfits]
    smallest = min(fitting, key=lambda name: float(students[name]["cost"]["disk_mb"]), default=None)
    return {"requirements": [str(one) for one in requirements], "fits": smallest, "misfits": misfits}


def verdict_of(required: Json) -> str:
    """Which student meets the requirements, in one sentence."""
    bounds = ", ".join(required["requirements"])
    why = "; ".join(f"{name}: {', '.join(problems)}" for name, problems in required["misfits"].items())
    if required["fits"]:
        return f"The smallest student with {bounds} is {required['fits']}." + (f" Not: {why}." if why else "")
    return f"No student meets {bounds}. {why}."
