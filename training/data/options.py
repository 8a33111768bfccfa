"""The flags that say how labelled data is read, for every command that offers them."""

from __future__ import annotations

import argparse

from training.data.formats.base import OFFSETS, ReadOptions
from training.data.formats.columns import parse_columns
from training.data.formats.registry import FORMATS

_HIDDEN = ("broken-json",)


def add_read_options(parser: argparse.ArgumentParser) -> None:
    """Add --columns, --offsets, --format, --dev-share and --split-seed to a command that has --data."""
    add = parser.add_argument
    columns = "columns of --data: text=utt,intent=label; by number where there is no header (default: by name)"
    add("--columns", type=_columns, default={}, metavar="FIELD=COLUMN,...", help=columns)
    offsets = "what starts and ends of slots count: code points, UTF-16 units, bytes, or code points up to the last one"
    add("--offsets", choices=OFFSETS, default=OFFSETS[0], help=f"{offsets} (default: %(default)s)")
    formats = [name for name in FORMATS if name not in _HIDDEN]
    add("--format", choices=formats, default="", metavar="FORMAT", help=f"{', '.join(formats)} (default: by content)")
    share = "share of the training utterances that becomes dev where there is none; 0: none (default: %(default)s)"
    add("--dev-share", type=_share, default=ReadOptions.dev_share, metavar="SHARE", help=share)
    seed = "random seed of that split (default: %(default)s)"
    add("--split-seed", type=int, default=ReadOptions.seed, metavar="SEED", help=seed)


def read_options(args: argparse.Namespace) -> ReadOptions:
    """The values of `add_read_options`."""
    return ReadOptions(args.columns, args.offsets, args.format, args.dev_share, args.split_seed)


def _columns(text: str) -> dict[str, str]:
    try:
        return parse_columns(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _share(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is out of range; allowed: 0 to 1")
    return value
