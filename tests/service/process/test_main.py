"""The processes: how they start, refuse to start, and stop."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import uvloop

from service.__main__ import announcement, listen, reserve, url_of
from service.app import create_app
from service.process import worker
from service.process.channel import Report
from service.settings import Settings

KEY = "0123456789abcdef0123456789abcdef"
PATIENCE = 30.0
REQUEST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
ROOT = Path(__file__).parents[3]
Start = Callable[..., "Server"]


class Server:
    """A service in a process of its own, or in several: one worker that stops without delay, unless told otherwise."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", "--workers", "1", "--drain-delay", "0", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = 0

    def greeting(self) -> list[str]:
        """The lines that the service prints once its students are loaded."""
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().rstrip() for _ in range(5)]
        self.port = int(re.findall(r":(\d+)$", lines[1])[0])
        return lines

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Send a request on a connection of its own."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            connection.request(method, path, json.dumps(body) if body is not None else None, {"x-api-key": KEY})
            response = connection.getresponse()
            return response.status, response.read()

    def children(self) -> set[int]:
        """The ids of its worker processes, until it has taken note of their end."""
        return {number for number, (_, parent) in _processes().items() if parent == self.process.pid}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the process to stop and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it, however it is."""
        self.process.kill()
        self.process.communicate()


def _processes() -> dict[int, tuple[str, int]]:
    """State and parent of every process, by its id."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent = status.read_text().rsplit(") ", 1)[1].split()[:2]
            found[int(status.parent.name)] = state, int(parent)
    return found


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[Server] = []

    def begin(*arguments: str) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def refuse(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a service that must not start; return its exit code and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "service", "--log-level", "error", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
        env=os.environ | (environment or {}),
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_greets_answers_and_stops_cleanly(start: Start, students: Path) -> None:
    server = start("--students", str(students))

    lines = server.greeting()

    address = f"http://127.0.0.1:{server.port}"
    assert lines == [
        "READY with german, s",
        f"Address: {address}",
        f"Page:    {address}/",
        f"API:     {address}/docs",
        f"Try it:  curl -s {address}/v1/nlu -H 'content-type: application/json' "
        """-d '{"text":"weck mich am freitag um neun uhr auf","locale":"de-DE"}'""",
    ]
    body = json.loads(lines[-1].split(" -d ")[1].strip("'"))
    status, reply = server.ask("POST", "/v1/nlu", body)
    assert (status, json.loads(reply)["intent"]["name"]) == (200, "alarm_set")
    assert server.stop() == 0


def test_requests_in_flight_are_finished_at_a_stop(start: Start, students: Path) -> None:
    server = start("--students", str(students), "--max-batch", "4096", "--permits", "4096", "--drain-delay", "0.05")
    server.greeting()
    items = [{"text": "weck mich am freitag " * 10, "locale": "de-DE"}] * 4096
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(server.ask("POST", "/v1/nlu/batch", {"items": items})))

    asking.start()
    until(lambda: b'nlu_batch_size_count{model="s"} 1.0' in server.ask("GET", "/metrics")[1])
    code = server.stop()
    asking.join()

    assert code == 0
    assert answers[0][0] == 200
    assert len(json.loads(answers[0][1])["results"]) == len(items)


def test_refused_student_is_named_and_the_rest_served(start: Start, students: Path, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")
    (folder.parent / "german").symlink_to(students / "german")
    server = start("--students", str(folder.parent))

    assert server.greeting()[0].startswith(f"NOT READY: {folder}: model.onnx has sha256")

    assert server.ask("GET", "/livez")[0] == 200
    assert server.ask("GET", "/readyz")[0] == 503
    assert server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"})[0] == 200


def test_oversized_body_leaves_the_connection_usable(start: Start, students: Path) -> None:
    server = start("--students", str(students))
    server.greeting()

    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        connection.request("POST", "/v1/nlu", b" " * (2 << 20))
        assert connection.getresponse().status == 413

    assert server.ask("GET", "/livez")[0] == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_port_in_use_is_one_sentence(students: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        code, said = refuse("--students", str(students), "--port", port, "--workers", workers)

    assert code == 1
    assert said == f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port\n"


def test_reserved_port_is_taken_before_anybody_listens() -> None:
    with reserve(Settings(port=0)) as reserved:
        port = reserved.getsockname()[1]

        for take in (listen, reserve):
            with pytest.raises(OSError, match="Address already in use"):
                take(Settings(port=port))


@pytest.mark.parametrize(("name", "workers"), [("missing", "1"), ("empty", "1"), ("empty", "2")])
def test_no_students_is_one_sentence(tmp_path: Path, name: str, workers: str) -> None:
    (tmp_path / "empty").mkdir()

    code, said = refuse("--students", str(tmp_path / name), "--workers", workers, "--port", "0")

    assert code == 1
    assert said.startswith(f"error: {tmp_path / name}: no ")
    assert said.count("\n") == 1


def test_bad_flag_is_one_sentence() -> None:
    assert refuse("--prot", "1") == (2, "error: unknown argument --prot (did you mean --port?); see --help\n")


def test_bad_variable_is_one_sentence() -> None:
    code, said = refuse(environment={"NLU_MAX_BACH": "1"})

    assert code == 2
    assert said.startswith("error: unknown environment variable NLU_MAX_BACH (did you mean NLU_MAX_BATCH?)")
    assert said.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_during_start_up_is_clean(start: Start, students: Path, workers: str, number: int) -> None:
    server = start("--students", str(students), "--workers", workers)
    until(lambda: _handles_sigterm(server.process.pid))

    assert server.stop(number) == 0

    assert server.process.communicate() == ("", "")


def _handles_sigterm(process: int) -> bool:
    """Whether a process has got as far as having a handler; Python itself has one for SIGINT."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(re.findall(r"SigCgt:\s*(\w+)", status)[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_drains_before_it_stops_and_hurries_when_told_twice(start: Start, students: Path, workers: str) -> None:
    server = start("--students", str(students), "--workers", workers, "--drain-delay", "600")
    server.greeting()

    server.process.send_signal(signal.SIGTERM)

    until(lambda: {server.ask("GET", "/readyz")[0] for _ in range(10)} == {503})
    for _ in range(10):
        assert server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"})[0] == 200
    assert server.stop() == 0


def test_no_request_is_lost_while_load_balancers_look_elsewhere(start: Start, students: Path) -> None:
    server = start("--students", str(students), "--workers", "2", "--drain-delay", "600")
    server.greeting()
    gone = threading.Event()
    answers: list[int] = []

    def keep_asking() -> None:
        while not gone.is_set():
            answers.append(server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"})[0])

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for client in clients:
        client.start()
    until(lambda: len(answers) > 20)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.ask("GET", "/readyz")[0] == 503)
    gone.set()
    for client in clients:
        client.join()

    assert server.stop() == 0
    assert set(answers) == {200}


class LastMinute(worker.Server):
    """A server to which clients connect when it has accepted its last connection by itself."""

    clients: list[socket.socket]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        self.clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(8)]
        for client in self.clients[:4]:
            client.sendall(REQUEST)
        for client in self.clients[4:]:  # theirs is still on its way
            asyncio.get_running_loop().call_later(0.02, client.sendall, REQUEST)
        await super().shutdown(sockets)


def test_connections_that_wait_to_be_accepted_are_answered(students: Path) -> None:
    settings = Settings(students=students)
    server = LastMinute(create_app(settings), settings)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve_and_report(listener, lambda _: server.handle_exit(signal.SIGINT)))

    for client in server.clients:
        with client:
            client.settimeout(PATIENCE)
            assert client.recv(15) == b"HTTP/1.1 200 OK"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


@pytest.mark.parametrize(
    ("supervised", "signals", "closes", "drops"),
    [
        (False, [signal.SIGTERM], False, False),
        (False, [signal.SIGTERM, signal.SIGTERM], True, False),
        (True, [signal.SIGTERM, signal.SIGTERM], False, False),  # the supervisor may pass on what all were sent
        (True, [signal.SIGTERM, signal.SIGINT], True, False),
        (False, [signal.SIGINT], True, False),
        (False, [signal.SIGINT, signal.SIGTERM], True, False),
        (False, [signal.SIGINT, signal.SIGINT], True, True),
    ],
)
def test_what_signals_do(students: Path, supervised: bool, signals: list[int], closes: bool, drops: bool) -> None:
    settings = Settings(students=students, drain_delay=600)
    app = create_app(settings)
    app.state.loaded.set()
    server = worker.Server(app, settings, supervised=supervised)

    async def receive() -> None:
        for number in signals:
            server.handle_exit(number)

    asyncio.run(receive())

    assert app.state.registry.draining
    assert (server.should_exit, server.force_exit) == (closes, drops)


def test_reload_reaches_every_worker(start: Start, students: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY}\n")
    (tmp_path / "keys").chmod(0o600)
    root = folder.parent
    server = start("--students", str(root), "--workers", "2", "--api-keys-file", str(tmp_path / "keys"))
    server.greeting()
    (root / "german").symlink_to(students / "german")

    status, outcome = server.ask("POST", "/v1/models/reload")

    assert (status, json.loads(outcome)["workers"]) == (200, 2)
    served = [json.loads(server.ask("GET", "/v1/models")[1])["models"] for _ in range(20)]
    assert all([model["name"] for model in models] == ["german", "s"] for models in served)


def test_workers_leave_when_their_supervisor_is_killed(start: Start, students: Path) -> None:
    server = start("--students", str(students), "--workers", "2")
    assert server.greeting()[0] == "READY with german, s; 2 workers"
    workers = server.children()

    server.process.kill()

    assert len(workers) == 2
    until(lambda: all(_processes().get(worker, ("Z", 0))[0] == "Z" for worker in workers))


def test_greeting_unites_what_workers_say() -> None:
    one = Report(students=["german", "s"], reasons=[])
    other = Report(students=["s"], reasons=["german: no", "s: no"])

    assert announcement([one, one, one], "there")[0] == "READY with german, s; 3 workers"
    assert announcement([one, other, other], "there")[0] == "NOT READY: german: no; s: no"


@pytest.mark.parametrize(
    ("family", "host", "address"),
    [
        (socket.AF_INET, "127.0.0.1", "http://127.0.0.1:"),
        (socket.AF_INET, "0.0.0.0", "http://127.0.0.1:"),
        (socket.AF_INET6, "::1", "http://[::1]:"),
    ],
)
def test_address_is_one_to_click(family: socket.AddressFamily, host: str, address: str) -> None:
    if family == socket.AF_INET6 and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with socket.create_server((host, 0), family=family) as listener:
        assert url_of(listener).startswith(address)
