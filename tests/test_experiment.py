"""Two students in one service under load: a split, a shadow, a comparison, and an experiment with a worse arm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.conftest import write_student
from tests.service.server import ROOT, Server, until

EXPERIMENT = """
name = "{name}"
[arms.control]
model = "s"
weight = {control}
[arms.candidate]
model = "xs"
weight = {candidate}
[shadow]
model = "xs"
share = 0.5
[friction]
rephrase_seconds = 1
session_seconds = 2
confidence = 0.0
"""


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two students."""
    root = tmp_path_factory.mktemp("two")
    write_student(root / "s")
    write_student(root / "xs", "xs")
    return root


@pytest.fixture
def serve(students: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start the service with an experiment."""
    started = []

    def start(name: str, control: int, candidate: int) -> Server:
        file = tmp_path / f"{name}.toml"
        file.write_text(EXPERIMENT.format(name=name, control=control, candidate=candidate))
        server = Server("--students", str(students), "--experiment-file", str(file))
        started.append(server)
        return server.__enter__()

    yield start
    for server in started:
        server.__exit__()


def run(module: str, *arguments: str) -> Any:
    """The last line of a command's output."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return json.loads(done.stdout.splitlines()[-1])


def judge(server: Server, users: int, *arguments: str) -> Any:
    """The result of `loadtest.experiment` once all sessions have ended."""
    until(lambda: server.metric("nlu_session_moments_total", moment="sessions") == users)
    return run("loadtest.experiment", "--host", f"http://127.0.0.1:{server.port}", *arguments)


def test_split_and_shadow_under_locust_load(serve: Callable[..., Server]) -> None:
    server = serve("split", 90, 10)

    load = run(
        *("loadtest", "--host", f"http://127.0.0.1:{server.port}", "--users", "4", "--seconds", "3", "--rate", "150"),
    )

    assert load["failures"] == 0
    control, candidate = (server.metric("nlu_turns_total", arm=arm) for arm in ("control", "candidate"))
    assert 0.01 < candidate / (control + candidate) < 0.35
    assert server.metric("nlu_turn_seconds_count", arm="control", model="s") == control
    same = server.metric("nlu_shadow_total", primary="s", shadow="xs", task="exact", agreement="same")
    assert same > 0
    assert server.metric("nlu_shadow_total", agreement="different") == 0
    judged = run("loadtest.experiment", "--host", f"http://127.0.0.1:{server.port}")
    assert judged["arms"]["candidate"]["models"] == ["xs"]


def test_students_are_compared_side_by_side(serve: Callable[..., Server]) -> None:
    server = serve("side", 1, 1)

    reply = server.ask("POST", "/v1/compare", {"text": "wetter in berlin", "locale": "de-DE"})

    comparison = json.loads(reply.content)
    assert list(comparison["results"]) == ["s", "xs"]
    assert comparison["agreement"]["exact"] is True
    assert all(result["timings_ms"]["inference"] > 0 for result in comparison["results"].values())


@pytest.mark.parametrize(("candidate", "worse"), [(0.35, True), (0.10, False)])
def test_only_a_worse_student_is_reported_as_worse(serve: Callable[..., Server], candidate: float, worse: bool) -> None:
    users = 600
    server = serve("worse" if worse else "equal", 50, 50)

    played = run(
        "loadtest.population",
        *("--host", f"http://127.0.0.1:{server.port}", "--clients", str(users), "--seed", "1"),
        *("--friction", f"control=0.10,candidate={candidate}"),
    )
    judged = judge(server, users)

    (comparison,) = judged["comparisons"]
    assert played["failures"] == 0
    assert judged["arms"]["control"]["sessions"] + judged["arms"]["candidate"]["sessions"] == users
    assert comparison["is_shown"] is worse
    assert ("candidate is worse than control" in comparison["verdict"]) is worse
