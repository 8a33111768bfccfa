from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.studies.ledger import Ledger, Stage, StageError


def nothing() -> None:
    pass


def stage(folder: Path, name: str, *needs: str, quick: bool = False, **asked: Any) -> Stage:
    output = folder / name
    return Stage(name, needs, nothing if quick else ("training.pretrain",), output, output.is_file, asked)


def make(ledger: Ledger, *stages: Stage) -> None:
    for made in stages:
        ledger.begin(made)
        made.output.write_text("")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "made")


@pytest.fixture
def plan(tmp_path: Path, ledger: Ledger) -> Callable[..., list[Stage]]:
    """A teacher, its student and what the student answers."""

    def stages(**asked: Any) -> list[Stage]:
        return [
            stage(tmp_path, "teacher", steps=10, **asked),
            stage(tmp_path, "student", "teacher", steps=5),
            stage(tmp_path, "answers", "student", quick=True, partition="dev"),
        ]

    return stages


def names(stages: list[Stage]) -> list[str]:
    return [found.name for found in stages]


def test_what_is_not_there_is_to_be_done(ledger: Ledger, plan: Callable[..., list[Stage]]) -> None:
    assert names(ledger.todo(plan())) == ["teacher", "student", "answers"]


def test_what_is_there_as_asked_is_done(ledger: Ledger, plan: Callable[..., list[Stage]]) -> None:
    make(ledger, *plan(rate=0))

    assert ledger.todo(plan(rate=0.0)) == []


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"rate": 1}, {"rate": 2}, "with rate 1, now 2"),
        ({"rate": 1}, {}, "with rate 1, now 'left out'"),
        ({}, {"rate": 1}, "with rate 'left out', now 1"),
    ],
)
def test_a_setting_that_is_changed_added_or_left_out_is_named(
    ledger: Ledger, plan: Callable[..., list[Stage]], before: dict[str, int], now: dict[str, int], said: str
) -> None:
    make(ledger, *plan(**before))

    with pytest.raises(StageError, match=f"teacher: was made {said}; remove .*teacher to make it again"):
        ledger.todo(plan(**now))


def test_a_student_of_a_teacher_that_is_gone_or_was_remade_is_refused(
    ledger: Ledger, plan: Callable[..., list[Stage]]
) -> None:
    stages = plan()
    make(ledger, *stages)

    stages[0].output.unlink()
    with pytest.raises(StageError, match="student: was made from another teacher"):
        ledger.todo(plan())

    make(ledger, stages[0])
    with pytest.raises(StageError, match="student: was made from another teacher"):
        ledger.todo(plan())

    stages[1].output.unlink()
    assert names(ledger.todo(plan())) == ["student", "answers"]


def test_what_takes_no_time_is_done_again_instead(
    tmp_path: Path, ledger: Ledger, plan: Callable[..., list[Stage]]
) -> None:
    make(ledger, *plan())

    asked = [*plan()[:2], stage(tmp_path, "answers", "student", quick=True, partition="test")]

    assert names(ledger.todo(asked)) == ["answers"]


def test_what_is_not_on_record_is_not_taken_for_what_is_asked(ledger: Ledger, plan: Callable[..., list[Stage]]) -> None:
    plan()[0].output.write_text("")

    with pytest.raises(StageError, match="teacher: was made in a way that is not recorded"):
        ledger.todo(plan())
