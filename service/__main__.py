"""Start the service: ``python -m service [--students FOLDER] [--port 8000] ...``."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
from collections.abc import Sequence

import uvicorn
import uvloop

from service.app import create_app
from service.boundary import Boundary
from service.engine import Engine
from service.manifest import StudentError
from service.settings import Settings, SettingsError, read_settings

BAD_SETTING = 2
CANNOT_START = 1
EXAMPLE = {"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code: 0 stopped, 1 cannot start, 2 a setting is wrong."""
    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv)
    except SettingsError as error:
        return _refuse(str(error), BAD_SETTING)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        app = create_app(settings)
        listener = _listen(settings)
    except (StudentError, OSError) as error:
        return _refuse(str(error), CANNOT_START)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises a signal again once it has stopped
        signal.signal(number, lambda *_: None)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, settings, listener))
    return 0


async def _serve(app: Boundary, settings: Settings, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    announcement = asyncio.create_task(_announce(app, address_of(listener)))
    await uvicorn.Server(config).serve(sockets=[listener])
    announcement.cancel()


async def _announce(app: Boundary, address: str) -> None:
    await app.state.loaded.wait()
    engine: Engine = app.state.engine
    for line in announcement_of(engine, address):
        print(line, flush=True)


def announcement_of(engine: Engine, address: str) -> list[str]:
    """What a person who started the service needs next, once its students are loaded."""
    reasons = engine.reasons_not_ready()
    state = f"NOT READY: {'; '.join(reasons)}" if reasons else f"READY with {', '.join(engine.students)}"
    body = json.dumps(EXAMPLE, separators=(",", ":"))
    return [
        state,
        f"Address: {address}",
        f"Page:    {address}/",
        f"API:     {address}/docs",
        f"Try it:  curl -s {address}/v1/nlu -H 'content-type: application/json' -d '{body}'",
    ]


def address_of(listener: socket.socket) -> str:
    """The URL at which a person on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(settings: Settings) -> socket.socket:
    """A listening socket; bound here rather than in uvicorn, so that a failure is one sentence."""
    where = f"{settings.host}:{settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(f"cannot listen on {where}: {error.strerror} (--host)") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {where}: {error.strerror}; choose another with --port") from None
    listener.set_inheritable(True)
    return listener


def _refuse(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
