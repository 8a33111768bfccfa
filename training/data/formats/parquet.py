"""Parquet, and the Arrow files of a `datasets` folder; label names are those of their `ClassLabel` features."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from training.data.formats.base import Content, Reading, Row
from training.data.formats.rows import RowReader
from training.data.utterances import DatasetError, RecordError


def is_parquet(content: Content) -> bool:
    """Parquet, or Arrow as a stream or a file."""
    return content.data[:4] == b"PAR1" or content.data[:6] == b"ARROW1" or content.suffix == ".arrow"


def read_parquet(content: Content, reading: Reading) -> Iterator[Row]:
    """The rows of a table. Raises DatasetError: it is damaged, or pyarrow is not installed."""
    table = _table(content)
    names = _class_labels(table.schema.metadata or {}, content.place)
    rows = RowReader(content.place, reading)
    number = 0
    for batch in table.to_batches(max_chunksize=10_000):
        for fields in _dicts(batch, content.place):
            place = f"{content.place}:{number}"
            number += 1
            try:
                yield place, rows.draft({c: named(v, names.get(c)) for c, v in fields.items()}, place)
            except RecordError as error:
                yield place, error


def _dicts(batch: Any, place: str) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError as error:
        raise DatasetError(f"{place}: a text of the table is not UTF-8 ({error})") from error


def named(value: Any, names: Sequence[str] | None) -> Any:
    """A label's name for its index, or the names for a list of them; other values as they are."""
    if names is None:
        return value
    if isinstance(value, list):
        return [named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _table(content: Content) -> Any:
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise DatasetError(
            f"{content.place}: Parquet needs the extra: pip install 'distilled-nlu[training]'"
        ) from error
    source = pyarrow.BufferReader(content.data)
    try:
        if content.data[:4] == b"PAR1":
            return parquet.read_table(source)
        opened = pyarrow.ipc.open_file if content.data[:6] == b"ARROW1" else pyarrow.ipc.open_stream
        return opened(source).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(f"{content.place}: is no complete Parquet or Arrow file ({error})") from error


def _class_labels(metadata: dict[bytes, bytes], place: str) -> dict[str, list[str]]:
    """The label names that `datasets` writes into the schema, by column."""
    try:
        info = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{place}: the features in the schema are no JSON ({error})") from None
    found = {}
    for column, feature in info.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
        inner = inner[0] if isinstance(inner, list) and inner else inner
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = list(inner["names"])
    return found
