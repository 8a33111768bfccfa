"""The path of a request through the modules of the service is short and direct.

It is measured on a real connection: the functions called from the first byte read to the reply written. A module is
**entered** when one of its functions is called while none of its functions is running. Entering a module again, with
another one entered in between, is a **return**. Every function, property and comprehension of the project counts;
constructors that the interpreter generates (`NamedTuple`, `dataclass`) and data that is only read do not.

What runs after the reply (`RequestContext.after_reply`, metrics) is not part of the path.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

import service
from service.app import create_app
from service.http.connection import Connection
from service.settings import Settings
from tests.service.conftest import write_student

ROOT = Path(service.__file__).parent
MAX_MODULES = 10
MAX_RETURNS = 2
CALIBRATION = {
    "temperatures": {"intent": {"de-DE": 2.0}},
    "scope": {
        "method": "max_softmax",
        "head": "intent",
        "false_rejection_rate": 0.02,
        "thresholds": {"de-DE": 0.5},
    },
}
BODY = {"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}
EXPERIMENT = '[arms.control]\nmodel = "s"\nweight = 1\n[shadow]\nmodel = "s"\nshare = 1\n'


class Watched(Connection):
    """A connection that reports when a reply is written."""

    on_write: Callable[[], None] = staticmethod(lambda: None)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Transport(transport, self))


class _Transport:
    """A transport whose first write ends the trace."""

    def __init__(self, transport: Any, connection: Watched) -> None:
        self._transport = transport
        self._connection = connection

    def write(self, data: bytes) -> None:
        self._connection.on_write()
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Trace:
    """The modules entered, in order."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self._frames: set[FrameType] = set()  # a coroutine that resumes is not a new call

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        module = _module_of(frame)
        if event != "call" or module is None or frame in self._frames:
            return
        self._frames.add(frame)
        if module not in _running(frame.f_back) and self.entered[-1:] != [module]:
            self.entered.append(module)


def _module_of(frame: FrameType) -> str | None:
    file = Path(frame.f_code.co_filename)
    return ".".join(file.relative_to(ROOT).with_suffix("").parts) if file.is_relative_to(ROOT) else None


def _running(frame: FrameType | None) -> Iterator[str | None]:
    while frame is not None:
        yield _module_of(frame)
        frame = frame.f_back


async def _path_of(settings: Settings, **more: Any) -> list[str]:
    """The modules that a request enters, after others have filled caches."""
    app = create_app(settings)
    config = uvicorn.Config(app, http=Watched, ws="none", log_config=None)
    loop = asyncio.get_running_loop()
    content = json.dumps(BODY | more).encode()
    typed = b"x-client-key: me\r\ncontent-type: application/json\r\n"
    head = b"POST /v1/nlu HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n" % (typed, len(content))
    async with app.app.router.lifespan_context(app.app):
        await app.state.loaded.wait()
        server = await loop.create_server(lambda: Watched(config, ServerState()), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

        async def ask() -> bytes:
            writer.write(head + content)
            reply = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", reply)
            assert length is not None
            await reader.readexactly(int(length[1]))
            return reply

        for _ in range(3):
            assert (await ask()).startswith(b"HTTP/1.1 200")
        trace = Trace()
        Watched.on_write = staticmethod(lambda: sys.setprofile(None))
        sys.setprofile(trace)
        try:
            await ask()
        finally:
            sys.setprofile(None)
            writer.close()
            server.close()
    return trace.entered


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("calibrated")
    write_student(root / "s", calibration=CALIBRATION)
    return root


@pytest.mark.parametrize("more", [{}, {"model": "s"}, {"top_k": 2}])
def test_request_takes_a_short_path(root: Path, more: dict[str, Any]) -> None:
    path = asyncio.run(_path_of(Settings(students=root), **more))

    assert len(set(path)) <= MAX_MODULES, path
    assert len(path) - len(set(path)) <= MAX_RETURNS, path


def test_an_experiment_adds_only_its_file(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(EXPERIMENT)

    path = asyncio.run(_path_of(Settings(students=root, experiment_file=file)))

    assert len(set(path) - {"experiments.experiment", "watched_file"}) <= MAX_MODULES, path
    assert len(path) - len(set(path)) <= MAX_RETURNS, path


def test_documented_path_is_the_real_one(root: Path) -> None:
    path = asyncio.run(_path_of(Settings(students=root)))
    documented = re.findall(r"^ {4}([a-z_.]+) {2,}\S", service.__doc__ or "", re.MULTILINE)

    assert documented == list(dict.fromkeys(path))
