"""``python -m benchmarks.peers``: what it refuses, what it measures through a peer's own path, and what it reports."""

from __future__ import annotations

import datetime
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from array import array
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psutil
import pytest

from benchmarks import peers
from benchmarks.floor import PLAIN, MeasuredStudent
from benchmarks.peer_servers import environments
from benchmarks.peer_servers.answers import answer_of
from benchmarks.peer_servers.bench import PeerBenchmark, PeerMeasurements, expected_of
from benchmarks.peer_servers.catalogue import BASE, PEERS, Peer
from benchmarks.peer_servers.environments import InstallError, install, python_of, requirements_of, versions_at
from benchmarks.peer_servers.processes import PROC, error_line, running
from benchmarks.peer_servers.serve import BATCHED, DEFAULTS
from benchmarks.peer_servers.wire import list_json, plain_json, v2
from benchmarks.peers import main
from benchmarks.peers_report import (
    BEGIN,
    END,
    figures_of_rounds,
    machine_class,
    problems_of,
    report_of,
    summary_of,
    table_of,
    write_report,
)
from loadtest.comparison.quality import answer_of as scored
from loadtest.load.benchmark import SERVICE
from loadtest.load.client import LoadError
from loadtest.load.closed_loop import Measured
from loadtest.load.target import ROOT, TargetError, usable_cores, wait_until
from loadtest.load.texts import Text, load_texts
from service.student.student import Student
from tests.service.conftest import write_student

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="needs Linux's /proc")

INSTALLED = "PEER_ENVIRONMENTS"  # a folder with environments that --install made
QUICK = ("--seconds", "0.1", "--rounds", "2", "--connections", "1,4")
TODAY = datetime.date(2026, 1, 2)
TEXT = "weck mich am freitag um neun uhr auf"


class Output(NamedTuple):
    """The command's exit code, output and report."""

    code: int
    table: str
    figures: dict[str, Any]
    report: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("students") / "tiny", name="tiny", locales=("de-DE", "it-IT"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of environments in which the control's interpreter is this one."""
    made = tmp_path_factory.mktemp("environments")
    python = python_of(made, "fastapi")
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return made


@pytest.fixture(scope="module")
def output(folder: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    out = tmp_path_factory.mktemp("out") / "report.md"
    flags = ["--student", str(folder), "--peers", "fastapi,litserve", "--environments", str(environment)]
    with redirect_stdout(io.StringIO()) as said:
        code = main([*flags, "--out", str(out), *QUICK])
    *table, last = said.getvalue().splitlines()
    return Output(code, "\n".join(table), json.loads(last), out.read_text())


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "versions_at", lambda python, names: {"python": "3.11"})


def measured(per_second: float, latency: float = 0.001) -> Measured:
    """One second under load."""
    return Measured(1.0, array("d", [latency] * round(per_second)), Counter(), 0.1)


def round_of(plain: float, **others: float) -> dict[int, dict[str, Measured]]:
    """A round with one and with eight connections; latency is the inverse of the rate."""
    rates = {PLAIN: plain, SERVICE: 2 * plain} | others
    return {number: {name: measured(rate, 1 / rate) for name, rate in rates.items()} for number in (1, 8)}


def figures_with(
    peer_settings: dict[str, Any], core_share: float = 1.0, plain_rates: tuple[float, ...] = (1000, 1000)
) -> dict[str, Any]:
    """The figures of a run with one peer."""
    rounds = [round_of(1000, defaults=500, batched=250)]
    return {
        "student": {"name": "s", "precision": "int8", "digest": "0123", "texts": 3, "locales": ["de-DE"]},
        "peers": {
            "litserve": {
                "title": "LitServe",
                "versions": {"litserve": "0.2", "python": "3.11", "onnxruntime": "1", "numpy": "2"},
                "core_share": core_share,
                "plain_fastapi_per_second": list(plain_rates),
                "settings": peer_settings,
            }
        },
        "not_measured": {"ray": "Ray Serve is not installed; try"},
        "measured": {"rounds": 1, "seconds": 1.0, "connections": [1, 8]},
        "machine": {"class": "2 cores, x86_64 with AVX512-VNNI"},
        "versions": {"python": "3.11", "onnxruntime": "1"},
        **summary_of(rounds),
    }


def measured_settings() -> dict[str, Any]:
    return figures_of_rounds(PeerMeasurements([round_of(1000, defaults=500, batched=250)]), SETTINGS)


SETTINGS = (DEFAULTS, BATCHED)


def test_a_peer_is_measured_beside_service_and_plain_application(output: Output) -> None:
    found = output.figures["peers"]["fastapi"]["settings"][DEFAULTS]

    assert output.code == 0
    assert set(found["connections"]) == {"1", "4"}
    assert all(found["connections"][number]["ratio"] > 0 for number in ("1", "4"))
    assert all(len(found["connections"][number]["ratios"]) == 2 for number in ("1", "4"))
    assert found["p50_ratio"] > 0 < found["p99_ratio"]
    assert output.figures["service"]["connections"]["4"]["ratio"] > 0
    assert output.figures["plain_fastapi"]["connections"]["4"]["ratio"] == 1
    assert output.figures["peers"]["fastapi"]["versions"].keys() >= {"fastapi", "python", "onnxruntime"}


def test_the_table_names_what_was_measured_and_what_was_not(output: Output) -> None:
    assert "plain FastAPI (control)" in output.table
    assert "this service" in output.table
    assert (
        "not measured: LitServe is not installed; --peers litserve --install creates an environment for it"
        in output.table
    )
    assert output.figures["not_measured"].keys() == {"litserve"}


def test_the_report_says_when_how_and_where_it_was_measured(output: Output) -> None:
    assert output.report.startswith(BEGIN)
    assert f"Measured on {datetime.datetime.now(tz=datetime.UTC).date().isoformat()}" in output.report
    assert "`python -m benchmarks.peers --student" in output.report
    assert "--environments" not in output.report.splitlines()[2]
    assert machine_class() in output.report
    assert "| plain FastAPI (control) |" in output.report


def test_the_cores_are_given_back(output: Output) -> None:
    assert len(usable_cores()) == output.figures["machine"]["cores"]


def test_no_process_is_left(folder: Path, environment: Path) -> None:
    subject, python = MeasuredStudent(folder, load_texts()), python_of(environment, "fastapi")
    bench = PeerBenchmark(1, 0.1, 30, [], [], (1,))
    peer = PEERS["fastapi"]
    with bench.started(peer, DEFAULTS, python, folder, expected_of(subject)) as contender:
        assert contender.server is not None
        processes = contender.server.processes()

    assert processes
    assert not any((PROC / str(process.pid)).exists() for process in processes)


@pytest.mark.parametrize("keeps_running", [False, True])
def test_a_peer_is_stopped_while_others_are_measured_unless_it_is_to_keep_running(
    keeps_running: bool, folder: Path, environment: Path
) -> None:
    subject, peer = MeasuredStudent(folder, load_texts()), PEERS["fastapi"]
    bench = PeerBenchmark(1, 0.1, 30, [], [], (2,), keeps_running)
    python = python_of(environment, "fastapi")
    with bench.started(peer, DEFAULTS, python, folder, expected_of(subject)) as contender:
        found, stopped = PeerMeasurements(), []

        def look() -> None:
            assert contender.server is not None
            stopped.append({process.status() for process in contender.server.processes()} == {psutil.STATUS_STOPPED})

        bench.attempt(contender, found, look)
        look()

    assert stopped == [False, not keeps_running]
    assert not found.failures


def test_unknown_peers_are_named_with_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--peers", "litserve,flask"])

    assert stopped.value.code == 2
    assert "unknown: flask; allowed: fastapi, litserve, bentoml" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--peers", ","], ["--connections", "1,x"], ["--connections", "0"], ["--rounds", "0"]]
)
def test_bad_values_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(flags)

    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_connections_are_numbers_without_doubles() -> None:
    assert peers.parser().parse_args(["--connections", "32,1,32"]).connections == (32, 1)


@pytest.mark.usefixtures("nothing_installed")
def test_without_any_peer_nothing_is_measured(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--student", str(folder), "--peers", "bentoml,ray", "--environments", str(tmp_path)])

    said = capsys.readouterr()
    assert code == 2
    assert f"--peers bentoml --install creates an environment for it in {tmp_path}/bentoml" in said.err
    assert json.loads(said.out)["not_measured"].keys() == {"bentoml", "ray"}


def test_a_bad_student_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--student", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: not a student folder" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_installed")
def test_a_failed_installation_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(peer: Peer, environments: Path, base: Path) -> None:
        raise InstallError("ERROR: No matching distribution")

    monkeypatch.setattr(environments, "install", fail)

    code = main(["--student", str(folder), "--peers", "litserve", "--install", "--environments", str(tmp_path)])

    assert code == 2
    assert "LitServe can't be installed: ERROR: No matching distribution" in capsys.readouterr().err


def test_pips_last_words_are_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "python"
    pip.write_text("#!/bin/sh\necho 'ERROR: no such version'\necho 'WARNING: upgrade pip'\nexit 1\n")
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))

    with pytest.raises(InstallError, match=r"^ERROR: no such version$"):
        install(PEERS["litserve"], tmp_path / "new", Path("/bin/true"))


def test_a_missing_program_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)

    assert environments.missing_program(PEERS["torchserve"]) == (
        "TorchServe needs java (Debian's openjdk-17-jre-headless)"
    )
    assert environments.missing_program(PEERS["litserve"]) is None


def test_each_peer_pins_its_versions_and_runs_the_same_runtime() -> None:
    for peer in PEERS.values():
        assert all("==" in requirement for requirement in requirements_of(peer))
        assert any(requirement.startswith("onnxruntime==") for requirement in requirements_of(peer))
        assert peer.settings.keys() <= {DEFAULTS, BATCHED}
        names = [requirement.partition("==")[0] for requirement in requirements_of(peer)]
        assert len(names) == len(set(names)) >= len(BASE)


def test_an_interpreter_that_does_not_run_has_no_versions(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no program")

    assert versions_at(tmp_path / "python", ("numpy",)) == {}
    assert versions_at(tmp_path / "nowhere", ("numpy",)) == {}
    assert "numpy" in versions_at(Path(sys.executable), ("numpy", "no-such-package"))


def test_each_way_to_ask_brings_the_students_own_answer(folder: Path) -> None:
    student, text = Student.load(folder), Text(TEXT, "de-DE")
    expected, answer = scored(answer_of(student, TEXT, "de-DE")), answer_of(student, TEXT, "de-DE")

    assert expected.domain == "alarm"
    assert expected.slots
    for wire, reply in (
        (plain_json("/predict"), answer),
        (list_json("/predict", "items"), [answer]),
        (v2("nlu"), {"outputs": [{"data": [orjson.dumps(answer).decode()]}]}),
    ):
        assert TEXT.encode() in wire.body(text)
        assert wire.problem_of(expected, 200, orjson.dumps(reply)) is None
        wrong = answer_of(student, "spiel musik", "de-DE")
        replied = orjson.dumps(reply).replace(b"alarm", b"other")
        assert wire.problem_of(expected, 200, replied) == "answer differs from the student's own"
        assert wrong["domain"] != answer["domain"]
        assert wire.problem_of(expected, 200, b"{}") == "reply holds no answer"
        assert wire.problem_of(expected, 200, b"<html>") == "reply holds no answer"
        assert wire.problem_of(expected, 503, b"") == "HTTP 503"


def test_a_peer_that_answers_wrongly_is_not_measured(folder: Path, environment: Path) -> None:
    subject, peer = MeasuredStudent(folder, load_texts()), PEERS["fastapi"]
    wrong = {text: replace(answer, intent="other") for text, answer in expected_of(subject).items()}

    with (
        pytest.raises(LoadError, match=r"^defaults: answer differs from the student's own$"),
        PeerBenchmark(1, 0.1, 60, [], [], (1,)).started(
            peer, DEFAULTS, python_of(environment, "fastapi"), folder, wrong
        ),
    ):
        pass


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('starting'); sys.exit('ModuleNotFoundError: no litserve')"]

    with (
        pytest.raises(TargetError, match=r"^LitServe did not start: it stopped; last output: .*Error: no litserve$"),
        running("LitServe", command, None, tmp_path) as server,
    ):
        server.wait_until(lambda: "no reply", 30)


@pytest.mark.parametrize("how", ["new session", "other environment", "orphan"])
def test_processes_that_leave_are_found_suspended_and_stopped(how: str, tmp_path: Path) -> None:
    """As frameworks do: a child in a session of its own, without our environment, or whose parent has ended."""
    child = "import signal, sys; print('up', flush=True); signal.pause()"
    given = {"new session": "start_new_session=True", "other environment": "env={}", "orphan": "start_new_session=True"}
    then = "child.stdout.readline(); print('ready', flush=True)" + ("" if how == "orphan" else "; signal.pause()")
    parent = (
        "import signal, subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, {given[how]}); {then}"
    )
    with running("parent", [sys.executable, "-c", parent], None, tmp_path) as server:
        log = tmp_path / "output.log"
        if how == "orphan":
            wait_until(lambda: "the parent runs" if server.is_alive else None, 30)
        else:
            server.wait_until(lambda: None if b"ready" in log.read_bytes() else "not ready", 30)
        processes = server.processes()
        server.suspend()
        states = {_state(process.pid) for process in processes}
        server.resume()
        assert "T" not in {_state(process.pid) for process in processes}

    assert len(processes) == (1 if how == "orphan" else 2)
    assert states == {"T"}
    assert not [process for process in processes if (PROC / str(process.pid)).exists() and _state(process.pid) != "Z"]


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_an_interrupted_command_leaves_no_process(
    number: signal.Signals, folder: Path, environment: Path, tmp_path: Path
) -> None:
    flags = ["--student", str(folder), "--peers", "fastapi", "--environments", str(environment), "--rounds", "999"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers", *flags, "--connections", "1", "--seconds", "0.05"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PEERS_TEST": str(tmp_path)},
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # what a shell starts aside ignores it
    )
    with process:
        assert process.stderr is not None
        assert "starting" in process.stderr.readline()
        process.send_signal(number)
        try:
            process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 130
    mark = f"PEERS_TEST={tmp_path}".encode()
    assert not [pid for pid in os.listdir(PROC) if pid.isdecimal() and mark in _environ(pid)]


def test_ratios_are_taken_within_rounds_and_then_their_median() -> None:
    """A machine that is half as fast in one round changes rates, not ratios."""
    rounds = [round_of(1000, defaults=500), round_of(500, defaults=250), round_of(800, defaults=200)]

    figures = figures_of_rounds(PeerMeasurements(rounds), (DEFAULTS,))[DEFAULTS]

    assert figures["connections"]["8"]["ratio"] == 0.5
    assert figures["connections"]["8"]["ratios"] == [0.5, 0.5, 0.25]
    assert figures["connections"]["8"]["per_second"] == 250
    assert (figures["p50_ratio"], figures["p99_ratio"]) == (2.0, 2.0)
    assert summary_of(rounds)["service"]["connections"]["1"]["ratio"] == 2.0


def test_without_a_single_connection_there_is_no_latency() -> None:
    rounds = [{8: round_of(1000, defaults=500)[8]}]

    figures = figures_of_rounds(PeerMeasurements(rounds), (DEFAULTS,))[DEFAULTS]

    assert figures.keys() == {"connections"}


def test_a_setting_that_failed_is_reported_beside_the_others() -> None:
    found = PeerMeasurements([round_of(1000, defaults=500)], {BATCHED: "LitServe, batched ended: no such argument"})
    figures = figures_with(figures_of_rounds(found, SETTINGS))

    assert "LitServe, defaults" in (table := table_of(figures))
    assert "not measured: LitServe, batched: LitServe, batched ended: no such argument" in table
    assert len(problems_of(figures)) == 2


def test_the_table_has_a_row_for_each_setting() -> None:
    table = table_of(figures_with(measured_settings()))
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in table.splitlines() if re.search(r"\w\s{2,}\d", line))

    assert rows["LitServe, defaults"].split() == ["0.50", "0.50", "2.00", "2.00"]
    assert rows["LitServe, batched"].split() == ["0.25", "0.25", "4.00", "4.00"]
    assert rows["this service"].split() == ["2.00", "2.00", "0.50", "0.50"]
    assert "NOISY" not in table


def test_other_work_on_the_core_is_said() -> None:
    figures = figures_with(measured_settings(), core_share=0.9)

    said = "NOISY: other work took 10.0% of the server's core around LitServe; repeat"
    assert said in table_of(figures)
    assert said in report_of(figures, PEERS, "python -m benchmarks.peers", TODAY)


def test_a_varying_plain_application_is_reported() -> None:
    table = table_of(figures_with(measured_settings(), plain_rates=(800, 1000)))

    assert "NOISY: plain FastAPI itself varied from 800 to 1000 requests per second around LitServe; repeat" in table


def test_the_report_shows_how_far_rounds_differ() -> None:
    found = PeerMeasurements([round_of(1000, defaults=500), round_of(500, defaults=250), round_of(800, defaults=200)])
    report = report_of(figures_with(figures_of_rounds(found, (DEFAULTS,))), PEERS, "python -m benchmarks.peers", TODAY)

    assert "| LitServe | 0.50 (0.25 to 0.50) |" in report


def test_the_report_holds_table_settings_and_what_is_missing() -> None:
    report = report_of(figures_with(measured_settings()), PEERS, "python -m benchmarks.peers", TODAY)

    assert "Measured on 2026-01-02 by `python -m benchmarks.peers` on 2 cores, x86_64 with AVX512-VNNI" in report
    assert "| LitServe, batched | 0.25 | 0.25 | 4.00 | 4.00 |" in report
    assert "| LitServe | 0.2 | 3.11 | 1 | 2 | `LitServer(api, accelerator='cpu')` |" in report
    assert "- not measured: Ray Serve is not installed; try" in report
    assert "Plain FastAPI itself: 1000 / 1000 requests per second." in report


def test_a_new_report_replaces_the_old_one_between_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\n## More\n")

    write_report(path, "new\n")
    write_report(path, "newer\n")

    text = path.read_text()
    assert text == f"# Title\n\n{BEGIN}\n\nnewer\n\n{END}\n\n## More\n"


def test_the_last_line_that_tells_of_an_error_is_the_reason() -> None:
    assert error_line(["a", "ValueError: x", "bye"]) == "ValueError: x"
    assert error_line(["a", "bye"]) == "bye"
    assert error_line([]) == "nothing"


@pytest.mark.parametrize("name", [name for name in PEERS if name != "fastapi"])
def test_a_real_peer_answers_as_the_student_does(name: str, folder: Path) -> None:
    if not (made := os.environ.get(INSTALLED)):
        pytest.skip(f"needs a folder of environments that --install made, named by {INSTALLED}")
    place = environments.find(PEERS[name], Path(made))
    if place is None:
        pytest.skip(f"{name} is not installed in {made}")
    subject, peer, bench = MeasuredStudent(folder, load_texts()), PEERS[name], PeerBenchmark(1, 0.2, 240, [], [], (4,))
    for setting in peer.settings:
        with bench.started(peer, setting, place[0], folder, expected_of(subject)) as contender:
            assert bench.ask(contender, 4, 0.2).per_second > 0


def _state(pid: int) -> str:
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]


def _environ(pid: str) -> bytes:
    try:
        return (PROC / pid / "environ").read_bytes()
    except OSError:
        return b""
