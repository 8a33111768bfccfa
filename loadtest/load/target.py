"""The service that is tested: started if need be, ready, and which texts it can be asked about."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from loadtest.load.texts import Selection, load_texts, select
from loadtest.options import Options

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.02
STOP_SECONDS = 30.0
_opener = build_opener(ProxyHandler({}))  # locust's client goes past proxies, so the other requests do too


class TargetError(Exception):
    """There is nothing to test; the message is one sentence."""


class Server(NamedTuple):
    """A server that was started: its process, and the seconds that it took to be ready."""

    url: str
    process: int
    start_seconds: float


@contextmanager
def running_service(
    students: Path | None, patience: float, flags: Sequence[str] = (), cores: Collection[int] | None = None
) -> Iterator[str]:
    """Start ``python -m service`` on a free port, and stop it with SIGTERM in the end. Yields its URL once it is ready.

    `flags` are more of its settings, `cores` as in `running_server`.

    Raises:
        TargetError: it stopped, or was not ready within `patience` seconds; says what it logged last.
    """
    more = [*flags, *(["--students", str(students.resolve())] if students else [])]
    with running_server("the service", ["service", *more], patience, cores) as host:
        yield host


@contextmanager
def running_server(
    name: str, module: Sequence[str], patience: float, cores: Collection[int] | None = None
) -> Iterator[str]:
    """Like `running_service`, for any module that takes ``--host`` and ``--port`` and answers ``/readyz``.

    Args:
        name: what people call it, for errors.
        module: what stands behind ``python -m``: the module and its flags.
        patience: seconds for it to be ready.
        cores: on which it runs with all its threads and processes; any if left out.

    Raises:
        TargetError: it stopped, or was not ready in time; says what it logged last.
    """
    with started_server(name, module, patience, cores) as server:
        yield server.url


@contextmanager
def started_server(
    name: str, module: Sequence[str], patience: float, cores: Collection[int] | None = None
) -> Iterator[Server]:
    """As `running_server`, and says more of what it started."""
    port = _free_port()
    command = [sys.executable, "-m", *module, "--host", "127.0.0.1", "--port", str(port)]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        with on_cores(cores):  # inherited
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        try:
            host = f"http://127.0.0.1:{port}"
            try:
                wait_until_ready(host, patience, is_alive=lambda: process.poll() is None)
            except TargetError as error:
                raise TargetError(f"{name} did not start: {error}{_last_words(output)}") from None
            yield Server(host, process.pid, time.perf_counter() - began)
        finally:
            _stop(name, process)


def usable_cores() -> list[int]:
    """The cores that this process may use; empty where the system can't tie a process to a core."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def on_cores(cores: Collection[int] | None) -> Iterator[None]:
    """Keep this thread, and each process that it starts meanwhile, to some cores; to no others than before if None."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wait_until_ready(host: str, patience: float, is_alive: Callable[[], bool] = lambda: True) -> None:
    """Poll ``/readyz`` until it answers 200.

    Raises:
        TargetError: it did not within `patience` seconds, or `is_alive` turned false.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            with _opener.open(f"{host}/readyz", timeout=max(1.0, patience)):
                return
        except HTTPError as error:
            problem = f"{host}/readyz answers {error.code}"
        except (URLError, OSError, ValueError) as error:
            problem = f"{host} can't be reached ({getattr(error, 'reason', error)})"
        if not is_alive():
            raise TargetError("it stopped")
        if time.monotonic() > deadline:
            raise TargetError(f"{problem}, after {patience:g} s")
        time.sleep(POLL_SECONDS)


def known_locales(host: str, model: str | None = None) -> list[str] | None:
    """The locales that a loaded student knows, or None where the service does not say (``/v1/models``).

    Raises:
        TargetError: a student of that name is not loaded.
    """
    try:
        with _opener.open(f"{host}/v1/models", timeout=5) as reply:
            models: list[dict[str, Any]] = json.load(reply)["models"]
        chosen = [entry for entry in models if (entry["name"] == model if model else entry["default"])]
        names = [entry["name"] for entry in models]
        locales = [str(locale) for locale in chosen[0]["locales"]] if chosen else None
    except (URLError, OSError, ValueError, KeyError, TypeError):
        return None
    if model and not chosen:
        raise TargetError(f"{host}: no student {model!r} is loaded; loaded: {', '.join(names)}")
    return locales


def texts_for(options: Options, host: str) -> Selection:
    """The texts to send to a service: in the locales asked for, or else in those that its student knows.

    Raises:
        TextsError: there are none.
        TargetError: the student asked for is not loaded.
    """
    texts = load_texts(options.texts_path, options.texts_locale)
    return select(texts, options.locale_names, known_locales(host, options.model))


def _free_port() -> int:
    """A port that is free now. Another process could take it before the service does; then the service says so."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _stop(name: str, process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        print(f"warning: {name} did not stop within {STOP_SECONDS:g} s of SIGTERM", file=sys.stderr)


def _last_words(output: IO[str]) -> str:
    output.seek(0)
    lines = [line.strip() for line in output if line.strip()]
    return f"; it said: {lines[-1]}" if lines else ""
