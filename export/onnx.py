"""Convert a checkpoint to a student folder that the service can load.

    python -m export.onnx --ckpt CKPT --out students/s --data DATA

The steps are listed in `export`. The table goes to standard error; the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from export.data import DEFAULT_MAX_DROP, Options
from export.folder import ExportError
from service.extras import require
from service.student.manifest import StudentError
from training.data import datasets
from training.data.options import add_read_options
from training.data.utterances import PARTITIONS
from training.models.errors import CheckpointError
from training.text.corpus import CorpusError


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        prog="python -m export.onnx", description="Convert a checkpoint to an ONNX student folder.", allow_abbrev=False
    )
    add, sample = flags.add_argument, str(datasets.SAMPLE)
    add("--ckpt", type=Path, required=True, help="checkpoint folder of training.finetune")
    add("--out", type=Path, required=True, help="student folder to write; its name is the student's name")
    add("--data", default=sample, help="labelled data for evaluation and calibration (default: the sample set)")
    add("--partition", choices=PARTITIONS, default="dev", help="partition of --data (default: %(default)s)")
    add("--on-error", choices=("raise", "skip"), default="raise", help="what a bad row does (default: %(default)s)")
    add(
        "--golden",
        metavar="DATA",
        default=sample,
        help="labelled data for the golden sentences, which are published (default: the sample set)",
    )
    add("--notice", type=Path, help="text for the model card: training data, attribution, licence (default: none)")
    add("--locales", help="comma-separated locales to serve, the vocabulary trimmed to them (default: all, untrimmed)")
    add("--trim-text", metavar="FILES", help="with --locales, plain text whose tokens are kept (default: none)")
    add(
        "--precision",
        choices=("int8", "fp32", "auto"),
        default="int8",
        help="auto: int8 if it stays within --max-drop and is faster here, else fp32 (default: %(default)s)",
    )
    add(
        "--max-drop",
        type=_budget,
        metavar="POINTS",
        default=DEFAULT_MAX_DROP,
        help="maximum loss of int8 in accuracy, slot F1 or exact match in any locale, in points of percent; if it "
        "loses more with 95 %% confidence, sensitive nodes stay in fp32, and if that is not enough, nothing is "
        "written; none allows any loss (default: %(default)s)",
    )
    add(
        "--cpu",
        choices=("any", "vnni"),
        default="any",
        help="target of int8: any has 7-bit weights, correct on every CPU; vnni has 8-bit weights, whose sums saturate "
        "on x86-64 CPUs without VNNI (default: %(default)s)",
    )
    add(
        "--calibration",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fit confidences and scope to the partition of --data (default: on)",
    )
    add(
        "--out-of-scope",
        action="append",
        default=[],
        metavar="[LOCALE=]FILE,...",
        help="out-of-scope text for the scope: .txt or .txt.gz, one sentence per line, or clinc150's data_full.json; "
        "LOCALE= also applies to the files after it; repeatable (default: the sample set's)",
    )
    add(
        "--false-rejection",
        type=_between(0, 1, "a share between 0 and 1", inclusive=False),
        metavar="SHARE",
        default=0.02,
        help="share of requests that the scope may reject (default: %(default)s)",
    )
    add_read_options(flags)
    return flags


def _between(low: float, high: float, allowed: str, inclusive: bool = True) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if low < value < high or (inclusive and value in (low, high)):
            return value
        raise argparse.ArgumentTypeError(f"{text}: allowed: {allowed}")

    return parse


def _budget(text: str) -> float | None:
    return None if text == "none" else _between(0, 100, "points of percent, 0 to 100, or none")(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    flags = parser()
    options = Options(**vars(flags.parse_args(argv)))
    if options.trim_text and not options.locales:
        flags.error("--trim-text: only with --locales")
    require("export")
    from export.pipeline import export_student  # here, so that --help needs neither torch nor onnx
    from export.report import part_sizes, render_table, summary

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("export").setLevel(logging.INFO)
    logging.getLogger("optimum").setLevel(logging.ERROR)  # it warns of a configuration file that only ORTModel needs
    try:
        manifest = export_student(options)
    except (ExportError, CheckpointError, CorpusError, datasets.DatasetError, StudentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    sizes = part_sizes(options.out)
    print(render_table(manifest, sizes), file=sys.stderr)
    print(json.dumps(summary(options.out, manifest, sizes), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
