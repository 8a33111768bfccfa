from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.calibration import Observations
from export.scope import auroc, false_rejection, fit_scope, means_by_method, threshold_of
from service.student.manifest import Labels

LABELS = Labels(intent=("x", "y", "z"))
TEMPERATURES = {"intent": {"de-DE": 1.2}}
scores = st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=12).map(np.array)


@given(scores, scores)
def test_auroc_is_the_share_of_pairs_in_the_right_order(inside: np.ndarray, outside: np.ndarray) -> None:
    pairs = [(a > b) + (a == b) / 2 for a in inside for b in outside]

    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=300).map(np.array), st.floats(0.001, 0.999))
def test_a_threshold_rejects_at_most_the_given_share(values: np.ndarray, rate: float) -> None:
    assert (values < threshold_of(values, rate)).mean() <= rate


def test_false_rejection_is_measured_on_the_other_half() -> None:
    values = np.random.default_rng(0).normal(size=5000)

    assert false_rejection(values, values, 0.02) == pytest.approx(0.02, abs=0.005)
    assert false_rejection(values, values - 10, 0.02) == 1


def observed(requests: int = 400, lowered: float = 0.0, **changes: object) -> Observations:
    """Requests of three intents. Out-of-scope text has a lower logit of its best intent; `lowered` lowers all three."""
    rng = np.random.default_rng(0)

    def texts(count: int, foreign: bool) -> dict[str, np.ndarray]:
        logits = rng.normal(size=(count, 3)) + (2 if foreign else 3) * np.eye(3)[rng.integers(0, 3, size=count)]
        return {"intent": (logits - lowered * foreign).astype(np.float32)}

    fields: dict[str, object] = {
        "outcomes": {},
        "requests": {"de-DE": texts(requests, False), "en-US": texts(30, False)},
        "typed": {"de-DE": texts(requests, False), "en-US": texts(30, False)},
        "out_of_scope": {"de-DE": {"novels": texts(300, True)}},
    }
    return Observations(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_method_that_accepts_the_fewest_other_texts_is_chosen(caplog: pytest.LogCaptureFixture) -> None:
    scope, measured = fit_scope(LABELS, observed(lowered=4), TEMPERATURES, 0.02)

    assert scope is not None
    assert scope.method == "energy"  # the softmax does not see a change of all logits
    assert list(scope.thresholds) == ["de-DE"]
    assert "fewer than 50 requests: en-US (30)" in caplog.text
    means = means_by_method(measured["scope"])
    assert set(means) == {"max_softmax", "energy"}
    assert means["energy"]["false_acceptance"] < 0.1 < means["max_softmax"]["false_acceptance"]
    assert measured["false_rejection"]["de-DE"]["plain"] == pytest.approx(0.02, abs=0.02)


def test_max_softmax_is_chosen_where_energy_accepts_more() -> None:
    scope, measured = fit_scope(LABELS, observed(lowered=-4), TEMPERATURES, 0.02)

    means = means_by_method(measured["scope"])
    assert scope is not None
    assert scope.method == "max_softmax"
    assert means["max_softmax"]["false_acceptance"] < means["energy"]["false_acceptance"]


def test_without_out_of_scope_text_there_is_still_a_threshold(caplog: pytest.LogCaptureFixture) -> None:
    scope, measured = fit_scope(LABELS, observed(out_of_scope={}), TEMPERATURES, 0.05)

    assert scope is not None
    assert scope.method == "energy"
    assert "de-DE" in scope.thresholds
    assert means_by_method(measured["scope"]) == {}
    assert "to compare methods on" in caplog.text


def test_with_few_requests_there_is_no_scope() -> None:
    assert fit_scope(LABELS, observed(requests=49), TEMPERATURES, 0.02) == (None, {})


def test_with_slots_only_there_is_no_scope() -> None:
    assert fit_scope(Labels(slots=("O",)), observed(), {}, 0.02) == (None, {})
