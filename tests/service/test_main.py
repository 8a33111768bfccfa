"""The process: how it starts, refuses to start, and stops."""

from __future__ import annotations

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
from contextlib import closing
from pathlib import Path

import pytest

from service.__main__ import address_of

PATIENCE = 30.0
ROOT = Path(__file__).parents[2]
Start = Callable[..., "Server"]


class Server:
    """A service in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", *arguments],
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
            connection.request(method, path, json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            return response.status, response.read()

    def stop(self) -> int:
        """Ask the process to stop and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def start() -> Iterator[Start]:
    servers: list[Server] = []

    def begin(*arguments: str) -> Server:
        servers.append(Server(*arguments))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.kill()
        server.process.communicate()


def refuse(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a service that must not start; return its exit code and what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "service", *arguments],
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
    server = start("--students", str(students), "--max-batch", "4096", "--permits", "4096")
    server.greeting()
    items = [{"text": "weck mich am freitag " * 10, "locale": "de-DE"}] * 4096
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(server.ask("POST", "/v1/nlu/batch", {"items": items})))

    asking.start()
    deadline = time.monotonic() + PATIENCE
    while b'nlu_batch_size_count{model="s"} 1.0' not in server.ask("GET", "/metrics")[1]:
        assert time.monotonic() < deadline
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


def test_port_in_use_is_one_sentence(students: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        code, said = refuse("--students", str(students), "--port", port)

    assert code == 1
    assert said == f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port\n"


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_students_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()

    code, said = refuse("--students", str(tmp_path / name))

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
        assert address_of(listener).startswith(address)
