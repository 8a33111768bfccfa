"""Watched files: checked in a thread, one check at a time, and invalid content is parsed once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from service.watched_file import WatchedFile
from tests.service.conftest import Clock
from tests.service.server import PATIENCE, until


class NumberError(ValueError):
    """The file is invalid."""


class NumberFile(WatchedFile[int]):
    """A file with a number. It records the contents that it has parsed, and the threads."""

    kind = "number file"
    error = NumberError
    kept = "the number stays"
    max_bytes = 100
    parsed: list[tuple[str, threading.Thread]]
    may_continue: threading.Event

    @staticmethod
    def parse(text: str, named: str) -> int:
        """The number."""
        NumberFile.parsed.append((text, threading.current_thread()))
        assert NumberFile.may_continue.wait(PATIENCE)
        if text == "odd":
            raise NumberError(f"{named} is odd")
        return int(text)

    @staticmethod
    def summary(content: int) -> str:
        """The number."""
        return str(content)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "number"
    path.write_text("1")
    return path


@pytest.fixture
def file(path: Path, clock: Clock) -> NumberFile:
    NumberFile.parsed = []
    NumberFile.may_continue = threading.Event()
    NumberFile.may_continue.set()
    return NumberFile(path, clock)


def test_content_is_parsed_in_another_thread_and_the_old_one_used_meanwhile(
    file: NumberFile, path: Path, clock: Clock
) -> None:
    NumberFile.may_continue.clear()
    path.write_text("2")
    clock.now += 1

    for _ in range(100):
        assert file.current == 1
        clock.now += 1

    NumberFile.may_continue.set()
    until(lambda: file.current == 2)
    (first, here), (second, thread) = NumberFile.parsed  # one check, however often it was due
    assert (first, second) == ("1", "2")
    assert here is threading.current_thread()
    assert thread is not threading.current_thread()
    assert thread.daemon  # one that hangs does not keep the process from exiting


@pytest.mark.parametrize(("content", "problem"), [("odd", "is odd"), ("two", "can't be parsed: ValueError")])
def test_invalid_content_is_parsed_once(
    file: NumberFile, path: Path, content: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        path.write_text(content)  # at a new time
        file.check()
    path.unlink()
    file.check()
    path.write_text(content)
    file.check()

    assert [text for text, _ in NumberFile.parsed] == ["1", content]
    assert caplog.messages == [
        f"number file {path} {problem}; the number stays",
        f"number file {path} cannot be read: No such file or directory; the number stays",
        f"number file {path} {problem}; the number stays",
    ]
    assert file.current == 1


def test_valid_content_after_an_invalid_one_is_used(file: NumberFile, path: Path) -> None:
    for content in ("odd", "2", "odd", "1"):
        path.write_text(content)
        file.check()

    assert file.current == 1
    assert [text for text, _ in NumberFile.parsed] == ["1", "odd", "2", "1"]
