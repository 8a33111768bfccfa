"""Which texts are sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.load.texts import Text, TextsError, load_texts, select

TEXTS = [Text("hallo", "de-DE"), Text("bonjour", "fr-FR")]


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_the_sample_is_the_default() -> None:
    assert {"de-DE", "es-ES", "fr-FR", "it-IT"} <= {text.locale for text in load_texts()}


def test_rows_of_both_layouts(tmp_path: Path) -> None:
    massive = {"id": "1", "locale": "de-DE", "utt": "weck mich", "annot_utt": "weck mich", "partition": "test"}
    ours = {"id": "1", "locale": "fr-FR", "text": "réveille-moi"}

    assert load_texts(write(tmp_path / "a.jsonl", massive, ours)) == [
        Text("weck mich", "de-DE"),
        Text("réveille-moi", "fr-FR"),
    ]


def test_a_folder_of_rows_and_plain_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"text": "hallo", "locale": "de-DE"})
    (tmp_path / "b.txt").write_text("ciao\n\nbuon giorno\n")
    (tmp_path / "notes.md").write_text("not a text")

    assert load_texts(tmp_path, "it-IT") == [
        Text("hallo", "de-DE"),
        Text("ciao", "it-IT"),
        Text("buon giorno", "it-IT"),
    ]


def test_a_row_keeps_its_own_locale(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "hallo", "locale": "de-DE"}, {"text": "hi"})

    assert [text.locale for text in load_texts(path, "en-US")] == ["de-DE", "en-US"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a\.jsonl:1: not JSON"),
        ("3", r"a\.jsonl:1: should be a JSON object"),
        ('{"locale": "de-DE"}', r"a\.jsonl:1: has no text"),
        ('{"text": 3, "locale": "de-DE"}', r"a\.jsonl:1: has no text"),
        ('{"text": "hallo"}', r"a\.jsonl:1: has no locale.*--locale"),
        ("", r"a\.jsonl: contains no texts"),
    ],
)
def test_unusable_rows_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line)

    with pytest.raises(TextsError, match=message):
        load_texts(path)


def test_plain_texts_need_a_locale(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hallo")

    with pytest.raises(TextsError, match="--locale"):
        load_texts(path)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("größe".encode("latin-1"))

    with pytest.raises(TextsError, match="not UTF-8"):
        load_texts(path, "de-DE")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TextsError, match="nowhere: no such file or folder"):
        load_texts(tmp_path / "nowhere")
    with pytest.raises(TextsError, match=r"contains no \.jsonl"):
        load_texts(tmp_path)


@pytest.mark.parametrize(
    ("asked", "known", "locales", "left_out"),
    [
        (None, None, ["de-DE", "fr-FR"], []),
        (None, ["de-DE", "it-IT"], ["de-DE"], ["fr-FR"]),
        (["fr-FR"], ["de-DE"], ["fr-FR"], ["de-DE"]),
    ],
)
def test_locales_asked_for_go_before_those_known(
    asked: list[str] | None, known: list[str] | None, locales: list[str], left_out: list[str]
) -> None:
    selection = select(TEXTS, asked, known)

    assert (selection.locales, selection.left_out) == (locales, left_out)


def test_locales_without_texts_are_refused() -> None:
    with pytest.raises(TextsError, match="no texts in xx-XX; there are texts in de-DE, fr-FR"):
        select(TEXTS, ["xx-XX", "de-DE"], None)
    with pytest.raises(TextsError, match="no texts in ja-JP, the locales of the student"):
        select(TEXTS, None, ["ja-JP"])
