"""The mistakes of a student in mistakes.json, as Markdown and as a page."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from training.building.kept import Kept
from training.building.mistakes_page import page
from training.building.mistakes_report import mistakes_report, render
from training.building.served import Answer
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import PredictedLabels

DATA = Kept(
    (
        Utterance("1", "weck mich um neun", "de-DE", "train", None, "alarm", (Slot("time", 13, 17),)),
        Utterance("2", "spiel meine musik", "de-DE", "train", None, "play"),
        Utterance("3", "weck mich um <zehn>", "de-DE", "dev", None, "play", (Slot("time", 13, 19),)),
        Utterance("4", "spiel radio", "de-DE", "dev", None, "play"),
        Utterance("5", "stopp", "de-DE", "dev", None, "stop", slots_annotated=False),
    ),
    ("a.yml:1", "a.yml:2", "a.yml:3", "a.yml:4", "b.yml:1"),
)
ANSWERS = [
    Answer(PredictedLabels(None, "alarm", (Slot("time", 13, 19),)), 0.93),
    Answer(PredictedLabels(None, "play", (Slot("song", 6, 11),)), 0.8),
    Answer(PredictedLabels(None, "stop", (Slot("song", 0, 5),)), 0.7),
]


@pytest.fixture
def content() -> dict[str, Any]:
    return {"student": "xs", **mistakes_report(DATA, [2, 3, 4], ANSWERS)}


def test_each_text_says_what_is_wrong_and_where_it_stands(content: dict[str, Any]) -> None:
    first, second = content["texts"]

    assert (first["place"], first["wrong"], first["confidence"]) == ("a.yml:3", ["intent"], 0.93)
    assert (second["place"], second["wrong"]) == ("a.yml:4", ["slots"])
    assert content["confusions"] == [{"intent": "play", "answered": "alarm", "count": 1}]


def test_slots_that_are_not_annotated_are_no_mistakes(content: dict[str, Any]) -> None:
    assert content["wrong"] == 2


def test_rows_to_look_at_come_with_training_texts_that_are_like_them(content: dict[str, Any]) -> None:
    (row,) = content["look_at"]

    assert (row["place"], row["intent"], row["answered_intent"]) == ("a.yml:3", "play", "alarm")
    assert [similar["place"] for similar in row["similar"]] == ["a.yml:1"]


def test_the_markdown_has_places(content: dict[str, Any]) -> None:
    text = render(content)

    assert "2 of 3 utterances have a mistake." in text
    assert "a.yml:3" in text


class Links(HTMLParser):
    """Attributes that load something."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.rows: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}" for name, value in attrs if name == "src" or (name == "href" and tag == "link")]
        if tag == "tr" and "data-intent" in dict(attrs):
            self.rows.append(dict(attrs))


def test_the_page_has_all_texts_and_loads_nothing(content: dict[str, Any]) -> None:
    whole = page(content)
    found = Links()
    found.feed(whole)

    assert found.loads == []
    assert [row["data-kind"] for row in found.rows] == ["intent", "slots"]
    assert "weck mich um &lt;zehn&gt;" in whole
    assert "<zehn>" not in whole
    assert "<svg" in whole


def test_a_page_of_changes(content: dict[str, Any]) -> None:
    labels = {"intent": "play", "slots": [["song", "eins"]]}
    one = {"place": "a.yml:4", "locale": "de-DE", "text": "spiel eins", **labels, "now": labels}
    broken = {**one, "before": labels, "now": {"intent": "stop", "slots": []}}
    mended = {**one, "before": {"intent": "stop", "slots": []}}
    students = {"xs": {"mended": [mended], "broken": [broken, broken], "otherwise_wrong": 4}}
    content["changes"] = {"from": "monday", "students": students}

    assert "Right before, wrong now: 2 of xs" in page(content)
    assert "xs, against that of monday: dev has 1 mended and 2 broken answers." in render(content)


def test_a_student_without_mistakes() -> None:
    found = {"student": "xs", **mistakes_report(DATA, [3], [Answer(PredictedLabels(None, "play", ()), 0.9)])}

    assert "0 of 1 utterances" in page(found)
    assert "<table" not in page(found).split("Weakest")[0]
