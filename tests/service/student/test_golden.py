"""Golden answers: a student that computes other numbers than at export is not served."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from service.student.golden import golden_answer, log_odds, mismatch
from service.student.manifest import FileEntry, StudentError
from service.student.student import Student
from tests.service.conftest import build_tokenizer

Replace = Callable[[Path, bytes], None]
Change = Callable[[Any], Any]


def altered(folder: Path, table: str, change: Change) -> bytes:
    """The student's graph with one table changed."""
    model = onnx.load(str(folder / "model.onnx"))
    [tensor] = [tensor for tensor in model.graph.initializer if tensor.name == table]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), table))
    return model.SerializeToString()


def row_of(folder: Path, word: str) -> int:
    """The row of a word in the tables."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return [token for token, _ in vocabulary].index("▁" + word)


@pytest.mark.parametrize("table", ["domain", "intent", "slot"])
@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1.5, 2])
def test_scaled_table_that_changes_no_label_is_refused(
    folder: Path, replace_graph: Replace, table: str, factor: float
) -> None:
    replace_graph(folder, altered(folder, table, lambda values: values * np.float32(factor)))

    with pytest.raises(StudentError, match=rf"{folder.name}: golden answer differs .*\(log odds\).*allowed: 0\.15"):
        Student.load(folder)


def test_rounding_is_tolerated(folder: Path, replace_graph: Replace) -> None:
    replace_graph(folder, altered(folder, "intent", lambda values: values * np.float32(1.01)))

    assert Student.load(folder).predict("weck mich").intent is not None


def test_the_manifest_sets_the_tolerance(folder: Path, replace_graph: Replace, edit: Any) -> None:
    replace_graph(folder, altered(folder, "slot", lambda values: values * np.float32(0.9)))
    edit(folder, "golden_tolerance", 0.9)

    Student.load(folder)


@pytest.mark.parametrize("table", ["domain", "intent", "slot"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_student_with_values_that_are_not_finite_is_refused(
    folder: Path, replace_graph: Replace, table: str, value: float
) -> None:
    def set_last_column(values: Any) -> Any:
        values[:, -1] = value
        return values

    replace_graph(folder, altered(folder, table, set_last_column))

    with pytest.raises(StudentError, match="is NaN or infinite for a de-DE sentence"):
        Student.load(folder)


@pytest.mark.parametrize("table", ["domain", "intent", "slot"])
def test_request_with_logits_that_are_not_numbers_fails_and_the_next_is_answered(
    folder: Path, replace_graph: Replace, make_client: Any, table: str
) -> None:
    row = row_of(folder, "musik")  # of no golden sentence

    def set_row(values: Any) -> Any:
        values[row] = np.nan
        return values

    replace_graph(folder, altered(folder, table, set_row))
    client = make_client(folder)

    broken, fine = (
        client.post("/v1/nlu", json={"text": text, "locale": "de-DE"}) for text in ("musik", "wetter in berlin")
    )

    assert (broken.status_code, fine.status_code) == (500, 200)
    assert "musik" not in broken.text
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        Student.load(folder).predict("musik", top_k=3)


def test_item_or_student_with_logits_that_are_not_numbers_has_an_error_of_its_own(
    folder: Path, students: Path, replace_graph: Replace, make_client: Any
) -> None:
    row = row_of(folder, "musik")  # of no golden sentence

    def set_row(values: Any) -> Any:
        values[row] = np.nan
        return values

    replace_graph(folder, altered(folder, "domain", set_row))
    (folder.parent / "german").symlink_to(students / "german")
    client = make_client(folder.parent)
    musik, wetter = ({"text": text, "locale": "de-DE"} for text in ("musik", "wetter"))

    batch = client.post("/v1/nlu/batch", json={"items": [musik, wetter]}).json()["results"]
    compared = client.post("/v1/compare", json=musik).json()["results"]

    assert (batch[0]["error"]["code"], batch[1]["intent"]["name"]) == ("internal_error", "weather_query")
    assert (compared["s"]["error"]["code"], compared["german"]["intent"]["name"]) == ("internal_error", "music_play")
    assert client.metric("nlu_rejected_total", reason="internal") == 2


def test_tokenizer_with_other_token_ids_is_called_wrong(folder: Path, edit: Any) -> None:
    content = json.loads(build_tokenizer().to_str())
    vocabulary = content["model"]["vocab"]
    vocabulary[4:] = vocabulary[:3:-1]
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(json.dumps(content))
    with pytest.raises(StudentError, match=r"tokenizer\.json is not this student's tokenizer: it has sha256"):
        Student.load(folder)

    files = json.loads((folder / "manifest.json").read_text())["files"]
    edit(folder, "files", {**files, "tokenizer.json": FileEntry.of(tokenizer).model_dump()})

    with pytest.raises(StudentError, match=r"the tokenizer is not the student's: .* other token ids than at export"):
        Student.load(folder)


def test_answers_record_what_the_graph_reads_and_returns(student: Student) -> None:
    golden = golden_answer(student, "weck mich am freitag", "de-DE")

    answer = student.predict("weck mich am freitag", locale="de-DE")
    assert golden.tokens == tuple(student.encoder.encode("weck mich am freitag").ids)
    assert answer.domain is not None
    assert golden.domain_confidence == pytest.approx(answer.domain[0].confidence, abs=1e-6)
    assert [slot.confidence for slot in golden.slots] == [
        pytest.approx(s.confidence, abs=1e-6) for s in answer.slots or ()
    ]
    assert mismatch(student, golden, 1e-3) is None


@given(st.floats(1e-3, 0.999), st.floats(-2, 2))
def test_a_difference_of_log_odds_is_one_of_logits(probability: float, shift: float) -> None:
    odds = probability / (1 - probability) * math.exp(shift)
    assert log_odds(odds / (1 + odds)) - log_odds(probability) == pytest.approx(shift, abs=1e-6)


@given(st.floats(0, 1))
def test_log_odds_are_finite(probability: float) -> None:
    assert abs(log_odds(probability)) < 10
