"""``python -m benchmarks.floor`` from end to end on tiny students, its report, and the plain application."""

from __future__ import annotations

import io
import json
from array import array
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from benchmarks.floor import main
from benchmarks.floor_report import (
    REST,
    FloorRound,
    figures_of_processes,
    figures_of_profile,
    figures_of_rounds,
    table_of,
    verdicts_of,
)
from benchmarks.plain import create_app
from benchmarks.plain import main as serve_plain
from loadtest.load.closed_loop import Measured
from loadtest.load.target import on_cores, usable_cores
from service.http.schemas import NluReply
from service.student.student import Student
from tests.loadtest.conftest import running
from tests.service.conftest import write_student

QUICK = ("--seconds", "0.2", "--rounds", "1")
TWO_CORES = len(usable_cores()) > 1
FOUND = {"size": "s", "fraction_of_floor": 0.8, "ratio_to_plain_fastapi": 1.2, "p50_at_one_to_raw": 1.7}


class Output(NamedTuple):
    """The command's exit code and output."""

    code: int
    table: str
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "tiny", name="tiny", locales=("de-DE", "it-IT"))


@pytest.fixture(scope="module")
def output(folder: Path) -> Output:
    with redirect_stdout(io.StringIO()) as said:
        code = main(["--students", str(folder), "--check", "--profile", *QUICK])
    *table, last = said.getvalue().splitlines()
    return Output(code, "\n".join(table), json.loads(last))


def measured(per_second: float, latency: float = 0.001, cpu_share: float = 0.1) -> Measured:
    """One second under load."""
    return Measured(1.0, array("d", [latency] * round(per_second)), Counter(), cpu_share)


def round_of(raw: tuple[float, float], service: float, plain: float, latency: float) -> FloorRound:
    return FloorRound(raw, measured(service), measured(plain), measured(10, latency), measured(10, 2 * latency))


def test_ratios_come_from_figures_of_the_same_run(output: Output) -> None:
    student = output.figures["students"]["tiny"]

    assert student["fraction_of_floor"] == pytest.approx(
        student["service_per_second"] * student["raw_us"] / 1e6, abs=2e-3
    )
    assert student["ratio_to_plain_fastapi"] == pytest.approx(
        student["service_per_second"] / student["plain_fastapi_per_second"], abs=2e-3
    )
    assert student["p50_at_one_to_raw"] == pytest.approx(student["p50_at_one_us"] / student["raw_us"], rel=0.03)
    assert student["raw_us_before"] > 0 < student["raw_us_after"]
    assert 0 < student["fraction_of_floor"] < 1
    assert 0 < student["generator_share"] <= 1


def test_the_first_student_stands_on_top(output: Output) -> None:
    student = output.figures["students"]["tiny"]

    assert output.figures["student"] == "tiny"
    assert output.figures["fraction_of_floor"] == student["fraction_of_floor"]
    assert output.figures["ratio_to_plain_fastapi"] == student["ratio_to_plain_fastapi"]
    assert student["locales"] == ["de-DE", "it-IT"]
    assert output.figures["machine"]["cores"] >= 1
    assert output.figures["versions"].keys() >= {"python", "onnxruntime", "uvicorn"}


def test_a_missed_target_fails_the_command(output: Output) -> None:
    verdicts = {verdict["figure"]: verdict for verdict in output.figures["students"]["tiny"]["targets"]}

    assert output.code == 1  # a model of a few table look-ups is all overhead
    assert verdicts["fraction_of_floor"]["reached"] is False
    assert "target >= 0.60: MISSED" in output.table


@pytest.mark.skipif(not TWO_CORES, reason="needs two cores")
def test_two_processes_are_measured_with_the_generators_share(output: Output) -> None:
    found = output.figures["students"]["tiny"]["two_processes"]

    assert found["ratio"] == pytest.approx(found["two_per_second"] / found["one_per_second"], abs=2e-3)
    assert 0 < found["generator_share"] < 1
    assert "two processes to one" in output.table


def test_the_profile_adds_up_to_one_request(output: Output) -> None:
    profile = dict(output.figures["students"]["tiny"]["profile_us"])
    whole = profile.pop("request")

    assert sum(profile.values()) == pytest.approx(whole, abs=0.5)
    assert all(profile[phase] > 0 for phase in ("tokenize", "inference", "decode"))
    assert REST in output.table


def test_the_cores_are_given_back(output: Output) -> None:
    assert len(usable_cores()) in (output.figures["machine"]["cores"], 0)


@pytest.mark.skipif(not usable_cores(), reason="needs a system that can tie a process to a core")
def test_one_core_is_enough_for_all_but_two_processes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with on_cores(usable_cores()[:1]):
        code = main(["--students", str(folder), *QUICK, "--check"])
    table, last = capsys.readouterr().out.rsplit("\n", 2)[:2]
    student = json.loads(last)["students"]["tiny"]

    assert code == 1
    assert student["two_processes"] == {"skipped": "this process may use only one core"}
    assert "target >= 1.80: not measured" in table


def test_wrong_replies_are_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.txt").write_text("hallo " * 10_000)

    code = main(["--students", str(folder), "--texts", str(tmp_path / "long.txt"), "--locale", "de-DE", *QUICK])

    assert code == 2
    assert "error: the service: invalid replies" in (error := capsys.readouterr().err)
    assert "HTTP 413 (text_too_large)" in error


def test_bad_students_are_refused_before_anything_starts(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--students", str(folder), str(tmp_path / "nowhere")]) == 2
    assert "nowhere: not a student folder" in capsys.readouterr().err

    assert main(["--students", str(folder), str(folder)]) == 2
    assert "tiny: given twice" in capsys.readouterr().err

    assert serve_plain(["--student", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: not a student folder" in capsys.readouterr().err


def test_ratios_are_taken_within_rounds_and_then_their_median() -> None:
    """A machine that is half as fast in one round changes rates, not ratios."""
    rounds = [round_of((0.0004, 0.0004), 2000, 1000, 0.0006), round_of((0.0007, 0.0009), 1000, 500, 0.0012)]

    figures = figures_of_rounds([*rounds, rounds[0]])

    assert figures["fraction_of_floor"] == 0.8
    assert figures["ratio_to_plain_fastapi"] == 2.0
    assert figures["p50_at_one_to_raw"] == 1.5
    assert figures["service_per_second"] == 2000
    assert (figures["raw_us_before"], figures["raw_us_after"]) == (400.0, 400.0)
    assert [found["raw_us"] for found in figures["rounds"]] == [400.0, 800.0, 400.0]


def test_two_processes_say_what_the_generator_left_possible() -> None:
    figures = figures_of_processes([(measured(1000), measured(1800, cpu_share=0.2))], cores=2)

    assert figures["ratio"] == 1.8
    assert figures["generator_share"] == 0.1
    assert figures["at_most"] == 1.8


def test_what_no_phase_explains_is_the_rest() -> None:
    phases = {"queue": 900.0, "tokenize": 100.0, "inference": 400.0, "decode": 50.0, "total": 1450.0}

    assert figures_of_profile(phases, measured(1000)) == {
        "tokenize": 100.0,
        "inference": 400.0,
        "decode": 50.0,
        REST: 450.0,
        "request": 1000.0,
    }


@pytest.mark.parametrize(
    ("size", "two", "reached"),
    [
        ("s", {"ratio": 1.85}, [True, False, False, True]),
        ("s", {"skipped": "one core"}, [True, False, False, None]),
        ("m", {"ratio": 1.7}, [False, False]),
        ("tiny", {"ratio": 1.8}, [True]),
    ],
)
def test_targets_depend_on_the_size(size: str, two: dict[str, Any], reached: list[bool | None]) -> None:
    verdicts = verdicts_of(FOUND | {"size": size, "two_processes": two})

    assert [verdict["reached"] for verdict in verdicts] == reached


def test_the_table_warns_of_other_work_on_the_core() -> None:
    identity = {"precision": "int8", "digest": "0123", "locales": ["de-DE"], "texts": 3, "connections": 32}
    rounds = figures_of_rounds([round_of((0.0004, 0.0004), 2000, 1000, 0.0006)])
    student = identity | rounds | {"two_processes": {"skipped": "one core"}}

    assert "NOISY: other work took 10.0% of the server's core" in table_of("s", student | {"core_share": 0.9})
    assert "NOISY" not in table_of("s", student | {"core_share": 0.99})


def test_the_plain_application_answers_as_the_student_does(folder: Path) -> None:
    student = Student.load(folder)
    text = "weck mich am freitag um neun uhr auf"
    with running(create_app(student)) as url:
        answer = httpx.post(f"{url}/v1/nlu", json={"text": text, "locale": "de-DE"})
        bad = httpx.post(f"{url}/v1/nlu", json={"text": text})

    reply, expected = NluReply.model_validate(answer.json()), student.predict(text)
    assert reply.domain is not None
    assert expected.domain is not None
    assert reply.domain.name == expected.domain[0].name
    assert [slot.model_dump() for slot in reply.slots or ()] == [slot._asdict() for slot in expected.slots or ()]
    assert bad.status_code == 422
