"""Convert a checkpoint to a student folder that the service can load.

    python -m export.onnx --ckpt CKPT --out students/s --eval DATA

Steps: trim the vocabulary if asked to, export fp32, choose the faster kernels, compare fp32 with PyTorch on sentences
of each locale, quantise, compare labels and quality, fit confidences and scope, measure latency, choose golden
sentences, write the folder. A table goes to standard error, one JSON object ends standard output.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import export.extra  # noqa: F401 # isort: skip - before all else: names a missing extra

from export.card import render_card
from export.conversion import AUTO, AUTO_DROP, Wanted, convert, require_student
from export.evaluated import read_data
from export.folder import ExportError, new_folder, write_manifest
from export.graph import part_sizes
from export.kernels import saturates
from export.summary import render, summary
from export.trimming import chosen_locales, compare, trim
from service.student.manifest import MODEL_FILE, TOKENIZER_FILE, StudentError
from training.data import datasets
from training.data.utterances import PARTITIONS
from training.models.checkpoint import load_checkpoint, with_heads
from training.models.errors import CheckpointError
from training.text.corpus import CorpusError

log = logging.getLogger("export.onnx")

VNNI, ANY_CPU = "vnni", "any"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m export.onnx", description="Convert a checkpoint to an ONNX student folder."
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint folder of training.finetune")
    parser.add_argument(
        "--out", type=Path, required=True, help="student folder to write; its name is the student's name"
    )
    parser.add_argument(
        "--locales",
        help="comma-separated locales to serve, with the pieces that their text needs and no others (all, untrimmed)",
    )
    parser.add_argument(
        "--trim-text",
        metavar="PATH[,PATH...]",
        help="with --locales, plain text of theirs, .txt or .txt.gz, beside the training partition of --eval",
    )
    parser.add_argument(
        "--eval",
        dest="data",
        default=str(datasets.SAMPLE),
        help="labelled data to judge the export on (the sample set)",
    )
    parser.add_argument("--partition", choices=PARTITIONS, default="dev", help="partition of --eval (%(default)s)")
    parser.add_argument(
        "--golden", default=str(datasets.SAMPLE), help="data whose sentences may stand in the manifest (the sample set)"
    )
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="with a bad row (%(default)s)")
    parser.add_argument("--notice", type=Path, help="text for the model card: training data, attribution, licence")
    _add_flags_of_int8(parser)
    _add_flags_of_calibration(parser)
    args = parser.parse_args(argv)
    if args.trim_text and not args.locales:
        parser.error("--trim-text: only with --locales")
    return args


def _add_flags_of_int8(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("int8", "fp32", AUTO),
        default="int8",
        help=f"{AUTO}: int8 where it stays within --max-drop (then {AUTO_DROP:g}) and is faster here (%(default)s)",
    )
    parser.add_argument(
        "--max-drop",
        type=_points,
        metavar="POINTS",
        help="of accuracy, slot F1 or exact match that int8 may lose in any locale of --eval; if it loses more, the "
        "most sensitive nodes are kept in fp32, and if that doesn't do, nothing is written (any)",
    )
    parser.add_argument(
        "--cpu",
        choices=(ANY_CPU, VNNI),
        default=ANY_CPU,
        help=f"where int8 is to run: {ANY_CPU} takes 7-bit weights, which all CPUs compute alike, {VNNI} 8-bit ones, "
        "whose sums x86-64 CPUs without VNNI cut off (%(default)s)",
    )


def _add_flags_of_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fit confidences and scope on the partition of --eval (%(default)s)",
    )
    parser.add_argument(
        "--out-of-scope",
        action="append",
        default=[],
        metavar="LOCALE=PATH[,PATH...]",
        help="text that is no request, to measure scope on: .txt or .txt.gz, one sentence a line, or clinc150's "
        "data_full.json; once for each locale (the project's own few sentences)",
    )
    parser.add_argument(
        "--false-rejection", type=_share, default=0.02, help="share of requests that scope may reject (%(default)s)"
    )


def _share(value: str) -> float:
    try:
        if 0 < (share := float(value)) < 1:
            return share
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{value}: allowed: a share between 0 and 1")


def _points(value: str) -> float:
    try:
        if 0 <= (points := float(value)) <= 100:
            return points
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{value}: allowed: points of percent, 0 to 100")


def wanted_by(args: argparse.Namespace) -> Wanted:
    """What the flags ask for.

    Raises:
        ExportError: int8 for CPUs with VNNI on one that computes it otherwise, so that nothing could be measured.
    """
    if args.cpu == VNNI and args.precision != "fp32" and saturates():
        raise ExportError(f"--cpu {VNNI}: this CPU cuts off the sums of 8-bit weights; export elsewhere or --cpu any")
    rate = args.false_rejection if args.calibration else None
    return Wanted(args.out.name, args.precision, args.max_drop, rate, args.cpu == ANY_CPU)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    try:
        checkpoint = with_heads(load_checkpoint(args.ckpt), args.ckpt)
        require_student(checkpoint)
        locales = chosen_locales(args.locales, checkpoint.training["locales"])
        data = read_data(args, locales)
        notice = args.notice.read_text(encoding="utf-8") if args.notice else ""
        with new_folder(args.out) as folder:
            trimming = None
            if args.locales:
                trimmed = trim(checkpoint, data.vocabulary, locales)
                trimming, checkpoint = compare(checkpoint, trimmed, data.utterances), trimmed.checkpoint
            manifest = convert(checkpoint, folder, wanted_by(args), data)
            if trimming:
                manifest = manifest.model_copy(update={"parity": {**manifest.parity, "trimming": trimming}})
            write_manifest(folder, manifest, render_card(manifest, notice))
        sizes = {**part_sizes(args.out / MODEL_FILE), "tokenizer": manifest.files[TOKENIZER_FILE].bytes}
    except (ExportError, CheckpointError, CorpusError, datasets.DatasetError, StudentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render(manifest), file=sys.stderr)
    print("kB on disk: " + ", ".join(f"{part} {size / 1e3:.0f}" for part, size in sizes.items()), file=sys.stderr)
    print(json.dumps({**summary(args.out, manifest), "bytes": sizes}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
