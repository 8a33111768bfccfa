"""A freshly trained student in a service process, over HTTP and in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.student.student import Prediction, Student

TEXT = "weck mich am freitag um neun uhr auf"


@pytest.fixture(scope="module")
def expected(student_folder: Path) -> Prediction:
    return Student.load(student_folder).predict(TEXT, locale="de-DE")


@pytest.fixture(scope="module")
def address(student_folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "service", "--students", str(student_folder), "--port", "0"]
    command += ["--workers", "1", "--drain-delay", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        assert next(server.stdout) == "READY with tiny\n"
        yield next(server.stdout).split(":", 1)[1].strip()
        server.terminate()
    assert server.returncode == 0


def test_a_freshly_trained_student_answers_over_http(address: str, expected: Prediction) -> None:
    body = json.dumps({"text": TEXT, "locale": "de-DE"}).encode()
    request = urllib.request.Request(f"{address}/v1/nlu", body, {"content-type": "application/json"})

    with urllib.request.urlopen(request, timeout=10) as reply:
        answer = json.load(reply)

    assert answer["domain"]["name"] == expected.domain[0].name  # type: ignore[index]
    assert answer["model"]["name"] == "tiny"
    assert [s["value"] for s in answer["slots"]] == [s.value for s in expected.slots or ()]
    assert all(TEXT[s["start"] : s["end"]] == s["value"] for s in answer["slots"])


def test_the_page_shows_the_answer_in_a_browser(address: str, expected: Prediction) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    flags += "--disable-component-update --disable-sync --virtual-time-budget=5000 --dump-dom"
    query = urllib.parse.urlencode({"text": TEXT, "locale": "de-DE"})

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium, *flags.split(), f"--user-data-dir={profile}", f"{address}/?{query}"]
        page = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert expected.domain[0].name in page  # type: ignore[index]
    assert "round trip" in page
