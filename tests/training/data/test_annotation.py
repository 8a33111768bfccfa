from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import annotation, datasets
from training.data.utterances import RecordError, Slot
from training.evaluation.scoring import CHARACTER_LOCALES

words = st.text(st.characters(exclude_characters="[]", exclude_categories=["Cs"]), min_size=1, max_size=8)
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


@st.composite
def annotated(draw: st.DrawFn) -> tuple[str, tuple[Slot, ...]]:
    """A text and slots on some of its pieces, none of them blank."""
    text, slots = "", []
    for piece in draw(st.lists(words, min_size=1, max_size=6)):
        if draw(st.booleans()) and piece.strip():
            slots.append(Slot(draw(names), len(text), len(text) + len(piece)))
        text += piece
    return text, tuple(slots)


@given(annotated())
def test_render_and_parse_are_inverse(case: tuple[str, tuple[Slot, ...]]) -> None:
    text, slots = case
    assert annotation.parse(annotation.render(text, slots)) == (text, slots)


@given(annotated(), st.data())
def test_align_finds_the_same_characters_when_the_text_lacks_spaces(
    case: tuple[str, tuple[Slot, ...]], data: st.DataObject
) -> None:
    text, slots = case
    dense = "".join(text.split())
    if not dense:
        return

    aligned = annotation.align(dense, annotation.render(text, slots))

    found = [(s.name, dense[s.start : s.end]) for s in aligned]
    assert found == [(s.name, "".join(text[s.start : s.end].split())) for s in slots]


def test_japanese_rows_keep_their_offsets() -> None:
    text = "金曜日の午前九時に起こして"

    slots = annotation.align(text, "[date : 金曜日] の [time : 午前九時] に起こして")

    assert slots == (Slot("date", 0, 3), Slot("time", 4, 8))


@pytest.mark.parametrize(
    ("annotated_text", "message"),
    [
        ("wake me [date : friday", "'[' outside a slot"),
        ("wake me friday]", "']' outside a slot"),
        ("wake me [date : ]", "has no value"),
        ("wake me [ : friday]", "slot name ''"),
        ("wake me [date: friday]", "(in '[date: friday]': a space stands on both sides of the colon)"),
    ],
)
def test_malformed_annotation_is_refused(annotated_text: str, message: str) -> None:
    with pytest.raises(RecordError, match=re.escape(message)):
        annotation.parse(annotated_text)


@pytest.mark.parametrize("utt", ["wake me on monday", "wake me", "wake me on friday please"])
def test_annotation_of_another_text_is_refused_not_shifted(utt: str) -> None:
    with pytest.raises(RecordError, match="utt"):
        annotation.align(utt, "wake me on [date : friday]")


@pytest.mark.parametrize("name", ["house.room", "alarm time", "weather/noun", "to:city"])
def test_slot_names_of_other_tools_are_read(name: str) -> None:
    assert annotation.parse(f"to [{name} : bern]") == ("to bern", (Slot(name, 3, 7),))


def test_every_row_of_massive_round_trips(massive: Path) -> None:
    dataset = datasets.load(str(massive))

    assert len({u.locale for u in dataset.utterances}) == 52
    written = {}
    for file in sorted(massive.rglob("*.jsonl*")):
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
            written.update({(row["locale"], row["id"]): row["annot_utt"] for row in map(json.loads, stream)})
    for utterance in dataset.utterances:
        rendered = annotation.render(utterance.text, utterance.slots)
        expected = written[utterance.locale, utterance.id]
        if utterance.locale in CHARACTER_LOCALES:  # their annot_utt has spaces that utt lacks
            rendered, expected = "".join(rendered.split()), "".join(expected.split())
        assert rendered == expected
