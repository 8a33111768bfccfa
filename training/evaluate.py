"""Score a checkpoint or a student folder on a partition.

    python -m training.evaluate --model CKPT_OR_STUDENT --data DIR --partition dev --out scores.json

Every metric per locale and as the mean of de, fr, it, es, with 95 % intervals; the table goes to standard error, the
last line of standard output is one JSON object. `--typed` scores the capitalised and punctuated copy of the partition.
The tails are subsets of `test` (or of `--of`), see `training.evaluation.tails`.
`accelerate launch -m training.evaluate ...` splits the utterances over several devices.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import training.models  # noqa: F401 # isort: skip - before all else: names a missing extra

from accelerate.utils import gather_object

from service.student.manifest import MANIFEST_FILE, StudentError
from service.student.student import Student
from training.data import datasets
from training.data.augmentation import typed_copy
from training.data.files import write_atomically
from training.data.utterances import PARTITIONS, Partition, Utterance
from training.evaluation.scoring import Answer, Scorecard
from training.evaluation.tails import TAILS, tail_of
from training.models.checkpoint import load_checkpoint, with_heads
from training.models.devices import leave, processes
from training.models.errors import CheckpointError
from training.models.prediction import answers_of_model, answers_of_student

SHOWN = ("domain_accuracy", "domain_f1", "intent_accuracy", "slot_f1", "slot_f1_strict", "exact_match", "semer", "irer")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description="Score a checkpoint or a student folder."
    )
    parser.add_argument("--model", type=Path, required=True, help="checkpoint or student folder")
    parser.add_argument("--data", required=True, help="data set: folder, tarball, file or hub:NAME")
    parser.add_argument("--partition", default="dev", choices=(*PARTITIONS, *TAILS), help="(%(default)s)")
    parser.add_argument(
        "--of", default="test", choices=PARTITIONS, help="the partition that a tail is taken from (%(default)s)"
    )
    parser.add_argument("--locales", help="comma-separated; by default the locales that the model serves")
    parser.add_argument("--typed", action="store_true", help="score the capitalised and punctuated copy")
    parser.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="what to do with a bad row (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="also write the scores to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parse_arguments(argv)
    is_main = processes().is_main_process
    logging.basicConfig(
        level=logging.INFO if is_main else logging.WARNING, format="%(message)s", stream=sys.stderr, force=True
    )
    try:
        predictor = open_model(args.model)
        locales = args.locales.split(",") if args.locales else predictor.locales
        utterances, skipped = choose(datasets.load(args.data, locales, args.on_error), args.partition, args.of, locales)
    except (datasets.DatasetError, CheckpointError, StudentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.typed:
        utterances = typed_copy(utterances)
    with processes().split_between_processes(utterances) as part:
        answers = gather_object(predictor.answer(part))
    if is_main:
        publish(args, predictor.kind, skipped, Scorecard.of(utterances, answers).report())
    leave()
    return 0


def publish(args: argparse.Namespace, kind: str, skipped: int, scores: dict[str, Any]) -> None:
    """Show the report as a table, and print it as one JSON object; write it where a file was asked for."""
    report = {
        "model": str(args.model),
        "kind": kind,
        "partition": args.partition
        + (f" of {args.of}" if args.partition in TAILS else "")
        + (", typed" if args.typed else ""),
        "skipped": skipped,
        **scores,
    }
    print(render(report), file=sys.stderr)
    if args.out:
        write_atomically(args.out, (json.dumps(report, indent=1) + "\n").encode())
    print(json.dumps(report))


class Predictor:
    """A checkpoint or a student folder behind one face."""

    def __init__(self, kind: str, locales: list[str], model: Any) -> None:
        self.kind = kind
        self.locales = locales
        self._model = model

    def answer(self, utterances: Sequence[Utterance]) -> list[Answer]:
        """Answers in the order of the utterances."""
        if self.kind == "student":
            return answers_of_student(self._model, utterances)
        return answers_of_model(self._model.model, self._model.encoder, self._model.labels, utterances)


def open_model(folder: Path) -> Predictor:
    """Open what stands in a folder, told apart by its files.

    Raises:
        CheckpointError, StudentError: it is neither, or can't be used.
    """
    if (folder / MANIFEST_FILE).is_file():
        student = Student.load(folder)
        return Predictor("student", list(student.manifest.locales), student)
    checkpoint = with_heads(load_checkpoint(folder, processes().device), folder)
    return Predictor("checkpoint", list(checkpoint.training["locales"]), checkpoint)


def choose(
    dataset: datasets.Dataset, partition: str, of: str, locales: Sequence[str] | None
) -> tuple[list[Utterance], int]:
    """The utterances of a partition or of a tail of partition `of`, and how many rows were skipped.

    Raises:
        DatasetError: there are none.
    """
    if partition not in TAILS:
        return dataset.part(cast(Partition, partition), locales), dataset.skipped
    whole = dataset.part(cast(Partition, of), locales)
    found = tail_of(partition, whole, dataset.part("train", locales))
    if not found:
        raise datasets.DatasetError(f"{dataset.source}: {partition} of {of} is empty")
    return found, dataset.skipped


def render(report: dict[str, Any]) -> str:
    """The report as a table: value and half the width of its interval, in percent."""
    names = [name for name in SHOWN if name in report["mean"]]
    lines = [
        f"{report['model']} ({report['kind']}) on {report['partition']}",
        " " * 9 + "".join(f"{name:>17}" for name in names),
    ]
    for locale, values in {**report["locales"], "mean": report["mean"]}.items():
        cells = [f"{values[n][0]:.1f} ± {(values[n][2] - values[n][1]) / 2:.1f}" for n in names]
        lines.append(f"{locale:9}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
