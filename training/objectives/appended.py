"""Arrays in files that grow by appending, and are read by memory-mapping: what the caches of teachers are made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.files import writing


def mapped(file: Path, kind: type[np.generic], *columns: int) -> NDArray[Any]:
    """The complete rows of a file [rows, *columns], memory-mapped; no rows where there is no file."""
    empty = np.zeros((0, *columns), dtype=kind)
    row = empty.itemsize * int(np.prod(columns))
    if not row or not file.is_file() or not (rows := file.stat().st_size // row):
        return empty
    return np.asarray(np.memmap(file, dtype=kind, mode="r", shape=(rows, *columns)))


def append(folder: Path, parts: Mapping[str, NDArray[Any]]) -> None:
    """Append an array to each file of a folder, in this order: the last file says which rows are complete."""
    for name, array in parts.items():
        with writing(folder / name), (folder / name).open("ab") as stream:
            stream.write(np.ascontiguousarray(array).tobytes())


def cut(folder: Path, complete: Mapping[str, NDArray[Any]]) -> None:
    """Cut each file of a folder to its complete rows: an interrupted `append` may have written more."""
    for name, array in complete.items():
        if (file := folder / name).is_file():
            with file.open("r+b") as stream:
                stream.truncate(array.nbytes)
