"""HTTP/1.1 on one connection: uvicorn's protocol, reduced to what this service needs.

Served by `uvicorn.Server` (``uvicorn.Config(http=Connection)``) and parsed by httptools. uvicorn's general protocol
takes a large part of a request's time, since inference evicts its code from the processor's caches; this one is faster.
It has no web sockets, streamed replies (each is sent at once, with its length) or access logs. It limits the size of a
request's head and the time in which it must arrive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn import Config
from uvicorn.server import ServerState

from service.errors import BadHttp, HeadTimeout, HeadTooLarge, ServiceError
from service.http.cycle import CLOSE, STATUS_LINES, RequestResponseCycle
from service.http.flow import FlowControl
from service.http.head import CHECKED_HEADERS, check_headers, head_without_upgrade, unusual_target
from service.http.lingering import Lingering

MAX_HEAD_BYTES = 1 << 16
HEAD_SECONDS = 10.0
MAX_UNREAD_BYTES = 1 << 16


class Connection(asyncio.Protocol):
    """One connection of a client; uvicorn makes it, keeps it in its state and calls `shutdown`.

    Attributes:
        app: the service's ASGI application, a `RequestMiddleware`.
        cycle: the request being answered, or the last one; None before the first.
        flow: pauses reading and writing; set once connected.
        is_stopping: no further request is accepted.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any] | None = None,  # noqa: ARG002 - part of uvicorn's signature
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if not config.loaded:
            config.load()
        self.app: Any = config.loaded_app
        self.tasks: set[Any] = server_state.tasks
        self.cycle: RequestResponseCycle | None = None
        self.is_stopping = False
        self._keep_alive_seconds = config.timeout_keep_alive
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = self._new_parser()
        self._incoming: RequestResponseCycle | None = None
        self._pipeline: deque[RequestResponseCycle] = deque()
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_is_open = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._checked: list[tuple[bytes, bytes]] = []  # of `_headers`, those in `CHECKED_HEADERS`
        self._last_check: tuple[str, list[tuple[bytes, bytes]]] = ("", [])
        self._expects_continue = False
        self._head_bytes = 0
        self._framing_bytes = 0  # received since the last complete head or part of a body
        self._idle_until = 0.0
        self._refusal: ServiceError | None = None
        self._has_dropped = False  # something that the client sent was dropped, or is going to be

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self.flow = FlowControl(self._transport, self._keep_alive_seconds)
        self._scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "http",
            "server": (transport.get_extra_info("sockname") or ("", 0))[:2],  # None if it has closed already
            "client": (transport.get_extra_info("peername") or ("", 0))[:2],
            "root_path": "",
        }
        self._state.connections.add(cast("Any", self))
        self._idle_until = self._loop.time() + self._keep_alive_seconds
        self._idle_timer = self._loop.call_at(self._idle_until, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - part of asyncio's signature
        """The client has disconnected, or the connection was closed."""
        self._state.connections.discard(cast("Any", self))
        self._idle_timer.cancel()
        self._end_head()
        self._pipeline.clear()
        for cycle in (self.cycle, self._incoming):
            if cycle is not None:
                cycle.end()
        self.cycle = self._incoming = None
        self.flow.resume_writing()
        del self._parser  # it refers to this object, and this object to it

    def data_received(self, data: bytes) -> None:
        """Parse bytes; each request whose head they complete is started or queued."""
        if self.is_stopping and self._incoming is None:
            self._has_dropped = True
            return
        self._framing_bytes += len(data)
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                self._decline_upgrades(memoryview(data)[upgrade.args[0] :])
        except ServiceError as error:
            self._refuse(error)
        except httptools.HttpParserError as error:
            raised = error.__context__  # by a method below
            # the parser's messages are constant, without anything of the request
            self._refuse(raised if isinstance(raised, ServiceError) else BadHttp(problem=f"{error}"))
        if self._framing_bytes > MAX_HEAD_BYTES and not self.is_stopping:
            self._refuse(HeadTooLarge(limit=MAX_HEAD_BYTES))
        elif self._head_is_open and self._head_timer is None and not self.flow.is_paused:
            self._start_head_timer()  # while paused, the rest can't arrive: `resume_reading` starts it

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self.flow.resume_writing()

    # Called by the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_is_open = True
        idle_until = self._loop.time() + HEAD_SECONDS
        if idle_until > self._idle_until:
            self._idle_until = idle_until
        self._url = b""
        self._headers = []
        self._checked = []
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._url += url
        self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a trailer, which is dropped."""
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEAD_BYTES:
            raise HeadTooLarge(limit=MAX_HEAD_BYTES)
        if not self._head_is_open:
            return
        header = (name.lower(), value)
        if header[0] in CHECKED_HEADERS:
            self._checked.append(header)
        self._headers.append(header)

    def on_headers_complete(self) -> None:
        """The head is complete: start the request, or queue it behind the one that is being answered."""
        if self.is_stopping:  # the request before asked to close
            self._has_dropped = True
            return
        if self._parser.should_upgrade():  # parsed again: `_decline_upgrades`
            return
        self._end_head()
        version = self._parser.get_http_version()
        if self._last_check != (version, self._checked):  # those of a connection hardly ever differ
            self._expects_continue = check_headers(version, self._checked)
            self._last_check = (version, self._checked)
        target = self._url
        if target[:1] != b"/" or b"#" in target:
            target = unusual_target(target, self._parser.get_method())
        raw_path, _, query = target.partition(b"?")
        scope = {
            **self._scope,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "path": raw_path.decode("latin-1"),  # not decoded: a proxy's rule may be for the path as it was sent
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
        }
        cycle = self._incoming = RequestResponseCycle(
            self,
            scope,
            keep_alive=version == "1.1" and self._parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        if self.cycle is None or self.cycle.is_over:
            self._start(cycle)
        else:
            self._pipeline.append(cycle)
            self.flow.pause_reading()

    def on_body(self, body: bytes) -> None:
        """A part of the request's body."""
        self._framing_bytes = 0
        if self._incoming is not None and self._incoming.feed(body) > MAX_UNREAD_BYTES:
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        """The request is complete."""
        incoming = self._incoming
        if incoming is not None:
            incoming.feed_end()
            if not incoming.keep_alive:
                self.is_stopping = True
            self._incoming = None

    # Called by `RequestResponseCycle`

    def head_of(self, status: int) -> list[bytes]:
        """The first lines of a reply: status and date."""
        return [STATUS_LINES[status], *[b"%s: %s\r\n" % header for header in self._state.default_headers]]

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has disconnected."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def resume_reading(self) -> None:
        """Resume reading: the body received so far was consumed."""
        if self.flow.is_paused and self.flow.resume_reading() and self._head_is_open:
            self._start_head_timer()

    def finish(self, cycle: RequestResponseCycle) -> None:
        """The reply was sent: start the next request, or close."""
        self._state.total_requests += 1
        if not cycle.keep_alive:
            self._linger()
            return
        if self.is_stopping and not self._pipeline:
            self._close()
            return
        if self._pipeline:
            self._start(self._pipeline.popleft())
        self._idle_until = self._loop.time() + self._keep_alive_seconds
        if not self._pipeline:
            self.resume_reading()

    def is_last(self) -> bool:
        """Whether the current reply is the last one on this connection."""
        return self.is_stopping and not self._pipeline and self._refusal is None

    def abort(self) -> None:
        """Close at once, because a reply could not be finished."""
        self._transport.abort()

    # Called by uvicorn

    def shutdown(self) -> None:
        """Accept no further request, and close once the last one is answered."""
        self.is_stopping = True
        if self._is_idle():
            self._transport.close()

    # Internal

    def _start(self, cycle: RequestResponseCycle) -> None:
        self.cycle = cycle
        cycle.task = self._loop.create_task(cycle.run())
        self.tasks.add(cycle.task)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.is_over

    def _close_if_idle(self) -> None:
        now = self._loop.time()
        if now < self._idle_until or not self._is_idle():
            due = max(self._idle_until, now + 1.0)
            self._idle_timer = self._loop.call_at(due, self._close_if_idle)
        elif self._transport.get_write_buffer_size():  # the client has not read its last reply
            self._transport.abort()
        else:
            self._transport.close()

    def _start_head_timer(self) -> None:
        self._head_timer = self._loop.call_later(HEAD_SECONDS, lambda: self._refuse(HeadTimeout()))

    def _end_head(self) -> None:
        self._head_is_open = False
        self._framing_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # Else a trailer "connection: close" ends the connection. What follows a request that asks to close is dropped.
        parser.set_dangerous_leniencies(lenient_keep_alive=True)
        return parser

    def _decline_upgrades(self, rest: memoryview) -> None:
        """Parse a request again without its upgrade, since the parser skips its body then; and what follows it."""
        while True:
            method, version = self._parser.get_method(), self._parser.get_http_version()
            head = head_without_upgrade(method, self._url, version, self._headers)
            self._end_head()
            self._parser = self._new_parser()
            self._parser.feed_data(head)
            try:
                self._parser.feed_data(rest)
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            else:
                return

    def _refuse(self, error: ServiceError) -> None:
        """Answer an invalid request with an error, after the requests before it; then close."""
        if self.is_stopping and self._incoming is None:  # the last request is complete
            self._has_dropped = True
            return
        self._end_head()
        self.is_stopping = self._has_dropped = True
        broken, self._incoming = self._incoming, None  # message framing is lost
        if broken is not None and broken.fail(error):
            self.flow.pause_reading()
            return
        if broken is not None and broken in self._pipeline:
            self._pipeline.remove(broken)
        self.app.metrics.count_error(error)
        self._refusal = error
        if self._is_idle():
            self._close()
        else:
            self.flow.pause_reading()

    def _close(self) -> None:
        if self._refusal is not None:
            reply = self.app.refuse(self._refusal)
            lines = [*self.head_of(reply.status), *(b"%s: %s\r\n" % header for header in reply.headers), CLOSE]
            self.write(b"".join([*lines, b"content-length: %d\r\n\r\n" % len(reply.body), reply.body]))
        self._linger()

    def _linger(self) -> None:
        """Close; if the client may still be sending, only after it has got the last reply."""
        self.is_stopping = True
        if self._incoming is None and not self._pipeline and not self._has_dropped:
            self._transport.close()
        elif not self._transport.is_closing():
            self.resume_reading()
            Lingering(self._transport, self._state, self._loop)
            self.connection_lost(None)  # for this protocol
