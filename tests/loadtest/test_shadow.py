"""``python -m loadtest.shadow`` from end to end on tiny students, and its report."""

from __future__ import annotations

import io
import json
from array import array
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import loadtest.shadow
from loadtest.experiments.shadow_report import ShadowRound, figures_of_rounds, has_reached, interval_of, table_of
from loadtest.load.closed_loop import Measured
from loadtest.load.open_loop import Scheduled
from loadtest.load.target import on_cores, usable_cores
from loadtest.shadow import main
from tests.service.conftest import write_student

QUICK = ("--rounds", "1", "--seconds", "0.3", "--rate", "200")
BOTH = ("--primary", "tiny", "--shadow", "other")

needs_two_cores = pytest.mark.skipif(len(usable_cores()) == 1, reason="needs two cores")


class Output(NamedTuple):
    """The command's exit code and output."""

    code: int
    table: str
    figures: dict[str, Any]


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("students")
    write_student(root / "tiny", name="tiny", locales=("de-DE", "it-IT"))
    write_student(root / "other", name="other", locales=("de-DE", "fr-FR"))
    return root


@pytest.fixture(scope="module")
def output(students: Path) -> Output:
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(loadtest.shadow, "CAPACITY_SECONDS", 0.2)
        code = main(["--students", str(students), *BOTH, "--share", "0.5", "--check", *QUICK])
    *table, last = said.getvalue().splitlines()
    return Output(code, "\n".join(table), json.loads(last))


def measured(latency: float, late: float | None = None) -> Measured:
    """One second under load."""
    what = 1.0, array("d", [latency] * 100), Counter[str](), 0.1
    return Measured(*what) if late is None else Scheduled(*what, array("d", [late] * 100))


@needs_two_cores
def test_moderate_load_and_saturation_are_measured_without_and_with_the_shadow(output: Output) -> None:
    moderate, saturation = output.figures["loads"]["moderate"], output.figures["loads"]["saturation"]

    assert 0 < moderate["per_second"] < 300  # of 200 requested
    assert saturation["per_second"] > 0
    assert moderate["done"] > 0
    for load in (moderate, saturation):
        assert load["p99_ratio"] == pytest.approx(load["p99_on_us"] / load["p99_off_us"], rel=1e-3)
        assert load["p50_on_us"] <= load["p99_on_us"]
        assert load["done"] + load["dropped"] > 0
    assert moderate["late_us"] >= 0


@needs_two_cores
def test_verdict_is_the_exit_code(output: Output) -> None:
    assert (output.code, output.figures["reached"]) in [(0, True), (1, False)]
    assert "tiny, shadowed by other, 0.5 of the texts; 1 rounds of 0.3 s" in output.table
    assert "target <= 1.05" in output.table


@needs_two_cores
def test_student_that_is_not_there_is_one_sentence(students: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--students", str(students), "--primary", "tiny", "--shadow", "nobody", *QUICK])

    assert code == 2
    assert "no student 'nobody' is loaded; loaded: other, tiny" in capsys.readouterr().err


@needs_two_cores
def test_a_shadow_without_texts_is_an_error(
    students: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loadtest.shadow, "CAPACITY_SECONDS", 0.2)
    monkeypatch.setattr(loadtest.shadow, "WARM_UP", 0.1)

    code = main(["--students", str(students), *BOTH, "--share", "0", *QUICK])

    assert code == 2
    assert "the shadow got no texts" in capsys.readouterr().err


@pytest.mark.skipif(not usable_cores(), reason="needs a system that can tie a process to a core")
def test_one_core_is_not_enough(students: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with on_cores(usable_cores()[:1]):
        assert main(["--students", str(students), *BOTH, *QUICK]) == 2

    assert "error: this process may use only one core" in capsys.readouterr().err


def test_ratios_are_taken_within_rounds_and_then_their_median() -> None:
    """A machine that is half as fast in one round changes times, not ratios."""
    rounds = [
        ShadowRound(measured(0.001), measured(0.0011), 5, 1),
        ShadowRound(measured(0.002), measured(0.0022), 5, 0),
        ShadowRound(measured(0.001), measured(0.0030), 5, 0),
    ]

    figures = figures_of_rounds(rounds)

    assert figures["p99_ratio"] == pytest.approx(1.1)
    assert figures["p99_off_us"] == 1000.0
    assert (figures["done"], figures["dropped"]) == (15, 1)
    assert figures["p99_interval"] == (1.1, 3.0)
    assert "late_us" not in figures


def test_interval_narrows_with_rounds() -> None:
    few, many = ([1.0, 1.1, 0.9] * times for times in (2, 20))

    assert interval_of(many)[0] > interval_of(few)[0]
    assert interval_of([1.02] * 5) == (1.02, 1.02)


@pytest.mark.parametrize(("on", "reached", "said"), [(0.00104, True, "reached"), (0.00106, False, "MISSED")])
def test_target_holds_at_each_load(on: float, reached: bool, said: str) -> None:
    fine = figures_of_rounds([ShadowRound(measured(0.001), measured(0.001), 1, 0)])
    other = figures_of_rounds([ShadowRound(measured(0.001, late=0.001), measured(on, late=0.001), 1, 0)])
    names = {"primary": "s", "shadow": "xs", "share": 0.1, "target": 1.05}
    loads = {"moderate": fine, "saturation": other}
    figures = names | {"measured": {"rounds": 1, "seconds": 1.0}, "loads": loads}

    assert has_reached(figures) is reached
    table = table_of(figures)
    assert f"target <= 1.05: {said}" in table.splitlines()[-2]
    assert "NOISY: other work delayed the load generator by 1000 µs" in table
