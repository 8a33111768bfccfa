"""Uncertainty, diversity, and the texts of a log."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from training.data.formats.base import ReadOptions
from training.data.utterances import DatasetError, Utterance
from training.selection.diversity import select
from training.selection.log import candidates, read_log, written_format
from training.selection.uncertainty import margin, uncertainty

SURE, UNSURE = np.array([9.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0])


def test_a_tie_has_no_margin_and_a_clear_answer_nearly_one() -> None:
    assert margin(UNSURE) == pytest.approx(0.0)
    assert margin(SURE) > 0.999
    assert margin(np.array([0.3])) == 1.0


def test_the_least_sure_word_counts_at_its_first_token_alone() -> None:
    slots = np.stack([UNSURE, SURE, UNSURE, SURE])

    assert uncertainty({"intent": SURE, "slots": slots}, [1, 3]) < 0.01
    assert uncertainty({"intent": SURE, "slots": slots}, [1, 2]) == pytest.approx(1.0)
    assert uncertainty({"domain": UNSURE}, []) == pytest.approx(1.0)
    assert uncertainty({"slots": slots}, []) == 0.0


def test_a_copy_of_a_chosen_text_comes_last() -> None:
    features = csr_matrix([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])

    assert select([0.9, 0.8, 0.1], features, 2) == [0, 2]
    assert select([0.9, 0.8, 0.1], features, 9) == [0, 2, 1]


def test_what_is_like_a_known_text_is_left() -> None:
    features = csr_matrix([[1.0, 0.0], [0.6, 0.8]])

    assert select([0.9, 0.5], features, 1, known=csr_matrix([[1.0, 0.0]])) == [1]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=12), st.integers(1, 15))
def test_each_text_is_chosen_once(texts: list[tuple[float, int]], count: int) -> None:
    features = csr_matrix(np.eye(4)[[kind for _, kind in texts]])

    found = select([weight for weight, _ in texts], features, count)

    assert len(found) == len(set(found)) == min(count, len(texts))


def test_a_log_of_lines_is_packed_or_not(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("\ufeffweck mich\n\n  spiel musik, bitte \n", encoding="utf-8")
    (tmp_path / "log.txt.gz").write_bytes(gzip.compress(b"weck mich\r\nspiel musik, bitte\r\n"))

    for name in ("log.txt", "log.txt.gz"):
        found = read_log(str(tmp_path / name), ["de-DE"], ReadOptions())
        assert [(u.text, u.locale) for u in found] == [("weck mich", "de-DE"), ("spiel musik, bitte", "de-DE")]


@pytest.mark.parametrize(
    ("content", "locales", "message"),
    [
        (b"weck mich\n", None, r"log\.txt:1: locale: is missing"),
        (b"k\xfcche\n", ["de-DE"], r"log\.txt: is no text in UTF-8"),
        (b"\n \n", ["de-DE"], r"log\.txt: holds no texts"),
    ],
)
def test_a_log_that_cannot_be_read(tmp_path: Path, content: bytes, locales: list[str] | None, message: str) -> None:
    (tmp_path / "log.txt").write_bytes(content)

    with pytest.raises(DatasetError, match=message):
        read_log(str(tmp_path / "log.txt"), locales, ReadOptions())


def test_copies_and_labelled_texts_are_counted() -> None:
    texts = [Utterance(str(i), text, "de-DE") for i, text in enumerate(["Weck mich!", "weck mich", "stopp", "halt"])]

    found = candidates(texts, [Utterance("9", "Stopp.", "de-DE", intent="stop")])

    assert [u.text for u in found.texts] == ["Weck mich!", "halt"]
    assert (found.repeated, found.labelled) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("nlu.yml", 'version: "3.1"\nnlu:\n- intent: a\n  examples: |\n    - b\n', "rasa"),
        ("log.csv", "text,intent\nb,a\n", "csv"),
        ("data.jsonl", '{"text": "b", "intent": "a"}\n', "jsonl"),
        ("log.txt", "text, with a comma\n", "jsonl"),
    ],
)
def test_the_format_to_write_is_that_which_was_read(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)

    assert written_format([str(tmp_path / name)], ReadOptions()) == expected
