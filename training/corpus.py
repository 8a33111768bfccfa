"""Build a transfer set: ``python -m training.corpus build``, see `training.text.transfer`."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from service.extras import require
from training.data.datasets import DatasetError
from training.runs.flags import new_parser
from training.text.budgets import SPOKEN, TransferSet
from training.text.corpus import SUFFIXES, CorpusError

SHOWN = ("lines", "tokens", "asked", "unit", "ratio", "spoken_share", "removed", "sha256")


def parser() -> argparse.ArgumentParser:
    """The command's flags; those that are not given are None."""
    whole = new_parser("training.corpus", "Plain text for training.")
    add = whole.add_argument
    add("action", choices=("build",), help="build a transfer set")
    add("--generic", metavar="FOLDER", help="plain sentences: LANGUAGE/SOURCE.txt[.gz] or LOCALE.txt (default: none)")
    add("--data", help="labelled data: folder, tarball, file or hub:NAME; dev and test are excluded (default: none)")
    add("--ratio", metavar="GENERIC:TASK", help="generic to task tokens, such as 1:0, 7:3 or 0:1 (default: 7:3)")
    add("--locales", required=True, help="comma-separated tags, balanced (de,fr) or weighted (de=2,fr-FR=1)")
    add("--tokens", type=int, required=True, help="size of the set, in tokens")
    add("--spoken-share", type=float, metavar="SHARE", help="of the generic tokens (default: as in the text)")
    add("--spoken", metavar="SOURCES", help=f"comma-separated names of the spoken sources (default: {SPOKEN})")
    add("--tokenizer", metavar="FILE", help="tokenizer.json that counts tokens (default: none, words count)")
    add("--seed", type=int, help="random seed of lines and order (default: 1)")
    add("--repeat", action="store_true", help="take lines several times where there are too few")
    add("--on-error", choices=("raise", "skip"), help="what to do with a bad row of --data (default: raise)")
    add("--out", type=Path, required=True, metavar="FILE", help=f"file to write: {' or '.join(SUFFIXES)}")
    add("--force", action="store_true", help="overwrite --out")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see `training.text.transfer`."""
    args = parser().parse_args(argv)
    require("training")
    from training.text import transfer

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    given = {f.name: value for f in fields(TransferSet) if (value := getattr(args, f.name)) is not None}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that temporary files are removed
    try:
        manifest = transfer.build(TransferSet(**given), args.out, args.force)
    except (CorpusError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    print(transfer.render(manifest), file=sys.stderr)
    files = {"file": str(args.out), "manifest": str(transfer.manifest_of(args.out))}
    print(json.dumps({**files, **{name: manifest[name] for name in SHOWN}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
