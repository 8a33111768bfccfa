"""The manifest of a student folder: its schema, and the checks of files and digests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from service.student.manifest import MAX_MANIFEST_BYTES, StudentError, read_manifest


def test_valid_folder_is_read(folder: Path) -> None:
    manifest = read_manifest(folder)

    assert manifest.name == "s"
    assert manifest.labels.heads == ("domain", "intent", "slots")
    assert manifest.files["model.onnx"].sha256.startswith(manifest.digest)


def test_result_of_the_quality_gate_is_read(folder: Path, edit: Any) -> None:
    drops = {"slot_f1": {"de-DE": {"drop": 0.3, "low": -0.1, "high": 0.7}}}
    edit(folder, "quality_gate", {"max_drop": 0.5, "passed": True, "kept_fp32": ["/intent/MatMul"], "drops": drops})

    gate = read_manifest(folder).quality_gate

    assert gate is not None
    assert (gate.max_drop, gate.passed, gate.kept_fp32) == (0.5, True, ("/intent/MatMul",))
    assert gate.drops["slot_f1"]["de-DE"].high == 0.7


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer.json"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(StudentError, match=f"{folder.name}: .*{name}"):
        read_manifest(folder)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir])
@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer.json"])
def test_file_that_is_not_a_regular_one_is_named_and_not_waited_for(folder: Path, name: str, make: Any) -> None:
    (folder / name).unlink()
    make(folder / name)

    with pytest.raises(StudentError, match=rf"{folder.name}: .*{name}.*\bnot a regular file"):
        read_manifest(folder)


def test_files_may_be_links(folder: Path) -> None:
    (folder / "manifest.json").rename(folder / "other")
    (folder / "manifest.json").symlink_to(folder / "other")

    assert read_manifest(folder).name == "s"


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_changed_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"changed")

    with pytest.raises(StudentError, match=f"{folder.name}: {name} .*has sha256"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("schema_version", 3, "schema_version 3, this release reads 2; was it written by a newer release?"),
        ("schema_version", None, "schema_version None"),
        ("schema_version", 1, "schema_version 1, this release reads 2; run: distilled-nlu migrate"),
        ("surplus", 1, "surplus"),
        ("name", "../s", "name"),
        ("precision", "int4", "precision"),
        ("locales", [], "locales"),
        ("golden", [], "golden"),
        ("golden.0.domain_confidence", None, "domain and domain_confidence: give both or neither"),
        ("golden.0.slots.0.confidence", 1.5, "golden.0.slots.0.confidence"),
        ("golden_tolerance", 2, "golden_tolerance"),
        ("max_length", 1, "max_length"),
        ("labels.domain", ["a", "a"], "labels.domain contains a name twice"),
        ("labels.slots", ["B-date"], "labels.slots must begin with 'O'"),
        ("labels.slots", ["O", "date"], "'date' is not a BIO tag"),
        ("files", {}, "files has no entry for model.onnx"),
        ("files.../x", {"sha256": "0" * 64, "bytes": 1}, "is not a plain file name"),
    ],
)
def test_invalid_field_is_named(folder: Path, edit: Any, path: str, value: Any, named: str) -> None:
    edit(folder, path, value) if path != "files.../x" else _add_file(folder, "../x", value, edit)

    with pytest.raises(StudentError) as caught:
        read_manifest(folder)

    assert str(folder) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 30_000, '{"training":' + '{"a":' * 30_000, " " * (MAX_MANIFEST_BYTES + 1)])
def test_manifest_that_is_too_deep_or_too_large_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)

    with pytest.raises(StudentError, match=r"manifest\.json is (not JSON|larger than)"):
        read_manifest(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "\xff"])
def test_manifest_that_is_not_a_json_object_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content, encoding="latin-1")

    with pytest.raises(StudentError, match=r"manifest\.json is not (JSON|a JSON object)"):
        read_manifest(folder)


def test_student_without_a_head_is_refused(folder: Path, edit: Any) -> None:
    edit(folder, "labels", {})

    with pytest.raises(StudentError, match="at least one head"):
        read_manifest(folder)


def _add_file(folder: Path, name: str, entry: Any, edit: Any) -> None:
    files = {file: entry.model_dump() for file, entry in read_manifest(folder).files.items()}
    edit(folder, "files", {**files, name: entry})
