"""Locust's own command with the step shape, against a stand-in server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from loadtest.load.report import table_of_steps
from loadtest.load.target import ROOT
from tests.loadtest.conftest import Serve

STEPS = "loadtest/locustfile.py,loadtest/load/step_load.py"


def locust(host: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", STEPS, "--host", host, "--headless", "--only-summary", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_users_and_rate_grow_in_steps_and_each_is_reported(serve: Serve) -> None:
    found = locust(
        serve(), "--users", "4", "--rate", "40", "--steps", "2", "--step-seconds", "1.5", "--batch-share", "0"
    )

    assert found.returncode == 0, found.stderr
    head = found.stdout.index("users  asked/s  achieved/s")
    steps = [line.split() for line in found.stdout[head:].splitlines()[1:3]]
    assert [(int(users), float(asked)) for users, asked, *_ in steps] == [(2, 20.0), (4, 40.0)]
    assert all(float(achieved) > 0 for _, _, achieved, *_ in steps)
    assert "4 users" in found.stdout  # the table is that of the last step
    assert "asked 40.00/s" in found.stdout


def test_a_wrong_weight_of_a_locale_is_refused(serve: Serve) -> None:
    found = locust(serve(), "--locales", "de-DE=-1")

    assert found.returncode != 0
    assert "'-1' should be a number above 0" in found.stderr


@pytest.mark.parametrize("rate", [None, 100.0])
def test_the_table_of_steps_marks_steps_that_were_not_kept_up(rate: float | None) -> None:
    step: dict[str, Any] = {"users": 3, "asked_rate": rate, "achieved_rate": 60.0, "failures": 2, "rows": {}}
    step["kept_up"] = None if rate is None else False
    head, line = table_of_steps([step]).splitlines()

    assert head.split() == ["users", "asked/s", "achieved/s", "failures", "p50", "ms", "p99", "ms"]
    assert line.split()[:6] == ["3", "-" if rate is None else "100.0", "60.0", "2", "-", "-"]
    assert ("not kept up" in line) == (rate is not None)


def test_each_client_has_one_locale_drawn_by_weight(serve: Serve) -> None:
    script = """
import collections
from loadtest.locustfile import RunState
from loadtest.load.options import Options
from loadtest.load.texts import Selection, Text
run = RunState()
texts = [Text("hallo", "de-DE"), Text("bonjour", "fr-FR"), Text("salut", "fr-FR")]
run.start(Options(locales="de-DE=9,fr-FR"), Selection(texts, []))
run.draw.seed(1)
drawn = [run.new_locale() for _ in range(1000)]
print(*drawn)
assert {text.locale for text in run.choose("fr-FR", 50)} == {"fr-FR"}
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    drawn = Counter(re.findall(r"\S+", done.stdout))

    assert drawn["de-DE"] == pytest.approx(900, abs=60)
    assert drawn.total() == 1000
