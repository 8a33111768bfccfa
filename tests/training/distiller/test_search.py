from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from training.distiller.__main__ import main
from training.distiller.search import SearchError, opened

ROOT = Path(__file__).parents[3]
DEBIAN = "/usr/lib/postgresql"


def arguments(sample: Path, checkpoint: Path, out: Path, *more: str) -> list[str]:
    data = ["--data", f"small={sample}:de-DE:40", "--student", "xs:random"]
    short = ["--epochs", "1", "--teacher-epochs", "1", "--control-seeds", "1", "--teacher", str(checkpoint)]
    return ["search", *data, *short, "--out", str(out), *more]


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def searched(sample: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was stopped after a random trial and continued with another one."""
    out = tmp_path_factory.mktemp("distiller") / "out"
    for trials in ("1", "2"):
        assert main(arguments(sample, checkpoint, out, "--trials", trials, "--random-trials", "1")) == 0
    return out


def test_each_trial_is_a_row_with_its_data_and_controls(searched: Path) -> None:
    rows = rows_of(searched)

    controls, trials = rows[:2], rows[2:]
    assert [row["sampler"] for row in controls] == ["plain", "prediction"]
    assert [(row["trial"], row["sampler"]) for row in trials] == [(0, "random"), (1, "tpe")]
    for row in rows:
        assert row["data"] == "small"
        assert row["student"] == "xs:random"
        assert row["metric"] == "exact_match"
        assert row["features"]["rows"] == 40
        assert row["seconds"] > 0
        assert str(searched) not in json.dumps(row)
    for row in trials:
        assert row["state"] == "complete"
        assert row["plain"] == controls[0]["score"]
        assert row["ratio"] is None or row["ratio"] == pytest.approx(row["score"] / row["teacher"], abs=1e-3)
        assert row["choices"]["hidden_loss"] == row["pipeline"]["hidden_loss"]


def test_teachers_and_controls_are_kept(searched: Path) -> None:
    assert [folder.name for folder in (searched / "teachers").iterdir() if folder.is_dir()] == ["small"]
    assert len(list((searched / "controls").glob("*.json"))) == 1


def test_a_finished_search_trains_nothing(
    searched: Path, sample: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(rows_of(searched))

    assert main(arguments(sample, checkpoint, searched, "--trials", "2", "--random-trials", "1")) == 0

    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["complete"], summary["pruned"], summary["fail"]) == (2, 0, 0)
    assert set(summary["best"]) == {"small, xs:random"}
    assert len(rows_of(searched)) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "2"], "search with other settings: epochs 1, now 2; choose another --storage"),
        (["--student", "xxl"], "student 'xxl': none of that size is shipped; write xxl:random"),
        (["--student", "tiny"], "student 'tiny'; allowed: xxs, xs"),
        (["--data", "small=elsewhere"], "--data small: is given twice"),
        (["--storage", "mysql://x"], "--storage mysql://x: "),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(
    more: list[str], message: str, searched: Path, sample: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(sample, checkpoint, searched, "--random-trials", "1", *more)) == 2

    assert message in capsys.readouterr().err


def test_all_data_is_read_before_anything_is_trained(
    sample: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(sample, checkpoint, tmp_path / "out", "--data", f"bad={tmp_path}/none")) == 2

    assert "none: no such data" in capsys.readouterr().err
    assert not (tmp_path / "out" / "teachers").exists()


def test_a_storage_error_shows_no_password() -> None:
    with pytest.raises(SearchError) as error, opened("postgresql://me:secret@localhost:1/none"):
        pass

    assert "secret" not in str(error.value)


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """A server of the Debian package, on a free port; not as root, which it refuses."""
    found = shutil.which("initdb") or next(map(str, sorted(Path(DEBIAN).glob("*/bin/initdb"), reverse=True)), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    binaries, data = Path(found).resolve().parent, tmp_path / "postgresql"
    user: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(tmp_path, "postgres")
        for parent in tmp_path.parents[:2]:
            parent.chmod(0o755)
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = {"check": True, "capture_output": True, "cwd": tmp_path, **user}
    subprocess.run([binaries / "initdb", "-D", data, "-U", "me", "--auth=trust", "--no-sync"], **run)
    options = ["-D", data, "-p", str(port), "-k", "", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    server = subprocess.Popen([binaries / "postgres", *options], stderr=subprocess.DEVNULL, cwd=tmp_path, **user)
    try:
        ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, capture_output=True).returncode:
            assert server.poll() is None
            time.sleep(0.05)
        yield f"postgresql://me@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # disconnects clients
        server.wait()


@pytest.mark.slow
def test_two_workers_share_a_study_on_postgresql(
    postgresql: str, searched: Path, sample: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(searched, tmp_path / "out")  # with teachers and controls
    (out / "trials.jsonl").unlink()
    more = ["--trials", "4", "--random-trials", "4", "--storage", postgresql]
    command = [sys.executable, "-m", "training.distiller", *arguments(sample, checkpoint, out, *more)]

    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in (1, 2)]
    ended = [worker.communicate() for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], ended
    numbers = [row["trial"] for row in rows_of(out)]
    assert sorted(numbers) == list(range(len(numbers)))
    assert len(numbers) in (4, 5)  # the last two may have begun together
    with opened(postgresql) as storage:
        trials = optuna.load_study(study_name="distiller", storage=storage).trials
    assert len(trials) == len(numbers)
    assert len({json.dumps(trial.params) for trial in trials}) == len(numbers)
