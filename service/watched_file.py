"""Files that may change while the service runs: checked when their content is used, and read again if changed.

Checks run in a thread, since a file system may not answer, and parsing takes time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from service.errors import ENDINGS

CHECK_SECONDS = 1.0

log = logging.getLogger("service")

Content = TypeVar("Content")
Signature = tuple[int, int, int]


class WatchedFile(ABC, Generic[Content]):
    """The content of a file, checked for changes at most once a second. Each kind of file is a subclass.

    An invalid new version is logged once and changes nothing: the last valid content stays in use. The same invalid
    content is not parsed again.

    Args:
        path: of the file, in UTF-8.
        clock: a monotonic clock, in seconds.
        meanwhile: the content until the file is valid for the first time.

    Attributes:
        kind: such as "API keys file"; every message begins with it and the path.
        error: raised if the file is invalid; the message is one sentence.
        kept: what an invalid new version leaves in use, for the log.
        max_bytes: size limit. It has to keep `parse` fast on any content, since a thread that computes delays the
            event loop.

    Raises:
        ValueError: as `error`, unless there is a `meanwhile`: the file is missing, unreadable, not a regular file, too
            large, not UTF-8, or invalid for `parse`.
    """

    kind: ClassVar[str]
    error: ClassVar[type[ValueError]]
    kept: ClassVar[str]
    max_bytes: ClassVar[int]

    def __init__(
        self, path: Path, clock: Callable[[], float] = time.monotonic, meanwhile: Content | None = None
    ) -> None:
        self.path = path
        self._clock = clock
        self._due = clock() + CHECK_SECONDS
        self._problem = ""
        self._refused: tuple[bytes, str] | None = None  # the digest of the last invalid content, and its problem
        self._signature: Signature = 0, 0, 0
        self._one_check = threading.Lock()
        self._checking: threading.Thread | None = None
        if meanwhile is None:
            self._signature, self._content = self._read()
        else:
            self._content = meanwhile
            self._refresh()

    @staticmethod
    @abstractmethod
    def parse(text: str, named: str) -> Content:
        """Make the content from the text. `named` is kind and path, for messages. Raises `error`."""

    @staticmethod
    @abstractmethod
    def summary(content: Content) -> str:
        """Describe new content, for the log."""

    @property
    def current(self) -> Content:
        """The last valid content. If a check is due, it begins in a thread. Never raises, and never waits."""
        now = self._clock()
        if now >= self._due:
            self._due = now + CHECK_SECONDS
            if self._checking is None or not self._checking.is_alive():  # it may hang
                self._checking = threading.Thread(target=self.check, name="check", daemon=True)
                self._checking.start()
        return self._content

    def check(self) -> None:
        """Read the file now if it has changed. Never raises."""
        with self._one_check:
            self._due = self._clock() + CHECK_SECONDS
            self._refresh()

    def _refresh(self) -> None:
        try:
            if self._has_changed():
                self._signature, self._content = self._read()
                log.info("%s %s was read again, %s", self.kind, self.path, self.summary(self._content))
            self._problem = ""
        except self.error as error:  # retried each second: the fault may end without a change of the file
            if str(error) != self._problem:
                self._problem = str(error)
                log.warning("%s; %s", error, self.kept)

    def _has_changed(self) -> bool:
        try:
            return _signature(self.path.stat()) != self._signature
        except OSError:
            return True  # reading the file reports the error

    def _read(self) -> tuple[Signature, Content]:
        named = f"{self.kind} {self.path}"
        try:
            # opening a pipe would block until it has a writer
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise self.error(f"{named} is not a regular file")
            with self.path.open("rb") as stream:
                # read before the content, so that the next check sees a change in between
                signature = _signature(os.fstat(stream.fileno()))
                raw = stream.read(self.max_bytes + 1)
        except OSError as error:
            raise self.error(f"{named} cannot be read: {error.strerror or type(error).__name__}") from None
        if len(raw) > self.max_bytes:
            raise self.error(f"{named} is larger than {self.max_bytes} bytes")
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise self.error(f"{named} is not UTF-8") from None  # the cause would show the content
        return signature, self._parse(raw, text, named)

    def _parse(self, raw: bytes, text: str, named: str) -> Content:
        digest = hashlib.sha256(raw).digest()
        if self._refused is not None and self._refused[0] == digest:
            raise self.error(self._refused[1])
        try:
            return self.parse(text, named)
        except ENDINGS:
            raise
        except self.error as error:
            problem = str(error)
        except BaseException as error:  # noqa: BLE001 - the parser's libraries may raise anything on some content
            problem = f"{named} can't be parsed: {type(error).__name__}"
        self._refused = digest, problem
        raise self.error(problem)


def _signature(status: os.stat_result) -> Signature:
    return status.st_mtime_ns, status.st_size, status.st_ino
