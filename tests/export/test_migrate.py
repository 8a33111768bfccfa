"""Student folders of older schema versions, made new with the real command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest

from distilled_nlu import cli
from export import migrate
from service.student.manifest import SCHEMA_VERSION, FileEntry, StudentError, read_manifest
from service.student.student import Student

VERSION_1 = Path(__file__).with_name("schema_version_1")
TEXT = "weck mich am freitag um neun uhr auf"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder of schema version 1, as its release wrote it; its graph has a batch axis."""
    return shutil.copytree(VERSION_1, tmp_path / "students" / "tiny")


def content_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def change(folder: Path, **fields: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **fields}))


def test_the_service_names_the_command_for_an_old_folder(old: Path) -> None:
    with pytest.raises(StudentError, match=f"has schema_version 1, .*; run: distilled-nlu migrate {old}$"):
        Student.load(old)


def test_migrated_folder_is_served_with_all_that_it_had(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((old / "manifest.json").read_text())

    assert migrate.main([str(old)]) == 0

    student = Student.load(old)
    manifest = json.loads((old / "manifest.json").read_text())
    for name in ("name", "size", "precision", "architecture", "labels", "locales", "max_length"):
        assert manifest[name] == before[name]
    assert manifest["calibration"]["temperatures"] == before["calibration"]["temperatures"]
    assert student.manifest.schema_version == SCHEMA_VERSION
    assert {TEXT, "che tempo fa domani a roma"} <= {golden.text for golden in student.manifest.golden}
    assert [slot.value for slot in student.predict(TEXT).slots or ()] == ["freitag", "neun uhr"]
    assert student.identity["digest"] in (old / "MODEL_CARD.md").read_text()
    assert json.loads(capsys.readouterr().out) == {
        "student": str(old),
        "from": 1,
        "to": SCHEMA_VERSION,
        "digest": student.identity["digest"],
    }
    assert [file.name for file in old.parent.iterdir()] == ["tiny"]


def test_migrating_again_writes_nothing(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate.main([str(old)]) == 0
    once = content_of(old)

    assert migrate.main([str(old)]) == 0

    assert content_of(old) == once
    assert "already" in capsys.readouterr().err


def test_another_folder_is_written_if_one_is_named(old: Path, tmp_path: Path) -> None:
    before = content_of(old)

    assert migrate.main([str(old), "--out", str(tmp_path / "new")]) == 0

    assert content_of(old) == before
    assert read_manifest(tmp_path / "new").name == "tiny"
    assert migrate.main([str(old), "--out", str(tmp_path / "new")]) == 2


def test_external_data_of_old_folders_is_not_trusted(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = old / "model.onnx"
    onnx.save(onnx.load(str(path)), str(path), save_as_external_data=True, location="data", size_threshold=0)
    files = json.loads((old / "manifest.json").read_text())["files"]
    change(old, files={**files, "model.onnx": FileEntry.of(path).model_dump()})

    assert migrate.main([str(old)]) == 2

    assert "reads 'data', for which the manifest has no digest" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema_version": 0}, "schema_version 0 can't be migrated, only 1"),
        ({"schema_version": 9}, "schema_version 9 can't be migrated, only 1"),
        ({"files": None}, "manifest.json: files:"),
        ({"golden": [{"text": TEXT}]}, "manifest.json: golden:"),
        (
            {"golden": [{"text": TEXT, "locale": "de-DE", "domain": "music"}]},
            "expected music/None, got alarm/alarm_set",
        ),
        ({"labels": {}}, "at least one head"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_what_can_not_be_migrated_is_left_alone(
    old: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, object], reason: str
) -> None:
    change(old, **fields)
    before = content_of(old)

    assert migrate.main([str(old)]) == 2

    assert reason in capsys.readouterr().err
    assert content_of(old) == before
    assert [file.name for file in old.parent.iterdir()] == ["tiny"]


def test_damaged_file_is_named(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "model.onnx").write_bytes(b"damaged")

    assert migrate.main([str(old)]) == 2

    assert "model.onnx has sha256" in capsys.readouterr().err


def test_graph_with_a_batch_axis_needs_the_extra(
    old: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    before = content_of(old)

    assert cli.main(["migrate", str(old)]) == 2

    assert "onnx is not installed; this command needs: pip install 'distilled-nlu[export]'" in capsys.readouterr().err
    assert content_of(old) == before
    assert [file.name for file in old.parent.iterdir()] == ["tiny"]
