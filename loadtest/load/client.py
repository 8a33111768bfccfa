"""Single requests to a service, apart from the load. They ignore proxies, as locust's client does."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple, Self
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from loadtest.load.command import LoadTestError

OK = 200
JSON = {"content-type": "application/json"}
_opener = build_opener(ProxyHandler({}))


class LoadError(LoadTestError):
    """A server can't be reached, or its reply is invalid; the message is one sentence."""


class Reply(NamedTuple):
    """A reply with any status."""

    status: int
    headers: Message
    content: bytes


def fetch(url: str, timeout: float, body: bytes | None = None) -> Reply:
    """GET a URL, or POST a JSON body to it, over a new connection.

    Raises:
        LoadError: there is no reply within `timeout` seconds.
    """
    try:
        with _opener.open(Request(url, body, JSON if body else {}), timeout=timeout) as reply:
            return Reply(reply.status, reply.headers, reply.read())
    except HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())
    except (OSError, ValueError, HTTPException) as error:
        raise LoadError(f"{url.split('?')[0]} can't be reached ({getattr(error, 'reason', error)})") from None


class Client:
    """A persistent connection to a server; a context manager."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.url = url
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """POST a JSON body.

        Raises:
            LoadError: there is no reply.
        """
        try:
            self._connection.request("POST", path, body, JSON | dict(headers or {}))
            reply = self._connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        except (OSError, HTTPException) as error:
            raise LoadError(f"{self.url} can't be reached ({error or type(error).__name__})") from None
