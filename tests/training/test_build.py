"""``distilled-nlu build`` on the sample data: from labelled utterances to served students and their mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distilled_nlu import Student
from training import build
from training.models.checkpoint import is_own
from training.studies.recipe import read_recipe

SHAPE = ("--sizes", "xs", "--teacher", "xs")


def planned(sample: Path, out: Path, *more: str, epochs: int = 0) -> Path:
    """The recipe that the command writes first, with other epochs where they are given."""
    flags = ["--locales", "de-DE", "--no-check", "--plan-only", *more]
    assert build.main([str(sample), "--out", str(out), *flags]) == 0
    recipe = out / "recipe.toml"
    lines = recipe.read_text().splitlines()
    if epochs:
        recipe.write_text("\n".join(f"epochs = {epochs}" if x.startswith("epochs") else x for x in lines))
    return recipe


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def built(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of one small student with few epochs."""
    out = tmp_path_factory.mktemp("builds") / "first"
    planned(sample, out, *SHAPE, epochs=6)
    assert build.main([str(sample), "--out", str(out), *SHAPE, "--locales", "de-DE"]) == 0
    return out


@pytest.mark.timeout(1200)  # seconds: several trainings, on a busy machine too
def test_a_shipped_student_learns_the_data(built: Path, sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(sample), "--out", str(built), *SHAPE, "--locales", "de-DE"]

    assert build.main([*command, "--require", "intent_accuracy>=70", "--require", "graph_ms<=1000"]) == 0

    summary = last_line(capsys)  # finished stages are skipped
    assert summary["recommended"] == summary["required"]["fits"] == "xs"
    assert summary["students"]["xs"]["intent_accuracy"] > 70
    assert Student.load(built / "students" / "xs")("weck mich um neun uhr", locale="de-DE").intent is not None
    mistakes = json.loads((built / "mistakes.json").read_text())
    assert mistakes["utterances"] == 33
    assert len(mistakes["texts"]) == mistakes["wrong"]
    assert "## Weakest intents" in (built / "mistakes.md").read_text()
    assert "<html" in (built / "mistakes.html").read_text()
    assert "<html" in (built / "data.html").read_text()


@pytest.mark.timeout(1200)  # seconds: several trainings, on a busy machine too
def test_a_missed_requirement_is_exit_code_1(built: Path, sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(sample), "--out", str(built), *SHAPE, "--locales", "de-DE", "--require", "disk_mb<=0.1"]

    assert build.main(command) == 1

    assert "disk_mb is" in last_line(capsys)["required"]["misfits"]["xs"][0]


@pytest.mark.slow
def test_new_data_later(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more, again = tmp_path / "more.csv", tmp_path / "again"
    texts = [f"mach das licht im {room} an,light_on" for room in ("bad", "keller", "flur", "büro", "schlafzimmer")]
    more.write_text("\n".join(["was,wozu", *texts]) + "\n")
    read = ("--columns", "text=was,intent=wozu", "--from", str(built))
    planned(more, again, *read, epochs=2)

    assert build.main([str(more), "--out", str(again), "--locales", "de-DE", "--no-check", *read]) == 0

    summary = last_line(capsys)
    assert list(summary["changed"]["xs"]) == ["mended", "broken"]
    assert "light_on" in Student.load(again / "students" / "xs").manifest.labels.intent
    changes = json.loads((again / "mistakes.json").read_text())["changes"]
    assert changes["from"] == "first"
    assert len(changes["students"]["xs"]["broken"]) == summary["changed"]["xs"]["broken"]


def test_students_start_from_shipped_ones_and_learn_from_the_teacher(sample: Path, tmp_path: Path) -> None:
    recipe = read_recipe(planned(sample, tmp_path))

    teacher, student = recipe.runs["s"].settings, recipe.runs["xs"].settings
    assert Path(str(teacher["init"])).name == "s"
    assert is_own(str(teacher["init"]))
    assert Path(str(student["init"])).name == "xs"
    assert student["teacher"] == "s"
    assert "encoder" not in recipe.runs
    assert int(teacher["epochs"]) > 12  # little data
    assert list(recipe.plan["minutes_by_stage"]) == ["runs/s", "teacher's answers", "runs/xs", "exports"]
    assert sum(recipe.plan["minutes_by_stage"].values()) == pytest.approx(recipe.plan["expected_minutes"], abs=0.1)


def test_data_that_has_to_be_told_how_to_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file, flags = tmp_path / "export.csv", ["--sizes", "xs", "--teacher", "xs", "--no-check", "--plan-only"]
    lines = [f"{what} {i};{what}" for what in ("wecker", "musik") for i in range(10)]
    file.write_text("\n".join(["was;wozu", *lines]) + "\n")
    read = [str(file), "--out", str(tmp_path / "out"), *flags, "--locales", "de-DE"]

    assert build.main([*read, "--columns", "text=was,intent=wozu", "--dev-share", "0.3"]) == 0

    rows = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    assert {row["intent"] for row in rows} == {"wecker", "musik"}
    assert [row["partition"] for row in rows].count("dev") == 6
    assert build.main([*read, "--columns", "text=was,intent=wozu"]) == 2  # another split
    assert "was made from other data, or with other flags for reading" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--teacher", "/nowhere"], "/nowhere"),
        (["--teacher", "xs", "--sizes", "s"], "larger than"),
        pytest.param(["--minutes", "0.0001"], "--minutes 0.0001: one epoch each", marks=pytest.mark.slow),
        (["--require", "p99_ms<=3"], "'p99_ms' should be one of"),
        (["--require", "slot_f1@fr-FR>=3"], "fr-FR is not scored; allowed: de-DE"),
        (["--from", "/nowhere"], "--from /nowhere: holds no recipe.toml"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(
    more: list[str], message: str, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        build.main(
            [str(sample), "--out", str(tmp_path / "out"), "--sizes", "xs", "--locales", "de-DE", "--no-check", *more]
        )
        == 2
    )

    assert message in capsys.readouterr().err
