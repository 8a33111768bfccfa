"""A loaded student: the checks when it is loaded, and the offsets of its slots."""

from __future__ import annotations

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from service.student.manifest import StudentError
from service.student.student import Student
from tests.service.conftest import build_graph

FRAGMENTS = st.sampled_from(
    [
        *("freitag", "Morgen", "neun uhr", "9", "Berlin Mitte", "größe", "GRÖSSE", "1/2", "½", "1½ heures", "domani"),
        *("🙂", "👨‍👩‍👧", "🇩🇪", "l'", "dell'", "’", "!", "¿", "İ", "ﬁ", "①", "Ⅸ", "שלום", "مرحبا", "\u200f", "e\u0301"),
        *(" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u0301", "\u200b", "ẞ", "ß", "한", "\u1112\u1161"),
        unicodedata.normalize("NFD", "größe"),
    ]
)
TEXTS = st.lists(FRAGMENTS | st.text(max_size=4), max_size=14).map("".join)
ANY = settings(max_examples=400)


def check_slots(student: Student, text: str) -> None:
    last = 0
    for slot in student.predict(text).slots or ():
        assert text[slot.start : slot.end] == slot.value
        assert last <= slot.start < slot.end <= len(text)
        assert slot.value == slot.value.strip()
        assert 0 < slot.confidence <= 1
        last = slot.end


@ANY
@given(text=TEXTS)
def test_slots_are_spans_of_the_text(student: Student, text: str) -> None:
    check_slots(student, text)


@settings(max_examples=20)
@given(fragment=FRAGMENTS)
def test_slots_of_ten_thousand_characters_are_spans_of_the_text(student: Student, fragment: str) -> None:
    check_slots(student, (f"{fragment} freitag " * 10_000)[:10_000])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Freitag!", ["Freitag"]),
        ("  freitag  ", ["freitag"]),
        ("🙂 freitag 👍🏽 berlin", ["freitag", "berlin"]),
        (unicodedata.normalize("NFD", "die größe"), [unicodedata.normalize("NFD", "größe")]),
        ("um ½ uhr", ["½ uhr"]),
        ("FREITAG\nBERLIN", ["FREITAG", "BERLIN"]),
        ("\u200ffreitag", []),
        ("", []),
    ],
)
def test_values_are_cut_from_the_raw_text(student: Student, text: str, values: list[str]) -> None:
    assert [slot.value for slot in student.predict(text).slots or ()] == values


def test_concurrent_threads_get_the_same_answers(student: Student) -> None:
    texts = ["weck mich am freitag um neun uhr auf", "wetter in berlin mitte", "🙂" * 500] * 40
    alone = [student.predict(text, 3)[:-1] for text in texts]

    with ThreadPoolExecutor(16) as threads:
        together = list(threads.map(lambda text: student.predict(text, 3)[:-1], texts))

    assert together == alone


def test_missing_head_has_no_prediction(folder: Path, edit: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(folder, "labels", {"domain": manifest["labels"]["domain"]})

    prediction = Student.load(folder).predict("wetter")

    assert (prediction.intent, prediction.slots) == (None, None)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("golden.0.domain", "music", "golden answer differs"),
        ("golden.0.slots.0.end", 19, "golden answer differs"),
        ("labels.intent", ["alarm_set"], "'intent_logits' has 3 columns, the manifest names 1 labels"),
        ("labels.slots", ["O", "B-date"], "'slot_logits' has 7 columns, the manifest names 2 labels"),
    ],
)
def test_manifest_that_the_graph_contradicts_is_refused(
    folder: Path, edit: Any, path: str, value: Any, reason: str
) -> None:
    edit(folder, path, value)

    with pytest.raises(StudentError) as caught:
        Student.load(folder)

    assert str(folder) in str(caught.value)
    assert reason in str(caught.value)


def test_graph_of_other_width_is_refused(folder: Path, replace_graph: Any, graph_of_other_width: bytes) -> None:
    replace_graph(folder, graph_of_other_width)

    with pytest.raises(StudentError, match="'domain_logits' has 4 columns"):
        Student.load(folder)


def test_graph_without_the_logits_of_a_head_is_refused(folder: Path, replace_graph: Any) -> None:
    replace_graph(folder, build_graph(heads=("domain", "intent")))

    with pytest.raises(StudentError, match="has no output 'slot_logits' for the head 'slots'"):
        Student.load(folder)


def test_graph_of_an_older_export_is_refused(folder: Path, replace_graph: Any) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    for node in model.graph.node:
        node.input[:] = ["text" if name == "input_ids" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Squeeze", ["input_ids"], ["text"]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"]))
    replace_graph(folder, model.SerializeToString())

    with pytest.raises(StudentError, match=r"takes .*\[1, 'tokens'\].*, expected input_ids \[tokens\]; export"):
        Student.load(folder)


def test_file_that_is_not_a_graph_is_refused(folder: Path, replace_graph: Any) -> None:
    replace_graph(folder, b"no graph")

    with pytest.raises(StudentError, match=f"{folder.name}: cannot open"):
        Student.load(folder)
