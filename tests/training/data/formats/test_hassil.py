"""Sentence templates of hassil, read with the real library."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hassil import Intents, recognize
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import datasets
from training.data.formats.base import ReadOptions
from training.data.formats.hassil_sentences import MAX_SAMPLES
from training.data.utterances import Utterance

SENTENCES = """\
language: de
intents:
  LightTurnOn:
    data:
      - sentences:
          - "(schalte|mach) [bitte] <the> {device} in {area:room} an"
          - "[stell ]{area}auf  {brightness} prozent"
          - "(licht;{area};[bitte] an)"
        slots:
          domain: light
  SceneSet:
    data:
      - sentences: ["wähle {1..3:scene}"]
"""
COMMON = """\
language: de
lists:
  device:
    values: ["licht", "[große ]lampe", {in: "radio", out: "media"}]
  area:
    values: ["küche", "bad"]
  brightness:
    range: {from: 0, to: 100, type: percentage}
  album:
    wildcard: true
expansion_rules:
  the: "[das|die]"
"""


def load(folder: Path, sentences: str, common: str = COMMON, seed: int = 1) -> datasets.Dataset:
    (folder / "light.yaml").write_text(sentences)
    (folder / "_common.yaml").write_text(common)
    return datasets.load(str(folder), ["de-DE"], options=ReadOptions(dev_share=0, seed=seed))


def one(template: str, lists: str = "") -> str:
    return f"language: de\nintents:\n  X:\n    data:\n      - sentences:\n          - {template!r}\n{lists}"


def values(utterance: Utterance) -> dict[str, str]:
    return {slot.name: utterance.value(slot) for slot in utterance.slots}


def test_texts_are_sampled_with_their_slots(tmp_path: Path) -> None:
    dataset = load(tmp_path, SENTENCES)

    found = dataset.utterances
    assert {u.intent for u in found} == {"LightTurnOn", "SceneSet"}
    assert {u.locale for u in found} == {"de-DE"}
    assert all(u.text == " ".join(u.text.split()) and u.slots_annotated for u in found)
    scenes = {u.text: values(u) for u in found if u.intent == "SceneSet"}
    assert scenes == {f"wähle {n}": {"scene": str(n)} for n in (1, 2, 3)}
    devices = [values(u) for u in found if "device" in values(u)]
    assert devices
    assert all(set(slots) == {"device", "room"} and slots["room"] in ("küche", "bad") for slots in devices)
    assert {slots["device"] for slots in devices} <= {"licht", "lampe", "große lampe", "radio"}
    assert any(values(u).get("brightness", "").isalpha() for u in found)  # number words


def test_the_library_recognises_every_sampled_text_with_the_same_values(tmp_path: Path) -> None:
    found = load(tmp_path, SENTENCES).utterances
    intents = Intents.from_files([tmp_path / "light.yaml"])
    common = Intents.from_dict({"language": "de", "intents": {}, **_yaml(COMMON)})

    for utterance in found:
        result = recognize(
            utterance.text, intents, slot_lists=common.slot_lists, expansion_rules=common.expansion_rules, language="de"
        )
        assert result is not None, utterance.text
        assert result.intent.name == utterance.intent
        heard = {name: entity.text.strip() for name, entity in result.entities.items() if name != "domain"}
        assert heard == values(utterance)


def _yaml(text: str) -> dict[str, object]:
    import yaml

    return {name: value for name, value in yaml.safe_load(text).items() if name != "language"}


def test_a_template_gives_a_bounded_number_of_texts_and_the_seed_is_said(tmp_path: Path) -> None:
    template = one("(a|b|c) (d|e|f) (g|h|i)")

    dataset = load(tmp_path, template)

    assert len({u.text for u in dataset.utterances}) == len(dataset.utterances) == MAX_SAMPLES
    assert any(f"at most {MAX_SAMPLES} of each (seed 1: --split-seed)" in str(note) for note in dataset.notes)
    assert load(tmp_path, template).utterances == dataset.utterances
    assert load(tmp_path, template, seed=2).utterances != dataset.utterances


def test_another_template_changes_no_text_of_this_one(tmp_path: Path) -> None:
    template = one("(a|b|c) (d|e|f) (g|h|i)")
    before = load(tmp_path, template).utterances

    after = load(tmp_path, template.replace("- '(a", "- 'hallo'\n          - '(a")).utterances

    assert set(before) < set(after)


@settings(max_examples=40)
@given(st.text("ab []()|;", max_size=12))
def test_any_template_is_read_or_refused_by_name(tmp_path_factory: pytest.TempPathFactory, start: str) -> None:
    message, utterances = "", tuple[Utterance, ...]()
    try:
        utterances = load(tmp_path_factory.mktemp("hassil"), one(start + " {area} x")).utterances
    except datasets.DatasetError as error:
        message = str(error)

    assert utterances or "light.yaml:X[0]: sentences" in message
    assert all(value in ("küche", "bad") for u in utterances for value in values(u).values())


def test_a_template_without_values_is_said(tmp_path: Path) -> None:
    dataset = load(tmp_path, SENTENCES.replace('"wähle {1..3:scene}"', '"spiel {album}", "sing [{song}]"'))

    notes = [str(note) for note in dataset.notes if "no values" in note.message]
    assert len(notes) == 2
    assert "light.yaml:SceneSet[0]: a template with {album} is not read: the files have no values for it" in notes[0]
    assert "texts with {song} are not read" in notes[1]
    assert [u.text for u in dataset.utterances if u.intent == "SceneSet"] == ["sing"]


def test_lists_and_rules_of_a_block_hide_those_of_the_file(tmp_path: Path) -> None:
    text = one("<the> {area}", "        lists: {area: {values: [flur]}}\n        expansion_rules: {the: der}\n")

    assert [u.text for u in load(tmp_path, text).utterances] == ["der flur"]


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        (one("an <rule>"), r"light.yaml:X\[0\]: sentences: rule <rule> is not there; found: the; .*the folder"),
        (one("an (aus"), r"light.yaml:X\[0\]: sentences: '.*' is no sentence of hassil"),
        (one("<x>", "expansion_rules: {x: '<x>'}\n"), "a rule refers to itself"),
        (one("{x}", "lists: {x: {values: [on]}}\n"), "lists.x: is no list of hassil .*texts in quotes"),
        (one("{x}", "lists: {x: {other: 1}}\n"), "lists.x: is no list of hassil .*allowed: values"),
        (one("a").replace("language: de", "language: [de]"), r"language: is \['de'\]; allowed"),
        (one("a").replace("sentences:", "sentences: on #"), "sentences: is True; allowed: a list|is no YAML"),
        (one("a") + "  - x: [", "light.yaml:.*is no YAML"),
        (one("{x}", "lists: {x: {range: {from: 1, to: 2, digits: false}}}\n").replace("language: de", "language: xx"),
         "there are no number words of 'xx'"),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path: Path, sentences: str, message: str) -> None:
    with pytest.raises(datasets.DatasetError, match=message):
        load(tmp_path, sentences)


def test_json_is_read_too(tmp_path: Path) -> None:
    content = {"language": "de", "intents": {"X": {"data": [{"sentences": ["licht (an|aus)"]}]}}}
    (tmp_path / "de.json").write_text(json.dumps(content))

    dataset = datasets.load(str(tmp_path / "de.json"), ["de-DE"], options=ReadOptions(dev_share=0))

    assert {u.text for u in dataset.utterances} == {"licht an", "licht aus"}


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hassil", None)

    with pytest.raises(datasets.DatasetError, match=r"yaml: .* pip install 'distilled-nlu\[hassil\]'"):
        load(tmp_path, SENTENCES)
