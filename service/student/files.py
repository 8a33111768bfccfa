"""Reading files that others wrote."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular_file(path: Path) -> BufferedReader:
    """Open a file for reading. Never waits for a writer, as opening a pipe would.

    Raises:
        OSError: it can't be opened, or is not a regular file, nor a link to one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(None, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")
