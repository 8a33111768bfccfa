"""Locust without its web page, in subprocesses, since it patches sockets and threads of the process that imports it."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtest.load.command import LoadTestError
from loadtest.load.options import Options
from loadtest.load.recorder import Recorder
from loadtest.load.target import ROOT

LOCUSTFILE = Path(__file__).parents[1] / "locustfile.py"
START_STOP_SECONDS = 60.0  # maximum time for locust to start and stop


class LocustError(LoadTestError):
    """Locust failed; the message contains its log."""


def run_locust(host: str, users: int, seconds: int, processes: int, options: Options) -> Recorder:
    """Run the load test of `locustfile` and return its recorder.

    Users and rate are split over the processes. Locust's own distribution, a master with workers, ends before the last
    replies arrive.

    Raises:
        LocustError: a process failed or did not end in time.
    """
    limit = seconds + options.reply_timeout + START_STOP_SECONDS
    with tempfile.TemporaryDirectory(prefix="loadtest-") as folder:
        started: list[subprocess.Popen[bytes]] = []
        try:
            for number, share in enumerate(_split(users, processes)):
                own = dataclasses.replace(options, rate=options.rate * share / users)
                started.append(_start(Path(folder) / str(number), host, share, seconds, own))
            for process in started:
                process.wait(limit)
        except subprocess.TimeoutExpired:
            raise LocustError(f"locust did not end within {limit:g} s") from None
        finally:
            for process in started:
                process.kill()
                process.wait()
        whole = Recorder()
        for number in range(len(started)):
            whole.merge(_read(Path(folder) / str(number)))
    return whole


def _start(files: Path, host: str, users: int, seconds: int, options: Options) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", host, "--headless", "--only-summary"]
    command += ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s", "--loglevel", "WARNING"]
    command += ["--record", str(files.with_suffix(".pickle")), *options.flags()]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]  # makes this package importable from any folder
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with files.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment
        )


def _read(files: Path) -> Recorder:
    record = files.with_suffix(".pickle")
    if not record.is_file():  # locust's exit code is 1 after any failed request, too
        log = files.with_suffix(".log").read_text(errors="replace").strip()
        raise LocustError(f"locust failed: {log[-2000:]}")
    recorder: Recorder = pickle.loads(record.read_bytes())
    return recorder


def _split(users: int, processes: int) -> list[int]:
    """Users per process, at least one each: 8 users in 3 processes are 3, 3 and 2."""
    processes = min(processes, users)
    return [users // processes + (number < users % processes) for number in range(processes)]
