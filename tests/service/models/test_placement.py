"""Event loop or thread: chosen from the manifests, without a measurement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.models.placement import MAX_LOOP_SECONDS, MAX_SHARED_LOOP_SECONDS, choose_threads, recorded_seconds
from service.student.manifest import Manifest
from service.student.shipped import SHIPPED_STUDENTS
from service.student.student import Student

QUICK = MAX_SHARED_LOOP_SECONDS / 2
SLOW = MAX_SHARED_LOOP_SECONDS * 2


def manifest_of(student: Student, latency: dict[str, Any], **more: Any) -> Manifest:
    return student.manifest.model_copy(update={"latency": latency, **more})


@pytest.mark.parametrize(
    ("seconds", "in_threads"),
    [
        ([], ""),
        ([QUICK], ""),
        ([SLOW], ""),  # there is no other student
        ([QUICK, QUICK / 3], ""),
        ([QUICK, SLOW], "b"),
        ([SLOW, 2 * SLOW], "b"),
        ([2 * MAX_LOOP_SECONDS], "a"),
        ([2 * MAX_LOOP_SECONDS, 3 * MAX_LOOP_SECONDS], "ab"),
    ],
)
def test_slow_students_run_in_threads_beside_quicker_ones(
    student: Student, seconds: list[float], in_threads: str
) -> None:
    manifests = {
        name: manifest_of(student, {"fp32": {"16": each * 1e6}}) for name, each in zip("abc", seconds, strict=False)
    }

    assert choose_threads(manifests) == set(in_threads)


def test_latency_is_that_of_the_served_precision_at_a_typical_length(student: Student) -> None:
    latency = {"unit": "µs", "int8": {"8": 1}, "fp32": {"8": 100.0, "16": 200, "32": 400}}

    assert recorded_seconds(manifest_of(student, latency)) == pytest.approx(200e-6)
    assert recorded_seconds(manifest_of(student, {"fp32": {"4": 50, "8": 100}})) == pytest.approx(100e-6)


@pytest.mark.parametrize("latency", [{}, {"fp32": {}}, {"fp32": "fast"}, {"int8": {"16": 1}}])
def test_without_a_latency_it_is_estimated_from_the_size(student: Student, latency: dict[str, Any]) -> None:
    larger = student.manifest.architecture.model_copy(update={"non_embedding_parameters": 85_000_000})

    small, large = manifest_of(student, latency), manifest_of(student, latency, architecture=larger)

    assert recorded_seconds(small) < MAX_SHARED_LOOP_SECONDS < MAX_LOOP_SECONDS < recorded_seconds(large)


def test_shipped_students_both_run_on_the_event_loop() -> None:
    manifests = {
        path.parent.name: Manifest.model_validate_json(path.read_bytes())
        for path in Path(SHIPPED_STUDENTS).glob("*/manifest.json")
    }

    assert manifests
    assert choose_threads(manifests) == set()


def test_models_say_where_each_student_runs(make_client: Any, folder: Path, students: Path, edit: Any) -> None:
    """Neither the time that a text takes here nor the order of loading matters."""
    edit(folder, "latency", {"fp32": {"16": 900.0}})
    edit(folder, "name", "slow")
    quick = folder.with_name("quick")
    quick.symlink_to(students / "german")

    models = make_client(folder.parent).get("/v1/models").json()["models"]

    assert {model["name"]: model["runs_on"] for model in models} == {"german": "event_loop", "slow": "thread"}
