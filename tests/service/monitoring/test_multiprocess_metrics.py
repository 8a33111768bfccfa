"""Metrics of two real workers: whichever is asked, the answer is that of all."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from service.monitoring.metrics import SHARED_FOLDER
from tests.service.process.test_main import Server, until

BODY = {"text": "weck mich am freitag um neun", "locale": "de-DE"}
REQUESTS = 60


@pytest.fixture
def server(students: Path) -> Iterator[Server]:
    """A service with two workers."""
    server = Server("--students", str(students), "--workers", "2")
    server.greeting()
    yield server
    server.close()


def metric(server: Server, name: str, **labels: str) -> float:
    """The sum of the samples in ``/metrics`` that have this name and these labels."""
    families = text_string_to_metric_families(server.ask("GET", "/metrics")[1].decode())
    samples = (sample for family in families for sample in family.samples if sample.name == name)
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def send(server: Server) -> None:
    """Send requests on as many connections, several at once, and wait until they are counted."""
    before = answered(server)
    with ThreadPoolExecutor(4) as pool:
        codes = pool.map(lambda _: server.ask("POST", "/v1/nlu", BODY)[0], range(REQUESTS))
        assert set(codes) == {200}
    until(lambda: answered(server) == before + REQUESTS)


def answered(server: Server) -> float:
    """How many of the requests are counted."""
    return metric(server, "nlu_requests_total", endpoint="/v1/nlu", code="200")


def folder_of(server: Server) -> Path:
    """The folder in which its workers count."""
    environment = Path(f"/proc/{min(server.children())}/environ").read_text().split("\0")
    return Path(next(line for line in environment if line.startswith(SHARED_FOLDER)).split("=")[1])


def counted_by(server: Server, worker: str) -> float:
    """How many requests one worker has counted, from its own file."""
    file = folder_of(server) / f"counter_{worker}.db"
    values = MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
    return sum(float(value) for key, value, *_ in values if "nlu_requests_total" in key and '"/v1/nlu"' in key)


def test_counts_add_up_whichever_worker_is_asked(server: Server) -> None:
    send(server)

    assert {answered(server) for _ in range(10)} == {REQUESTS}
    counts = [counted_by(server, worker) for worker in ("worker0", "worker1")]
    assert min(counts) > 0
    assert sum(counts) == REQUESTS
    assert metric(server, "nlu_request_seconds_count", endpoint="/v1/nlu") == REQUESTS
    assert metric(server, "nlu_phase_seconds_bucket", phase="decode", le="+Inf") == REQUESTS
    assert metric(server, "nlu_model_info", model="german") == 1
    until(lambda: metric(server, "nlu_in_flight") == 1)
    assert metric(server, "nlu_workers") == 2
    assert metric(server, "nlu_worker_deaths_total") == 0


def test_death_is_counted_survived_and_made_good(server: Server) -> None:
    send(server)
    workers = server.children()
    victim = min(workers)

    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in server.children())
    send(server)  # while the other worker is alone, and its new colleague starts

    until(lambda: metric(server, "nlu_worker_deaths_total") == 1)
    until(lambda: metric(server, "nlu_workers") == 2)
    assert workers & server.children()
    send(server)
    assert answered(server) == 3 * REQUESTS
    assert metric(server, "nlu_model_info", model="s") == 1
    until(lambda: metric(server, "nlu_in_flight") == 1)
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_folder_is_removed_at_the_end(server: Server, number: int) -> None:
    folder = folder_of(server)
    assert folder.is_dir()

    server.stop(number)

    until(lambda: not folder.exists())
