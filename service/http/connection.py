"""HTTP/1.1 on one connection, as uvicorn's own protocol speaks it, less what this service does not need.

Served by `uvicorn.Server` (``uvicorn.Config(http=Connection)``) and parsed by httptools. It is here because it is worth
its lines: beside a model that sweeps the processor's caches, uvicorn's general one takes a good part of a request. What
it leaves out: web sockets, streamed replies (each is sent whole, with its length), access logs. What it adds: limits on
the size of a request's head and on the time that it may take.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast
from urllib.parse import unquote

import httptools
import orjson
from starlette.types import Scope
from uvicorn import Config
from uvicorn.server import ServerState

from service.errors import BadHttp, HeadTimeout, HeadTooLarge, ServiceError, error_body
from service.http.context import OTHER, new_request_id
from service.http.request_response import CLOSE, STATUS_LINES, Exchange
from service.monitoring.metrics import NONE

MOST_HEAD_BYTES = 1 << 16
HEAD_SECONDS = 10.0
LINGER_SECONDS = 2.0
MOST_UNREAD_BYTES = 1 << 16


class Connection(asyncio.Protocol):
    """One connection of a client; uvicorn makes them, keeps them in its state and calls `shutdown`.

    Attributes:
        exchange: the one being answered, or the last; None before the first.
        is_full: the client reads more slowly than it is written to.
        is_stopping: no further request is taken.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any] | None = None,  # noqa: ARG002 - uvicorn hands it over
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.app: Any = config.loaded_app
        self.tasks: set[Any] = server_state.tasks
        self.exchange: Exchange | None = None
        self.is_full = False
        self.is_stopping = False
        self._is_lingering = False
        self._keep_alive_seconds = config.timeout_keep_alive
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._incoming: Exchange | None = None
        self._pipeline: deque[Exchange] = deque()
        self._drained: asyncio.Future[None] | None = None
        self._is_paused = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_is_open = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head_received = 0
        self._idle_until = 0.0
        self._refusal: ServiceError | None = None

    @property
    def default_head(self) -> list[bytes]:
        """Lines that begin every reply: the date."""
        return [part for name, value in self._state.default_headers for part in (name, b": ", value, b"\r\n")]

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = cast("asyncio.Transport", transport)
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "http",
            "server": (transport.get_extra_info("sockname") or ("", 0))[:2],  # none where it is gone already
            "client": (transport.get_extra_info("peername") or ("", 0))[:2],
            "root_path": "",
        }
        self._state.connections.add(cast("Any", self))
        self._idle_until = self._loop.time() + self._keep_alive_seconds
        self._idle_timer = self._loop.call_at(self._idle_until, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - it makes no difference
        """The client has left, or the connection was closed."""
        self._state.connections.discard(cast("Any", self))
        self._idle_timer.cancel()
        self._end_head()
        self._pipeline.clear()
        for exchange in (self.exchange, self._incoming):
            if exchange is not None:
                exchange.end()
        self.exchange = self._incoming = None
        self.resume_writing()
        del self._parser  # these two hold each other

    def data_received(self, data: bytes) -> None:
        """Bytes have come; each request that they complete is begun or queued."""
        if self.is_stopping and self._incoming is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            self._refuse(error.__context__ if isinstance(error.__context__, ServiceError) else BadHttp())
        except httptools.HttpParserError:
            self._refuse(BadHttp())
        if not self._head_is_open:
            return
        if self._head_timer is not None:  # all of these bytes belong to it
            self._head_received += len(data)
            if self._head_received > MOST_HEAD_BYTES:
                self._refuse(HeadTooLarge(limit=MOST_HEAD_BYTES))
        else:
            self._head_received = 0
            self._head_timer = self._loop.call_later(HEAD_SECONDS, lambda: self._refuse(HeadTimeout()))

    def pause_writing(self) -> None:
        """The client does not read."""
        self.is_full = True

    def resume_writing(self) -> None:
        """It reads again, or is gone."""
        self.is_full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # What the parser calls

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_is_open = True
        self._idle_until = max(self._idle_until, self._loop.time() + HEAD_SECONDS)
        self._url = b""
        self._headers = []
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of its target."""
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, whole; a trailer is none."""
        if self._head_is_open:
            self._headers.append((name.lower(), value))
        self._count_head(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Its head is whole: begin to answer, or queue it behind the request that is being answered."""
        if self._is_lingering or self._parser.should_upgrade():  # to be read again, see `_decline_upgrade`
            return
        self._end_head()
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadHttp
        target = httptools.parse_url(self._url)
        raw_path = target.path or b"/"
        path = raw_path.decode("latin-1")
        scope = {
            **self._scope,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": target.query or b"",
            "headers": self._headers,
        }
        exchange = self._incoming = Exchange(
            self,
            scope,
            keep_alive=version == "1.1" and self._parser.should_keep_alive(),
            expects_continue=version == "1.1" and (b"expect", b"100-continue") in self._headers,
        )
        if self.exchange is None or self.exchange.over:
            self._begin(exchange)
        else:
            self._pipeline.append(exchange)
            self._pause_reading()

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        if self._incoming is not None and self._incoming.feed(body) > MOST_UNREAD_BYTES:
            self._pause_reading()

    def on_message_complete(self) -> None:
        """It is whole."""
        if self._incoming is not None:
            self._incoming.feed_end()
            self._incoming = None
            if self._is_lingering:
                self._transport.close()

    # What an exchange calls

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client is gone."""
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> bool:
        """Wait until the client has read what was written. False if it has left, or reads nothing for too long."""
        try:
            async with asyncio.timeout(self._keep_alive_seconds):
                while self.is_full:
                    self._drained = self._loop.create_future()
                    await self._drained
        except TimeoutError:
            self.abort()
        return not self._transport.is_closing()

    def resume_reading(self) -> None:
        """Read on: the body so far was taken."""
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def finish(self, exchange: Exchange) -> None:
        """Its reply is sent: go on with the next request, or close."""
        self._state.total_requests += 1
        if not exchange.keep_alive:
            self._linger()
            return
        if self.is_stopping and not self._pipeline:
            self._close()
            return
        if self._pipeline:
            self._begin(self._pipeline.popleft())
        self._idle_until = self._loop.time() + self._keep_alive_seconds
        if not self._pipeline:
            self.resume_reading()

    def is_last(self) -> bool:
        """Nothing will be sent after the reply that is due now."""
        return self.is_stopping and not self._pipeline and self._refusal is None

    def abort(self) -> None:
        """Close at once: a reply could not be finished."""
        self._transport.abort()

    # What uvicorn calls

    def shutdown(self) -> None:
        """Take no further request, and close once the last one is answered."""
        self.is_stopping = True
        if self._is_idle() and not self._is_lingering:
            self._transport.close()

    # Our own

    def _begin(self, exchange: Exchange) -> None:
        self.exchange = exchange
        exchange.task = self._loop.create_task(exchange.run())
        self.tasks.add(exchange.task)

    def _is_idle(self) -> bool:
        return self.exchange is None or self.exchange.over

    def _close_if_idle(self) -> None:
        now = self._loop.time()
        if now < self._idle_until or (self.exchange is not None and not self.exchange.over):
            due = max(self._idle_until, now + 1.0)
            self._idle_timer = self._loop.call_at(due, self._close_if_idle)
        elif self._transport.get_write_buffer_size():  # it does not even read its last reply
            self._transport.abort()
        else:
            self._transport.close()

    def _count_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > MOST_HEAD_BYTES:
            raise HeadTooLarge(limit=MOST_HEAD_BYTES)

    def _end_head(self) -> None:
        self._head_is_open = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _pause_reading(self) -> None:
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read a request again without its wish for another protocol, for which the parser skips its body."""
        method, version = self._parser.get_method(), self._parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(BadHttp())
            return
        lines = [b"%s %s HTTP/%s" % (method, self._url, version.encode())]
        lines += [b"%s: %s" % header for header in self._headers if header[0] != b"upgrade"]
        self._end_head()
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _take_no_more(self) -> None:
        self.is_stopping = True
        if self._is_idle():
            self._close()

    def _refuse(self, error: ServiceError) -> None:
        """Answer what can't be read as a request, once the requests before it are answered; then close."""
        self._end_head()
        self.app.metrics.count_error(error)
        self._refusal = error
        broken, self._incoming = self._incoming, None  # where its body would go on, nobody knows
        if broken is not None and broken in self._pipeline:
            self._pipeline.remove(broken)
        elif broken is not None and broken.over:  # answered: one more reply would be taken for that to the next request
            self._refusal = None
        elif broken is not None:
            broken.end()
        self._take_no_more()

    def _close(self) -> None:
        if self._refusal is not None:
            request_id, status = new_request_id(), self._refusal.row.status
            metrics = self.app.metrics
            metrics.defer(metrics.count_request, NONE, OTHER, status, 0.0)
            body = orjson.dumps(error_body(self._refusal, request_id))
            head = [STATUS_LINES[status], *self.default_head, b"content-type: application/json\r\n"]
            head.append(b"x-request-id: %s\r\n" % request_id.encode())
            self.write(b"".join([*head, b"content-length: %d\r\n" % len(body), CLOSE, b"\r\n", body]))
        self._linger()

    def _linger(self) -> None:
        """Close, but not on bytes unread: the system would reset the connection, and the client lose the reply."""
        self.is_stopping = self._is_lingering = True
        if (self._incoming is None and self._refusal is None) or self._transport.is_closing():
            self._transport.close()
            return
        self._transport.write_eof()
        self.resume_reading()
        self._idle_until = self._loop.time() + LINGER_SECONDS
        self._idle_timer.cancel()
        self._idle_timer = self._loop.call_at(self._idle_until, self._close_if_idle)
