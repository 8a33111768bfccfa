"""The statistics of an experiment: friction rates, their differences, and the sample size.

The friction rate of an arm is turns with friction over all turns. Turns of one session are correlated, so the session
is the unit of analysis. The rate is then a ratio of two means over sessions, whose variance the delta method gives
(Deng, Knoblich and Lu, "Applying the Delta Method in Metric Analytics", KDD 2018, arXiv:1803.06336). Rates are shares,
0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

MIN_SESSIONS = 50  # of an arm, for the normal approximation
MIN_FRICTION = 10  # turns with friction in two arms together, for the same reason

_NORMAL = NormalDist()


class Plan(NamedTuple):
    """What is fixed before an experiment is judged.

    Attributes:
        alpha: the probability of showing a difference where there is none, 0 to 1.
        power: the probability of showing a difference of `effect`, 0 to 1.
        effect: the smallest difference of the rates that matters.
    """

    alpha: float = 0.05
    power: float = 0.8
    effect: float = 0.01

    @property
    def margins(self) -> float:
        """The standard errors that a difference must have for that power at that level; two-sided."""
        return _quantile(1 - self.alpha / 2) + _quantile(self.power)


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Moments:
    """Sums over the sessions of an arm: of 1, of turns t, of turns with friction f, and of tt, ff and tf."""

    sessions: float = 0.0
    turns: float = 0.0
    friction: float = 0.0
    turns_squared: float = 0.0
    friction_squared: float = 0.0
    turns_friction: float = 0.0

    @property
    def rate(self) -> float:
        """The share of turns with friction; 0 without turns."""
        return self.friction / self.turns if self.turns else 0.0

    @property
    def spread(self) -> float:
        """The variance of the rate times the number of sessions.

        With residuals e = f - rate * t, whose mean is 0, it is the variance of e over the squared mean of t. Infinite
        for fewer than two sessions.
        """
        if self.sessions < 2 or not self.turns:
            return math.inf
        rate = self.rate
        residuals = self.friction_squared - 2 * rate * self.turns_friction + rate * rate * self.turns_squared
        variance = max(0.0, residuals) / (self.sessions - 1)  # below 0 by rounding only
        return variance / (self.turns / self.sessions) ** 2

    @property
    def variance(self) -> float:
        """The variance of the rate."""
        return self.spread / self.sessions if self.sessions else math.inf

    def interval(self, alpha: float) -> Interval:
        """The confidence interval of the rate at level 1 - `alpha`; within 0 and 1."""
        margin = _quantile(1 - alpha / 2) * math.sqrt(self.variance)
        return Interval(max(0.0, self.rate - margin), min(1.0, self.rate + margin))


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline.

    Attributes:
        difference: of the rates; above 0 if the arm is worse.
        interval: of the difference; simultaneous for several arms (Bonferroni).
        p_value: two-sided, corrected for several arms (Holm).
        relative: the difference over the baseline's rate; None if that is 0.
        more_sessions: sessions that each of the two arms still needs to show the planned effect; 0 if none.
        is_enough: whether there are enough sessions and friction for a judgement.
        is_shown: whether the difference is significant.
    """

    difference: float
    interval: Interval
    p_value: float
    relative: float | None
    more_sessions: int
    is_enough: bool
    is_shown: bool


def compare(baseline: Moments, arms: Sequence[Moments], plan: Plan) -> list[Comparison]:
    """Compare arms with a baseline according to a plan."""
    if not arms:
        return []
    each = plan._replace(alpha=plan.alpha / len(arms))
    comparisons = []
    for arm, p_value in zip(arms, holm([p_value_of(baseline, arm) for arm in arms]), strict=True):
        difference = arm.rate - baseline.rate
        margin = _quantile(1 - each.alpha / 2) * math.sqrt(baseline.variance + arm.variance)
        is_enough = (
            min(baseline.sessions, arm.sessions) >= MIN_SESSIONS and baseline.friction + arm.friction >= MIN_FRICTION
        )
        comparisons.append(
            Comparison(
                difference=difference,
                interval=Interval(difference - margin, difference + margin),
                p_value=p_value,
                relative=difference / baseline.rate if baseline.rate else None,
                more_sessions=more_sessions(baseline, arm, each),
                is_enough=is_enough,
                is_shown=is_enough and p_value < plan.alpha,
            )
        )
    return comparisons


def p_value_of(one: Moments, other: Moments) -> float:
    """The two-sided p value of a difference of the rates, by the normal approximation."""
    difference, error = abs(one.rate - other.rate), math.sqrt(one.variance + other.variance)
    if not error:
        return float(not difference)
    return math.erfc(difference / error / math.sqrt(2))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for multiple comparisons (Holm, 1979)."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def more_sessions(one: Moments, other: Moments, plan: Plan) -> int:
    """The number of sessions that each of two arms still needs to show the planned effect.

    It is the smallest m at which one.spread / (one.sessions + m) + other.spread / (other.sessions + m) is small enough:
    the larger root of a quadratic. 0 where there are too few sessions to estimate the spread.
    """
    a, b, u, v = one.sessions, other.sessions, one.spread, other.spread
    if math.isinf(u + v):
        return 0
    allowed = (plan.effect / plan.margins) ** 2  # maximum variance of the difference
    half = (allowed * (a + b) - (u + v)) / 2
    rest = allowed * a * b - u * b - v * a
    root = (-half + math.sqrt(max(0.0, half * half - allowed * rest))) / allowed
    return max(0, math.ceil(root))


def _quantile(share: float) -> float:
    return _NORMAL.inv_cdf(share)
