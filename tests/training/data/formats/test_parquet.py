"""Parquet and Arrow files, and the names of `ClassLabel` features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.data import datasets
from training.data.utterances import Slot

hub = pytest.importorskip("datasets")

TEXTS = ["licht an", "wetter heute", "licht aus", "wetter morgen"]


def labelled(named: bool) -> Any:
    kind = hub.ClassLabel(names=["lights", "weather"]) if named else hub.Value("int64")
    features = hub.Features({"text": hub.Value("string"), "label": kind})
    return hub.Dataset.from_list([{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)], features=features)


@pytest.mark.parametrize("prefix", ["", "hub:"])
def test_class_labels_become_names(tmp_path: Path, prefix: str) -> None:
    for split in ("train", "validation"):
        labelled(named=True).to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))

    utterances = datasets.load(f"{prefix}{tmp_path / 'set'}", ["de-DE"], on_error="skip").utterances

    assert [u.intent for u in utterances][:2] == ["lights", "weather"]
    assert {u.partition for u in utterances} <= {"train", "dev"}


def test_numbers_without_names_are_refused(tmp_path: Path) -> None:
    labelled(named=False).to_parquet(str(tmp_path / "train.parquet"))

    with pytest.raises(datasets.DatasetError, match=r"train\.parquet:0: label: is the number 0: the names"):
        datasets.load(str(tmp_path / "train.parquet"), ["de-DE"])


def test_a_saved_folder(tmp_path: Path) -> None:
    labelled(named=True).save_to_disk(str(tmp_path / "saved"))

    utterances = datasets.load(str(tmp_path / "saved"), ["de-DE"]).utterances

    assert [u.intent for u in utterances] == ["lights", "weather", "lights", "weather"]


def test_tokens_with_tags(tmp_path: Path) -> None:
    tags = hub.ClassLabel(names=["O", "B-room", "I-room"])
    features = hub.Features({"tokens": [hub.Value("string")], "ner_tags": [tags], "intent": hub.Value("string")})
    row = {"tokens": ["licht", "im", "großen", "bad"], "ner_tags": [0, 0, 1, 2], "intent": "on"}
    hub.Dataset.from_list([row], features=features).to_parquet(str(tmp_path / "de-DE.parquet"))

    (utterance,) = datasets.load(str(tmp_path / "de-DE.parquet")).utterances

    assert (utterance.text, utterance.slots) == ("licht im großen bad", (Slot("room", 9, 19),))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "de.parquet").write_bytes(b"PAR1 and no more")

    with pytest.raises(datasets.DatasetError, match=r"de\.parquet: is no complete Parquet or Arrow file"):
        datasets.load(str(tmp_path / "de.parquet"))


def test_a_hub_data_set_without_a_configuration_for_each_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config: str | None, revision: str | None) -> Any:
        if config is not None:
            raise ValueError(f"BuilderConfig '{config}' not found. Available: ['default']")
        return hub.DatasetDict({"train": labelled(named=True)})

    monkeypatch.setattr(hub, "load_dataset", load_dataset)

    dataset = datasets.load("hub:someone/intents", ["de-DE"])

    assert {u.locale for u in dataset.utterances} == {"de-DE"}
