"""New data beside that of an earlier build, and what students answer otherwise since."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.building.earlier import change_lines, changed, joined, read_earlier
from training.building.kept import Kept
from training.building.served import served_answers
from training.data.utterances import DatasetError, Utterance
from training.evaluation.scoring import PredictedLabels
from training.models.errors import CheckpointError

OLD = Kept(
    (
        Utterance("1", "weck mich", "de-DE", "train", None, "alarm"),
        Utterance("2", "spiel musik", "de-DE", "dev", None, "play"),
        Utterance("3", "stopp", "de-DE", "train", None, "stop"),
    ),
    ("a:1", "a:2", "a:3"),
)
NEW = Kept(
    (
        Utterance("x", "spiel musik", "de-DE", "train", None, "music"),  # another label
        Utterance("3", "halt", "de-DE", "train", None, "stop"),  # the same id
        Utterance("y", "licht an", "de-DE", "dev", None, "light"),
    ),
    ("b:1", "b:2", "b:3"),
)


def test_new_rows_replace_old_ones_of_the_same_text_or_id() -> None:
    found = joined(NEW, OLD, alone=False)

    assert [(u.text, u.intent) for u in found.utterances] == [
        ("weck mich", "alarm"),
        ("spiel musik", "music"),
        ("halt", "stop"),
        ("licht an", "light"),
    ]
    assert found.places == ("a:1", "b:1", "b:2", "b:3")


def test_a_text_of_dev_stays_in_dev() -> None:
    found = joined(NEW, OLD, alone=True)

    assert [(u.text, u.partition) for u in found.utterances] == [
        ("spiel musik", "dev"),
        ("halt", "train"),
        ("licht an", "dev"),
    ]


rows = st.lists(
    st.builds(Utterance, st.sampled_from("123456"), st.sampled_from(["a", "b", "c", "d"]), st.just("de-DE")),
    unique_by=lambda u: u.id,
)


@given(rows, rows)
def test_ids_stay_unique_and_new_rows_are_all_there(old: list[Utterance], new: list[Utterance]) -> None:
    kept = [
        Kept(tuple(part), tuple(f"{name}:{i}" for i in range(len(part)))) for part, name in ((new, "n"), (old, "o"))
    ]

    found = joined(*kept, alone=False)

    assert len({u.id for u in found.utterances}) == len(found.utterances) == len(found.places)
    assert {u.id for u in new} <= {u.id for u in found.utterances}
    assert {u.text for u in old} | {u.text for u in new} >= {u.text for u in found.utterances}


def test_changed_answers() -> None:
    right, wrong, other = (PredictedLabels(None, intent, ()) for intent in ("alarm", "play", "stop"))
    data = Kept(tuple(replace(OLD.utterances[0], id=str(i)) for i in range(5)), tuple(f"a:{i}" for i in range(5)))

    found = changed(
        data, [(0, right, right), (1, right, wrong), (2, wrong, right), (3, wrong, other), (4, wrong, wrong)]
    )

    assert [one["place"] for one in found["broken"]] == ["a:1"]
    assert [one["place"] for one in found["mended"]] == ["a:2"]
    assert found["otherwise_wrong"] == 1
    lines = change_lines({"from": "monday", "students": {"xs": found}}, "xs", 5)
    assert lines == [
        "xs, against that of monday: dev has 1 mended and 1 broken answers.",
        "  broken: 'weck mich' [alarm]: alarm -> play",
        "  mended: 'weck mich' [alarm]: play -> alarm",
    ]


def test_a_folder_without_a_student_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="manifest"):
        served_answers(tmp_path, OLD.utterances)


def test_what_is_no_earlier_build(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no recipe\.toml"):
        read_earlier(tmp_path)
