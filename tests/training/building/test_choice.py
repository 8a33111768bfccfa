"""The recommended student of a build."""

from __future__ import annotations

from typing import Any

import pytest

from training.building.choice import check_measurable, choice, recommended, requirements_of
from training.building.kept import Kept
from training.data.utterances import Utterance
from training.evaluation.requirements import RequirementError, verdict_of


def facts(exact_match: float, megabytes: float, microseconds: float) -> dict[str, Any]:
    scores = {"exact_match": exact_match, "intent_accuracy": exact_match + 10}
    quality = {"de-DE": scores, "fr-FR": scores, "mean": scores}
    return {"quality": quality, "bytes": megabytes * 1e6, "microseconds": {"8": 1.0, "16": microseconds}}


STUDENTS = {"xs": facts(59.0, 4, 120), "s": facts(62.5, 8, 400), "m": facts(63.0, 20, 900)}


def test_without_requirements_the_smallest_within_a_point_of_the_best() -> None:
    assert recommended(STUDENTS) == "s"


@pytest.mark.parametrize(
    ("required", "fits"),
    [
        (["exact_match>=50"], "xs"),
        (["exact_match>=60", "graph_ms<=0.5"], "s"),
        (["exact_match@fr-FR>=63"], "m"),
        (["exact_match>=63", "graph_ms<=0.5"], None),
    ],
)
def test_the_smallest_student_that_meets_all_requirements(required: list[str], fits: str | None) -> None:
    assert choice(STUDENTS, requirements_of(required))["fits"] == fits


def test_a_missed_requirement_is_named_with_the_gap() -> None:
    said = verdict_of(choice(STUDENTS, requirements_of(["exact_match>=63", "graph_ms<=0.5"])))

    assert said.startswith(
        "No student meets exact_match>=63, graph_ms<=0.5. xs: exact_match is 59, should be >= 63 (4 "
    )
    assert "m: graph_ms is 0.9, should be <= 0.5 (0.4 too high)." in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p99_ms<=3", "'p99_ms' should be one of .*graph_ms"),
        ("exact_match@it-IT>=3", "it-IT is not scored; allowed: de-DE"),
        ("slot_f1>=3", "dev has no labels for it, which needs slots; allowed: intent_accuracy, icer, disk_mb"),
    ],
)
def test_what_a_build_does_not_measure_is_refused_before_it_starts(text: str, message: str) -> None:
    data = Kept((Utterance("1", "stopp", "de-DE", "dev", None, "stop", slots_annotated=False),), ("a:1",))

    with pytest.raises(RequirementError, match=message):
        check_measurable(requirements_of([text]), data)
