from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.objectives.layer_mapping import LAYER_MAPPINGS

LAYERS = st.integers(1, 48)


@given(st.sampled_from(list(LAYER_MAPPINGS)), LAYERS, LAYERS)
def test_pairs_are_existing_layers_in_order(name: str, student: int, teacher: int) -> None:
    pairs = LAYER_MAPPINGS[name](student, teacher)

    assert pairs
    assert all(0 <= ours <= student and 0 <= theirs <= teacher for ours, theirs in pairs)
    assert all((ours == 0) == (theirs == 0) for ours, theirs in pairs)
    ours, theirs = zip(*pairs, strict=True)
    assert list(ours) == sorted(set(ours))
    assert list(theirs) == sorted(theirs)
    if student <= teacher:
        assert len(set(theirs)) == len(theirs)


@given(st.sampled_from([name for name in LAYER_MAPPINGS if name != "first"]), LAYERS, LAYERS)
def test_all_but_the_first_end_with_the_last_layers(name: str, student: int, teacher: int) -> None:
    assert LAYER_MAPPINGS[name](student, teacher)[-1] == (student, teacher)


@given(LAYERS, LAYERS)
def test_uniform_pairs_every_layer_of_the_student_with_the_nearest(student: int, teacher: int) -> None:
    pairs = LAYER_MAPPINGS["uniform"](student, teacher)

    assert [ours for ours, _ in pairs] == list(range(1, student + 1))
    assert all(theirs == 1 or abs(theirs - ours * teacher / student) <= 0.5 for ours, theirs in pairs)


@given(st.sampled_from(["uniform", "first", "top"]), LAYERS)
def test_as_many_layers_are_paired_one_by_one(name: str, layers: int) -> None:
    assert LAYER_MAPPINGS[name](layers, layers) == [(i, i) for i in range(1, layers + 1)]


@pytest.mark.parametrize(
    ("name", "pairs"),
    [
        ("last", [(4, 12)]),
        ("embeddings_and_last", [(0, 0), (4, 12)]),
        ("uniform", [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("first", [(1, 1), (2, 2), (3, 3), (4, 4)]),
        ("top", [(1, 9), (2, 10), (3, 11), (4, 12)]),
    ],
)
def test_four_layers_of_twelve(name: str, pairs: list[tuple[int, int]]) -> None:
    assert LAYER_MAPPINGS[name](4, 12) == pairs
