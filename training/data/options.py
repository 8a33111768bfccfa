"""The flags that say how labelled data is read, for every command that offers them."""

from __future__ import annotations

import argparse
from typing import Any

from training.data.formats.base import OFFSETS, ReadOptions
from training.data.formats.columns import parse_columns
from training.data.formats.registry import FORMATS
from training.data.utterances import DatasetError

FORMAT_NAMES = tuple(name for name in FORMATS if name != "broken-json")
HELP = {
    "columns": "columns of the labelled data: text=utt,intent=label; by number where there is no header",
    "offsets": "what starts and ends of slots count: code points, UTF-16 units, bytes, or code points to the last one",
    "format": f"format of the labelled data: {', '.join(FORMAT_NAMES)}",
    "dev_share": "share of the training utterances that becomes dev where there is none; 0: none",
    "split_seed": "random seed of that split",
}


def add_read_options(parser: argparse.ArgumentParser) -> None:
    """Add --columns, --offsets, --format, --dev-share and --split-seed to a command that reads labelled data."""

    def add(name: str, default: Any, shown: str = "%(default)s", **more: Any) -> None:
        flag, about = "--" + name.replace("_", "-"), f"{HELP[name]} (default: {shown})"
        parser.add_argument(flag, default=default, help=about, **more)

    add("columns", "", "by name", type=_columns, metavar="FIELD=COLUMN,...")
    add("offsets", OFFSETS[0], choices=OFFSETS)
    add("format", "", "by content", choices=FORMAT_NAMES, metavar="FORMAT")
    add("dev_share", ReadOptions.dev_share, type=_share, metavar="SHARE")
    add("split_seed", ReadOptions.seed, type=int, metavar="SEED")


def read_options(values: Any) -> ReadOptions:
    """The options from the values of `add_read_options`, or from settings with the same names.

    Raises DatasetError: the columns are not written as FIELD=COLUMN, or a field is unknown.
    """
    try:
        columns = parse_columns(values.columns)
    except ValueError as error:
        raise DatasetError(f"--columns: {error}") from None
    return ReadOptions(columns, values.offsets, values.format, values.dev_share, values.split_seed)


def _columns(text: str) -> str:
    try:
        parse_columns(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is out of range; allowed: 0 to 1")
    return value
