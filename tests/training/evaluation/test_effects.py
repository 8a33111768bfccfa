from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import f1_score

from training.evaluation import effects, scoring
from training.evaluation.effects import ENCODER, FINE_TUNING, Columns, Effect, Reference
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


def test_values_by_hand_and_by_a_naive_loop() -> None:
    generator = np.random.default_rng(3)
    references = {x: reference([0, 1] * 10, [0, 1, 2, 3] * 5) for x in ("de-DE", "fr-FR", "en-US")}
    runs: Any = {
        "e": {
            (1, seed): {
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
                own, slots = runs["e"][1, seed][locale], references[locale].slots
                errors = sum(int(own["intent_errors"][i] + own["slot_errors"][i]) for i in rows)
                semer[locale] = 100 * errors / sum(int(slots[i]) + 1 for i in rows)
                icer = 100 * sum(int(own["intent_errors"][i]) for i in rows) / len(rows)
                assert values["icer", "e", "tail", locale][b, seed - 1] == pytest.approx(icer)
            mean = (semer["de-DE"] + semer["fr-FR"]) / 2  # not of English
            assert values["semer", "e", "tail", scoring.MEAN][b, seed - 1] == pytest.approx(mean)


def test_a_set_without_utterances_has_no_value() -> None:
    empty = Reference(("1",), np.array([0]), np.array([0]), {"dev": np.array([0]), "tail": np.array([], np.int64)})

    values = effects.values_of(
        "dc",
        {"de-DE": empty},
        {"e": {(1, 1): {"de-DE": {"domain": np.array([0])}}}},
        1,
        {"de-DE": scoring.weights_of(1, 5)},
    )

    assert {key[2] for key in values} == {"dev"}


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(5, 60))
def test_identical_sides_change_nothing(seed: int, seeds: int, size: int) -> None:
    errors = np.random.default_rng(seed).integers(0, 2, size=(size, seeds))
    errors[0] = 1

    found = effect(errors, errors.copy())

    assert (found.change, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert effects.mark_of(found) == ""


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


def test_the_columns_of_an_encoder_are_its_own_seeds_or_those_of_fine_tuning() -> None:
    assert effects.columns_of([(3, 1), (1, 1), (1, 2)], is_nested=True) == (ENCODER, (1, 3))
    assert effects.columns_of([(7, 2), (7, 1)], is_nested=False) == (FINE_TUNING, (1, 2))


def test_a_column_is_the_mean_over_the_fine_tunings_of_an_encoder_seed() -> None:
    wrong = {(1, 1): [1, 1, 0, 0], (1, 2): [1, 0, 0, 0], (2, 1): [0, 0, 0, 0]}
    runs: Any = {
        "e": {
            seeds: {"x": {"intent_errors": np.array(errors), "slot_errors": np.zeros(4, int)}}
            for seeds, errors in wrong.items()
        }
    }

    values = effects.values_of(
        "icner", {"x": reference([0, 1, 0, 1])}, runs, 2, {"x": scoring.weights_of(4, RESAMPLES)}, {"e"}
    )

    assert values["icer", "e", "dev", "x"][0] == pytest.approx([37.5, 0])


def of_seeds(generator: np.random.Generator, **seeds: tuple[int, ...]) -> tuple[effects.Values, dict[str, Columns]]:
    """Values about 20 of some encoders with these seeds of their own."""
    values = {
        ("icer", name, "dev", "x"): 20 + generator.normal(size=(1 + RESAMPLES, len(own))) for name, own in seeds.items()
    }
    return values, {name: Columns(ENCODER, own) for name, own in seeds.items()}


def test_runs_are_compared_on_their_common_seeds() -> None:
    values, columns = of_seeds(np.random.default_rng(2), a=(1, 2, 3), b=(2, 3), c=(7, 8))
    a, b, c = values

    paired = effects.compare_runs(values, [a], [b], columns)
    apart = effects.compare_runs(values, [a], [c], columns)

    assert paired is not None
    assert apart is not None
    expected = [100 * (values[a][0, 1:].mean() / values[b][0].mean() - 1)]
    expected.append(100 * (values[a][0].mean() / values[c][0].mean() - 1))
    assert [paired.change, apart.change] == pytest.approx(expected)
    assert paired.seeds == apart.seeds == 2


def test_sides_of_several_encoders_are_their_means() -> None:
    values, columns = of_seeds(np.random.default_rng(3), a=(1, 2, 3), b=(1, 2, 3), c=(1, 2, 3), d=(1, 2, 3))
    a, b, c, d = values

    found = effects.compare_runs(values, [a, b], [c, d], columns)

    assert found is not None
    means = [np.mean([values[key][0].mean() for key in keys]) for keys in ((a, b), (c, d))]
    assert found.change == pytest.approx(100 * (means[0] / means[1] - 1))
    assert found.seeds == 3


def test_seeds_of_another_level_count_as_one() -> None:
    values, columns = of_seeds(np.random.default_rng(3), a=(1, 2, 3), b=(1, 2, 3))
    columns["b"] = Columns(FINE_TUNING, (1, 2, 3))
    a, b = values

    found = effects.compare_runs(values, [a], [b], columns)

    assert found is not None
    assert found.seeds == 1
    assert effects.compare_runs(values, [a, b], [a], columns) is None
    assert effects.compare_runs(values, [a], [("icer", "absent", "dev", "x")], columns) is None


def test_the_slope_is_that_of_least_squares_within_groups() -> None:
    generator = np.random.default_rng(5)
    x, groups = [0.1, 0.2, 0.4, 0.3, 0.5, 0.6], ["de"] * 3 + ["fr"] * 3
    values = [30 + 10 * at + generator.normal(0, 0.01, size=(1 + RESAMPLES, 3)) for at in x]
    values[3:] = [one + 5 for one in values[3:]]

    found = effects.slope_of(values, x, groups, effects.seed_draws(3, 0, RESAMPLES))

    design = np.array([[at, group == "de", group == "fr"] for at, group in zip(x, groups, strict=True)], dtype=float)
    expected = np.linalg.lstsq(design, np.array([one[0].mean() for one in values]), rcond=None)[0][0]
    assert found is not None
    assert found.change == pytest.approx(expected)
    assert found.low < 10 < found.high
    assert effects.slope_of(values, [0.1] * 3 + [0.2] * 3, groups, effects.seed_draws(3, 0, RESAMPLES)) is None


@pytest.mark.parametrize(("low", "mark"), [(1.0, "*"), (-1.0, "")])
def test_a_mark_says_that_the_interval_excludes_0(low: float, mark: str) -> None:
    assert effects.mark_of(Effect(2.0, low, 3.0, 0.04, 5.0, 3)) == mark


def test_holm_by_hand() -> None:
    """The steps are 5 * 0.01, 4 * 0.01, 3 * 0.03, 2 * 0.04 and 0.9; none is below the one before."""
    found = effects.holm(np.array([0.04, 0.01, 0.9, 0.03, 0.01]))

    assert found == pytest.approx([0.09, 0.05, 0.9, 0.09, 0.05])
    assert effects.holm(np.array([0.6, 0.5])).tolist() == [1, 1]
    assert effects.holm(np.array([])).tolist() == []
