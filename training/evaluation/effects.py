"""The effect of an encoder on a metric: relative changes with 95 % intervals.

Pure functions on weight matrices of utterances (`training.evaluation.scoring`). A tail uses the columns of its
utterances, so that a resample draws a sentence equally often in all sets, and in all languages that hold it.

Utterances of the test set and seeds of the runs are both random; both are resampled. Seeds are nested: an encoder is
made with several seeds, and each of these is fine-tuned with several. The outer seed is what is resampled, with all
runs that belong to it, as Davison and Hinkley (1997, section 3.8) advise: drawing the inner ones again would count
their variance twice. With three seeds a plain bootstrap
has two errors: it underestimates the variance between seeds by the factor (n - 1) / n, and it uses the quantiles of the
normal distribution instead of those of t. Where seeds differ only in which utterances they get wrong, it counts that
variance twice. `effect_of` corrects all three. tests/training/evaluation/test_effects.py simulates the coverage of its
95 % intervals.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy import special  # type: ignore[import-untyped,unused-ignore]

from training.evaluation import scoring
from training.evaluation.scoring import MEAN, PERCENT, Floats, Ints, Weights, ratio

Outcomes = dict[str, Ints]  # of one run in one locale: a name as in the result files to [utterances]
Seeds = tuple[int, int]  # of an encoder, and of its fine-tuning
Runs = Mapping[str, Mapping[Seeds, Mapping[str, Outcomes]]]  # encoder to seeds to locale
Key = tuple[str, str, str, str]  # metric, encoder, set, locale or MEAN
Values = dict[Key, Floats]  # in percent, [1 + resamples, columns]

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
ENDS = (PERCENT * (1 - LEVEL) / 2, PERCENT * (1 + LEVEL) / 2)  # of an interval, as percentiles
MIN_UTTERANCES = 30  # in a set; the effect on a smaller one is shown but not judged

_NORMAL_END = float(special.ndtri((1 + LEVEL) / 2))
_MAX_DEGREES = 1e6  # beyond this, t is treated as normal


class Columns(NamedTuple):
    """What the columns of an encoder's values stand for: seeds in ascending order, of one level."""

    level: str  # ENCODER or FINE_TUNING
    seeds: tuple[int, ...]


ENCODER, FINE_TUNING = "encoder", "fine-tuning"


class Metric(NamedTuple):
    """A metric of a task, and whether a higher value is better."""

    name: str
    title: str
    is_higher_better: bool


SEMER, ICER = Metric("semer", "SemER", False), Metric("icer", "ICER", False)
METRICS = {"dc": (Metric("f1", "F1", True),), "icner": (SEMER, ICER)}


@dataclass(frozen=True)
class Reference:
    """The expected answers of one locale, in order of `ids`."""

    ids: tuple[str, ...]
    domain: Ints  # index of the domain of each, -1 where it has none
    slots: Ints  # number of slots of each
    sets: dict[str, Ints]  # rows of the partition itself (all) and of each of its tails


@dataclass(frozen=True)
class Effect:
    """The relative change from a baseline to a candidate, in percent of the baseline's, with its 95 % interval.

    Or another quantity with its interval, such as a slope, as `change`.
    """

    change: float
    low: float
    high: float
    p_value: float  # two-sided; below 0.05 exactly where the interval excludes 0
    degrees: float  # of freedom of the interval: few where seeds differ much, infinite where they do not
    seeds: int  # runs of the side that has fewer


def weights_by_locale(references: Mapping[str, Reference], resamples: int = RESAMPLES) -> dict[str, Weights]:
    """Weights of each locale: the same where the locales hold the same ids in the same order, else independent."""
    by_ids: dict[tuple[str, ...], Weights] = {}
    for reference in references.values():
        if reference.ids not in by_ids:
            by_ids[reference.ids] = scoring.weights_of(len(reference.ids), resamples, SEED + len(by_ids))
    return {locale: by_ids[reference.ids] for locale, reference in references.items()}


def seed_draws(seeds: int, side: int = 0, resamples: int = RESAMPLES) -> Ints:
    """Which seeds each resample takes, [resamples, seeds]; the same for one `side`, whatever is compared."""
    return np.random.default_rng([SEED, 1, side]).integers(0, seeds, size=(resamples, seeds))


def error_rate(errors: Ints, trials: Ints, weights: Weights) -> Floats:
    """Errors over trials of weighted utterances, [1 + resamples]; NaN where nothing is tried."""
    counts = (weights @ np.stack([errors, trials], axis=1).astype(np.float32)).astype(np.float64)
    return ratio(counts[:, 0], counts[:, 1])


def measure(metric: str, reference: Reference, found: Outcomes, rows: Ints, classes: int, weights: Weights) -> Floats:
    """A metric of a run on some rows of a locale, in percent, [1 + resamples]; `weights` are those of the rows."""
    if metric == "f1":
        return PERCENT * scoring.macro_f1(reference.domain[rows], found["domain"][rows], classes, weights)
    intents = found["intent_errors"][rows]
    if metric == "icer":
        return PERCENT * error_rate(intents, np.ones_like(intents), weights)
    return PERCENT * error_rate(intents + found["slot_errors"][rows], reference.slots[rows] + 1, weights)


def columns_of(runs: Iterable[Seeds], is_nested: bool) -> Columns:
    """The columns of an encoder: its own seeds if it is made with several, else those of fine-tuning."""
    outer, inner = (tuple(sorted(set(level))) for level in zip(*runs, strict=True))
    return Columns(ENCODER, outer) if is_nested else Columns(FINE_TUNING, inner)


def values_of(
    task: str,
    references: Mapping[str, Reference],
    runs: Runs,
    classes: int,
    weights: Mapping[str, Weights],
    nested: Collection[str] = (),
) -> Values:
    """Every metric of a task, in percent, by encoder, set and locale, [1 + resamples, columns].

    The columns are those of `columns_of`, each the mean over the runs of its seed; `nested` names the encoders that are
    made with several seeds. The key `MEAN` holds the mean over `mean_locales`, as far as they have utterances of the
    set.
    """
    values: Values = {}
    for locale, reference in references.items():
        for name, rows in reference.sets.items():
            drawn = weights[locale][:, rows]
            for metric in METRICS[task] if len(rows) else ():
                for encoder, seeds in runs.items():
                    columns = columns_of(seeds, encoder in nested)
                    place = 0 if columns.level == ENCODER else 1
                    scores = {
                        s: measure(metric.name, reference, run[locale], rows, classes, drawn)
                        for s, run in seeds.items()
                    }
                    by_column = [[scores[s] for s in seeds if s[place] == seed] for seed in columns.seeds]
                    values[metric.name, encoder, name, locale] = np.stack(
                        [np.mean(x, axis=0) for x in by_column], axis=1
                    )
    over = scoring.mean_locales(references)
    for metric_name, encoder, name in dict.fromkeys(key[:3] for key in values):
        keys = [(metric_name, encoder, name, locale) for locale in over]
        parts = [values[key] for key in keys if key in values]
        if parts:
            values[metric_name, encoder, name, MEAN] = np.mean(parts, axis=0)
    return values


def relative_change(candidate: Floats, baseline: Floats) -> Floats:
    """Change from baseline to candidate in percent of the baseline; NaN where the baseline isn't above 0."""
    return PERCENT * ratio(candidate - baseline, baseline)


def effect_of(candidate: Floats, baseline: Floats, draws: Sequence[Ints]) -> Effect | None:
    """The relative change of the mean over the seeds, with an interval over utterances and seeds.

    In a resample both sides and all seeds see the same utterances. Pairing of seeds means that column k of either side
    has the same seed, thus the same first weights or order of batches, and that both sides then take the same columns.
    An effect of the seed that both sides share cancels; without one, pairing only costs degrees of freedom. Sides
    without common seeds are drawn independently.

    Each resample is the change on the drawn utterances plus the mean deviation of the drawn seeds, each seed's
    deviation being that of its change on the set itself (to first order). Deviations are scaled by sqrt(n / (n - 1)),
    which makes the variance of the bootstrap that of the sample (Davison and Hinkley, *Bootstrap Methods and their
    Application*, 1997), and by `_seed_share`, to leave out what the utterances' part contains already. The ends of the
    percentile interval are then moved from the point by t / z, the quantiles of t and of the normal distribution, with
    degrees of freedom after Satterthwaite (1946): n - 1 where all variance comes from the seeds, more where less
    does. The p value is that of the t test whose standard error is the distance of the end that faces 0, over t.

    Both sides are [1 + resamples, seeds]; `draws`, [resamples, seeds], are the columns that each resample takes: of
    both sides where their seeds pair, else of each. None where the baseline, or that of most resamples, is 0.
    """
    fixed = relative_change(candidate.mean(axis=1), baseline.mean(axis=1))
    parts = _seed_deviations(candidate, baseline)
    parts = [parts[0] + parts[1]] if len(draws) == 1 else parts
    return _interval(fixed, parts, draws, low=-PERCENT)  # a metric cannot fall below 0


def slope_of(values: Sequence[Floats], x: Sequence[float], groups: Sequence[str], draws: Ints) -> Effect | None:
    """The slope of least squares of metrics against x, with a level of its own for each group, and its interval.

    `values` are [1 + resamples, seeds] for each point, with the same seeds; `x` and `groups` are [points]. The slope is
    a weighted sum of the points, so its interval is that of `effect_of`. None where x is constant within each group.
    """
    at = np.array(x, dtype=np.float64)
    members = [np.flatnonzero(np.array(groups) == name) for name in dict.fromkeys(groups)]
    for rows in members:
        at[rows] -= at[rows].mean()
    if not np.any(np.abs(at) > 1e-12):
        return None
    slope = np.tensordot(at / (at**2).sum(), np.stack(values), axes=1)
    return _interval(slope.mean(axis=1), [slope - slope.mean(axis=1, keepdims=True)], [draws])


def _interval(fixed: Floats, parts: Sequence[Floats], draws: Sequence[Ints], low: float = -math.inf) -> Effect | None:
    """The effect of a quantity [1 + resamples] with the deviations of its seeds, by side [1 + resamples, seeds]."""
    change = float(fixed[0])
    is_defined = np.isfinite(fixed[1:])
    if not math.isfinite(change) or is_defined.sum() < len(is_defined) / 2:
        return None
    fixed = fixed[1:][is_defined]
    drawn, of_seeds = fixed.copy(), 0.0
    for part, columns in zip(parts, draws, strict=True):
        seeds = part.shape[1]
        if seeds > 1:
            scale = math.sqrt(seeds / (seeds - 1) * _seed_share(part[1:][is_defined], part[0]))
            drawn += scale * part[0][columns[is_defined]].mean(axis=1)
            of_seeds += float(part[0].var(ddof=1)) / seeds
    seeds = min(part.shape[1] for part in parts)
    degrees = _MAX_DEGREES
    if seeds > 1 and of_seeds > 0:
        degrees = min(degrees, (seeds - 1) * max(1.0, float(drawn.var()) / of_seeds) ** 2)
    return _effect(change, drawn, degrees, seeds, low)


def _effect(change: float, drawn: Floats, degrees: float, seeds: int, least: float) -> Effect:
    """Interval and p value from resampled changes, [resamples]."""
    wider = float(special.stdtrit(degrees, (1 + LEVEL) / 2)) / _NORMAL_END
    low, high = (float(end) for end in np.percentile(drawn, ENDS))
    below, above = max(0.0, change - low), max(0.0, high - change)
    return Effect(
        change=change,
        low=max(least, change - wider * below),
        high=change + wider * above,
        p_value=_p_value(change, below if change > 0 else above, degrees, len(drawn)),
        degrees=math.inf if degrees >= _MAX_DEGREES else degrees,
        seeds=seeds,
    )


def _seed_deviations(candidate: Floats, baseline: Floats) -> list[Floats]:
    """The deviation of each run from the relative change, to first order, by side; [1 + resamples, seeds], in %."""
    top, bottom = (values.mean(axis=1, keepdims=True) for values in (candidate, baseline))
    level = ratio(top, bottom)
    own = [ratio(gap, np.broadcast_to(bottom, gap.shape)) for gap in (candidate - top, baseline - bottom)]
    return [PERCENT * own[0], -PERCENT * level * own[1]]


def _seed_share(resampled: Floats, own: Floats) -> float:
    """The share, 0 to 1, of the variance between seeds that is not due to the choice of utterances.

    Runs also differ because each gets other utterances wrong. That part shrinks as the set grows. The bootstrap over
    utterances contains it already; counting it again would widen the intervals needlessly (as Owen's pigeonhole
    bootstrap of 2007 does). It is measured by how much more seeds differ on resamples than on the set itself.
    `resampled` are the deviations of the seeds, [resamples, seeds], `own` those on the set itself, [seeds].
    """
    spread = float(own.var(ddof=1))
    surplus = float(resampled.var(axis=1, ddof=1).mean()) - spread
    return min(1.0, max(0.0, 1 - surplus / spread)) if spread > 0 else 0.0


def _p_value(change: float, distance: float, degrees: float, resamples: int) -> float:
    if not change:
        return 1.0
    if not distance:  # all resamples agree: the p value is limited by their number
        return 1 / (resamples + 1)
    return float(2 * special.stdtr(degrees, -abs(change) * _NORMAL_END / distance))


def compare_runs(
    values: Values, candidates: Sequence[Key], baselines: Sequence[Key], columns: Mapping[str, Columns]
) -> Effect | None:
    """`effect_of` the means of candidates and baselines, whose `columns` are given by encoder.

    Seeds are paired where both sides have some in common, of one level. None where there are no values, or the
    encoders of a side have no seed in common. Sides of different levels are not comparable as to seeds: the effect then
    counts as that of one seed.
    """
    if not all(key in values for key in (*candidates, *baselines)):
        return None
    sides = [
        _side([values[key] for key in keys], [columns[key[1]] for key in keys]) for keys in (candidates, baselines)
    ]
    if sides[0] is None or sides[1] is None:
        return None
    (candidate, own), (baseline, others) = sides[0], sides[1]
    resamples = len(candidate) - 1
    common = sorted(set(own.seeds) & set(others.seeds)) if own.level == others.level else []
    if not common:
        draws = [seed_draws(len(side.seeds), i, resamples) for i, side in enumerate((own, others))]
        found = effect_of(candidate, baseline, draws)
        return found if own.level == others.level or found is None else replace(found, seeds=1)
    candidate, baseline = (
        side[:, [own_.seeds.index(s) for s in common]] for side, own_ in ((candidate, own), (baseline, others))
    )
    return effect_of(candidate, baseline, [seed_draws(len(common), 0, resamples)])


def _side(values: Sequence[Floats], columns: Sequence[Columns]) -> tuple[Floats, Columns] | None:
    """The mean of some encoders over the seeds that all have, and these; None where there are none."""
    levels = {own.level for own in columns}
    common = sorted(set.intersection(*(set(own.seeds) for own in columns)))
    if len(levels) > 1 or not common:
        return None
    chosen = [x[:, [own.seeds.index(seed) for seed in common]] for x, own in zip(values, columns, strict=True)]
    return np.mean(chosen, axis=0), Columns(levels.pop(), tuple(common))


def mark_of(effect: Effect) -> str:
    """``*`` where the interval excludes 0."""
    return "" if effect.low <= 0 <= effect.high else "*"


def holm(p_values: Floats) -> Floats:
    """P values corrected for their number, [tests], step by step from the smallest (Holm, 1979)."""
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1) * p_values[order]
    found = np.empty_like(p_values)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return found
