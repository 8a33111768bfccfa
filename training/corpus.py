"""Plain text for training.

`python -m training.corpus build` makes a transfer set by token budgets, see `training.text.transfer`;
`python -m training.corpus pool` collects in-domain sentences with a teacher, see `training.text.pool`;
`python -m training.corpus statements` collects out-of-scope sentences with words of the domain, see
`training.text.statements`.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from service.extras import require
from training.data.datasets import DatasetError
from training.runs.flags import at_least_one, new_parser
from training.text.budgets import SPOKEN, TransferSet
from training.text.corpus import SUFFIXES, CorpusError
from training.text.line_folder import render
from training.text.pool import Pool
from training.text.statements import Statements

SHOWN = ("lines", "tokens", "asked", "unit", "ratio", "spoken_share", "removed", "sha256")


def parser() -> argparse.ArgumentParser:
    """The command's flags; those of `build` that are not given are None."""
    whole = new_parser("training.corpus", "Plain text for training.")
    actions = whole.add_subparsers(dest="action", required=True, metavar="ACTION")
    _build_flags(actions.add_parser("build", help="build a transfer set by token budgets", allow_abbrev=False))
    _pool_flags(actions.add_parser("pool", help="collect in-domain sentences with a teacher", allow_abbrev=False))
    statements = "collect out-of-scope sentences that hold words of the domain"
    _statements_flags(actions.add_parser("statements", help=statements, allow_abbrev=False))
    return whole


def _build_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--generic", metavar="FOLDER", help="plain sentences: LANGUAGE/SOURCE.txt[.gz] or LOCALE.txt (default: none)")
    add("--sources", help="comma-separated names of the files of --generic to use (default: all)")
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


def _pool_flags(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, Pool(data="", locales="")
    count: dict[str, Any] = {"type": at_least_zero, "metavar": "LINES"}
    add("--data", required=True, help="labelled data: folder, tarball, file or hub:NAME; dev and test are excluded")
    add("--locales", required=True, help="comma-separated locales that students will serve")
    add("--extra-locales", default="", help="comma-separated further locales of --data (default: none)")
    add("--generic", default="", metavar="FOLDER", help="plain sentences: LANGUAGE/SOURCE.txt[.gz] (default: none)")
    add(
        "--spoken",
        default=SPOKEN,
        metavar="SOURCES",
        help="comma-separated sources of candidates (default: %(default)s)",
    )
    add("--teacher", type=Path, required=True, metavar="CKPT", help="fine-tuned checkpoint or student")
    add(
        "--teacher-cache",
        default="",
        metavar="DIR",
        help="folder of the teacher's logits, for training (default: none)",
    )
    typed = "typed variants of each training text, in lines (default: %(default)s)"
    add("--views", default=default.views, help=typed, **count)
    substituted = "variants of each training text with other slot values, in lines (default: %(default)s)"
    add("--substitutions", default=default.substitutions, help=substituted, **count)
    reworded = "variants of each training text with other words, in lines (default: %(default)s)"
    add("--rewordings", default=default.rewordings, help=reworded, **count)
    candidates = "generic lines of a language that the teacher embeds (default: %(default)s)"
    add("--candidates", default=default.candidates, help=candidates, **count)
    nearest = "generic lines of a language that are kept, nearest to an intent (default: %(default)s)"
    add("--nearest", default=default.nearest, help=nearest, **count)
    add("--seed", type=int, default=1, help="random seed of variants and order (default: %(default)s)")
    bad = "what to do with a bad row of --data (default: %(default)s)"
    add("--on-error", choices=("raise", "skip"), default="raise", help=bad)
    add("--threads", type=at_least_one, metavar="N", help="CPU threads (default: all cores)")
    add("--out", type=Path, required=True, metavar="POOL", help="folder to write")
    add("--force", action="store_true", help="overwrite --out")


def _statements_flags(parser: argparse.ArgumentParser) -> None:
    add, default = parser.add_argument, Statements(data="", locales="", generic="")
    add("--data", required=True, help="labelled data: folder, tarball, file or hub:NAME; dev and test are excluded")
    add("--locales", required=True, help="comma-separated locales")
    add("--generic", required=True, metavar="FOLDER", help="plain sentences: LANGUAGE/SOURCE.txt[.gz]")
    add("--spoken", default=SPOKEN, metavar="SOURCES", help="comma-separated sources (default: %(default)s)")
    maximum = "lines of a locale that are kept, drawn at random (default: %(default)s)"
    add("--maximum", type=at_least_one, default=default.maximum, metavar="LINES", help=maximum)
    add("--seed", type=int, default=1, help="random seed of draw and order (default: %(default)s)")
    bad = "what to do with a bad row of --data (default: %(default)s)"
    add("--on-error", choices=("raise", "skip"), default="raise", help=bad)
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    add("--force", action="store_true", help="overwrite --out")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see `training.text.transfer` and `training.text.pool`."""
    args = parser().parse_args(argv)
    require("training")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that temporary files are removed
    try:
        summary = {"build": build, "pool": pool, "statements": statements}[args.action](args)
    except (CorpusError, DatasetError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    print(json.dumps(summary))
    return 0


def build(args: argparse.Namespace) -> dict[str, Any]:
    """Build a transfer set. Returns the summary. Raises CorpusError, DatasetError: as `transfer.build`."""
    from training.text import transfer

    given = {f.name: value for f in fields(TransferSet) if (value := getattr(args, f.name)) is not None}
    manifest = transfer.build(TransferSet(**given), args.out, args.force)
    print(transfer.render(manifest), file=sys.stderr)
    files = {"file": str(args.out), "manifest": str(transfer.manifest_of(args.out))}
    return {**files, **{name: manifest[name] for name in SHOWN}}


def pool(args: argparse.Namespace) -> dict[str, Any]:
    """Build a transfer pool. Returns the summary. Raises CorpusError, DatasetError: as `pool.build`."""
    import torch

    from training.models.errors import CheckpointError
    from training.runs.pool import build as build_pool

    if args.threads:
        torch.set_num_threads(args.threads)
    spec = Pool(**{f.name: getattr(args, f.name) for f in fields(Pool)})
    try:
        manifest = build_pool(spec, args.teacher, args.teacher_cache, args.out, args.force)
    except CheckpointError as error:
        raise CorpusError(str(error)) from error
    print(render(manifest), file=sys.stderr)
    return {"pool": str(args.out), **{name: manifest[name] for name in ("lines", "locales", "removed")}}


def statements(args: argparse.Namespace) -> dict[str, Any]:
    """Collect statements. Returns the summary. Raises CorpusError, DatasetError: as `statements.build`."""
    from training.text.statements import build as build_statements

    spec = Statements(**{f.name: getattr(args, f.name) for f in fields(Statements)})
    manifest = build_statements(spec, args.out, args.force)
    print(render(manifest), file=sys.stderr)
    return {"folder": str(args.out), **{name: manifest[name] for name in ("lines", "locales", "removed")}}


def at_least_zero(text: str) -> int:
    """The value of a flag that is 0 or more."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{value} is out of range; allowed: 0 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
