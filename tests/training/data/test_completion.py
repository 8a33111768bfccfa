"""What rows leave out: ids, locales, partitions; and the split."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import datasets
from training.data.completion import partition_of_name
from training.data.formats.base import ReadOptions
from training.data.locales import locale_of_name, normalised
from training.data.splitting import dev_rows
from training.data.utterances import Utterance


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows(count: int = 20, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"licht {i} an", "intent": f"i{i % 2}", **more} for i in range(count)]


def said(dataset: datasets.Dataset) -> str:
    return "\n".join(f"{note.level} {note}" for note in dataset.notes)


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("de_DE", "de-DE"),
        ("de-de", "de-DE"),
        ("DE", "de"),
        ("zh_hant_tw", "zh-Hant-TW"),
        ("es-419", "es-419"),
        ("german", None),
        ("", None),
    ],
)
def test_locales_are_written_as_in_bcp_47(tag: str, expected: str | None) -> None:
    assert normalised(tag) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("de-DE.jsonl.gz", "de-DE"),
        ("de_AT.csv", "de-AT"),
        ("nlu_de.yml", "de"),
        ("train.de.jsonl", "de"),
        ("eval-es.tsv.gz", "es"),
        ("fr-FR_train.csv", "fr-FR"),
        ("it/nlu.yml", "it"),
        ("light_on.csv", None),
        ("seq.in", None),
        ("data.csv", None),
    ],
)
def test_locales_of_names(name: str, expected: str | None) -> None:
    assert locale_of_name(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train.csv", "train"),
        ("eval-es.tsv.gz", "dev"),
        ("validate_RateBook.json", "dev"),
        ("validation-00000-of-00001.parquet", "dev"),
        ("test/seq.in", "test"),
        ("de-DE.jsonl", None),
        ("restrain.csv", None),
    ],
)
def test_partitions_of_names(name: str, expected: str | None) -> None:
    assert partition_of_name(name) == expected


def test_only_text_is_needed(tmp_path: Path) -> None:
    dataset = datasets.load(write(tmp_path / "data.jsonl", [{"text": "licht an"}]), ["de-DE"])

    (utterance,) = dataset.utterances
    assert (utterance.locale, utterance.partition, utterance.domain, utterance.intent) == ("de-DE", "train", None, None)
    assert not utterance.slots_annotated
    assert "locale: read as de-DE, the only one of --locales" in said(dataset)


def test_a_row_without_locale_is_refused_with_the_ways_to_say_it(tmp_path: Path) -> None:
    with pytest.raises(
        datasets.DatasetError, match=r":1: locale: is missing; allowed: .*with --locales and one locale"
    ):
        datasets.load(write(tmp_path / "data.jsonl", rows()))


def test_a_given_locale_completes_the_language_of_the_name(tmp_path: Path) -> None:
    source = write(tmp_path / "nlu_de.jsonl", rows())

    assert {u.locale for u in datasets.load(source).utterances} == {"de"}
    assert {u.locale for u in datasets.load(source, ["de-AT"]).utterances} == {"de-AT"}
    with pytest.raises(datasets.DatasetError, match=r"no utterances for fr-FR; .* \(and de\)"):
        datasets.load(source, ["fr-FR"])


def test_made_ids_do_not_depend_on_the_order(tmp_path: Path) -> None:
    first = datasets.load(write(tmp_path / "a.jsonl", rows()), ["de-DE"]).utterances
    second = datasets.load(write(tmp_path / "b.jsonl", rows()[::-1]), ["de-DE"]).utterances

    assert {u.text: u.id for u in first} == {u.text: u.id for u in second}
    assert len({u.id for u in first}) == 20


def test_a_text_twice_has_two_ids(tmp_path: Path) -> None:
    utterances = datasets.load(write(tmp_path / "a.jsonl", rows(1) * 2), ["de-DE"]).utterances

    assert utterances[1].id == f"{utterances[0].id}-2"


def test_partitions_under_another_name_are_said(tmp_path: Path) -> None:
    data = [*rows(1, split="train"), *rows(2, split="Validation")[1:]]

    dataset = datasets.load(write(tmp_path / "data.jsonl", data), ["de-DE"])

    assert [u.partition for u in dataset.utterances] == ["train", "dev"]
    assert "partition: 'Validation' is read as dev" in said(dataset)


def test_a_split_is_made_and_said(tmp_path: Path) -> None:
    dataset = datasets.load(write(tmp_path / "data.jsonl", rows(40)), ["de-DE"])

    assert [len(dataset.part(name)) for name in ("train", "dev")] == [36, 4]
    assert {u.intent for u in dataset.part("dev")} == {"i0", "i1"}
    assert "no row has a partition: 4 of 40 training utterances are dev" in said(dataset)


def test_a_split_is_made_where_there_is_only_train(tmp_path: Path) -> None:
    source = write(tmp_path / "data.jsonl", rows(partition="train", locale="de-DE"))

    assert "there is no partition dev: 2 of 20 training utterances are dev" in said(datasets.load(source))
    unsplit = datasets.load(source, options=ReadOptions(dev_share=0))
    assert {u.partition for u in unsplit.utterances} == {"train"}
    with pytest.raises(datasets.DatasetError, match="partition 'dev' is empty"):
        unsplit.part("dev")


def test_data_with_dev_is_not_split(tmp_path: Path) -> None:
    data = [*rows(locale="de-DE", partition="train"), {"text": "x", "locale": "de-DE", "partition": "dev"}]

    dataset = datasets.load(write(tmp_path / "data.jsonl", data))

    assert len(dataset.part("dev")) == 1


def test_some_rows_without_a_partition_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "data.jsonl", [*rows(1, partition="train"), *rows(2)[1:]])

    with pytest.raises(datasets.DatasetError, match=r":2: partition: is missing; allowed: train, dev, test, a file or"):
        datasets.load(source, ["de-DE"])
    skipped = datasets.load(source, ["de-DE"], on_error="skip")
    assert (len(skipped.utterances), skipped.skipped) == (1, 1)


@pytest.mark.parametrize("packed", [False, True])
def test_a_split_is_the_same_whichever_locales_are_read(tmp_path: Path, packed: bool) -> None:
    for locale, word in (("de-DE", "an"), ("fr-FR", "allume")):
        data = [{"id": str(i), "text": f"{word} {i}", "intent": "on"} for i in range(30 if word == "an" else 20)]
        write(tmp_path / "data" / f"{locale}.jsonl", data)

    source = tmp_path / "set.tar.gz" if packed else tmp_path
    if packed:
        with tarfile.open(source, "w:gz") as archive:
            archive.add(tmp_path / "data", "data")

    both = datasets.load(str(source)).utterances
    german = datasets.load(str(source), ["de-DE"]).utterances

    assert german == tuple(u for u in both if u.locale == "de-DE")
    dev = {u.id for u in both if u.partition == "dev"}
    assert {u.id for u in both if u.partition == "train"}.isdisjoint(dev)


utterances = st.lists(
    st.builds(
        Utterance,
        id=st.sampled_from([str(i) for i in range(12)]),
        text=st.sampled_from(["a", "b", "A ", "c", "d", "e f", "e  f", "g", "h"]),
        locale=st.sampled_from(["de-DE", "fr-FR"]),
        intent=st.sampled_from([None, "x", "y"]),
    ),
    max_size=40,
)


@settings(max_examples=50)
@given(utterances, st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.5]))
def test_ids_and_texts_stay_together_in_any_order(found: list[Utterance], seed: int, share: float) -> None:
    chosen = dev_rows(found, share, seed)

    dev, train = ([u for i, u in enumerate(found) if (i in chosen) == wanted] for wanted in (True, False))
    assert {u.id for u in dev}.isdisjoint(u.id for u in train)
    assert {u.text.strip().lower() for u in dev}.isdisjoint(u.text.strip().lower() for u in train)
    reordered = dev_rows(found[::-1], share, seed)
    assert {len(found) - 1 - i for i in reordered} == chosen
