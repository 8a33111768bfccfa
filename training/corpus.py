"""The command ``python -m training.corpus build``: a transfer set, see `training.text.transfer`."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import training.models  # noqa: F401 # isort: skip - before all else: names a missing extra

from training.data.datasets import DatasetError
from training.text import budgets, transfer
from training.text.corpus import SUFFIXES, CorpusError


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see `training.text.transfer`."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    given = {f.name: value for f in fields(budgets.TransferSet) if (value := getattr(args, f.name)) is not None}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it clears up too
    try:
        manifest = transfer.build(budgets.TransferSet(**given), args.out, args.force)
    except (CorpusError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    print(transfer.render(manifest), file=sys.stderr)
    shown = ("lines", "tokens", "asked", "unit", "ratio", "spoken_share", "removed", "sha256")
    files = {"file": str(args.out), "manifest": str(transfer.manifest_of(args.out))}
    print(json.dumps({**files, **{name: manifest[name] for name in shown}}))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's flags; those that are not given are None."""
    whole = argparse.ArgumentParser(prog="python -m training.corpus", description="Plain text for training.")
    build = whole.add_subparsers(required=True, metavar="build").add_parser("build", help="build a transfer set")
    build.add_argument("--generic", help="folder: LANGUAGE/SOURCE.txt[.gz], or LANGUAGE.txt or LOCALE.txt in it")
    build.add_argument("--task", help="labelled data: folder, tarball, file or hub:NAME; its dev and test stay out")
    build.add_argument("--ratio", help="generic to task tokens: 1:0, 7:3 (default), 0:1, ...")
    build.add_argument("--languages", required=True, help="comma-separated; de,fr balanced or de=2,fr=1 weighted")
    build.add_argument("--tokens", type=int, required=True, help="size of the set")
    build.add_argument("--spoken-share", type=float, help="share of the generic tokens from spoken sources")
    build.add_argument("--spoken", help="comma-separated names of the spoken sources")
    build.add_argument("--tokenizer", help="tokenizer.json whose pieces are the tokens; words by default")
    build.add_argument("--seed", type=int, help="decides lines and order (1)")
    build.add_argument("--repeat", action="store_true", help="take lines several times where there are too few")
    build.add_argument("--on-error", choices=("raise", "skip"), help="what to do with a bad row of --task (raise)")
    build.add_argument("--out", type=Path, required=True, help=f"file to write: {' or '.join(SUFFIXES)}")
    build.add_argument("--force", action="store_true", help="overwrite --out")
    return whole


if __name__ == "__main__":
    sys.exit(main())
