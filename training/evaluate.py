"""Score a checkpoint or a student folder on a partition.

    python -m training.evaluate --ckpt CKPT --data DIR --partition dev --out scores.json

Every metric per locale and as the mean of de, fr, it, es, with 95 % intervals; the table goes to standard error, the
last line of standard output is one JSON object. `--typed` reports instead what each way of typing costs, one row each
(`training.evaluation.robustness`). `accelerate launch -m training.evaluate ...` splits the utterances over
several devices.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.extras import require
from training.data import datasets
from training.data.files import write_json
from training.data.options import add_read_options, read_options
from training.data.utterances import PARTITIONS, Utterance
from training.evaluation.scoring import NOT_MEASURED, SLOTS_NOT_ANNOTATED, Scorecard
from training.evaluation.tails import TAILS, tail_of
from training.runs.flags import listed, new_parser
from training.runs.settings import ON_ERROR

SHOWN = ("domain_accuracy", "domain_f1", "intent_accuracy", "slot_f1", "slot_f1_strict", "exact_match", "semer", "irer")


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = new_parser("training.evaluate", "Score a checkpoint or a student folder.")
    model, add = whole.add_mutually_exclusive_group(required=True), whole.add_argument
    model.add_argument("--ckpt", type=Path, help="checkpoint to score (default: none)")
    model.add_argument("--student", metavar="DIR", help="student folder, or shipped name, to score (default: none)")
    add("--data", required=True, help="labelled data: folder, tarball, file or hub:NAME")
    scored = "partition or tail to score (default: %(default)s)"
    add("--partition", default="dev", choices=(*PARTITIONS, *TAILS), help=scored)
    add("--tails-of", default="test", choices=PARTITIONS, help="partition of the tails (default: %(default)s)")
    add("--locales", default="", help="comma-separated locales (default: those that the model serves)")
    add("--typed", action="store_true", help="what each way of typing costs, instead of the scores")
    add("--on-error", choices=ON_ERROR, default="raise", help="what to do with a bad row (default: %(default)s)")
    add("--out", type=Path, metavar="FILE", help="also write the scores to this file (default: none)")
    add_read_options(whole)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("training")
    from accelerate.utils import gather_object  # neither PyTorch nor scipy is needed for --help

    from service.student.manifest import StudentError
    from training.evaluation.robustness import TypedSuite
    from training.models.devices import leave, processes
    from training.models.errors import CheckpointError
    from training.models.prediction import open_model

    is_main, device = processes().is_main_process, processes().device
    level = logging.INFO if is_main else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    try:
        served, answers_of = open_model(args.ckpt, args.student, device)
        locales = listed(args.locales) or served
        dataset = datasets.load(args.data, locales, args.on_error, read_options(args))
        utterances, skipped = choose(dataset, args, locales)
    except (datasets.DatasetError, CheckpointError, StudentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    suite = TypedSuite(utterances) if args.typed else None
    with processes().split_between_processes(suite.texts if suite else utterances) as part:
        answers = gather_object(answers_of(part))
    if is_main:
        publish(args, skipped, suite.report(answers) if suite else Scorecard.of(utterances, answers).report())
    leave()
    return 0


def choose(dataset: datasets.Dataset, args: argparse.Namespace, locales: Sequence[str]) -> tuple[list[Utterance], int]:
    """The utterances of the asked partition or tail, and how many rows were skipped.

    Raises DatasetError: there are none.
    """
    is_tail = args.partition in TAILS
    found = dataset.part(args.tails_of if is_tail else args.partition, locales)
    if is_tail:
        found = tail_of(args.partition, found, dataset.part("train", locales))
    if not found:
        raise datasets.DatasetError(f"{dataset.source}: {args.partition} of {args.tails_of} is empty")
    return found, dataset.skipped


def publish(args: argparse.Namespace, skipped: int, scores: dict[str, Any]) -> None:
    """Show the report as a table, and print it as one JSON object; write it where a file was asked for."""
    of, typed = f" of {args.tails_of}" if args.partition in TAILS else "", ", typed" if args.typed else ""
    model = {"model": str(args.ckpt or args.student), "kind": "checkpoint" if args.ckpt else "student"}
    report = {**model, "partition": f"{args.partition}{of}{typed}", "skipped": skipped, **scores}
    print(render(report), file=sys.stderr)
    if args.out:
        write_json(args.out, report)
    print(json.dumps(report))


def render(report: dict[str, Any]) -> str:
    """The report as a table: the typed suite, or values and half the width of their intervals, in percent."""
    title = f"{report['model']} ({report['kind']}) on {report['partition']}"
    if "typed" in report:
        from training.evaluation.robustness import render_suite

        return f"{title}\n{render_suite(report['typed'], report['metric'])}"
    names = [name for name in SHOWN if name in report["mean"]]
    lines = [title]
    lines.append(" " * 9 + "".join(f"{name:>17}" for name in names))
    for locale, values in {**report["locales"], "mean": report["mean"]}.items():
        lines.append(f"{locale:9}" + "".join(f"{_cell(values[name]):>17}" for name in names))
    if (annotated := sum(report["slots_annotated"].values())) < (total := sum(report["utterances"].values())):
        some = f"slots are annotated, and scored, in {annotated} of {total} utterances"
        lines.append(some if annotated else SLOTS_NOT_ANNOTATED)
    return "\n".join(lines)


def _cell(figures: list[float] | None) -> str:
    if figures is None:
        return NOT_MEASURED
    value, low, high = figures
    return f"{value:.1f} ± {(high - low) / 2:.1f}"


if __name__ == "__main__":
    sys.exit(main())
