"""The shared files of metrics: their blocks exist, a full file system ends no process, and which folder they are in."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.monitoring.shared import FIRST_BYTES, FOLDER_VARIABLE, NoFolderError, SharedFiles, shared_folder
from tests.service.server import ROOT, Server, until

PROGRAM = """
from service.monitoring.metrics import Metrics
metrics = Metrics()
metrics.reloads.labels("done").inc()
print(metrics.exposition().decode())
"""


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within this context, files can't grow beyond `size` bytes, as on a full file system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def series(files: SharedFiles, number: int) -> float:
    """Increase one of many series, and return it."""
    value = files.value("counter", "turns", "turns_total", ["arm"], [f"arm{number}"], "Turns.")
    value.inc(1)
    return value.get()


def scrape(folder: Path) -> str:
    """The sums over the files in a folder."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry).decode()


def test_every_block_of_a_file_exists(tmp_path: Path) -> None:
    sizes = set()
    with closing(SharedFiles(tmp_path, "worker0")) as files:
        for number in range(2000):
            series(files, number)
            status = (tmp_path / "counter_worker0.db").stat()
            sizes.add(status.st_size)
            assert status.st_blocks * 512 >= status.st_size

    assert sorted(sizes) == [FIRST_BYTES, 2 * FIRST_BYTES, 4 * FIRST_BYTES]
    assert scrape(tmp_path).count("turns_total{") == 2000


def test_dead_process_is_continued_without_its_gauges(tmp_path: Path) -> None:
    with closing(SharedFiles(tmp_path, "worker0")) as dead:
        for number in range(1000):
            series(dead, number)
        dead.value("gauge", "busy", "busy", [], [], "Busy.", multiprocess_mode="livesum").set(3)
    assert "busy 3.0" in scrape(tmp_path)

    SharedFiles(tmp_path, "supervisor").drop_gauges("worker0")
    with closing(SharedFiles(tmp_path, "worker0")) as again:
        assert series(again, 999) == 2
        assert series(again, 1000) == 1

    assert "busy" not in scrape(tmp_path)
    assert scrape(tmp_path).count("turns_total{") == 1001


@pytest.mark.parametrize("size", [0, 1, FIRST_BYTES - 1, FIRST_BYTES, 3 * FIRST_BYTES])
def test_full_file_system_loses_new_series_only_and_is_logged_once(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(SharedFiles(tmp_path, "worker0")) as files, files_of_at_most(size):
        counts = [series(files, number) for number in range(2000)]
        again = [series(files, number) for number in range(2)]

    assert set(counts) == {1}
    assert caplog.messages == [
        f"metrics: cannot write to {tmp_path}: File too large; new series of this process are missing in /metrics"
    ]
    found = scrape(tmp_path).count("turns_total{")
    if size < FIRST_BYTES:
        assert (found, list(tmp_path.iterdir())) == (0, [])
    else:
        assert 300 < found < 2000
        assert again == [2, 2]


def test_folder_is_new_in_that_of_the_environment_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "counter_1.db").write_bytes(b"of another program")

    with shared_folder(2) as first, shared_folder(2) as second:
        assert first != second
        assert {Path(first).parent, Path(second).parent} == {tmp_path}
        assert not any(Path(first).iterdir())

    assert [path.name for path in tmp_path.iterdir()] == ["counter_1.db"]


def test_unusable_folder_of_the_environment_is_logged_and_another_one_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "missing"))

    with shared_folder(2) as folder:
        assert Path(folder).is_dir()

    assert not (tmp_path / "missing").exists()
    assert caplog.messages[0] == f"metrics: cannot use {tmp_path / 'missing'}: No such file or directory"


def test_no_folder_with_space_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))

    with files_of_at_most(1 << 20), pytest.raises(NoFolderError) as caught, shared_folder(3):
        pass

    message = str(caught.value)
    assert message.startswith(
        f"no folder for the metrics of several workers, with 3 MiB: {tmp_path}: File too large; /dev/shm: "
    )
    assert f"{tmp_path / 'missing'}: No such file or directory; /tmp: File too large" in message
    assert message.endswith("set PROMETHEUS_MULTIPROC_DIR to a writable folder with that space, or use --workers 1")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("variable", [FOLDER_VARIABLE, FOLDER_VARIABLE.lower()])
@pytest.mark.parametrize("folder", ["missing", "", "."])
def test_process_that_counts_alone_has_no_files(tmp_path: Path, variable: str, folder: str) -> None:
    environment = os.environ | {variable: folder, "PYTHONPATH": str(ROOT)}

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert 'nlu_reloads_total{outcome="done"} 1.0' in done.stdout
    assert "nlu_workers 1.0" in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory with 4 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "nlu-test", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill(file: Path) -> None:
    """Write a file until its file system is full."""
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_full_file_system_kills_no_worker(students: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(small))
    with Server("--students", str(students), "--workers", "2") as server:
        workers = server.children()
        fill(small / "other")

        for _ in range(20):
            for locale in ("de-DE", "fr-FR", "it-IT", "es-ES"):
                answer = server.ask("POST", "/v1/nlu", {"text": "wetter in berlin", "locale": locale})
                assert answer.status in (200, 422)
        until(lambda: server.metric("nlu_requests_total", endpoint="/v1/nlu") >= 20)

        assert server.children() == workers
        assert server.metric("nlu_worker_deaths_total") == 0
        assert server.stop() == 0
