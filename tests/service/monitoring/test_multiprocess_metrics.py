"""Metrics of two workers: a scrape of either has the sums of both."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from service.monitoring.shared import FOLDER_VARIABLE
from tests.service.server import Server, until

BODY = {"text": "weck mich am freitag um neun", "locale": "de-DE"}
REQUESTS = 60


@pytest.fixture
def server(students: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A service with two workers, and an environment in which another program counts."""
    (tmp_path / "gauge_livesum_1.db").write_bytes(b"of another program")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with Server("--students", str(students), "--workers", "2") as server:
        yield server


def send(server: Server) -> None:
    """Send requests on as many connections, several at once, and wait until they are counted."""
    before = answered(server)
    with ThreadPoolExecutor(4) as pool:
        codes = pool.map(lambda _: server.ask("POST", "/v1/nlu", BODY).status, range(REQUESTS))
        assert set(codes) == {200}
    until(lambda: answered(server) == before + REQUESTS)


def answered(server: Server) -> float:
    """The number of requests counted."""
    return server.metric("nlu_requests_total", endpoint="/v1/nlu", code="200")


def folder_of(server: Server) -> Path:
    """The folder in which its workers count."""
    environment = Path(f"/proc/{min(server.children())}/environ").read_text().split("\0")
    return Path(next(line for line in environment if line.startswith(FOLDER_VARIABLE)).split("=")[1])


def counted_by(server: Server, worker: str) -> float:
    """The number of requests that one worker has counted, from its file."""
    file = folder_of(server) / f"counter_{worker}.db"
    values = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
    return sum(float(value) for key, value, *_ in values if "nlu_requests_total" in key and '"/v1/nlu"' in key)


def test_every_worker_reports_the_sums(server: Server) -> None:
    send(server)

    assert {answered(server) for _ in range(10)} == {REQUESTS}
    counts = [counted_by(server, worker) for worker in ("worker0", "worker1")]
    assert min(counts) > 0
    assert sum(counts) == REQUESTS
    assert server.metric("nlu_request_seconds_count", endpoint="/v1/nlu") == REQUESTS
    assert server.metric("nlu_phase_seconds_bucket", phase="decode", le="+Inf") == REQUESTS
    assert server.metric("nlu_model_info", model="german") == 1
    until(lambda: server.metric("nlu_in_flight") == 1)
    assert server.metric("nlu_workers") == 2
    assert server.metric("nlu_worker_deaths_total") == 0


def test_dead_worker_is_counted_and_replaced(server: Server) -> None:
    send(server)
    workers = server.children()
    victim = min(workers)

    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in server.children())
    send(server)  # while the other worker serves alone, and a new one starts

    until(lambda: server.metric("nlu_worker_deaths_total") == 1)
    until(lambda: server.metric("nlu_workers") == 2)
    assert workers & server.children()
    send(server)
    assert answered(server) == 3 * REQUESTS
    assert server.metric("nlu_model_info", model="s") == 1
    until(lambda: server.metric("nlu_in_flight") == 1)
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_folder_is_removed_at_the_end(server: Server, number: int) -> None:
    folder = folder_of(server)
    assert folder.is_dir()

    server.stop(number)

    until(lambda: not folder.exists())
