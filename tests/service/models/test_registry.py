"""Which students are served, which one answers, and when the service is ready."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.errors import NotReady, UnknownLocale, UnknownModel
from service.http.requests import NluItem
from service.models.registry import ModelRegistry, find_folders
from service.monitoring.metrics import Metrics
from service.settings import Settings
from service.student.manifest import StudentError
from service.student.student import Student


def load(root: Path, **aliases: str) -> ModelRegistry:
    registry = ModelRegistry(Settings(students=root, aliases=aliases), Metrics())
    registry.adopt(registry.prepare())
    return registry


def test_finds_sub_folders_but_not_hidden_ones(tmp_path: Path) -> None:
    for name in ("b", "a", ".half-written", "__pycache__"):
        (tmp_path / name).mkdir()

    assert [path.name for path in find_folders(tmp_path)] == ["a", "b"]


def test_student_folder_may_stand_for_itself(folder: Path) -> None:
    assert find_folders(folder) == [folder]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_student_at_all_is_an_error_that_names_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(StudentError, match=name):
        find_folders(tmp_path / name)


def test_not_ready_before_loading(students: Path) -> None:
    registry = ModelRegistry(Settings(students=students), Metrics())

    assert registry.reasons_not_ready() == ["students are loading"]
    for name in (None, "s"):
        with pytest.raises(NotReady, match="students are loading"):
            registry.choose(name)


def test_s_is_the_default(students: Path) -> None:
    registry = load(students)

    assert registry.reasons_not_ready() == []
    assert registry.choose(None).name == "s"


def test_first_by_name_is_the_default_without_s(students: Path, tmp_path: Path, edit: Any) -> None:
    for name in ("m", "l"):
        edit(shutil.copytree(students / "s", tmp_path / name), "name", name)

    assert load(tmp_path).choose(None).name == "l"


def test_named_default_answers(students: Path) -> None:
    assert load(students, default="german").choose(None).name == "german"


def test_missing_default_is_not_ready_but_others_answer(students: Path) -> None:
    registry = load(students, default="xl")

    assert registry.reasons_not_ready() == ["the default student 'xl' is not loaded"]
    assert registry.choose("s").name == "s"
    with pytest.raises(NotReady):
        registry.choose(None)


def test_aliases_stand_for_students(students: Path) -> None:
    registry = load(students, fast="german", domain="german")

    assert registry.choose("fast").name == registry.choose_for_domains().name == "german"
    assert registry.choose("default") is registry.choose(None) is registry.choose("s")
    assert registry.aliases_of("german") == ["domain", "fast"]
    assert registry.aliases_of("s") == ["default"]
    assert load(students).choose_for_domains().name == "s"


def test_alias_of_a_student_that_is_not_there_is_not_ready(students: Path) -> None:
    registry = load(students, fast="xl")

    assert registry.reasons_not_ready() == ["the fast student 'xl' is not loaded"]
    with pytest.raises(UnknownModel):
        registry.choose("fast")


def test_unknown_model_and_locale(students: Path) -> None:
    registry = load(students)

    with pytest.raises(UnknownModel, match="loaded: german, s or default"):
        registry.choose("xl")
    with pytest.raises(UnknownLocale, match="known: de-DE"):
        registry.choose("german").question_of(NluItem(text="salut", locale="fr-FR"))


def test_two_students_of_one_name_are_refused_by_folder(students: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(students / "s", tmp_path / name)

    registry = load(tmp_path)

    assert list(registry.models) == ["s"]
    assert "second: another folder has a student named 's', too" in registry.refused[0]


def _no_manifest(folder: Path, _: Any) -> None:
    (folder / "manifest.json").unlink()


def _damaged_graph(folder: Path, _: Any) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def _no_tokenizer(folder: Path, _: Any) -> None:
    (folder / "tokenizer.json").unlink()


def _wrong_golden(folder: Path, edit: Any) -> None:
    edit(folder, "golden.0.intent", "music_play")


def _newer_schema(folder: Path, edit: Any) -> None:
    edit(folder, "schema_version", 99)


def _fewer_labels(folder: Path, edit: Any) -> None:
    edit(folder, "labels.domain", ["alarm", "music"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_manifest, "cannot read manifest.json"),
        (_damaged_graph, "model.onnx has sha256"),
        (_no_tokenizer, "tokenizer.json is missing"),
        (_wrong_golden, "golden answer differs"),
        (_newer_schema, "schema_version"),
        (_fewer_labels, "'domain_logits' has 3 columns, the manifest names 2 labels"),
    ],
)
def test_damaged_student_is_refused_by_name_and_the_rest_served(
    students: Path, folder: Path, edit: Any, damage: Callable[[Path, Any], None], reason: str
) -> None:
    shutil.copytree(students / "german", folder.parent / "german")
    damage(folder, edit)

    registry = load(folder.parent)

    assert list(registry.models) == ["german"]
    assert len(registry.refused) == 1
    assert str(folder) in registry.refused[0]
    assert reason in registry.refused[0]
    assert registry.reasons_not_ready() == registry.refused


def test_student_that_fails_when_run_is_refused(students: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Student) -> None:
        raise RuntimeError("Gather index out of range")

    monkeypatch.setattr(Student, "warm_up", fail)

    assert "fails when run: RuntimeError" in load(folder).refused[0]
