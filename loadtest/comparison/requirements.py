"""What a student must reach to be deployed, as people write it: ``exact_match>=57``, ``p99_ms<=3``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from loadtest.load.command import LoadTestError

Json = dict[str, Any]

QUALITY = (
    "domain_accuracy",
    "domain_f1",
    "intent_accuracy",
    "icer",
    "slot_f1",
    "slot_f1_strict",
    "exact_match",
    "semer",
    "irer",
)
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


class RequirementError(LoadTestError):
    """A requirement that can't be read, or not be judged; one sentence that says what is allowed."""


class Requirement(NamedTuple):
    """A bound for one figure: of the mean of the locales, or of one locale."""

    figure: str
    locale: str | None
    is_least: bool
    bound: float

    def __str__(self) -> str:
        return f"{self._name}{'>=' if self.is_least else '<='}{self.bound:g}"

    @property
    def _name(self) -> str:
        return f"{self.figure}@{self.locale}" if self.locale else self.figure

    def problem(self, student: Json) -> str | None:
        """Why a student does not fit, or None. `student` is one of the report's."""
        found = self._value(student)
        if found is None:
            return f"{self.figure} was not measured"
        if found >= self.bound if self.is_least else found <= self.bound:
            return None
        return f"{self._name} is {found:.4g}, should be {'>=' if self.is_least else '<='} {self.bound:g}"

    def _value(self, student: Json) -> float | None:
        if self.figure in COST:
            cost: float | None = student["cost"][self.figure]
            return cost
        quality = student["quality"]
        scored = quality["locales"][self.locale] if self.locale else quality["mean"]
        return float(scored[self.figure][0]) if self.figure in scored else None


def parse(text: str) -> Requirement:
    """Read a requirement.

    Raises:
        RequirementError: says what is allowed.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise RequirementError(f"{text!r} should be a figure, >= or <=, and a number, such as exact_match>=57")
    figure, locale, sign, number = match.groups()
    allowed = QUALITY if locale else QUALITY + COST
    if figure not in allowed:
        raise RequirementError(f"{text!r}: {figure!r} should be one of {', '.join(allowed)}")
    try:
        bound = float(number)
    except ValueError:
        raise RequirementError(f"{text!r}: {number!r} is no number") from None
    return Requirement(figure, locale, sign == ">=", bound)


def check_locales(requirements: Sequence[Requirement], scored: Sequence[str]) -> None:
    """Raise RequirementError where one is about a locale that is not scored."""
    for one in requirements:
        if one.locale and one.locale not in scored:
            raise RequirementError(f"{one}: {one.locale} is not scored; scored are {', '.join(scored)}")


def choose(students: Mapping[str, Json], requirements: Sequence[Requirement]) -> Json:
    """The smallest student on disk that fits all requirements, and why each other one does not fit.

    Returns {"requirements": [...], "fits": name or None, "misfits": {name: [why, ...]}}.
    """
    misfits = {}
    for name, student in students.items():
        problems = [problem for problem in (one.problem(student) for one in requirements) if problem]
        if problems:
            misfits[name] = problems
    fitting = [name for name in students if name not in misfits]
    smallest = min(fitting, key=lambda name: float(students[name]["cost"]["disk_mb"]), default=None)
    return {"requirements": [str(one) for one in requirements], "fits": smallest, "misfits": misfits}
