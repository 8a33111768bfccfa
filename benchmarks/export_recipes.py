"""Compare the export recipe with rejected variants on this machine.

    python -m benchmarks.export_recipes --ckpt CKPT --data DATA

The variants run in turns. The table shows the median latency of each variant and its ratio to the recipe's, the size of
the graph, the exact match on a part of `--data`, and the percentage of answers equal to those of fp32. The last line of
standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, linear_regression
from typing import TYPE_CHECKING

from export.folder import ExportError
from service.extras import require
from training.data import datasets
from training.models.errors import CheckpointError

if TYPE_CHECKING:
    from benchmarks.export_variants import Row

SCORED = 500  # utterances of each locale


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.export_recipes",
        description="Compare export variants.",
        allow_abbrev=False,
    )
    sample = str(datasets.SAMPLE)
    flags.add_argument("--ckpt", type=Path, required=True, help="checkpoint folder of training.finetune")
    flags.add_argument("--data", default=sample, help="labelled data to score on (default: the sample set)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("export")
    from benchmarks.export_variants import compare  # here, so that --help needs neither torch nor onnx
    from export.latency import saturates
    from export.pipeline import load_student
    from export.quality import first_of_each_locale

    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    try:
        checkpoint = load_student(args.ckpt)
        data = datasets.load(args.data, checkpoint.training["locales"])
        dev = first_of_each_locale(data.part("dev"), SCORED)
        with tempfile.TemporaryDirectory() as scratch:
            rows = compare(checkpoint, data, dev, Path(scratch))
    except (CheckpointError, datasets.DatasetError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    encoded = [checkpoint.encoder.encode(u.text) for u in dev]
    tokens = round(fmean(len(e.ids) for e in encoded), 2)
    words = round(fmean(len(e.words) for e in encoded), 2)
    print(render(rows, tokens, words, len(dev)))
    print(f"This CPU {'saturates' if saturates() else 'does not saturate'} the int8 sums of 8-bit weights.")
    unit = "median microseconds of inference and decoding, by tokens"
    facts = {"unit": unit, "scored": len(dev), "sums_cut_off": saturates(), "pieces": tokens, "words": words}
    print(json.dumps({**facts, **{name: asdict(row) for name, row in rows.items()}}))
    return 0


def render(rows: dict[str, Row], tokens: float, words: float, scored: int) -> str:
    """The table, and the lower bound of latency at one token per word, for texts of so many tokens and words."""
    recipe = next(iter(rows.values())).times
    columns = "".join(f"{f'{length} tokens':>18}" for length in recipe)
    lines = [f"{'':34}{columns}{'MB':>7}{'exact':>7}{'as fp32':>9}"]
    for name, row in rows.items():
        cells = "".join(f"{f'{t:6.0f} µs  x {t / recipe[length]:.2f}':>18}" for length, t in row.times.items())
        exact, same = ("-" if x is None else f"{x:.1f}" for x in (row.exact_match, row.as_fp32))
        lines.append(f"{name:34}{cells}{row.megabytes:7.2f}{exact:>7}{same:>9}")
    lines.append(f"{scored} texts scored, of {tokens:.1f} tokens and {words:.1f} words on average.")
    if len(recipe) > 1:  # a student that reads 8 tokens or fewer has one length
        slope, start = linear_regression([int(length) for length in recipe], list(recipe.values()))
        now, least = (start + slope * count for count in (tokens, words + 1))
        lines[-1] += (
            f" The recipe takes {start:.0f} + {slope:.1f} x tokens µs; with one token per word x {least / now:.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
