"""Data sets of the Hugging Face hub, and local folders of Parquet files, through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.data.formats.base import Reading, Row
from training.data.formats.parquet import named
from training.data.formats.rows import RowReader
from training.data.utterances import DatasetError, RecordError

HUB_PREFIX = "hub:"


def read_hub(name: str, locales: Sequence[str] | None, reading: Reading) -> Iterator[Row]:
    """The rows of OWNER/NAME[@REVISION]; where a data set has a configuration for each locale, of those locales.

    Raises DatasetError: `datasets` is not installed, or can't load it.
    """
    try:
        import datasets
    except ImportError as error:
        raise DatasetError("hub data sets need the extra: pip install 'distilled-nlu[training]'") from error
    name, _, revision = name.partition("@")
    rows = RowReader(f"{HUB_PREFIX}{name}", reading)
    for splits in _parts(datasets, name, revision or None, locales):
        for split, part in splits.items():
            names = {c: f.names for c, f in part.features.items() if isinstance(f, datasets.ClassLabel)}
            for column, feature in part.features.items():
                inner = getattr(feature, "feature", None)
                if isinstance(inner, datasets.ClassLabel):
                    names[column] = inner.names
            for number, row in enumerate(part):
                fields = {c: named(v, names.get(c)) for c, v in row.items()}
                fields["partition"] = str(split)
                place = f"{HUB_PREFIX}{name}[{split}]:{number}"
                try:
                    yield place, rows.draft(fields, place)
                except RecordError as error:
                    yield place, error


def _parts(datasets: Any, name: str, revision: str | None, locales: Sequence[str] | None) -> Iterator[Any]:
    def load(config: str | None) -> Any:
        try:
            return datasets.load_dataset(name, config, revision=revision)
        except Exception as error:  # the library raises a family of unrelated types
            if config is not None and isinstance(error, ValueError) and "BuilderConfig" in str(error):
                return None  # it has no configuration for each locale
            raise DatasetError(f"{HUB_PREFIX}{name}: cannot be loaded: {type(error).__name__}: {error}") from error

    for locale in (None,) if Path(name).exists() or not locales else locales:
        if (found := load(locale)) is None:
            yield load(None)
            return
        yield found
