"""``distilled-nlu build`` on the sample data: from labelled utterances to served students and their mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distilled_nlu import Student
from training import build
from training.models.checkpoint import is_own
from training.studies.ladder_recipe import Asked, ladder_recipe
from training.studies.recipe import read_recipe


def planned(sample: Path, out: Path, sizes: tuple[str, ...], teacher: str = "s") -> Path:
    """The recipe that the command writes first."""
    asked = Asked(teacher, str(sample), sizes, 20.0, locales="de-DE", from_shipped=True)
    return ladder_recipe(asked, out / "recipe.toml", threads=1)


def test_a_shipped_student_learns_the_data(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = planned(sample, tmp_path, ("xs",), teacher="xs")
    lines = recipe.read_text().splitlines()
    recipe.write_text("\n".join("epochs = 6" if line.startswith("epochs") else line for line in lines))

    command = [str(sample), "--out", str(tmp_path), "--sizes", "xs", "--teacher", "xs", "--locales", "de-DE"]
    assert build.main(command) == 0

    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["recommended"] == "xs"
    assert summary["students"]["xs"]["intent_accuracy"] > 70
    assert Student.load(tmp_path / "students" / "xs")("weck mich um neun uhr", locale="de-DE").intent is not None
    mistakes = json.loads((tmp_path / "mistakes.json").read_text())
    assert mistakes["utterances"] == 33
    assert len(mistakes["texts"]) == mistakes["wrong"]
    assert "## Weakest intents" in (tmp_path / "mistakes.md").read_text()
    assert build.main(command) == 0  # finished stages are skipped


def test_students_start_from_shipped_ones_and_learn_from_the_teacher(sample: Path, tmp_path: Path) -> None:
    runs = read_recipe(planned(sample, tmp_path, ("xs", "s"))).runs

    teacher, student = runs["s"].settings, runs["xs"].settings
    assert Path(str(teacher["init"])).name == "s"
    assert is_own(str(teacher["init"]))
    assert Path(str(student["init"])).name == "xs"
    assert student["teacher"] == "s"
    assert "encoder" not in runs
    assert int(teacher["epochs"]) > 12  # little data


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--teacher", "/nowhere"], "/nowhere"),
        (["--teacher", "xs", "--sizes", "s"], "larger than"),
        (["--minutes", "0.0001"], "--minutes 0.0001: one epoch each"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(
    more: list[str], message: str, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main([str(sample), "--out", str(tmp_path / "out"), "--sizes", "xs", "--locales", "de-DE", *more]) == 2

    assert message in capsys.readouterr().err
