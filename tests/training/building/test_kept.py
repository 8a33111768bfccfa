"""The data that a build keeps, and the plan that it shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from training.building.kept import Kept, keep, read_kept
from training.building.plan_text import plan_text
from training.data.utterances import DatasetError, Slot, Utterance
from training.studies.recipe import Recipe

TRAIN = Utterance("1", "weck mich um neun", "de-DE", "train", None, "alarm", (Slot("time", 13, 17),))
DEV = Utterance("2", "spiel musik", "de-DE", "dev", None, "play", slots_annotated=False)
DATA = Kept((TRAIN, DEV), ("a.csv:2", "a.csv:3"))


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    keep(tmp_path, DATA)

    found = read_kept(tmp_path)
    assert found == DATA
    assert [u.slots_annotated for u in found.utterances] == [True, False]


def test_a_build_goes_on_with_the_same_data_alone(tmp_path: Path) -> None:
    keep(tmp_path, DATA)
    keep(tmp_path, DATA)

    with pytest.raises(DatasetError, match="made from other data, or with other flags"):
        keep(tmp_path, replace(DATA, utterances=(replace(TRAIN, intent="stop"), DEV)))


@pytest.mark.parametrize(("left", "missing"), [(DEV, "train"), (TRAIN, "dev")])
def test_data_without_a_partition_that_is_needed(tmp_path: Path, left: Utterance, missing: str) -> None:
    with pytest.raises(DatasetError, match=f"partition '{missing}' is empty"):
        keep(tmp_path, Kept((left,), ("a.csv:2",)))

    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_build(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no data\.jsonl"):
        read_kept(tmp_path)


def test_the_metrics_that_dev_has_labels_for() -> None:
    assert DATA.metrics() == ["intent_accuracy", "icer"]


def test_the_plan_counts_the_data_and_lists_the_stages() -> None:
    plan = {"minutes_by_stage": {"runs/s": 2.0, "runs/xs": 1.25, "exports": 0.5}, "minutes": 5.0, "train_share": 1}
    content = {
        "title": "t",
        "locales": ["de-DE"],
        "runs": {"s": {"epochs": 12}, "xs": {"epochs": 1}},
        "comparisons": [{"title": "c", "baseline": "s", "runs": ["xs"]}],
        "plan": plan,
    }

    text = plan_text(DATA, Recipe.model_validate(content))

    assert text.splitlines() == [
        "Data: 1 utterance to train on, 1 to score on (dev); 1 intent, 1 kind of slot.",
        "Locales: de-DE 1.",
        "Estimated minutes of each stage, by the speed of this machine:",
        "  runs/s       2.0  12 epochs",
        "  runs/xs      1.2  1 epoch",
        "  exports      0.5",
        "  together     3.8  of --minutes 5",
    ]
