"""The supervisor, with scripts as workers: they send real messages, but start fast and fail on demand."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.process import supervisor as module
from service.process.channel import Channel, Report, StartError
from service.process.supervisor import Supervisor, merge_outcomes, pause_after
from service.settings import Settings

PATIENCE = 20.0
ROOT = Path(__file__).parents[3]
PRELUDE = """
import json, os, signal, socket, sys
from pathlib import Path
task = json.loads(sys.argv[1])
notes = Path(task["settings"]["students"])
line = socket.socket(fileno=task["channel"]).makefile("rw")

def tell(**message):
    print(json.dumps(message), file=line, flush=True)

def note(word):
    with (notes / task["name"]).open("a") as file:
        print(word, file=file)

def load():
    tell(loaded={"students": ["s", task["name"]], "reasons": []})

def serve():
    load()
    stay()

def stay():
    for text in line:
        answer(json.loads(text))

def answer(message):
    pass

note("started")
"""
STOPS = """
def stop(number, _):
    note(signal.Signals(number).name)
    sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
"""


Play = Callable[..., "Scene"]


class Scene:
    """A supervisor of two scripted workers, in the test's event loop; stopped at the end."""

    def __init__(self, command: Sequence[str], notes: Path, bound: socket.socket, **settings: float) -> None:
        self.notes = notes
        self.address = bound.getsockname()
        self.stopped = False
        self.announced: list[Sequence[Report]] = []
        self.died: list[str] = []
        self.hangs = 0
        given = Settings(students=notes, drain_delay=0, drain_seconds=1, **settings)  # type: ignore[arg-type]
        self.supervisor = Supervisor(command, given, 2, bound, self.announced.append)

    def play(self, act: Callable[[Scene], Coroutine[Any, Any, None]]) -> int:
        """Run the supervisor and a test's coroutine concurrently; return the supervisor's exit code."""

        async def both() -> int:
            running = asyncio.create_task(self.supervisor.run(self.died.append, self.count_hang))
            acting = asyncio.create_task(act(self))
            await asyncio.wait({running, acting}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and not self.stopped:
                self.stop(signal.SIGTERM)
            code = await asyncio.wait_for(running, PATIENCE)
            await acting
            return code

        return asyncio.run(both())

    def count_hang(self) -> None:
        """Count a worker that hung."""
        self.hangs += 1

    def stop(self, number: int) -> None:
        """Stop the supervisor."""
        self.stopped = True
        self.supervisor.stop(number)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)

    async def until_all_serve(self) -> None:
        """Wait for the announcement."""
        await self.until(lambda: bool(self.announced))

    def noted(self, worker: int) -> list[str]:
        """The notes of a worker's processes."""
        file = self.notes / f"worker{worker}"
        return file.read_text().split("\n")[:-1] if file.exists() else []


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    """Create a scene with a script for its workers, or another command."""

    def build(script: str, *command: str, **settings: float) -> Scene:
        return Scene(command or [sys.executable, "-S", "-c", PRELUDE + script], tmp_path, bound, **settings)

    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", 0))
        yield build


async def nothing(scene: Scene) -> None:
    await asyncio.Event().wait()


def test_announces_once_when_every_worker_serves(play: Play) -> None:
    scene = play("serve()")

    assert scene.play(Scene.until_all_serve) == 0

    students = [report["students"] for report in scene.announced[0]]
    assert (students, len(scene.announced)) == ([["s", "worker0"], ["s", "worker1"]], 1)
    assert scene.died == []


def test_workers_get_the_address_to_listen_on(play: Play) -> None:
    scene = play("note(task['family']), note(task['address']), note(task['patient']), serve()")

    scene.play(Scene.until_all_serve)

    address = str(list(scene.address))
    assert scene.noted(0) == ["started", str(int(socket.AF_INET)), address, "False"]


def test_dead_worker_is_counted_and_replaced_by_a_patient_one(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    scene = play(
        """
note(task["patient"])
def answer(message):
    os._exit(3)
serve()
"""
    )

    async def act(scene: Scene) -> None:
        await scene.until_all_serve()
        scene.supervisor.workers[1].channel.send(reload=0)  # type: ignore[union-attr]
        await scene.until(lambda: scene.supervisor.workers[1].report is None)
        await scene.until(lambda: scene.supervisor.workers[1].report is not None)

    assert scene.play(act) == 0
    assert scene.noted(1) == ["started", "False", "started", "True"]
    assert scene.noted(0) == ["started", "False"]
    assert scene.died == ["worker1"]
    assert len(scene.announced) == 1
    assert ("service", logging.ERROR, "worker1 died: exit code 3") in caplog.record_tuples


def test_killed_worker_is_named_with_its_signal(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    scene = play("serve() if task['patient'] or task['name'] == 'worker0' else (load(), os.kill(os.getpid(), 9))")

    async def act(scene: Scene) -> None:
        await scene.until(lambda: len(scene.noted(1)) > 1)

    assert scene.play(act) == 0
    assert "worker1 died: SIGKILL" in caplog.messages


def test_workers_that_never_start_end_the_service(play: Play) -> None:
    scene = play("sys.exit(5)")

    with pytest.raises(StartError, match="each died 3 times, the last with exit code 5; see the log"):
        scene.play(nothing)

    assert len(scene.noted(0)) >= 3
    assert len(scene.noted(1)) >= 3


def test_command_that_cannot_run_ends_the_service(play: Play) -> None:
    scene = play("", "/nowhere/python")

    with pytest.raises(StartError, match="No such file or directory: '/nowhere/python'"):
        scene.play(nothing)


def test_refusal_is_the_reason_and_is_not_retried(play: Play) -> None:
    scene = play("tell(refused='nowhere: no such folder') if task['name'] == 'worker0' else stay()")

    with pytest.raises(StartError, match="nowhere: no such folder"):
        scene.play(nothing)

    assert scene.noted(0) == ["started"]


def test_reload_reaches_every_worker_and_the_caller_gets_the_outcome(play: Play) -> None:
    scene = play(
        """
def answer(message):
    if "reload" in message:
        refused = ["both", task["name"]]
        tell(reloaded=message["reload"], outcome={"students": [task["name"]], "refused": refused})
    else:
        note(json.dumps(message))
load()
if task["name"] == "worker1":
    tell(reload=7)
stay()
"""
    )

    async def act(scene: Scene) -> None:
        await scene.until(lambda: len(scene.noted(1)) > 1)

    scene.play(act)

    outcome = '{"students": ["worker0"], "refused": ["both", "worker0", "worker1"], "workers": 2}'
    assert scene.noted(1) == ["started", f'{{"reloaded": 7, "outcome": {outcome}}}']
    assert scene.noted(0) == ["started"]


@pytest.mark.parametrize(
    ("reaction", "refused"),
    [("os._exit(1)", []), ("tell(reloaded=message['reload'], failed='OSError')", ["worker0: OSError"])],
)
def test_worker_that_dies_or_fails_at_a_reload_is_not_waited_for(play: Play, reaction: str, refused: list[str]) -> None:
    scene = play(
        f"""
def answer(message):
    if task["name"] == "worker0":
        {reaction}
    elif "reload" in message:
        tell(reloaded=message["reload"], outcome={{"students": [], "refused": []}})
    else:
        note(json.dumps(message["outcome"]))
load()
if task["name"] == "worker1":
    tell(reload=0)
stay()
"""
    )

    async def act(scene: Scene) -> None:
        await scene.until(lambda: len(scene.noted(1)) > 1)

    scene.play(act)

    assert json.loads(scene.noted(1)[1]) == {"students": [], "refused": refused, "workers": 1}


def test_reload_that_fails_everywhere_is_a_failure(play: Play) -> None:
    scene = play(
        """
def answer(message):
    if "reload" in message:
        tell(reloaded=message["reload"], failed="OSError")
    else:
        note(message["failed"])
load()
if task["name"] == "worker1":
    tell(reload=0)
stay()
"""
    )

    async def act(scene: Scene) -> None:
        await scene.until(lambda: len(scene.noted(1)) > 1)

    scene.play(act)

    assert scene.noted(1) == ["started", "ReloadError"]


def test_reload_of_a_signal_reaches_every_worker(play: Play) -> None:
    scene = play(
        """
def answer(message):
    note("reload")
    tell(reloaded=message["reload"], outcome={"students": [], "refused": []})
serve()
"""
    )

    async def act(scene: Scene) -> None:
        await scene.until_all_serve()
        for _ in range(10):  # one runs, and one that waits will see all changes
            scene.supervisor.reload_soon()
        await scene.until(lambda: scene.noted(0) == scene.noted(1) == ["started", "reload", "reload"])

    assert scene.play(act) == 0


def test_worker_without_a_heartbeat_is_killed_counted_and_replaced(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    scene = play("load(), tell(alive=True), stay()", hang_seconds=0.2)

    async def act(scene: Scene) -> None:
        await scene.until(lambda: len(scene.noted(0)) > 1 and len(scene.noted(1)) > 1)

    assert scene.play(act) == 0
    assert scene.hangs >= 2
    assert {"worker0", "worker1"} <= set(scene.died)
    assert "worker0 died: SIGKILL" in caplog.messages
    assert any(message.startswith("worker0 hangs: no heartbeat for") for message in caplog.messages)


def test_worker_that_hangs_before_its_first_heartbeat_is_killed(play: Play) -> None:
    scene = play("stay()", load_seconds=0.2, hang_seconds=0.1)

    with pytest.raises(StartError, match="each died 3 times, the last with SIGKILL"):
        scene.play(nothing)

    assert scene.hangs >= 3


def test_worker_with_heartbeats_lives(play: Play) -> None:
    scene = play(
        """
import threading
load()
for beat in range(20):
    tell(alive=True)
    threading.Event().wait(0.05)
note("lives")
stay()
""",
        hang_seconds=0.5,
    )

    async def act(scene: Scene) -> None:
        await scene.until(lambda: "lives" in scene.noted(0) and "lives" in scene.noted(1))

    assert scene.play(act) == 0
    assert (scene.died, scene.hangs) == ([], 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_is_passed_on(play: Play, number: signal.Signals) -> None:
    scene = play(STOPS + "serve()")

    async def act(scene: Scene) -> None:
        await scene.until_all_serve()
        scene.stop(number)

    assert scene.play(act) == 0
    assert scene.noted(0) == scene.noted(1) == ["started", number.name]
    assert scene.died == []


def test_second_sigterm_is_passed_on_as_sigint_and_a_third_is_ignored(play: Play) -> None:
    scene = play(
        "signal.signal(signal.SIGINT, lambda *_: note('SIGINT'))" + STOPS.replace("sys.exit(0)", "") + "serve()"
    )

    async def act(scene: Scene) -> None:
        await scene.until_all_serve()
        for noted in (["SIGTERM"], ["SIGTERM", "SIGINT"], ["SIGTERM", "SIGINT"]):
            scene.stop(signal.SIGTERM)
            await scene.until(lambda noted=["started", *noted]: scene.noted(0) == scene.noted(1) == noted)  # type: ignore[misc]
        for worker in scene.supervisor.workers:
            worker.signal(signal.SIGKILL)

    assert scene.play(act) == 0
    assert scene.noted(0) == scene.noted(1) == ["started", "SIGTERM", "SIGINT"]


def test_worker_that_still_starts_is_not_interrupted_but_terminated(play: Play) -> None:
    scene = play(STOPS + "note('starts')\nstay()")

    async def act(scene: Scene) -> None:
        await scene.until(lambda: "starts" in scene.noted(0) and "starts" in scene.noted(1))
        scene.stop(signal.SIGINT)

    assert scene.play(act) == 0
    assert scene.noted(0) == ["started", "starts", "SIGTERM"]


def test_worker_that_does_not_stop_is_killed(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_MARGIN", -0.9)  # less than the second that requests get
    scene = play("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()")

    assert scene.play(Scene.until_all_serve) == 1


@given(st.integers(0, 10_000))
def test_pause_grows_and_is_bounded(failures: int) -> None:
    assert pause_after(0) == pause_after(1) == 0
    assert pause_after(failures) <= pause_after(failures + 1) <= 5
    assert pause_after(100) == 5


def test_outcomes_are_merged() -> None:
    one, other = {"students": [1], "refused": ["a"]}, {"students": [2], "refused": ["b", "a"]}

    assert merge_outcomes([one, other], ["c"]) == {"students": [1], "refused": ["a", "b", "c"], "workers": 2}


def test_reload_does_not_wait_for_an_end_that_has_closed() -> None:
    async def reload() -> None:
        ours, theirs = socket.socketpair()
        channel = await Channel.open(ours)
        reloading = asyncio.create_task(channel.reload())
        listening = asyncio.create_task(channel.listen(channel.reload))
        await asyncio.sleep(0)
        theirs.sendall(b'{"reloaded": 0, "outc')
        theirs.close()
        await listening
        for pending in (reloading, channel.reload()):
            with pytest.raises(ConnectionError):
                await pending
        await channel.close()

    asyncio.run(reload())


def test_supervisor_loads_no_student_library() -> None:
    heavy = {"onnxruntime", "tokenizers", "numpy", "fastapi"}
    program = f"import sys, service.process.supervisor; print({heavy} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
