"""A serving process: alone, or one of several under a supervisor (``python -m service.process.worker TASK``)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import uvicorn
import uvloop

from service.app import create_app
from service.errors import ENDINGS, log_fault
from service.experiments.experiment import ExperimentError
from service.http.connection import Connection
from service.http.keys import KeysError
from service.http.middleware import RequestMiddleware
from service.models.registry import ModelRegistry
from service.models.reload import Reloader
from service.monitoring.shared import FOLDER_VARIABLE, count_as
from service.monitoring.tracing import TracingError
from service.process.channel import BEATS, Announce, Channel, Json, Report, StartError
from service.process.signals import RELOAD, STOP, ignore_others
from service.settings import Settings
from service.student.manifest import StudentError

KEEP_ALIVE_SECONDS = 75  # longer than the 60 s of common proxies, which answer 502 when a connection closes on reuse
FIRST_REQUEST_SECONDS = 1.0  # after the stop began, time for a new connection to send its request
TICK_SECONDS = 0.01
EXIT_SECONDS = 2.0  # after the service has stopped, for the process to exit
REFUSED = 1


class Server(uvicorn.Server):
    """uvicorn's server with another start and stop.

    It listens once the students are loaded and tested: until then connections are refused, and a proxy sends the
    request to another instance. It would hand a 503 to the client.

    After SIGTERM or SIGQUIT the server is not ready, but answers for `Settings.drain_delay` seconds, until load
    balancers have noticed. Then the socket closes, and requests in flight have at most `Settings.drain_seconds` to
    finish. SIGINT or a second SIGTERM ends the delay; a second SIGINT drops the requests in flight. SIGHUP reloads the
    students. A server whose students are still loading stops at once.
    """

    def __init__(self, app: RequestMiddleware, settings: Settings, *, supervised: bool = False) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the client's address is not used
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.drain_seconds,
        )
        super().__init__(config)
        self._listening = asyncio.Event()
        self._state = app.state
        self._registry: ModelRegistry = app.state.registry
        self._reloader: Reloader = app.state.reloader
        self._reloading: set[asyncio.Task[None]] = set()
        self._loaded: asyncio.Event = app.state.loaded
        self._delay = settings.drain_delay
        self._supervised = supervised
        self._interrupted = False
        self._old_connections: set[Any] = set()  # from before the stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, load the students, then listen."""
        await super().startup(sockets=[])
        while not self._loaded.is_set() and not self.should_exit:
            await asyncio.sleep(TICK_SECONDS)
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            self.servers.append(await loop.create_server(self._protocol, sock=listener, backlog=self.config.backlog))
        self._listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without losing a connection, then finish what is in flight."""
        for connection in self._stop_listening(sockets or []):
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        for _ in range(2):  # iterations of the event loop, in which it reads requests that have arrived
            await asyncio.sleep(0)
        deadline = time.monotonic() + FIRST_REQUEST_SECONDS
        while self._expects_requests() and not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(TICK_SECONDS)
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the event loop, and don't raise them again afterwards: the exit code is 0."""
        loop = asyncio.get_running_loop()
        for number in STOP:
            loop.add_signal_handler(number, self.handle_exit, number)
        loop.add_signal_handler(RELOAD, self._reload_soon)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None = None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Begin to stop, or stop faster."""
        begun, self._registry.draining = self._registry.draining, True
        if not begun:
            self._old_connections = set(self.server_state.connections)
            self._reloader.stop()
        if not self._loaded.is_set():
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGINT:
            self.force_exit = self._interrupted
            self.should_exit = self._interrupted = True
        elif not begun:
            asyncio.get_running_loop().call_later(self._delay, setattr, self, "should_exit", True)
        elif not self._supervised:  # a supervisor may pass on a SIGTERM that every process received
            self.should_exit = True

    async def serve_and_report(self, listener: socket.socket, report: Callable[[Report], None]) -> None:
        """Serve until stopped, on a bound socket. `report` is called once it listens."""

        async def wait_and_report() -> None:
            await self._listening.wait()
            report(Report(students=list(self._registry.models), reasons=self._registry.reasons_not_ready()))

        reporting = asyncio.create_task(wait_and_report())
        await self.serve([listener])
        reporting.cancel()

    def _reload_soon(self) -> None:
        task = asyncio.create_task(self._reload())
        self._reloading.add(task)
        task.add_done_callback(self._reloading.discard)

    async def _reload(self) -> None:
        """Reload the students of every process, as a signal requests; the outcome is logged."""
        try:
            await self._loaded.wait()
            await self._state.reload()
        except ENDINGS:
            raise
        except BaseException as error:  # noqa: BLE001 - the service continues
            log_fault(error, "(reload)")

    def _protocol(self) -> asyncio.Protocol:
        return Connection(self.config, self.server_state, self.lifespan.state)

    def _stop_listening(self, sockets: Sequence[socket.socket]) -> list[socket.socket]:
        """Close the sockets. Returns the connections that wait to be accepted, which the kernel would reset."""
        copies = [listener.dup() for listener in sockets if self.servers]
        for server in self.servers:
            server.close()
        waiting = []
        for listener in copies:  # without yielding to the event loop in between
            with listener, suppress(OSError):
                while True:
                    waiting.append(listener.accept()[0])
        return waiting

    def _expects_requests(self) -> bool:
        """Whether a connection made after the stop began has not sent its first request."""
        new: set[Any] = self.server_state.connections - self._old_connections
        return any(connection.cycle is None for connection in new)


def serve_alone(settings: Settings, bound: socket.socket, announce: Announce) -> None:
    """Serve in this process until SIGTERM or SIGINT; `announce` is called once the students are loaded.

    `bound` reserves the address without listening itself.

    Raises:
        StartError: there are no students, a setting's file is invalid, or its package is missing.
    """
    app = _create_app(settings)
    listener = _join(bound.family, bound.getsockname())

    async def serve() -> None:
        await Server(app, settings).serve_and_report(listener, lambda report: announce([report]))
        _end_despite_threads(app)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def main(argv: Sequence[str] | None = None) -> int:
    """Serve as one of several workers until the supervisor stops this one, or dies. Returns the exit code."""
    ignore_others()
    task = json.loads((sys.argv[1:] if argv is None else argv)[0])
    settings = Settings(**task["settings"])
    logging.basicConfig(
        level=settings.log_level.upper(), format=f"%(asctime)s %(levelname)s {task['name']} %(name)s: %(message)s"
    )
    count_as(task["name"], os.environ[FOLDER_VARIABLE])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(settings, task))


async def _work(settings: Settings, task: Json) -> int:
    channel = await Channel.open(socket.socket(fileno=task["channel"]))
    try:
        app = _create_app(settings, patient=task["patient"])
        listener = _join(task["family"], tuple(task["address"]))
    except (StartError, OSError) as error:
        channel.send(refused=str(error))
        await channel.close()
        return REFUSED
    reload_alone = app.state.reload

    async def reload() -> Json:
        await app.state.loaded.wait()
        outcome: Json = await reload_alone()
        return outcome

    app.state.reload = channel.reload
    server = Server(app, settings, supervised=True)
    beating = asyncio.create_task(_beat(channel, app.state.registry, settings.hang_seconds))
    listening = asyncio.create_task(channel.listen(reload))
    listening.add_done_callback(lambda _: server.handle_exit(signal.SIGTERM))
    await server.serve_and_report(listener, lambda report: channel.send(loaded=report))
    beating.cancel()
    app.metrics.flush()  # other workers may continue to report this one's metrics
    if listening.done():  # the supervisor has died and can't clean up
        shutil.rmtree(os.environ[FOLDER_VARIABLE], ignore_errors=True)
    _end_despite_threads(app)
    return 0


async def _beat(channel: Channel, registry: ModelRegistry, seconds: float) -> None:
    """Send heartbeats as long as the event loop runs, and no student's thread is stuck."""
    while True:
        if not registry.is_stuck(seconds):
            channel.send(alive=True)
        await asyncio.sleep(seconds / BEATS)


def _end_despite_threads(app: RequestMiddleware) -> None:
    """Let the process exit although a thread hangs: at once if that loads students, else after `EXIT_SECONDS`."""
    reloader: Reloader = app.state.reloader
    if reloader.has_threads:
        os._exit(0)
    timer = threading.Timer(EXIT_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def _create_app(settings: Settings, *, patient: bool = False) -> RequestMiddleware:
    try:
        return create_app(settings, patient=patient)
    except (StudentError, KeysError, ExperimentError, TracingError) as error:
        raise StartError(error) from None


def _join(family: int, address: tuple[Any, ...]) -> socket.socket:
    """This process's own socket at a reserved address, which other workers have, too. It does not listen yet."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind(address)
    return listener


if __name__ == "__main__":
    sys.exit(main())
