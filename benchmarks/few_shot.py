"""Students of little data beside simpler methods, on data that no shipped student has seen.

    python -m benchmarks.few_shot --set snips=SNIPS --set clinc150=CLINC150 --set fb_multilingual=FB --encoder E5 \
        --work WORK --out docs/results/few-shot.json

Each data set, number of utterances an intent (`--per-intent`, 0 for all) and seed is a sample, which every method of
`--methods` learns from; the set's official evaluation part is scored, and nothing is chosen on it:

- `tfidf`: TF-IDF of words and characters, logistic regression;
- `probe`: logistic regression on the sentence embeddings of `--encoder`, which stays as it is;
- `xs`, `s`: what `distilled-nlu build` makes of the sample, in int8, as served. `--minutes` is its time for a sample.

A finished row stands in `--out` and is not computed again. `--report FILE` writes the table of all rows there.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.few_shot_report import write_report
from service.extras import require
from training.data.files import read_json, write_json
from training.data.utterances import DatasetError

if TYPE_CHECKING:
    from benchmarks.few_shot_methods import Found

SETS = ("snips", "clinc150", "fb_multilingual")
OWN = ("xs", "s")
METHODS = ("tfidf", "probe", *OWN)

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.few_shot", description="Compare methods on little data.", allow_abbrev=False
    )
    add = flags.add_argument
    sets = f"data set and the folder of its official files, repeated: {', '.join(SETS)} (default: none)"
    add("--set", action="append", default=[], type=_set, metavar="NAME=FOLDER", help=sets)
    add("--encoder", metavar="FOLDER", help="encoder of probe: folder or hub name (default: none)")
    methods = f"comma-separated: {', '.join(METHODS)} (default: tfidf,probe,xs,s)"
    add("--methods", type=_methods, default=("tfidf", "probe", *OWN), metavar="METHODS", help=methods)
    add("--per-intent", type=_integers, default=(10, 50, 0), metavar="COUNTS", help="0: all (default: 10,50,0)")
    add("--seeds", type=_integers, default=(1, 2, 3), metavar="SEEDS", help="of samples and training (default: 1,2,3)")
    add("--minutes", type=float, default=20.0, metavar="N", help="time of a build (default: %(default)s)")
    add("--work", type=Path, metavar="DIR", help="folder of samples, embeddings and builds (default: none)")
    add("--out", type=Path, required=True, metavar="FILE", help="rows, as JSON; finished ones are kept")
    add("--report", type=Path, metavar="FILE", help="also write the table to this page (default: none)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    flags = parser()
    args = flags.parse_args(argv)
    if args.set and not args.work:
        flags.error("--set: needs --work")
    if args.set and not args.encoder and "probe" in args.methods:
        flags.error("--methods probe: needs --encoder")
    require("export")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        for per_intent in args.per_intent:
            for seed in args.seeds:
                for name, folder in args.set:
                    run(args, name, folder, per_intent, seed)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = rows_of(args.out)
    if args.report:
        write_report(rows, args.report)
    print(json.dumps({"out": str(args.out), "rows": len(rows)}))
    return 0


def run(args: argparse.Namespace, name: str, folder: Path, per_intent: int, seed: int) -> None:
    """Compute the missing rows of one sample. Raises DatasetError: the data can't be read."""
    from benchmarks import few_shot_data
    from benchmarks import few_shot_methods as methods

    done = {row["method"] for row in rows_of(args.out) if _key(row) == (name, per_intent, seed)}
    missing = [method for method in args.methods if method not in done]
    if not missing:
        return
    pool, scored = few_shot_data.SETS[name](folder)
    sample = few_shot_data.draw(pool, per_intent, seed)
    facts = {"set": name, "per_intent": per_intent, "seed": seed, "rows": len(sample), "scored": len(scored)}
    place = args.work / f"{name}-{per_intent}-{seed}"
    for method in missing:
        log.info("%s, %s utterances an intent, seed %d: %s", name, per_intent or "all", seed, method)
        start = _cpu_seconds()
        found: Found
        if method == "tfidf":
            found = methods.tfidf(sample, scored, seed)
        elif method == "probe":
            found = methods.probe(sample, scored, seed, args.encoder, args.work)
        else:
            found = methods.built(sample, scored, method, place, args.minutes)
        row = {**facts, "method": method, **found, "minutes": round((_cpu_seconds() - start) / 60, 2)}
        write_json(args.out, [*rows_of(args.out), row])
        log.info("%s", json.dumps(row))


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The finished rows."""
    return list(read_json(file)) if file.exists() else []


def _key(row: dict[str, Any]) -> tuple[str, int, int]:
    return row["set"], row["per_intent"], row["seed"]


def _cpu_seconds() -> float:
    """CPU time of this process and its finished children, which other work on the machine changes little."""
    return sum(os.times()[:4])


def _set(text: str) -> tuple[str, Path]:
    name, separator, folder = text.partition("=")
    if name not in SETS or not separator:
        raise argparse.ArgumentTypeError(f"{text!r}; allowed: NAME=FOLDER with one of {', '.join(SETS)}")
    return name, Path(folder)


def _methods(text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if unknown := [name for name in found if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; allowed: {', '.join(METHODS)}")
    return found


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
