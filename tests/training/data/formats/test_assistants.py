"""Formats of other assistants: Rasa, LUIS, CLU, Dialogflow, Snips, Alexa, CoNLL and seq.in."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from training.data import datasets
from training.data.utterances import Slot

RASA = r"""version: "3.1"
nlu:
- intent: flug_buchen
  examples: |
    - ich will von [köln]{"entity": "city", "role": "from"} nach [wien]{"entity": "city", "role": "to"}
    - nach [graz](city)
- intent: ja
  examples: |
    - yes
    - 1.0
- synonym: wien
  examples: |
    - vienna
- lookup: city
  examples: |
    - ulm
- regex: plz
  examples: |
    - \d{5}
"""


def put(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def read(source: str, *locales: str) -> datasets.Dataset:
    return datasets.load(source, locales or ("de-DE",))


def found(dataset: datasets.Dataset) -> list[tuple[str, str | None, dict[str, str]]]:
    """Text, intent and slot values of each utterance."""
    return [(u.text, u.intent, {s.name: u.value(s) for s in u.slots}) for u in dataset.utterances]


def said(dataset: datasets.Dataset) -> str:
    return "\n".join(f"{note.level} {note}" for note in dataset.notes)


def test_rasa_yaml(tmp_path: Path) -> None:
    dataset = read(put(tmp_path / "nlu.yml", RASA))

    assert found(dataset) == [
        ("ich will von köln nach wien", "flug_buchen", {"city.from": "köln", "city.to": "wien"}),
        ("nach graz", "flug_buchen", {"city": "graz"}),
        ("yes", "ja", {}),
        ("1.0", "ja", {}),
    ]
    assert [place.rsplit(":", 1)[1] for place in dataset.places] == ["5", "6", "9", "10"]
    for line, kind in ((11, "synonym"), (14, "lookup"), (17, "regex")):
        assert f"nlu.yml:{line}: the section of a {kind} is not read" in said(dataset)


def test_rasa_in_several_files_with_a_locale_and_a_partition_each(tmp_path: Path) -> None:
    part = "nlu:\n- intent: {}\n  examples: |\n    - {}\n"
    put(tmp_path / "data" / "nlu" / "train" / "de.yml", part.format("on", "licht an"))
    put(tmp_path / "data" / "nlu" / "test" / "fr.yml", part.format("on", "allume"))
    put(tmp_path / "data" / "nlu" / "train" / "stories.yml", "version: '3.1'\nstories:\n- story: x\n  steps: []\n")
    put(tmp_path / "config.yml", "language: de\npipeline: []\n")

    dataset = datasets.load(str(tmp_path))

    assert {(u.text, u.locale, u.partition) for u in dataset.utterances} == {
        ("licht an", "de", "train"),
        ("allume", "fr", "test"),
    }
    assert "stories.yml: holds no key 'nlu': not read" in said(dataset)


def test_rasa_names_that_yaml_takes_for_other_types_stay_text(tmp_path: Path) -> None:
    text = "nlu:\n- intent: yes\n  examples: |\n    - ok\n- intent: 1.10\n  examples:\n  - text: |\n      no\n"

    assert found(read(put(tmp_path / "nlu.yml", text))) == [("ok", "yes", {}), ("no", "1.10", {})]


@pytest.mark.parametrize(
    ("marked", "note"),
    [
        ('[nyc]{"entity": "city", "value": "New York"}', "the value of a synonym is not read"),
        ("[nyc](city:New York)", "the value of a synonym is not read"),
        ('[nyc]{"entity": "city", "group": "1"}', "the group of an entity is not read"),
        ('[nyc][{"entity": "city"}, {"entity": "place"}]', "several entities on one value"),
        ("[nyc](city) and [ulm](", "brackets that look like a slot, but are none, are read as text"),
    ],
)
def test_what_is_not_read_of_rasas_marks_is_said(tmp_path: Path, marked: str, note: str) -> None:
    dataset = read(put(tmp_path / "nlu.yml", f"nlu:\n- intent: x\n  examples: |\n    - to {marked}\n"))

    assert dataset.utterances[0].slots == (Slot("city", 3, 6),)
    assert f"nlu.yml:4: {note}" in said(dataset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nlu:\n- intent: x\n  examples: |\n    - to [a]{entity: city}\n", r":4: text: \{entity: city\} after a value"),
        ("nlu:\n- intent: x\n  examples: |\n    - a\nnlu: []\n", r":5: row: the key 'nlu' stands twice"),
        ("nlu:\n- intent: [x\n", r":\d: row: is no YAML"),
        ("nlu:\n- greet\n", r":2: nlu: holds 'greet'"),
    ],
)
def test_faults_of_rasa_are_named_by_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(datasets.DatasetError, match=r"nlu\.yml" + message):
        read(put(tmp_path / "nlu.yml", content))


def test_rasa_markdown(tmp_path: Path) -> None:
    text = "## intent:fly\n- to [bern](city)\n<!-- a comment -->\n\n## synonym:bern\n- berne\n"

    dataset = read(put(tmp_path / "nlu.md", text))

    assert found(dataset) == [("to bern", "fly", {"city": "bern"})]
    assert "nlu.md:5: the section of a synonym is not read" in said(dataset)


def test_luis(tmp_path: Path) -> None:
    entity = {"entity": "room", "startPos": 12, "endPos": 14}
    rows = [{"text": "😀 licht im bad an", "intent": "on", "entities": [entity]}]
    app = {"luis_schema_version": "7.0.0", "culture": "de-de", "utterances": rows, "patterns": [{"pattern": "x"}]}

    dataset = datasets.load(put(tmp_path / "app.json", app))

    assert found(dataset) == [("😀 licht im bad an", "on", {"room": "bad"})]
    assert dataset.utterances[0].locale == "de-DE"
    assert "patterns: 1 entries are not read" in said(dataset)


@pytest.mark.parametrize(("index_type", "offset"), [("Utf16CodeUnit", 12), ("UnicodeCodePoint", 11), (None, 12)])
def test_clu(tmp_path: Path, index_type: str | None, offset: int) -> None:
    entity = {"category": "room", "offset": offset, "length": 3}
    row = {"text": "😀 licht im bad an", "intent": "on", "language": "de-de", "dataset": "Test", "entities": [entity]}
    project = {"assets": {"utterances": [row], "entities": [{"category": "room", "list": {"sublists": []}}]}}
    if index_type:
        project["stringIndexType"] = index_type  # type: ignore[assignment]

    dataset = datasets.load(put(tmp_path / "clu.json", project))

    assert found(dataset) == [("😀 licht im bad an", "on", {"room": "bad"})]
    assert (dataset.utterances[0].locale, dataset.utterances[0].partition) == ("de-DE", "test")
    assert "clu.json:room: the list, prebuilt or regular expression of an entity is not read" in said(dataset)


def test_clu_with_text_elements_is_refused(tmp_path: Path) -> None:
    project = {"stringIndexType": "TextElement_V8", "assets": {"utterances": []}}

    with pytest.raises(datasets.DatasetError, match="stringIndexType: is 'TextElement_V8'; allowed: Utf16CodeUnit"):
        read(put(tmp_path / "clu.json", project))


PHRASE = [
    {"text": "licht im "},
    {"text": "bad ", "alias": "room", "meta": "@room", "userDefined": True},
    {"text": "an"},
]


@pytest.mark.parametrize("packed", [False, True])
def test_dialogflow_as_folder_and_as_zip(tmp_path: Path, packed: bool) -> None:
    files: dict[str, Any] = {
        "package.json": {"version": "1.0.0"},
        "agent.json": {"language": "de"},
        "intents/licht.json": {"name": "Licht an", "responses": []},
        "intents/licht_usersays_de.json": [{"data": PHRASE}, {"data": [{"text": "@room:room an"}], "isTemplate": True}],
        "entities/room.json": {"name": "room"},
        "entities/room_entries_de.json": [{"value": "bad"}],
    }
    for name, content in files.items():
        put(tmp_path / "agent" / name, content)
    if packed:
        with zipfile.ZipFile(tmp_path / "agent.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, json.dumps(content))

    dataset = read(str(tmp_path / ("agent.zip" if packed else "agent")))

    assert found(dataset) == [("licht im bad an", "Licht an", {"room": "bad"})]
    assert "a template is not read" in said(dataset)
    assert "entries of an entity are not read" in said(dataset)
    assert "no known format" not in said(dataset)


def test_snips_json_in_both_forms(tmp_path: Path) -> None:
    data = [{"text": "licht im "}, {"text": "bad", "entity": "room_name", "slot_name": "room"}, {"text": " an"}]
    old = {"LightsOn": [{"data": data}]}
    new = {
        "language": "de",
        "intents": {"LightsOn": {"utterances": [{"data": data}]}},
        "entities": {"room_name": {"data": [{"value": "bad", "synonyms": []}]}},
    }
    for content in (old, new):
        dataset = read(put(tmp_path / "snips.json", content))
        assert found(dataset) == [("licht im bad an", "LightsOn", {"room": "bad"})]
    assert "snips.json:room_name: the values of an entity are not read" in said(dataset)


def test_snips_yaml(tmp_path: Path) -> None:
    text = """---
type: intent
name: lightsOn
slots:
- name: room
  entity: room_name
utterances:
- licht im [room:room_name](bad) an
- licht im [room](flur)
---
type: entity
name: room_name
values: [bad]
"""
    dataset = read(put(tmp_path / "snips.yaml", text))

    assert found(dataset) == [
        ("licht im bad an", "lightsOn", {"room": "bad"}),
        ("licht im flur", "lightsOn", {"room": "flur"}),
    ]
    assert "snips.yaml:room_name: a document that is no intent is not read" in said(dataset)


def test_alexa(tmp_path: Path) -> None:
    values = [{"name": {"value": "bad", "synonyms": ["badezimmer"]}}, {"name": {"value": "flur"}}]
    intents = [
        {
            "name": "LightsOn",
            "slots": [{"name": "room", "type": "ROOM"}, {"name": "day", "type": "AMAZON.DATE"}],
            "samples": ["licht im {room} an", "licht", "am {day}", "am {freitag|day}"],
        },
        {"name": "AMAZON.StopIntent", "samples": []},
    ]
    model = {"languageModel": {"intents": intents, "types": [{"name": "ROOM", "values": values}]}}

    dataset = datasets.load(put(tmp_path / "de-DE.json", {"interactionModel": model}))

    assert found(dataset) == [
        ("licht im bad an", "LightsOn", {"room": "bad"}),
        ("licht im flur an", "LightsOn", {"room": "flur"}),
        ("licht im badezimmer an", "LightsOn", {"room": "badezimmer"}),
        ("licht", "LightsOn", {}),
        ("am freitag", "LightsOn", {"day": "freitag"}),
    ]
    assert "samples with a slot of type 'AMAZON.DATE' are not read" in said(dataset)


def test_seq_in_seq_out_and_label(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        put(tmp_path / part / "seq.in", "licht im bad an\nwetter in bad aibling\n")
        put(tmp_path / part / "seq.out", "O O B-room O\nO O B-city I-city\n")
        put(tmp_path / part / "label", "lights_on\nweather\n")

    dataset = datasets.load(str(tmp_path), ["de-DE"])

    assert found(dataset)[:2] == [
        ("licht im bad an", "lights_on", {"room": "bad"}),
        ("wetter in bad aibling", "weather", {"city": "bad aibling"}),
    ]
    assert [u.partition for u in dataset.utterances] == ["train", "train", "dev", "dev"]
    assert found(read(str(tmp_path / "train" / "seq.in"))) == found(dataset)[:2]


def test_seq_in_with_another_number_of_lines_or_tags_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "seq.in", "licht an\nlicht aus\n")
    put(tmp_path / "seq.out", "O O\n")
    with pytest.raises(datasets.DatasetError, match=r"seq\.out: has 1 lines; allowed: 2, as many as seq\.in"):
        read(str(tmp_path))
    put(tmp_path / "seq.out", "O O\nO\n")
    with pytest.raises(datasets.DatasetError, match=r"seq\.in:2: seq\.out: 1 tags for 2 words"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        "# intent: on\nlicht O\nim O\ngroßen B-room\nbad I-room\n\n# intent: on\nbad S-room\n",
        "licht\ton\tO\nim\ton\tO\ngroßen\ton\tB-room\nbad\ton\tE-room\n\nbad\ton\tU-room\n",
        "1\tlicht\ton\tNoLabel\n2\tim\ton\tNoLabel\n3\tgroßen\ton\tI-room\n4\tbad\ton\tI-room\n\n1\tbad\ton\tB-room\n",
    ],
)
def test_conll(tmp_path: Path, content: str) -> None:
    assert found(read(put(tmp_path / "data.conll", content))) == [
        ("licht im großen bad", "on", {"room": "großen bad"}),
        ("bad", "on", {"room": "bad"}),
    ]


def test_conll_with_the_text_as_it_was_written(tmp_path: Path) -> None:
    content = "# text = licht im bad, bitte\n# intent = on\nlicht O\nim O\nbad B-room\n, O\nbitte O\n"

    (utterance,) = read(put(tmp_path / "data.txt", content)).utterances

    assert (utterance.text, utterance.slots) == ("licht im bad, bitte", (Slot("room", 9, 12),))


def test_a_readme_beside_the_data_is_not_read(tmp_path: Path) -> None:
    put(tmp_path / "README.md", "# Data, and how it was made\n")
    put(tmp_path / "nlu.yml", RASA)

    assert "README" not in said(read(str(tmp_path)))
