"""What the parts of a pipeline change: importance by fANOVA, and differences between levels with intervals."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from training.distiller.observations import NOT_USED, Observation

RESAMPLES = 2000
BASELINES = {  # the level that others are compared with; of other parts the most frequent one
    "hidden_loss": ("none", "mse"),
    "layer_mapping": ("uniform", "skip"),
    "prediction_loss": ("kl", "ce"),
    "mixup": ("0.0", "false"),
    **dict.fromkeys(("contextual", "random", "substituted", "typed", "backtranslation"), ("0.0", "0")),
}

Floats = NDArray[np.float64]
Groups: TypeAlias = Mapping[Hashable, list[Observation]]


class Difference(NamedTuple):
    """The mean difference from a baseline level in points, its 95 % interval, and the number of groups it rests on."""

    mean: float
    low: float
    high: float
    groups: int


def importance(observations: Sequence[Observation], seed: int = 0) -> dict[str, float]:
    """The share of the variance that each part explains, by functional ANOVA (Hutter et al. 2014), largest first.

    The mean of each data set and student is subtracted first. Parts with one level are left out; empty where nothing
    varies.
    """
    cells = _grouped(observations, lambda o: (o.data, o.student))
    centred = [(o, o.value - _mean(cells[o.data, o.student])) for o in observations]
    names = sorted({name for o in observations for name in o.levels})
    spaces = {name: sorted({o.levels.get(name, NOT_USED) for o in observations}) for name in names}
    spaces = {name: levels for name, levels in spaces.items() if len(levels) > 1}
    if not spaces or len({round(value, 9) for _, value in centred}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    distributions = {name: CategoricalDistribution(levels) for name, levels in spaces.items()}
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: o.levels.get(name, NOT_USED) for name in spaces},
                distributions=dict(distributions),
                value=value,
            )
            for o, value in centred
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: round(float(share), 4) for name, share in found.items()}


def by_data(observations: Sequence[Observation], part: str, level: str, baseline: str) -> Difference | None:
    """Difference of means within each data set and student, averaged; None where no cell has both levels.

    The interval is a bootstrap of the cells, and of the trials in them. For random designs: there the other parts are
    balanced.
    """
    chosen = [o for o in observations if o.levels.get(part) in (level, baseline)]
    cells = _grouped(chosen, lambda o: (o.data, o.student))
    rng = np.random.default_rng(0)
    means, resampled = [], []
    for found in cells.values():
        ours, theirs = (np.array([o.value for o in found if o.levels[part] == x]) for x in (level, baseline))
        if len(ours) and len(theirs):
            means.append(float(ours.mean() - theirs.mean()))
            drawn = [x[rng.integers(0, len(x), (RESAMPLES, len(x)))].mean(axis=1) for x in (ours, theirs)]
            resampled.append(drawn[0] - drawn[1])
    return _difference(means, np.array(resampled)) if means else None


def matched(observations: Sequence[Observation], part: str, level: str, baseline: str) -> Difference | None:
    """Mean difference of pairs that are equal in everything else; None where there are none.

    The interval is a bootstrap of the pairs.
    """
    chosen = [o for o in observations if o.levels.get(part) in (level, baseline)]

    def rest(o: Observation) -> Hashable:
        return (o.data, o.student, *sorted((name, x) for name, x in o.levels.items() if name != part))

    means = []
    for found in _grouped(chosen, rest).values():
        ours, theirs = ([o for o in found if o.levels[part] == x] for x in (level, baseline))
        if ours and theirs:
            means.append(_mean(ours) - _mean(theirs))
    return _difference(means, np.tile(np.array(means)[:, None], RESAMPLES)) if means else None


def contrasts(observations: Sequence[Observation]) -> list[tuple[str, str, str]]:
    """(part, level, baseline) of all comparisons that can be made."""
    found = []
    for part in dict.fromkeys(name for o in observations for name in o.levels):
        counts = Counter(o.levels[part] for o in observations if o.levels.get(part, NOT_USED) != NOT_USED)
        named = [level for level in BASELINES.get(part, ()) if level in counts]
        if len(counts) > 1:
            baseline = named[0] if named else max(sorted(counts), key=lambda level: counts[level])
            found += [(part, level, baseline) for level in sorted(counts) if level != baseline]
    return found


def _difference(means: Sequence[float], resampled: Floats) -> Difference:
    """The mean over groups, with an interval from resampled groups; `resampled` is [groups, RESAMPLES]."""
    count = len(means)
    chosen = np.random.default_rng(1).integers(0, count, (count, RESAMPLES))
    drawn = np.take_along_axis(resampled, chosen, axis=0).mean(axis=0)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(float(np.mean(means)), float(low), float(high), count)


def _grouped(observations: Iterable[Observation], key: Callable[[Observation], Hashable]) -> Groups:
    groups: dict[Hashable, list[Observation]] = defaultdict(list)
    for o in observations:
        groups[key(o)].append(o)
    return groups


def _mean(observations: Sequence[Observation]) -> float:
    return sum(o.value for o in observations) / len(observations)
