"""``python -m loadtest`` from end to end, against a stand-in server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from loadtest.__main__ import main
from loadtest.load.recorder import BATCH, SERVER_PHASES, SINGLE
from loadtest.load.target import TargetError, known_locales, running_service, wait_until_ready
from service import extras
from tests.loadtest.conftest import LOCALES, Reply, Serve
from tests.service.conftest import write_student

QUICK = ("--seconds", "1", "--users", "4", "--start-timeout", "30")


def run(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, table and figures of a short load test."""
    code = main([*flags, *QUICK])
    output = capsys.readouterr()
    assert output.out, output.err
    *table, last = output.out.splitlines()
    return code, "\n".join(table), json.loads(last)


def shift_slots(answer: Reply) -> Reply:
    for slot in answer.get("slots", ()):
        slot["start"] += 1
    return answer


def test_a_good_service_passes(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    code, table, figures = run(capsys, "--host", serve(), "--rate", "40", "--batch-share", "0.5")

    assert code == 0
    assert figures["failures"] == 0
    assert figures["asked_rate"] == 40
    assert figures["achieved_rate"] > 0
    assert figures["locales"] == LOCALES
    assert figures["rows"]["single inference"]["p99"] == 0.41
    assert figures["rows"]["batch total"]["p50"] == 0.47
    assert "asked 40.00/s" in table


def test_a_stall_shows_in_the_achieved_rate_and_since_due(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    url = serve(pause=0.3)

    code, _, figures = run(capsys, "--host", url, "--rate", "80", "--batch-share", "0")

    assert code == 0
    assert not figures["kept_up"]
    assert figures["achieved_rate"] < 40
    assert figures["rows"]["single since due"]["p99"] > figures["rows"]["single client"]["p99"]


def test_errors_fail_the_test(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    url = serve(tamper=lambda answer: JSONResponse({"error": {"code": "internal_error"}}, status_code=500))

    code, table, figures = run(capsys, "--host", url)

    assert code == 1
    assert figures["failures"] == figures["requests"] > 0
    assert figures["rows"] == {}
    assert "x HTTP 500 (internal_error)" in table


def test_wrong_answers_fail_the_test(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    code, table, _ = run(capsys, "--host", serve(tamper=shift_slots), "--batch-share", "0")

    assert code == 1
    assert "x slot value differs from text[start:end]" in table


def test_replies_that_never_come_fail_the_test(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, figures = run(capsys, "--host", serve(pause=2.0), "--reply-timeout", "0.5")

    assert code == 1
    assert figures["failures"] == figures["requests"] >= 4


def test_several_processes_share_users_and_rate(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, figures = run(capsys, "--host", serve(), "--rate", "40", "--processes", "2")

    assert code == 0
    assert figures["users"] == 4
    assert 0 < figures["achieved_rate"] < 60  # each process has half of the rate


def test_the_real_service_is_started_tested_and_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_student(tmp_path / "s")

    code, _, figures = run(capsys, "--students", str(tmp_path), "--rate", "40", "--batch-share", "0.5")

    assert code == 0, figures["failure_reasons"]
    assert figures["rows"].keys() >= {f"{kind} {phase}" for kind in (SINGLE, BATCH) for phase in SERVER_PHASES}
    with pytest.raises(TargetError):
        wait_until_ready(figures["host"], 0.1)


def test_texts_are_checked_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--texts", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_an_absent_service_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "http://127.0.0.1:9", "--start-timeout", "0.1"]) == 2
    assert "http://127.0.0.1:9/readyz can't be reached" in capsys.readouterr().err


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(TargetError, match=r"the service did not start: it stopped; last output: .*nowhere"),
        running_service(tmp_path / "nowhere", 60),
    ):
        pass


def test_a_student_that_is_not_loaded_is_refused(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", serve(), "--model", "xl"]) == 2
    assert "no student 'xl' is loaded; loaded: s" in capsys.readouterr().err


def test_the_default_students_locales_are_asked_for(serve: Serve) -> None:
    url = serve()
    wait_until_ready(url, 5)

    assert known_locales(url) == known_locales(url, "s") == LOCALES
    assert known_locales("http://127.0.0.1:9") is None


def test_missing_locust_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)

    assert main([]) == 2
    message = "error: locust is not installed; this command needs: pip install 'distilled-nlu[loadtest]'\n"
    assert capsys.readouterr().err == message


def test_the_command_leaves_the_process_unpatched() -> None:
    code = "import sys, loadtest.__main__; sys.exit(bool({'gevent', 'locust'} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
