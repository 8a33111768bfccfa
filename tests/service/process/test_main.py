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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import uvloop

from service.__main__ import announcement, reserve, url_of
from service.app import create_app
from service.process import worker
from service.process.channel import Report
from service.settings import Settings
from service.student.student import Student
from tests.service.server import PATIENCE, ROOT, Reply, Server, until

KEY = {"x-api-key": "0123456789abcdef0123456789abcdef"}
REQUEST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
Start = Callable[..., Server]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(*arguments: str) -> Server:
            server = Server(*arguments)
            stack.push(server.__exit__)
            return server

        yield begin


def refuse(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a service that must not start; return its exit code and standard error."""
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


def test_announces_answers_and_stops_cleanly(start: Start, students: Path) -> None:
    server = start("--students", str(students))

    lines = server.announcement()

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
    reply = server.ask("POST", "/v1/nlu", body)
    assert (reply.status, json.loads(reply.content)["intent"]["name"]) == (200, "alarm_set")
    assert server.stop() == 0


def test_requests_in_flight_are_finished_at_a_stop(start: Start, students: Path) -> None:
    server = start("--students", str(students), "--max-batch", "4096", "--permits", "4096", "--drain-delay", "0.05")
    server.announcement()
    items = [{"text": "weck mich am freitag " * 10, "locale": "de-DE"}] * 4096
    answers: list[Reply] = []
    asking = threading.Thread(target=lambda: answers.append(server.ask("POST", "/v1/nlu/batch", {"items": items})))

    asking.start()
    until(lambda: server.metric("nlu_batch_size_count", model="s") == 1)
    code = server.stop()
    asking.join()

    assert code == 0
    assert answers[0].status == 200
    assert len(json.loads(answers[0].content)["results"]) == len(items)


def test_refused_student_is_named_and_the_rest_served(start: Start, students: Path, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")
    (folder.parent / "german").symlink_to(students / "german")
    server = start("--students", str(folder.parent))

    assert server.announcement()[0].startswith(f"NOT READY: {folder}: model.onnx has sha256")

    assert server.ask("GET", "/livez").status == 200
    assert server.ask("GET", "/readyz").status == 503
    assert server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"}).status == 200


def test_oversized_body_leaves_the_connection_usable(start: Start, students: Path) -> None:
    server = start("--students", str(students))
    server.announcement()

    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)) as connection:
        connection.request("POST", "/v1/nlu", b" " * (2 << 20), {"content-type": "application/json"})
        assert connection.getresponse().status == 413

    assert server.ask("GET", "/livez").status == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_port_in_use_is_one_sentence(students: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        code, error = refuse("--students", str(students), "--port", port, "--workers", workers)

    assert code == 1
    assert error == f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def port_of_closing_connections() -> int:
    """A port at which an earlier service listened, whose connections the system has not forgotten yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            listener.accept()[0].close()
            assert client.recv(1) == b""
        return int(listener.getsockname()[1])


def reserve_at_once(settings: Settings, services: int) -> tuple[list[socket.socket], list[str]]:
    """Reserve an address several times at once; returns the sockets, and the errors of those that failed."""
    at_once = threading.Barrier(services)
    reserved: list[socket.socket] = []
    errors: list[str] = []

    def start_one() -> None:
        at_once.wait(PATIENCE)
        try:
            reserved.append(reserve(settings))
        except OSError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=start_one) for _ in range(services)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reserved, errors


@pytest.mark.parametrize("choose", [free_port, port_of_closing_connections])
def test_one_of_several_services_that_start_at_once_gets_the_port(choose: Callable[[], int]) -> None:
    for _ in range(50):
        settings = Settings(port=choose())

        reserved, errors = reserve_at_once(settings, services=4)

        sentence = f"cannot listen on 127.0.0.1:{settings.port}: Address already in use; choose another with --port"
        assert errors == [sentence] * 3
        with reserved[0], pytest.raises(OSError, match="Address already in use"):  # before a worker listens, too
            reserve(settings)


def test_reserved_port_refuses_connections_and_admits_workers() -> None:
    with reserve(Settings(port=0)) as reserved:
        address = reserved.getsockname()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

        with ExitStack() as workers:
            for _ in range(2):
                listener = workers.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listener.bind(address)
                listener.listen()
            socket.create_connection(address).close()
            with pytest.raises(OSError, match="Address already in use"):
                reserve(Settings(port=address[1]))


@pytest.mark.parametrize(("name", "workers"), [("missing", "1"), ("empty", "1"), ("empty", "2")])
def test_no_students_is_one_sentence(tmp_path: Path, name: str, workers: str) -> None:
    (tmp_path / "empty").mkdir()

    code, error = refuse("--students", str(tmp_path / name), "--workers", workers, "--port", "0")

    assert code == 1
    assert error.startswith(f"error: {tmp_path / name}: no ")
    assert error.count("\n") == 1


WITHOUT_SPACE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from service.__main__ import main
sys.exit(main(["--log-level", "error", "--workers", "2", "--port", "0", "--students", sys.argv[1]]))
"""


def test_no_folder_for_metrics_is_one_sentence(students: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SPACE, str(students)], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no folder for the metrics of several workers, with 3 MiB: /dev/shm: ")
    assert done.stderr.count("\n") == 1


def test_bad_flag_is_one_sentence() -> None:
    assert refuse("--prot", "1") == (2, "error: unknown argument --prot (did you mean --port?); see --help\n")


def test_bad_variable_is_one_sentence() -> None:
    code, error = refuse(environment={"NLU_MAX_BACH": "1"})

    assert code == 2
    assert error.startswith("error: unknown environment variable NLU_MAX_BACH (did you mean NLU_MAX_BATCH?)")
    assert error.count("\n") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_during_start_up_is_clean(start: Start, students: Path, workers: str, number: int) -> None:
    server = start("--students", str(students), "--workers", workers)
    until(lambda: _handles_sigterm(server.process.pid))

    assert server.stop(number) == 0

    assert server.process.stdout is not None
    assert (server.process.stdout.read(), server.log()) == ("", "")


def _handles_sigterm(process: int) -> bool:
    """Whether a process has a handler; for SIGINT Python itself has one."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(re.findall(r"SigCgt:\s*(\w+)", status)[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_drains_before_it_stops_and_a_second_signal_ends_the_drain(start: Start, students: Path, workers: str) -> None:
    server = start("--students", str(students), "--workers", workers, "--drain-delay", "600")
    server.announcement()

    server.process.send_signal(signal.SIGTERM)

    until(lambda: {server.ask("GET", "/readyz").status for _ in range(10)} == {503})
    for _ in range(10):
        assert server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"}).status == 200
    assert server.stop() == 0


def test_no_request_is_lost_while_draining(start: Start, students: Path) -> None:
    server = start("--students", str(students), "--workers", "2", "--drain-delay", "600")
    server.announcement()
    stopped = threading.Event()
    answers: list[int] = []

    def keep_asking() -> None:
        while not stopped.is_set():
            answers.append(server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"}).status)

    clients = [threading.Thread(target=keep_asking) for _ in range(4)]
    for client in clients:
        client.start()
    until(lambda: len(answers) > 20)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.ask("GET", "/readyz").status == 503)
    stopped.set()
    for client in clients:
        client.join()

    assert server.stop() == 0
    assert set(answers) == {200}


class LastMinute(worker.Server):
    """A server to which clients connect after the event loop has accepted its last connection."""

    clients: list[socket.socket]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert sockets
        self.clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(8)]
        for client in self.clients[:4]:
            client.sendall(REQUEST)
        for client in self.clients[4:]:  # their requests arrive later
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


@pytest.mark.parametrize("supervised", [False, True])
def test_connections_are_refused_until_the_students_are_loaded(
    students: Path, supervised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, may_load, load = threading.Event(), threading.Event(), Student.load

    def load_later(folder: Path) -> Student:
        loading.set()
        assert may_load.wait(PATIENCE)
        return load(folder)

    async def start_and_connect() -> bytes:
        loaded = asyncio.Event()
        serving = asyncio.create_task(server.serve_and_report(listener, lambda _: loaded.set()))
        assert await asyncio.to_thread(loading.wait, PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*listener.getsockname())
        may_load.set()
        await loaded.wait()
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(REQUEST.replace(b"livez", b"readyz"))
        status = await reader.readline()
        writer.close()
        server.handle_exit(signal.SIGINT)
        await serving
        return status

    monkeypatch.setattr(Student, "load", load_later)
    settings = Settings(students=students)
    server = worker.Server(create_app(settings), settings, supervised=supervised)
    with socket.socket() as listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        listener.bind(("127.0.0.1", 0))

        assert runner.run(start_and_connect()) == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("supervised", "signals", "closes", "drops"),
    [
        (False, [signal.SIGTERM], False, False),
        (False, [signal.SIGTERM, signal.SIGTERM], True, False),
        (True, [signal.SIGTERM, signal.SIGTERM], False, False),  # the supervisor may pass on a signal that all received
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
    (tmp_path / "keys").write_text(KEY["x-api-key"])
    (tmp_path / "keys").chmod(0o600)
    root = folder.parent
    server = start("--students", str(root), "--workers", "2", "--api-keys-file", str(tmp_path / "keys"))
    server.announcement()
    (root / "german").symlink_to(students / "german")

    reply = server.ask("POST", "/v1/models/reload", headers=KEY)

    assert (reply.status, json.loads(reply.content)["workers"]) == (200, 2)
    served = [json.loads(server.ask("GET", "/v1/models", headers=KEY).content)["models"] for _ in range(20)]
    assert all([model["name"] for model in models] == ["german", "s"] for models in served)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_reloads_every_process(start: Start, students: Path, folder: Path, workers: str) -> None:
    server = start("--students", str(folder.parent), "--workers", workers)
    server.announcement()
    (folder.parent / "german").symlink_to(students / "german")

    server.process.send_signal(signal.SIGHUP)

    until(lambda: server.metric("nlu_reloads_total", outcome="done") == int(workers))
    served = [json.loads(server.ask("GET", "/v1/models").content)["models"] for _ in range(10)]
    assert all([model["name"] for model in models] == ["german", "s"] for models in served)
    assert server.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_other_signals_end_no_process(start: Start, students: Path, workers: str) -> None:
    server = start("--students", str(students), "--workers", workers)
    until(lambda: _handles_sigterm(server.process.pid))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # while it starts
        server.process.send_signal(number)
    server.announcement()
    processes = {server.process.pid, *server.children()}

    for process in processes:
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
            os.kill(process, number)

    assert server.ask("GET", "/readyz").status == 200
    assert {server.process.pid, *server.children()} == processes
    assert server.metric("nlu_worker_deaths_total") == 0
    assert server.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigquit_drains(start: Start, students: Path, workers: str) -> None:
    server = start("--students", str(students), "--workers", workers, "--drain-delay", "600")
    server.announcement()

    server.process.send_signal(signal.SIGQUIT)

    until(lambda: {server.ask("GET", "/readyz").status for _ in range(10)} == {503})
    assert server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"}).status == 200
    assert server.stop() == 0


HANGING = """
import sys, threading
from service.models import registry

def load(folder):
    print("hangs", file=sys.stderr, flush=True)
    threading.Event().wait()

first = registry.Student.load
registry.Student.load = lambda folder: (setattr(registry.Student, "load", load), first(folder))[1]
from service.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_stop_does_not_wait_for_a_load_that_hangs(folder: Path) -> None:
    with Server("--students", str(folder), "--drain-delay", "600", program=HANGING) as server:
        os.utime(folder / "manifest.json", ns=(1, 1))  # looks new
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "hangs" in server.log())

        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.ask("GET", "/readyz").status == 503)

        assert server.ask("POST", "/v1/nlu", {"text": "wetter", "locale": "de-DE"}).status == 200
        assert server.stop() == 0


STUCK = """
import sys, threading
from service.student.student import Student

def predict_each(student, questions):
    print("stuck", file=sys.stderr, flush=True)
    threading.Event().wait()

Student.warm_up = lambda student: setattr(Student, "predict_each", predict_each)
from service.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_stop_does_not_wait_for_a_text_that_hangs_in_a_thread(folder: Path, edit: Callable[..., None]) -> None:
    edit(folder, "latency", {"fp32": {"16": 1e6}})
    with Server("--students", str(folder), "--drain-seconds", "1", program=STUCK) as server:
        body = b'{"text":"wetter","locale":"de-DE"}'
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            head = b"POST /v1/nlu HTTP/1.1\r\nhost: nlu\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            client.sendall(head % len(body) + body)
            until(lambda: "stuck" in server.log())

            assert server.stop() == 0


def test_worker_that_hangs_is_killed_replaced_and_counted(start: Start, students: Path) -> None:
    server = start("--students", str(students), "--workers", "2", "--hang-seconds", "2")
    server.announcement()
    before = server.children()
    stopped = min(before)

    os.kill(stopped, signal.SIGSTOP)
    until(lambda: stopped not in server.children() and len(server.children()) == 2)

    until(lambda: server.metric("nlu_worker_hangs_total") == 1)
    assert server.metric("nlu_worker_deaths_total") == 1
    assert before - {stopped} <= server.children()
    assert "hangs: no heartbeat for" in server.log()
    assert server.stop() == 0


def test_workers_stop_when_their_supervisor_is_killed(start: Start, students: Path) -> None:
    server = start("--students", str(students), "--workers", "2")
    assert server.announcement()[0] == "READY with german, s; 2 workers"
    workers = server.children()

    server.process.kill()

    assert len(workers) == 2
    until(lambda: all(map(_has_ended, workers)))


def _has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except OSError:
        return True


def test_announcement_combines_the_reports_of_workers() -> None:
    one = Report(students=["german", "s"], reasons=[])
    other = Report(students=["s"], reasons=["german: no", "s: no"])

    assert announcement([one, one, one], "url")[0] == "READY with german, s; 3 workers"
    assert announcement([one, other, other], "url")[0] == "NOT READY: german: no; s: no"


@pytest.mark.parametrize(
    ("family", "host", "address"),
    [
        (socket.AF_INET, "127.0.0.1", "http://127.0.0.1:"),
        (socket.AF_INET, "0.0.0.0", "http://127.0.0.1:"),
        (socket.AF_INET6, "::1", "http://[::1]:"),
    ],
)
def test_url_is_reachable_on_this_machine(family: socket.AddressFamily, host: str, address: str) -> None:
    if family == socket.AF_INET6 and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with socket.create_server((host, 0), family=family) as listener:
        assert url_of(listener).startswith(address)
