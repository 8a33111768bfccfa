"""Start the service: ``python -m service [--students FOLDER] [--port 8000] ...``."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

from service.process.signals import ignore_others, on_stop

if TYPE_CHECKING:  # importing takes most of the start-up time; `main` does it once signals are handled
    import argparse

    from service.process.channel import Report
    from service.settings import Settings

INVALID_SETTING = 2  # exit codes
CANNOT_START = 1
LOOPBACK = ("127.0.0.1", "::1", "localhost")
EXAMPLE = {"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from service.settings import parser

    return parser()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or SIGQUIT.

    Returns the exit code: 0 stopped, 1 cannot start or did not stop in time, 2 a setting is invalid.
    """
    ignore_others()
    on_stop(lambda *_: os._exit(0))  # nothing to clean up yet
    from service.settings import SettingsError, read_settings

    try:
        settings = read_settings(sys.argv[1:] if argv is None else argv)
    except SettingsError as error:
        return _refuse(error, INVALID_SETTING)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return _serve(settings)
    finally:
        on_stop(signal.SIG_IGN)  # stopped already: another signal must not change the exit code


def _serve(settings: Settings) -> int:
    from service.process.channel import StartError
    from service.process.cpus import choose_workers
    from service.process.supervisor import supervise

    workers = choose_workers(settings.workers)
    logging.getLogger("service").info("workers: %d (%s)", *workers)
    if settings.api_keys_file is None and settings.host not in LOOPBACK:
        logging.getLogger("service").warning(
            "listening on %s without API keys: anyone who can reach the port can use the service (--api-keys-file)",
            settings.host,
        )
    try:
        bound = reserve(settings)
    except OSError as error:
        return _refuse(error, CANNOT_START)

    def announce(reports: Sequence[Report]) -> None:
        print("\n".join(announcement(reports, url_of(bound))), flush=True)

    try:
        with bound:
            if workers.number > 1:
                return supervise(settings, workers.number, bound, announce)
            from service.process.worker import serve_alone

            serve_alone(settings, bound, announce)
            return 0
    except StartError as error:
        return _refuse(error, CANNOT_START)


def announcement(reports: Sequence[Report], url: str) -> list[str]:
    """The lines printed once the students of every worker are loaded: state, URLs, and a command to try."""
    students = _union(report["students"] for report in reports)
    reasons = _union(report["reasons"] for report in reports)
    workers = f"; {len(reports)} workers" if len(reports) > 1 else ""
    state = f"NOT READY: {'; '.join(reasons)}" if reasons else f"READY with {', '.join(students)}{workers}"
    body = json.dumps(EXAMPLE, separators=(",", ":"))
    return [
        state,
        f"Address: {url}",
        f"Page:    {url}/",
        f"API:     {url}/docs",
        f"Try it:  curl -s {url}/v1/nlu -H 'content-type: application/json' -d '{body}'",
    ]


def url_of(bound: socket.socket) -> str:
    """The URL of the socket on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def reserve(settings: Settings) -> socket.socket:
    """A socket that reserves the address for the sockets of the workers, and does not listen itself.

    Of several services that reserve an address at the same time, one gets it.

    Raises:
        OSError: the address is unknown or in use; the message is one sentence.
    """
    # only one socket can listen without SO_REUSEPORT; several can be bound, since connections of an earlier service
    # that are still closing make SO_REUSEADDR necessary
    with _socket(settings, settings.port, socket.SO_REUSEADDR, listens=True) as first:
        port = first.getsockname()[1]
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with suppress(OSError):  # a kernel other than Linux may look at the option only when a socket is bound
            return _socket_for_workers(settings, port)
    return _socket_for_workers(settings, port)


def _socket_for_workers(settings: Settings, port: int) -> socket.socket:
    reserved = _socket(settings, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # from now on other services can't be bound
    return reserved


def _socket(settings: Settings, port: int, *options: int, listens: bool = False) -> socket.socket:
    where = f"{settings.host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise OSError(f"cannot listen on {where}: {error.strerror} (--host)") from None
    created = socket.socket(family, kind, protocol)
    try:
        for option in options:
            created.setsockopt(socket.SOL_SOCKET, option, 1)
        created.bind(address)
        if listens:
            created.listen(0)
    except OSError as error:
        created.close()
        raise OSError(f"cannot listen on {where}: {error.strerror}; choose another with --port") from None
    return created


def _union(lists: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(lists)))


def _refuse(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
