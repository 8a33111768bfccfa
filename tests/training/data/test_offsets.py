"""Offsets of other tools, and slots whose edges lie inside words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.student.tokenization import TextEncoder
from training.data import datasets
from training.data.formats.base import OFFSETS, Offsets, ReadOptions
from training.data.offsets import code_points
from training.data.utterances import Slot
from training.text.tokenizer import train_tokenizer

TEXTS = ("😀🙂 mach das licht im bad an", "weck mich in köln um sieben uhr")


def counted(text: str, start: int, end: int, offsets: Offsets) -> tuple[int, int]:
    """A span as another tool counts it."""
    if offsets == "inclusive":
        return start, end - 1
    codec = {"utf16": ("utf-16-le", 2), "bytes": ("utf-8", 1), "characters": ("utf-32-le", 4)}[offsets]
    return len(text[:start].encode(codec[0])) // codec[1], len(text[:end].encode(codec[0])) // codec[1]


def source_of(folder: Path, offsets: Offsets) -> str:
    rows = []
    for text, value in zip(TEXTS, ("bad", "sieben"), strict=True):
        at = text.index(value)
        start, end = counted(text, at, at + len(value), offsets)
        rows.append({"text": text, "locale": "de-DE", "slots": [{"name": "x", "start": start, "end": end}]})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "data.jsonl")


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=20), st.data(), st.sampled_from(OFFSETS))
def test_offsets_of_every_kind_are_read_right(text: str, data: st.DataObject, offsets: Offsets) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        return
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))

    assert code_points(text, *counted(text, start, end, offsets), offsets) == (start, end)


@pytest.mark.parametrize("offsets", OFFSETS)
def test_the_chosen_kind_is_read_without_a_word(tmp_path: Path, offsets: Offsets) -> None:
    dataset = datasets.load(source_of(tmp_path, offsets), options=ReadOptions(offsets=offsets))

    values = [u.value(u.slots[0]) for u in dataset.utterances]
    assert values == ["bad", "sieben"]
    assert not [note for note in dataset.notes if "slots" in note.message]


@pytest.mark.parametrize(
    ("offsets", "guess"),
    [
        (
            "inclusive",
            "2 of 2 slots (100%) begin or end inside a word, the first: x = 'ba' in 'bad'; all 2 ends are one short",
        ),
        (
            "utf16",
            "1 of 2 slots (50%) begin or end inside a word, the first: x = 'd a' in 'bad an'; offsets in UTF-16 units?",
        ),
    ],
)
def test_the_cause_is_guessed(tmp_path: Path, offsets: Offsets, guess: str) -> None:
    dataset = datasets.load(source_of(tmp_path, offsets))

    (note,) = [note for note in dataset.notes if "inside a word" in note.message]
    assert guess in note.message
    assert f"--offsets {offsets}" in note.message
    assert (note.level, note.place) == ("warning", f"{tmp_path / 'data.jsonl'}:1")


def test_offsets_in_bytes_are_guessed(tmp_path: Path) -> None:
    row = {"text": "für die küche licht", "locale": "de-DE", "slots": [{"name": "room", "start": 9, "end": 15}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))

    (note,) = [n for n in datasets.load(str(tmp_path / "data.jsonl")).notes if "inside a word" in n.message]

    assert "offsets in bytes? Then: distilled-nlu convert --offsets bytes" in note.message


def test_offsets_outside_the_text_hint_at_the_cause(tmp_path: Path) -> None:
    row = {"text": "😀 licht", "locale": "de-DE", "slots": [{"name": "thing", "start": 3, "end": 8}]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row))

    with pytest.raises(datasets.DatasetError, match=r":1: slots: 'thing' has offsets 3\.\.8; .*--offsets utf16"):
        datasets.load(str(tmp_path / "data.jsonl"))


def test_a_part_of_a_compound_is_said_to_be_out_of_reach(tmp_path: Path) -> None:
    rows = [
        "text,annotation,locale",
        ",mach das [room : keller]licht an,de-DE",
        ",weck um [hour : 7][unit : uhr],de-DE",
    ]
    (tmp_path / "data.csv").write_text("\n".join(rows))

    (note,) = [n for n in datasets.load(str(tmp_path / "data.csv")).notes if "inside a word" in n.message]

    assert note.message.startswith(
        "slots: 3 of 3 slots (100%) begin or end inside a word, the first: room = 'keller' in 'kel"
    )
    assert "a student labels whole words" in note.message


def notes_of(folder: Path, text: str, locale: str, value: str) -> list[str]:
    """What loading says of one slot in a text."""
    start = text.index(value)
    slot = {"name": "date", "start": start, "end": start + len(value)}
    (folder / "data.jsonl").write_text(json.dumps({"text": text, "locale": locale, "slots": [slot]}))
    dataset = datasets.load(str(folder / "data.jsonl"))
    assert dataset.utterances[0].slots == (Slot("date", start, start + len(value)),)
    return [note.message for note in dataset.notes if "inside a word" in note.message]


@pytest.mark.parametrize(
    ("text", "locale", "value"),
    [
        ("金曜日の午前九時", "ja-JP", "金曜日"),
        ("aliceの歌をかけて", "ja-JP", "alice"),
        ("ｱﾗｰﾑを止めて", "ja-JP", "ｱﾗｰﾑ"),
        ("星期五早上九点叫醒我", "zh-CN", "九点"),
    ],
)
def test_characters_of_japanese_and_chinese_are_words(tmp_path: Path, text: str, locale: str, value: str) -> None:
    encoder = TextEncoder(train_tokenizer([text, value]), 64)

    assert value in (text[start:end] for start, end in spans_of_words(encoder.encode(text).words))
    assert not notes_of(tmp_path, text, locale, value)


@pytest.mark.parametrize(("text", "value"), [("ปลุกฉันตอนเก้าโมงเช้า", "เก้าโมงเช้า"), ("ไปที่บ้าน", "บ้าน"), ("ไปที่ร้าน", "ไปที่")])
def test_thai_without_spaces_is_said_to_be_out_of_reach(tmp_path: Path, text: str, value: str) -> None:
    encoder = TextEncoder(train_tokenizer([text, value]), 64)

    (message,) = notes_of(tmp_path, text, "th-TH", value)

    assert value not in (text[start:end] for start, end in spans_of_words(encoder.encode(text).words))
    assert "1 of 1 slots (100%) begin or end inside a word" in message
    assert "put spaces around words" in message
    assert not notes_of(tmp_path, text.replace(value, f" {value} ").strip(), "th-TH", value)


def spans_of_words(words: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans that a slot can have: from the start of a word to the end of it or a later one."""
    return [(start, end) for i, (start, _) in enumerate(words) for _, end in words[i:]]
