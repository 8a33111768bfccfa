"""Atomic writing of files."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors of writing a file (the system's, PyTorch's, or `errors`) into an OSError that names the file.

    Raises OSError: the file can't be written, such as on a full disk.
    """
    expected: tuple[type[Exception], ...] = (OSError, RuntimeError, *errors)
    try:
        yield
    except expected as error:
        reason: BaseException = error
        while not isinstance(reason, OSError) and reason.__context__ is not None:  # PyTorch hides the cause
            reason = reason.__context__
        if isinstance(reason, OSError) and reason.filename:
            raise
        first_line = str(reason).split("\n")[0]
        raise OSError(f"{path}: cannot be written: {first_line}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: under its name it is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with writing(path), os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write JSON, compressed where the name ends in .gz; the same content gives the same bytes."""
    data = (json.dumps(content, ensure_ascii=False, indent=None if path.suffix == ".gz" else 1) + "\n").encode()
    write_atomically(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote."""
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
