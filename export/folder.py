"""Write a student folder atomically."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.student.manifest import NAME_PATTERN


class ExportError(ValueError):
    """The export is impossible or its result must not be used; the message says why."""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that is renamed to `out` at the end, or deleted if the block raises.

    Raises:
        ExportError: `out` exists and is not an empty folder, or its name is not a valid student name.
    """
    if not re.fullmatch(NAME_PATTERN, out.name):
        raise ExportError(f"name: {out.name!r}; allowed: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: exists and is not empty; choose another --out or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
