from __future__ import annotations

import gzip
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest

from training.data import datasets
from training.data.utterances import Slot, Utterance

ROW = {
    "id": "1",
    "locale": "de-DE",
    "partition": "train",
    "scenario": "alarm",
    "intent": "alarm_set",
    "utt": "weck mich am freitag",
    "annot_utt": "weck mich am [date : freitag]",
}
EXPECTED = Utterance("1", "weck mich am freitag", "de-DE", "train", "alarm", "alarm_set", (Slot("date", 13, 20),))


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["1.1/data/de-DE.jsonl", "data/de-DE.jsonl.gz", "de-DE.jsonl"])
def test_massive_folder_in_each_layout(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ROW)

    assert datasets.load(str(tmp_path)).utterances == (EXPECTED,)


def test_massive_tarball(tmp_path: Path) -> None:
    write(tmp_path / "1.1" / "data" / "de-DE.jsonl", ROW)
    write(tmp_path / "1.1" / "data" / "fr-FR.jsonl", {**ROW, "locale": "fr-FR"})
    archive = tmp_path / "amazon-massive-dataset-1.1.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(tmp_path / "1.1", "1.1")

    dataset = datasets.load(str(archive), ["de-DE"])

    assert dataset.utterances == (EXPECTED,)


def test_own_jsonl_round_trips(tmp_path: Path) -> None:
    source = write(tmp_path / "mine.jsonl", datasets.row_of(EXPECTED))

    assert datasets.load(source).utterances == (EXPECTED,)


def test_csv_with_annotation_and_quoted_commas(tmp_path: Path) -> None:
    rows = [
        "id,locale,partition,domain,intent,annotation",
        '1,de-DE,train,alarm,alarm_set,"weck mich, bitte, am [date : freitag]"',
    ]
    source = write(tmp_path / "mine.csv", *rows)

    (utterance,) = datasets.load(source).utterances

    assert utterance.text == "weck mich, bitte, am freitag"
    assert utterance.value(utterance.slots[0]) == "freitag"


def test_hub_data_set_with_class_labels(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    features = hub.Features(
        {**{name: hub.Value("string") for name in ROW}, "scenario": hub.ClassLabel(names=["alarm", "play"])}
    )
    for split in ("train", "validation"):
        rows = hub.Dataset.from_list([{**ROW, "scenario": 0}], features=features)
        rows.to_parquet(str(tmp_path / "massive" / "data" / f"{split}-00000.parquet"))

    dataset = datasets.load(f"hub:{tmp_path / 'massive'}", ["de-DE"], on_error="skip")

    assert [u.partition for u in dataset.utterances] == ["train"]
    assert dataset.utterances[0] == EXPECTED
    assert dataset.skipped == 1  # the id stands in both splits


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "row: is no JSON"),
        ([1, 2], "row: is a JSON list; allowed: one JSON object a line"),
        ({**ROW, "utt": None}, "utt: is missing"),
        ({**ROW, "utt": "   ", "annot_utt": "   "}, "text: is blank"),
        ({**ROW, "partition": "eval"}, "partition: is 'eval'; allowed: train, dev, test"),
        ({**ROW, "locale": 7}, "locale: is 7; allowed: a non-empty string"),
        ({**ROW, "annot_utt": "weck mich am [date : montag]"}, "annot_utt: differs from utt"),
        ({"id": "1"}, "row: has the fields id; allowed: with 'text', 'annotation' or 'utt'"),
        (
            {**datasets.row_of(EXPECTED), "slots": [{"name": "date", "start": 13, "end": 99}]},
            "slots: 'date' has offsets 13..99",
        ),
        (
            {**datasets.row_of(EXPECTED), "slots": [{"name": "date", "start": "13", "end": 20}]},
            "start and end whole numbers",
        ),
        ({**datasets.row_of(EXPECTED), "slots": [{"from": 1}]}, "allowed: {name, start, end}"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path: Path, row: Any, message: str) -> None:
    source = write(tmp_path / "de-DE.jsonl", {**ROW, "id": "0"}, row)

    with pytest.raises(datasets.DatasetError) as caught:
        datasets.load(source)

    assert str(caught.value).startswith(f"{source}:2: ")
    assert message in str(caught.value)


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "de-DE.jsonl", ROW, "{", {**ROW, "id": "2", "partition": "x"})

    dataset = datasets.load(source, on_error="skip")

    assert (len(dataset.utterances), dataset.skipped) == (1, 2)
    assert "skipped 2 bad rows" in caplog.text


def test_an_id_twice_in_a_locale_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "de-DE.jsonl", ROW, ROW)

    with pytest.raises(datasets.DatasetError, match=r":2: id: '1' occurs twice for de-DE, first at .*:1"):
        datasets.load(source)


def test_an_empty_partition_is_named(sample: Path, tmp_path: Path) -> None:
    dataset = datasets.load(write(tmp_path / "de-DE.jsonl", ROW))

    with pytest.raises(datasets.DatasetError, match=r"partition 'dev' is empty.*'train': 1"):
        dataset.part("dev")


def test_an_unknown_locale_is_named(sample: Path) -> None:
    with pytest.raises(datasets.DatasetError, match="no utterances for xx-XX"):
        datasets.load(str(sample), ["de-DE", "xx-XX"])


def test_labels_unseen_in_train_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = {**ROW, "id": "2", "partition": "dev", "intent": "alarm_query"}
    with caplog.at_level(logging.WARNING):
        datasets.load(write(tmp_path / "de-DE.jsonl", ROW, other))

    assert "intent 'alarm_query' occurs in dev but never in train" in caplog.text


@pytest.mark.parametrize("content", [b'{"text": "\x81"}', None])
def test_unreadable_sources_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "de-DE.jsonl"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(datasets.DatasetError, match=r"de-DE\.jsonl:(1: row: byte 0x81 is neither UTF-8| no such data)"):
        datasets.load(str(path))


def test_a_damaged_tarball_is_named(tmp_path: Path) -> None:
    (tmp_path / "massive.tar.gz").write_bytes(b"not a tarball")

    with pytest.raises(datasets.DatasetError, match=r"massive\.tar\.gz: is no complete tar archive"):
        datasets.load(str(tmp_path / "massive.tar.gz"))


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("id,locale,partition,annotation\n1,de-DE,train,ja\n", encoding="utf-8-sig")

    assert datasets.load(str(path)).utterances[0].text == "ja"


def test_a_truncated_gzip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "de-DE.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(ROW).encode() * 100)[:40])

    with pytest.raises(datasets.DatasetError, match="is no complete gzip file"):
        datasets.load(str(path))


def test_the_sample_has_parallel_ids_and_every_partition(sample: Path) -> None:
    dataset = datasets.load(str(sample))
    by_locale: dict[str, dict[str, Utterance]] = {}
    for utterance in dataset.utterances:
        by_locale.setdefault(utterance.locale, {})[utterance.id] = utterance

    assert sorted(by_locale) == ["de-DE", "en-US", "es-ES", "fr-FR", "it-IT"]
    german = by_locale["de-DE"]
    assert len(german) >= 100
    for other in by_locale.values():
        assert {i: (u.partition, u.intent) for i, u in other.items()} == {
            i: (u.partition, u.intent) for i, u in german.items()
        }
