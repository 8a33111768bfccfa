"""Read labelled data of any known format, say what was found, and write it as JSONL, CSV, Rasa YAML or CLU.

    distilled-nlu convert --data export.csv --columns text=utt,intent=label --locales de-DE --out data.jsonl

The JSONL has every field, the split included, so that all other commands read it without further flags. What was
mapped, completed or is probably wrong goes to standard error, the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from training.data import datasets
from training.data.files import write_atomically
from training.data.formats.writers import WRITERS
from training.data.options import add_read_options, read_options


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    about = "Read labelled data of any known format, and write it as JSONL, CSV, Rasa YAML or CLU."
    whole = argparse.ArgumentParser(prog="python -m training.convert", description=about, allow_abbrev=False)
    add = whole.add_argument
    add("--data", required=True, help="labelled data: folder, archive, file or hub:NAME")
    add(
        "--out",
        type=Path,
        required=True,
        help="file to write; of rasa a folder, with a file for each partition and locale",
    )
    add("--to", choices=tuple(WRITERS), default="jsonl", help="format to write (default: %(default)s)")
    locales = "comma-separated locales to read; one alone is also that of rows that name none (default: all)"
    add("--locales", default="", help=locales)
    add("--on-error", choices=("raise", "skip"), default="raise", help="what a bad row does (default: %(default)s)")
    add("--force", action="store_true", help="overwrite --out")
    add_read_options(whole)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    locales = [part.strip() for part in args.locales.split(",") if part.strip()]
    try:
        if args.out.exists() and not args.force:
            raise datasets.DatasetError(f"{args.out}: exists already; choose another --out, or --force to overwrite")
        dataset = datasets.load(args.data, locales or None, args.on_error, read_options(args))
        files = WRITERS[args.to](dataset.utterances)
        for name, content in files.items():
            write_atomically(args.out / name if name else args.out, content)
    except (datasets.DatasetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    counts = {
        "partitions": dict(Counter(u.partition for u in dataset.utterances)),
        "locales": dict(Counter(u.locale for u in dataset.utterances)),
    }
    found = {"utterances": len(dataset.utterances), "skipped": dataset.skipped, **counts}
    warnings = sum(note.level == "warning" for note in dataset.notes)
    print(json.dumps({"out": str(args.out), "format": args.to, **found, "warnings": warnings}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
