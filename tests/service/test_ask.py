"""Asking a student on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.ask import main

TEXTS = ["weck mich am freitag um neun uhr auf", "wetter in berlin"]


@pytest.mark.parametrize("student", ["xs", "s"])
def test_shipped_student_is_asked_by_name(capsys: pytest.CaptureFixture[str], student: str) -> None:
    assert main(["--student", student, "--locale", "de-DE", *TEXTS]) == 0

    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["text"] for answer in answers] == TEXTS
    assert [answer["domain"]["name"] for answer in answers] == ["alarm", "weather"]


def test_folder_is_asked(students: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--student", str(students / "german"), "--locale", "de-DE", TEXTS[0]]) == 0

    answer = json.loads(capsys.readouterr().out)
    assert answer["intent"]["name"] == "alarm_set"
    assert [slot["value"] for slot in answer["slots"]] == ["freitag", "neun uhr"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--student", "xxs", "--locale", "de-DE"], "error: xxs: "),
        (["--student", "xs", "--locale", "de"], "error: --locale 'de' is unknown to the student; known: de-DE, "),
    ],
)
def test_errors_are_one_sentence(capsys: pytest.CaptureFixture[str], flags: list[str], sentence: str) -> None:
    assert main([*flags, TEXTS[0]]) == 2

    assert capsys.readouterr().err.startswith(sentence)
