"""API keys: valid and invalid files, requests, rotation without a restart, and that no key is exposed."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.keys import MAX_BYTES, MIN_KEY_LENGTH, ApiKeys, KeysError
from tests.service.conftest import Clock
from tests.service.server import until

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{FIRST}\n")
    return path


@pytest.fixture
def keys(file: Path, clock: Clock) -> ApiKeys:
    return ApiKeys(file, clock)


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"test"), (b"authorization", b"Bearer " + key.encode())]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", f"Bearer {FIRST}".encode())],
        [(b"authorization", f"bearer   {FIRST} ".encode())],
        [(b"x-api-key", FIRST.encode())],
        [(b"accept", b"*/*"), (b"x-api-key", f" {FIRST}".encode())],
        [(b"authorization", b"Basic dXNlcjpwYXNz"), (b"x-api-key", FIRST.encode())],
        [(b"authorization", b"Bearer of-another-gateway"), (b"x-api-key", FIRST.encode())],
    ],
)
def test_a_valid_key_is_admitted(keys: ApiKeys, headers: list[tuple[bytes, bytes]]) -> None:
    assert keys.admits(headers)
    assert keys.admits(dict(headers))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", FIRST.encode())],
        [(b"authorization", f"Basic {FIRST}".encode())],
        [(b"authorization", f"Bearer {SECOND}".encode())],
        [(b"authorization", f"Bearer {FIRST}x".encode())],
        [(b"authorization", f"Bearer {FIRST[:-1]}".encode())],
        [(b"authorization", f"Bearer {FIRST.upper()}".encode())],
        [(b"x-api-key", b"")],
        [(b"x-api-key", f"Bearer {FIRST}".encode())],
        [(b"x-api-key", FIRST.encode()), (b"x-api-key", b"the last of many guesses")],
        [(b"cookie", FIRST.encode())],
    ],
)
def test_other_headers_are_refused(keys: ApiKeys, headers: list[tuple[bytes, bytes]]) -> None:
    assert not keys.admits(headers)


def test_several_keys_are_valid_at_once_among_comments_and_line_endings_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(f"\ufeff# old\r\n{FIRST}\r\n\r\n  # nächster\n \t\n{SECOND}\n{SECOND}".encode())
    keys = ApiKeys(path)

    assert keys.admits(bearer(FIRST))
    assert keys.admits(bearer(SECOND))
    assert not keys.admits(bearer("# old"))
    assert "2 keys" in repr(keys)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", " has no key"),
        (b"\n# nothing\n\r\n", " has no key"),
        (b"secret-caf\xe9-0123456789", " is not UTF-8"),
        (b"# kurz\nsecret\n", ", line 2: a key must have at least 16 characters"),
        (b"secret 0123456789 01234", ", line 1: a key may have only visible ASCII characters, no white space"),
        (b"\nsecret-0123456789-01234 \n", ", line 2: a key may have only visible ASCII"),
        (b"secret-0123456789 # of anna\n", ", line 1: a key may have only visible ASCII"),
        (b"secret-0123456789\x0bsecret-0123456789", ", line 1: a key may have only visible ASCII"),
        (b"secret-0123456789\rsecret-0123456789\n", ", line 1: a key may have only visible ASCII"),
        (b"secret-0123456789\0", ", line 1: a key may have only visible ASCII"),
        ("secret-größe-0123456789".encode(), ", line 1: a key may have only visible ASCII"),
        (b"#" * (MAX_BYTES + 1), f" is larger than {MAX_BYTES} bytes"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_without_the_key(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)

    with pytest.raises(KeysError) as caught:
        ApiKeys(path)

    assert str(caught.value).startswith(f"API keys file {path}{problem}")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "\n" not in str(caught.value)


def test_a_key_of_the_shortest_length_is_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("k" * MIN_KEY_LENGTH)

    assert ApiKeys(path).admits(bearer("k" * MIN_KEY_LENGTH))


def test_a_missing_file_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(KeysError, match="cannot be read: No such file"):
        ApiKeys(tmp_path / "nowhere")
    with pytest.raises(KeysError, match="is not a regular file"):
        ApiKeys(tmp_path)
    with pytest.raises(KeysError, match="is not a regular file"):
        ApiKeys(tmp_path / "pipe")


def test_a_file_that_may_not_be_read_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # permissions themselves don't bind root, who may run this

    with pytest.raises(KeysError, match=r"cannot be read: Permission denied$"):
        ApiKeys(file)


def test_keys_rotate_without_a_restart(keys: ApiKeys, file: Path, clock: Clock) -> None:
    file.write_text(f"{FIRST}\n{SECOND}\n")
    assert not keys.admits(bearer(SECOND))  # not checked within the second
    clock.now += 1
    until(lambda: keys.admits(bearer(SECOND)))
    assert keys.admits(bearer(FIRST))

    file.write_text(f"{SECOND}\n")
    clock.now += 1
    until(lambda: not keys.admits(bearer(FIRST)))
    assert keys.admits(bearer(SECOND))


def test_a_file_put_in_place_of_another_is_noticed_though_size_and_time_are_the_same(keys: ApiKeys, file: Path) -> None:
    before = file.stat()
    other = file.with_name("new")
    other.write_text(f"{FIRST.replace('first', 'other')}\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    keys.check()

    assert not keys.admits(bearer(FIRST))


def test_the_file_is_looked_at_no_more_than_once_a_second_and_read_only_when_changed(
    keys: ApiKeys, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, reads = [], []
    look, read = Path.stat, Path.open
    monkeypatch.setattr(Path, "stat", lambda path: looks.append(path) or look(path))  # type: ignore[func-returns-value]
    monkeypatch.setattr(Path, "open", lambda *a: reads.append(a) or read(*a))  # type: ignore[func-returns-value]

    for step in range(40):
        clock.now = 100.0 + step / 8
        assert keys.admits(bearer(FIRST))
        until(lambda: "check" not in {thread.name for thread in threading.enumerate()})

    assert len(looks) == 4  # at seconds 1, 2, 3 and 4
    assert reads == []


def test_a_bad_new_file_keeps_the_keys_and_is_logged_once(
    keys: ApiKeys, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_text("short\n")
    for _ in range(5):
        keys.check()
        assert keys.admits(bearer(FIRST))
    file.unlink()
    for _ in range(5):
        keys.check()
        assert keys.admits(bearer(FIRST))

    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "line 1: a key must have at least 16 characters; the API keys that were valid before" in caplog.messages[0]
    assert "No such file" in caplog.messages[1]
    assert "short" not in caplog.text.replace(str(file), "")


def test_a_file_that_becomes_good_again_is_used(keys: ApiKeys, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for content in ("", f"{SECOND}\n", ""):
        file.write_text(content)
        keys.check()

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert caplog.messages[1].endswith("was read again, valid now: 1")
    assert keys.admits(bearer(SECOND))
    assert not keys.admits(bearer(FIRST))


def test_a_failure_to_read_is_tried_again_though_the_file_stays_as_it_is(
    keys: ApiKeys, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    file.write_text(f"{SECOND}\n")
    with monkeypatch.context() as exhausted:
        exhausted.setattr(Path, "open", fail)
        keys.check()
        assert not keys.admits(bearer(SECOND))

    keys.check()
    assert keys.admits(bearer(SECOND))


def test_no_key_is_shown_or_stored(keys: ApiKeys) -> None:
    assert FIRST not in repr(keys)
    assert not any(FIRST in found for found in _strings_reachable_from(keys))


def _strings_reachable_from(keys: ApiKeys) -> Iterator[str]:
    waiting, seen = gc.get_referents(keys), set()
    while waiting:
        found = waiting.pop()
        if id(found) in seen or callable(found):
            continue
        seen.add(id(found))
        if isinstance(found, (str, bytes)):
            yield found if isinstance(found, str) else found.decode("latin-1")
        waiting.extend(gc.get_referents(found))


lines = st.one_of(
    st.binary(max_size=40), st.text(max_size=40).map(str.encode), st.sampled_from([FIRST.encode(), b"#x", b""])
)


@given(
    content=st.lists(lines, max_size=6).flatmap(
        lambda found: st.sampled_from([b"\n", b"\r\n"]).map(lambda end: end.join(found))
    )
)
def test_no_content_raises_anything_but_the_one_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content)
    try:
        keys = ApiKeys(path)
    except KeysError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most content is refused, and need not be
    else:
        found = [line.removesuffix(b"\r").removeprefix(b"\xef\xbb\xbf") for line in content.split(b"\n")]
        for line in found:
            valid = len(line) >= MIN_KEY_LENGTH and line.strip() and not line.strip().startswith(b"#")
            assert keys.admits([(b"x-api-key", line)]) == bool(valid)


header_names = st.one_of(st.sampled_from([b"authorization", b"x-api-key"]), st.binary(max_size=20))
header_values = st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda value: b"Bearer " + value))


@given(headers=st.lists(st.tuples(header_names, header_values), max_size=6))
def test_random_headers_are_refused(keys: ApiKeys, headers: list[tuple[bytes, bytes]]) -> None:
    assert keys.admits(headers) is False
