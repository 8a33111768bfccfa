from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from training.evaluation import correlation, effects, scoring
from training.evaluation.effects import Effect, Reference
from training.studies import effects_text

RESAMPLES = 300


def reference(domain: list[int], slots: list[int] | None = None, ids: tuple[str, ...] | None = None) -> Reference:
    size = len(domain)
    return Reference(
        ids or tuple(map(str, range(size))),
        np.array(domain),
        np.array(slots or [0] * size),
        {"dev": np.arange(size), "tail": np.arange(0, size, 2)},
    )


def rates(errors: np.ndarray[Any, Any], weights: effects.Weights) -> effects.Floats:
    """Error rates in percent, [1 + resamples, seeds], of errors [utterances, seeds]."""
    ones = np.ones(len(errors), np.int64)
    return np.stack([100 * effects.error_rate(column, ones, weights) for column in errors.T], axis=1)


def effect(candidate: np.ndarray[Any, Any], baseline: np.ndarray[Any, Any]) -> Effect:
    weights = scoring.weights_of(len(candidate), RESAMPLES)
    draws = effects.seed_draws(candidate.shape[1], 0, RESAMPLES)
    found = effects.effect_of(rates(candidate, weights), rates(baseline, weights), [draws])
    assert found is not None
    return found


def test_weights_count_how_often_each_utterance_is_drawn() -> None:
    weights = scoring.weights_of(50, 20)
    draws = np.random.default_rng([effects.SEED, 0]).integers(0, 50, size=(20, 50))

    assert weights[0].tolist() == [1] * 50
    assert weights[1:].tolist() == [[list(row).count(i) for i in range(50)] for row in draws]


def test_locales_with_the_same_ids_are_drawn_alike_and_others_apart() -> None:
    same, other = reference([0, 1, 1]), reference([0, 1, 1], ids=("x", "y", "z"))

    weights = effects.weights_by_locale({"a": same, "b": same, "c": other}, 50)

    assert weights["a"] is weights["b"]
    assert not np.array_equal(weights["a"], weights["c"])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 3)), min_size=1, max_size=30))
def test_macro_f1_on_resamples_is_that_of_the_drawn_utterances(pairs: list[tuple[int, int]]) -> None:
    expected, found = np.array(pairs).T
    weights = scoring.weights_of(len(pairs), 10)
    named = np.stack([expected, np.where(found < 0, 4, found)], axis=1)

    resampled = scoring.macro_f1(expected, found, 4, weights)

    drawn = (np.repeat(named, row.astype(int), axis=0) for row in weights)
    naive = [f1_score(rows[:, 0], rows[:, 1], average="macro", zero_division=0) for rows in drawn]
    assert resampled == pytest.approx(naive)


def test_f1_of_a_domain_by_hand() -> None:
    found = effects.domain_f1(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 3)

    assert found[:2] == pytest.approx([2 * 2 / (2 + 3), 2 * 1 / (2 + 1)])
    assert math.isnan(found[2])


def test_values_by_hand_and_by_a_naive_loop() -> None:
    generator = np.random.default_rng(3)
    references = {x: reference([0, 1] * 10, [0, 1, 2, 3] * 5) for x in ("de-DE", "fr-FR", "en-US")}
    runs: Any = {
        "e": {
            seed: {
                x: {"intent_errors": generator.integers(0, 2, 20), "slot_errors": generator.integers(0, 3, 20)}
                for x in references
            }
            for seed in (2, 1)
        }
    }
    weights = effects.weights_by_locale(references, 5)

    values = effects.values_of("icner", references, runs, 2, weights)

    for seed in (1, 2):
        for b in range(6):
            semer = {}
            for locale, drawn in weights.items():
                rows = [i for i in range(0, 20, 2) for _ in range(int(drawn[b, i]))]
                own, slots = runs["e"][seed][locale], references[locale].slots
                errors = sum(int(own["intent_errors"][i] + own["slot_errors"][i]) for i in rows)
                semer[locale] = 100 * errors / sum(int(slots[i]) + 1 for i in rows)
                icer = 100 * sum(int(own["intent_errors"][i]) for i in rows) / len(rows)
                assert values["icer", "e", "tail", locale][b, seed - 1] == pytest.approx(icer)
            mean = (semer["de-DE"] + semer["fr-FR"]) / 2  # not of English
            assert values["semer", "e", "tail", scoring.MEAN][b, seed - 1] == pytest.approx(mean)


def test_a_set_without_utterances_has_no_value() -> None:
    empty = Reference(("1",), np.array([0]), np.array([0]), {"dev": np.array([0]), "tail": np.array([], np.int64)})

    values = effects.values_of(
        "dc", {"de-DE": empty}, {"e": {1: {"de-DE": {"domain": np.array([0])}}}}, 1, {"de-DE": scoring.weights_of(1, 5)}
    )

    assert {key[2] for key in values} == {"dev"}


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(5, 60))
def test_identical_sides_change_nothing(seed: int, seeds: int, size: int) -> None:
    errors = np.random.default_rng(seed).integers(0, 2, size=(size, seeds))
    errors[0] = 1

    found = effect(errors, errors.copy())

    assert (found.change, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert effects.mark_of(found, found.p_value) == ""


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(0, 20))
def test_interval_p_value_and_sign_agree(seed: int, seeds: int, more: int) -> None:
    generator = np.random.default_rng(seed)
    baseline = (generator.random((120, seeds)) < 0.3).astype(int)
    baseline[0] = 1
    candidate = np.maximum(baseline, generator.random((120, seeds)) < more / 100).astype(int)

    found = effect(candidate, baseline)

    assert found.change == pytest.approx(100 * (candidate.mean() / baseline.mean() - 1))
    assert found.low <= found.change <= found.high
    assert found.change >= 0
    assert (found.p_value < 0.05) == (found.low > 0)
    assert found.degrees >= max(1, seeds - 1)


def test_without_spread_of_seeds_it_is_the_percentile_interval_of_the_paired_bootstrap() -> None:
    generator = np.random.default_rng(1)
    baseline = np.repeat((generator.random((400, 1)) < 0.3).astype(int), 3, axis=1)
    candidate = np.repeat((generator.random((400, 1)) < 0.25).astype(int), 3, axis=1)

    found = effect(candidate, baseline)

    changes = []
    for row in scoring.weights_of(400, RESAMPLES)[1:]:
        drawn = [i for i, count in enumerate(row) for _ in range(int(count))]
        changes.append(100 * (candidate[drawn, 0].sum() / baseline[drawn, 0].sum() - 1))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(changes, [2.5, 97.5])), rel=1e-5)
    assert math.isinf(found.degrees)


def test_where_only_seeds_differ_it_is_as_wide_as_a_t_interval() -> None:
    """Rates that no choice of utterances changes: the interval is that of the mean of the seeds, up to first order."""
    widths, expected = [], []
    generator = np.random.default_rng(5)
    baseline = np.full((1 + RESAMPLES, 4), 50.0)
    for _ in range(40):
        own = 50 + generator.normal(0, 0.5, 4)
        found = effects.effect_of(np.tile(own, (1 + RESAMPLES, 1)), baseline, [effects.seed_draws(4, 0, RESAMPLES)])
        assert found is not None
        assert found.degrees == pytest.approx(3, rel=0.6)
        widths.append(found.high - found.low)
        expected.append(2 * stats.t.ppf(0.975, 3) * 2 * own.std(ddof=1) / 2)
    assert np.mean(widths) == pytest.approx(np.mean(expected), rel=0.1)


def share_held(size: int, seeds: int, seed_spread: float, own_errors: float, trials: int) -> float:
    """In how many of simulated studies the interval holds the truth: sides that differ by a shift of their logits."""
    generator, held = np.random.default_rng(11), 0

    def share_wrong(shift: float) -> float:
        draws = np.random.default_rng(0).normal(size=(3, 200_000))
        logits = -1.5 + 1.5 * draws[0] + shift + seed_spread * draws[1] + own_errors * draws[2]
        return float((1 / (1 + np.exp(-logits))).mean())

    truth = 100 * (share_wrong(-0.2) / share_wrong(0) - 1)
    for _ in range(trials):
        hardness, luck = generator.normal(-1.5, 1.5, (size, 1)), generator.random((size, 1))
        sides = [
            hardness + shift + generator.normal(0, seed_spread, seeds) + generator.normal(0, own_errors, (size, seeds))
            for shift in (-0.2, 0.0)
        ]
        found = effect(*[(luck < 1 / (1 + np.exp(-logits))).astype(int) for logits in sides])
        held += found.low <= truth <= found.high
    return held / trials


SPREADS = [(0.0, 1.0), (0.3, 0.5), (0.1, 0.5)]  # of the seeds, and of what each gets wrong on its own


@pytest.mark.parametrize(("seed_spread", "own_errors"), SPREADS)
def test_intervals_cover_the_truth(seed_spread: float, own_errors: float) -> None:
    assert share_held(400, 3, seed_spread, own_errors, trials=150) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("seed_spread", "own_errors"), SPREADS)
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("size", [300, 2000])
def test_reports_say_how_often_intervals_cover_the_truth(
    size: int, seeds: int, seed_spread: float, own_errors: float
) -> None:
    low, high = effects_text.COVERAGE

    assert low <= 100 * share_held(size, seeds, seed_spread, own_errors, trials=1500) <= high


def test_a_baseline_of_zero_has_no_relative_change() -> None:
    zeros, ones = np.zeros((30, 2), np.int64), np.ones((30, 2), np.int64)
    weights, draws = scoring.weights_of(30, RESAMPLES), effects.seed_draws(2, 0, RESAMPLES)

    assert effects.effect_of(rates(ones, weights), rates(zeros, weights), [draws]) is None


def test_no_more_than_everything_is_lost() -> None:
    found = effect(np.zeros((30, 2), np.int64), np.ones((30, 2), np.int64))

    assert (found.change, found.low, found.high) == (-100, -100, -100)
    assert found.p_value == pytest.approx(1 / (RESAMPLES + 1))


def test_runs_are_compared_on_their_common_seeds() -> None:
    generator = np.random.default_rng(2)
    key, other = ("icer", "a", "dev", "x"), ("icer", "b", "dev", "x")
    values = {
        key: 30 + generator.normal(size=(1 + RESAMPLES, 3)),
        other: 20 + generator.normal(size=(1 + RESAMPLES, 2)),
    }

    paired = effects.compare_runs(values, (key, other), ([1, 2, 3], [2, 3]))
    apart = effects.compare_runs(values, (key, other), ([1, 2, 3], [7, 8]))

    assert paired is not None
    assert apart is not None
    means = [values[key][0, 1:].mean(), values[key][0].mean()]
    base = values[other][0].mean()
    assert [paired.change, apart.change] == pytest.approx([100 * (mean / base - 1) for mean in means])
    assert paired.seeds == apart.seeds == 2


def test_marks_and_correction_by_hand() -> None:
    def of(p_value: float, low: float = 1.0) -> Effect:
        return Effect(2.0, low, 3.0, p_value, 5.0, 3)

    found = [of(0.03), of(0.01), None, of(0.001), of(0.5, -1.0)]

    corrected = effects.corrected(found, [True, True, True, False, True])

    assert corrected == [pytest.approx(0.06), pytest.approx(0.03), None, None, pytest.approx(0.5)]
    marks = [effects.mark_of(e, p) for e, p in zip(found, corrected, strict=True) if e and p is not None]
    assert marks == ["*", "**", ""]


def test_holm_by_hand() -> None:
    """The steps are 5 * 0.01, 4 * 0.01, 3 * 0.03, 2 * 0.04 and 0.9; none is below the one before."""
    found = effects.holm(np.array([0.04, 0.01, 0.9, 0.03, 0.01]))

    assert found == pytest.approx([0.09, 0.05, 0.9, 0.09, 0.05])
    assert effects.holm(np.array([0.6, 0.5])).tolist() == [1, 1]
    assert effects.holm(np.array([])).tolist() == []


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_coefficients_are_those_of_scipy(points: list[tuple[int, int]]) -> None:
    x, y = np.array(points, dtype=float).T

    found = correlation.correlate(x, y, list(range(len(x))), resamples=20)

    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert found == {}
    else:
        assert found["pearson"].value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-9)
        assert found["spearman"].value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


def test_copies_of_a_cluster_add_nothing_to_what_is_known() -> None:
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(2, 12))
    alone = correlation.correlate(x, y, list(range(12)))
    copied = correlation.correlate(np.tile(x, 4), np.tile(y, 4), list(range(12)) * 4)

    assert copied["pearson"].low == pytest.approx(alone["pearson"].low)
    assert copied["pearson"].high == pytest.approx(alone["pearson"].high)


def test_few_clusters_have_no_interval() -> None:
    found = correlation.correlate(np.arange(8.0), np.arange(8.0), ["a", "b", "c", "d"] * 2)

    assert found["pearson"].value == pytest.approx(1)
    assert found["pearson"].low is None


def test_change_in_a_domain_by_hand() -> None:
    expected = reference([0, 0, 1, 1], [1, 0, 0, 0])
    base = {"intent_errors": np.array([1, 1, 0, 0]), "slot_errors": np.array([1, 0, 0, 0])}
    better = {"intent_errors": np.array([1, 0, 0, 0]), "slot_errors": np.array([0, 0, 0, 0])}

    found = effects.domain_change("icner", expected, {"a": {1: {"x": better}}}, {"b": {1: {"x": base}}}, "x", 2)

    assert found[0] == pytest.approx(100 * (1 / 3 - 1))
    assert math.isnan(found[1])  # the baseline makes no error
