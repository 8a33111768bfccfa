"""The service under test: starting it, waiting until it is ready, and the texts for its locales."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from loadtest.load.client import OK, LoadError, fetch
from loadtest.load.command import LoadTestError
from loadtest.load.options import Options
from loadtest.load.texts import Selection, load_texts, select

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.02
STOP_SECONDS = 30.0


class TargetError(LoadTestError):
    """The service under test is not available; the message is one sentence."""


class Server(NamedTuple):
    """A started server: its URL, process id and start time in seconds."""

    url: str
    process: int
    start_seconds: float


def running_service(
    students: Path | None, start_timeout: float, flags: Sequence[str] = (), cores: Collection[int] | None = None
) -> AbstractContextManager[Server]:
    """Run ``python -m service`` as `running_server`, with further `flags`."""
    more = [*flags, *(["--students", str(students.resolve())] if students else [])]
    return running_server("the service", ["service", *more], start_timeout, cores)


@contextmanager
def running_server(
    name: str, module: Sequence[str], start_timeout: float, cores: Collection[int] | None = None
) -> Iterator[Server]:
    """Start a server on a free port, yield it once it is ready, and stop it with SIGTERM at the end.

    Args:
        name: name of the server, for errors.
        module: module for ``python -m`` and its flags; it must take ``--host`` and ``--port``, and serve ``/readyz``.
        start_timeout: maximum time until it is ready, in seconds.
        cores: cores of all its threads and processes (default: any).

    Raises:
        TargetError: it stopped, or was not ready in time; the message contains its last log line.
    """
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", *module, "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        with on_cores(cores):  # inherited
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            try:
                wait_until_ready(url, start_timeout, is_alive=lambda: process.poll() is None)
            except TargetError as error:
                raise TargetError(f"{name} did not start: {error}{_last_line(output)}") from None
            yield Server(url, process.pid, time.perf_counter() - began)
        finally:
            _stop(name, process)


def usable_cores() -> list[int]:
    """The cores that this process may use; empty where the system has no CPU affinity."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def on_cores(cores: Collection[int] | None) -> Iterator[None]:
    """Restrict this thread, and each process that it starts meanwhile, to some cores; None changes nothing."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A free port of the loopback interface; another process may take it before it is used."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(missing: Callable[[], str | None], timeout: float, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Poll until `missing` returns None instead of a problem.

    Raises:
        TargetError: this took more than `timeout` seconds, or `is_alive` returned false.
    """
    deadline = time.monotonic() + timeout
    while (problem := missing()) is not None:
        if not is_alive():
            raise TargetError("it stopped")
        if time.monotonic() > deadline:
            raise TargetError(f"{problem}, after {timeout:g} s")
        time.sleep(POLL_SECONDS)


def wait_until_ready(host: str, timeout: float, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Poll ``/readyz`` until it answers 200; raises TargetError as `wait_until`."""

    def missing() -> str | None:
        try:
            reply = fetch(f"{host}/readyz", max(1.0, timeout))
        except LoadError as error:
            return str(error)
        return None if reply.status == OK else f"{host}/readyz answers {reply.status}"

    wait_until(missing, timeout, is_alive)


def known_locales(host: str, model: str | None = None) -> list[str] | None:
    """The locales of a loaded student, from ``/v1/models``; None if the service does not report them.

    Raises:
        TargetError: no student of that name is loaded.
    """
    try:
        models: list[dict[str, Any]] = orjson.loads(fetch(f"{host}/v1/models", timeout=5).content)["models"]
        selected = [entry for entry in models if (entry["name"] == model if model else entry["default"])]
        names = [entry["name"] for entry in models]
        locales = [str(locale) for locale in selected[0]["locales"]] if selected else None
    except (LoadError, ValueError, KeyError, TypeError):
        return None
    if model and not selected:
        raise TargetError(f"{host}: no student {model!r} is loaded; loaded: {', '.join(names)}")
    return locales


def texts_for(options: Options, host: str) -> Selection:
    """The texts to send to a service, in the chosen locales or else in those of its student.

    Raises:
        TextsError: there are none.
        TargetError: the chosen student is not loaded.
    """
    texts = load_texts(options.texts_path, options.locale)
    return select(texts, options.locale_names, known_locales(host, options.model))


def _stop(name: str, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(f"warning: {name} did not stop within {STOP_SECONDS:g} s of SIGTERM", file=sys.stderr)


def _last_line(output: IO[str]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output if line.strip()]
    return f"; last output: {lines[-1]}" if lines else ""
