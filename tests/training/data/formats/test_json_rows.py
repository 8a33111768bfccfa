"""JSONL, JSON lists and Rasa's JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.data import datasets
from training.data.formats.base import ReadOptions
from training.data.utterances import Slot

TEXT = "mach das licht im bad an"
ROW = {"id": "0", "locale": "de-DE", "partition": "train", "domain": "home", "intent": "lights_on", "text": TEXT}
ROOM = {"name": "room", "start": 18, "end": 21}


def write(folder: Path, *rows: Any, name: str = "data.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def said(dataset: datasets.Dataset) -> str:
    return "\n".join(f"{note.level} {note}" for note in dataset.notes)


def test_a_number_is_no_intent(tmp_path: Path) -> None:
    with pytest.raises(datasets.DatasetError, match=r":1: intent: is the number 0: the names of the labels are lost"):
        datasets.load(write(tmp_path, {**ROW, "intent": 0}))


def test_half_an_emoji_is_named(tmp_path: Path) -> None:
    with pytest.raises(datasets.DatasetError, match=r":1: text: holds half an emoji \(U\+D83D, character 9\)"):
        datasets.load(write(tmp_path, {**ROW, "text": "licht an \ud83d"}))


def test_a_locale_is_written_as_in_bcp_47(tmp_path: Path) -> None:
    dataset = datasets.load(write(tmp_path, {**ROW, "locale": "de_DE"}), ["de-DE"])

    assert dataset.utterances[0].locale == "de-DE"
    assert ":1: locale: 'de_DE' is read as de-DE" in said(dataset)


def test_slots_that_are_null_empty_or_missing_are_none(tmp_path: Path) -> None:
    rows = [{**ROW, "id": "1", "slots": None}, {**ROW, "id": "2"}, {**ROW, "id": "3", "slots": []}]

    utterances = datasets.load(write(tmp_path, *rows)).utterances

    assert [u.slots for u in utterances] == [(), (), ()]
    assert [u.slots_annotated for u in utterances] == [False, False, True]
    assert [datasets.row_of(u)["slots"] for u in utterances] == [None, None, []]


def test_slots_of_another_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(datasets.DatasetError, match=r":1: slots: is \{\}; allowed: a list of \{name, start, end\}"):
        datasets.load(write(tmp_path, {**ROW, "slots": {}}))


@pytest.mark.parametrize(
    "slot",
    [
        {"entity": "room", "start": 18, "end": 21, "value": "bad"},
        {"label": "room", "start": 18, "end": 21},
        [18, 21, "room"],
    ],
)
def test_slots_as_other_tools_write_them(tmp_path: Path, slot: Any) -> None:
    dataset = datasets.load(write(tmp_path, {**ROW, "entities": [slot]}))

    assert dataset.utterances[0].slots == (Slot("room", 18, 21),)
    assert "'entities' as slots" in said(dataset)


def test_the_domain_may_be_called_scenario(tmp_path: Path) -> None:
    row = {name: value for name, value in ROW.items() if name != "domain"}
    dataset = datasets.load(write(tmp_path, {**row, "scenario": "home"}))

    assert dataset.utterances[0].domain == "home"
    assert "'scenario' as domain" in said(dataset)


def test_the_same_slot_twice_is_read_once_and_said(tmp_path: Path) -> None:
    dataset = datasets.load(write(tmp_path, {**ROW, "slots": [ROOM, ROOM]}))

    assert dataset.utterances[0].slots == (Slot("room", 18, 21),)
    assert "warning" in said(dataset)
    assert ":1: slots: the same slot stands twice in a row; read once" in said(dataset)


def test_spaces_around_a_value_are_no_part_of_it(tmp_path: Path) -> None:
    dataset = datasets.load(write(tmp_path, {**ROW, "slots": [{"name": "room", "start": 17, "end": 22}]}))

    assert dataset.utterances[0].slots == (Slot("room", 18, 21),)
    assert "offsets take in the spaces around the value" in said(dataset)


def test_slots_in_any_order(tmp_path: Path) -> None:
    slots = [ROOM, {"name": "thing", "start": 9, "end": 14}]

    assert [s.name for s in datasets.load(write(tmp_path, {**ROW, "slots": slots})).utterances[0].slots] == [
        "thing",
        "room",
    ]


def test_contradictions_and_texts_of_dev_in_train_are_said(tmp_path: Path) -> None:
    rows = [{**ROW, "slots": []}, {**ROW, "id": "1", "intent": "lights_off"}, {**ROW, "id": "2", "partition": "dev"}]

    told = said(datasets.load(write(tmp_path, *rows)))

    assert "1 rows repeat a text with other labels, the first: " in told
    assert "data.jsonl:2 and" in told
    assert "1 dev and test utterances stand in train too, the first: " in told
    assert "data.jsonl:3" in told


def test_every_slot_name_is_read_alike_in_each_format(tmp_path: Path) -> None:
    for name in ("house.room", "alarm time"):
        (tmp_path / "data.csv").write_text(f"text,annotation,locale\n,licht im [{name} : bad],de-DE\n")
        row = {"text": "licht im bad", "slots": [{"name": name, "start": 9, "end": 12}], "locale": "de-DE"}
        both = [datasets.load(source).utterances for source in (str(tmp_path / "data.csv"), write(tmp_path, row))]
        assert both[0] == both[1]
    row = {"text": "licht im bad", "slots": [{"name": "a]b", "start": 9, "end": 12}], "locale": "de-DE"}
    with pytest.raises(
        datasets.DatasetError, match=r"slots: slot name 'a\]b'; allowed: a text without square brackets"
    ):
        datasets.load(write(tmp_path, row))


def test_a_json_list_of_objects_or_pairs(tmp_path: Path) -> None:
    for rows in ([{"text": "licht an", "intent": "on"}], [["licht an", "on"]]):
        (tmp_path / "de-DE.json").write_text(json.dumps(rows, indent=1))
        dataset = datasets.load(str(tmp_path / "de-DE.json"))
        assert [(u.text, u.intent, u.locale) for u in dataset.utterances] == [("licht an", "on", "de-DE")]
        assert dataset.places == (f"{tmp_path / 'de-DE.json'}[0]",)


def test_a_list_for_each_partition(tmp_path: Path) -> None:
    splits = {"train": [["licht an", "on"]], "val": [["licht aus", "off"]], "oos_test": [["wie alt bist du", "oos"]]}
    (tmp_path / "data.json").write_text(json.dumps(splits))

    utterances = datasets.load(str(tmp_path / "data.json"), ["de-DE"]).utterances

    assert [(u.intent, u.partition) for u in utterances] == [("on", "train"), ("off", "dev"), ("oos", "test")]


def test_broken_json_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[\n{"text": "ja"},\n]')

    with pytest.raises(datasets.DatasetError, match=r"data\.json:(2|3): row: is no JSON"):
        datasets.load(str(tmp_path / "data.json"))


def test_jsonl_is_detected_by_content(tmp_path: Path) -> None:
    for name in ("data.json", "data.txt", "data"):
        assert datasets.load(write(tmp_path, ROW, {**ROW, "id": "1"}, name=name)).utterances[0].text == TEXT


def test_rasa_json(tmp_path: Path) -> None:
    entity = {"start": 18, "end": 21, "value": "bad", "entity": "room", "role": "to"}
    examples = [{"text": TEXT, "intent": "lights_on", "entities": [entity]}]
    content = {"rasa_nlu_data": {"common_examples": examples, "entity_synonyms": [{"value": "bad"}]}}
    (tmp_path / "nlu.json").write_text(json.dumps(content))

    dataset = datasets.load(str(tmp_path / "nlu.json"), ["de-DE"])

    assert dataset.utterances[0].slots == (Slot("room.to", 18, 21),)
    assert "entity_synonyms: 1 entries are not read" in said(dataset)


def test_a_source_of_no_known_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_text("hello")

    with pytest.raises(datasets.DatasetError, match=r"is of no known format; known: .*JSONL"):
        datasets.load(str(tmp_path / "data.bin"))


def test_a_file_of_a_folder_that_is_not_read_is_said(tmp_path: Path) -> None:
    write(tmp_path, ROW)
    (tmp_path / "domains.json").write_text('{"home": ["lights_on"]}')

    dataset = datasets.load(str(tmp_path))

    assert len(dataset.utterances) == 1
    assert "domains.json: not read: the content is of no known format" in said(dataset)


def test_a_format_can_be_named(tmp_path: Path) -> None:
    source = write(tmp_path, ROW, name="data")

    assert datasets.load(source, options=ReadOptions(format="jsonl")).utterances[0].text == TEXT
    with pytest.raises(datasets.DatasetError, match=r"--format xml: unknown; allowed: .*jsonl"):
        datasets.load(source, options=ReadOptions(format="xml"))
