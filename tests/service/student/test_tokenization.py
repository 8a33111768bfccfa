"""Words and their offsets in the raw text."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.student.student import Student
from service.student.tokenization import TextEncoder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Freitag!", ["Freitag", "!"]),
        ("l'alarme", ["l'alarme"]),
        ("um 9.30 uhr", ["um", "9.30", "uhr"]),
        ("  a \t b ", ["a", "b"]),
        ("   ", []),
        ("", []),
    ],
)
def test_words_are_cut_from_the_raw_text(student: Student, text: str, words: list[str]) -> None:
    encoded = student.encoder.encode(text)

    assert [text[start:end] for start, end in encoded.words] == words
    assert len(encoded.first_tokens) == len(words)


def test_long_text_is_cut_at_max_length(student: Student) -> None:
    encoded = student.encoder.encode("wetter " * 100)

    assert encoded.truncated
    assert len(encoded.ids) == student.manifest.max_length
    assert max(encoded.first_tokens) < len(encoded.ids)


def test_only_the_beginning_of_a_far_too_long_text_is_tokenised(student: Student) -> None:
    encoded = student.encoder.encode("wetter " + " " * 5_000 + "berlin")

    assert encoded.truncated
    assert encoded.words == [(0, 6)]


def test_unknown_tokens_are_counted(student: Student) -> None:
    assert student.encoder.encode("wetter").unknown == 0
    assert student.encoder.encode("wetter 你").unknown == 1


def test_file_that_is_not_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")

    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer file"):
        TextEncoder.from_file(tmp_path / "tokenizer.json", 8)
