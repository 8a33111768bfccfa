"""Search for the parts of distillation that help on which data.

    python -m training.distiller search --data snips=SNIPS:1000 --data de=MASSIVE:de-DE:300 --student xs --trials 300 \
        --out DIR

trains small students of the data sets with many pipelines: random ones first, then those that a Bayesian sampler
expects to be good. For each data set, a teacher is fine-tuned once, and students without a teacher, and with its
logits alone, are trained as controls. Each trial is a line of DIR/trials.jsonl. The same command continues; any number
of workers, on this machine or others, may share one --storage.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.extras import require
from training.runs.flags import at_least_one, new_parser

COMMAND = "training.distiller"
WRITTEN = "NAME=DATA[:LOCALE][:ROWS][:domain=DOMAIN]"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = new_parser(COMMAND, "Search for the parts of distillation that help on which data.")
    commands = whole.add_subparsers(dest="action", required=True, metavar="ACTION")
    search = commands.add_parser("search", help="train students with many pipelines", allow_abbrev=False)
    add = search.add_argument
    data = "labelled data by name, and a locale, a number of training utterances or a domain of it; several times"
    add("--data", action="append", required=True, metavar=WRITTEN, help=data)
    student = "xs, or xs:random for random first weights; several times (default: xs)"
    add("--student", action="append", default=None, metavar="SIZE", help=student)
    add("--trials", type=at_least_one, default=300, metavar="N", help="number of trials (default: %(default)s)")
    of_random = "random ones among them, which come first (default: half of them)"
    add("--random-trials", type=at_least_one, default=None, metavar="N", help=of_random)
    minutes = "minutes after which this worker starts no further trial; 0: none (default: %(default)s)"
    add("--minutes", type=float, default=0.0, metavar="N", help=minutes)
    storage = "SQLAlchemy URL of the study: sqlite:///FILE or postgresql://HOST/DATABASE (default: DIR/study.db)"
    add("--storage", default="", metavar="URL", help=storage)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of rows, teachers, their logits and controls")
    teacher = "student or checkpoint that is fine-tuned on each data set as its teacher (default: %(default)s)"
    add("--teacher", default="s", metavar="CKPT", help=teacher)
    epochs = "epochs of each student (default: %(default)s)"
    add("--epochs", type=at_least_one, default=8, metavar="N", help=epochs)
    of_teacher = "epochs of each teacher (default: %(default)s)"
    add("--teacher-epochs", type=at_least_one, default=10, metavar="N", help=of_teacher)
    seeds = "seeds of each control (default: %(default)s)"
    add("--control-seeds", type=at_least_one, default=3, metavar="N", help=seeds)
    masked = "encoder with a masked-language head, for contextual augmentation (default: none, which leaves it out)"
    add("--masked-model", default="", metavar="CKPT", help=masked)
    add("--seed", type=int, default=0, metavar="N", help="random seed of the pipelines (default: %(default)s)")
    add(
        "--threads", type=at_least_one, default=1, metavar="N", help="CPU threads of this worker (default: %(default)s)"
    )
    report = commands.add_parser("report", help="what each part changes, from the rows", allow_abbrev=False)
    add = report.add_argument
    rows = "files of rows, or folders of searches (default: none)"
    add("--rows", type=Path, nargs="+", default=[], metavar="DIR", help=rows)
    published = "folder with the runs that Distiller's authors published, for the same analysis (default: none)"
    add("--published", type=Path, metavar="DIR", help=published)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of report.md and report.json")
    recommend = commands.add_parser("recommend", help="rank pipelines for new data", allow_abbrev=False)
    add = recommend.add_argument
    data = "labelled data, and a locale, a number of training utterances or a domain of it"
    add("--data", required=True, metavar="DATA[:LOCALE][:ROWS][:domain=DOMAIN]", help=data)
    rows = "files of rows, or folders of searches, that the recommendation rests on"
    add("--rows", type=Path, nargs="+", required=True, metavar="DIR", help=rows)
    student = "student that the pipeline is for, as in the rows (default: %(default)s)"
    add("--student", default="xs", metavar="SIZE", help=student)
    add("--top", type=at_least_one, default=5, metavar="N", help="number of pipelines (default: %(default)s)")
    masked = "allow contextual augmentation, which needs an encoder with a masked-language head"
    add("--contextual", action="store_true", help=masked)
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the pipelines: pipeline-1.toml is the best")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("distiller")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    from training.runs.start import report  # PyTorch is not needed for --help

    return report(lambda: {"search": _search, "report": _report, "recommend": _recommend}[args.action](args))


def _recommend(args: argparse.Namespace) -> dict[str, Any]:
    """Rank pipelines. Raises ValueError: data or rows that can't be used."""
    from training.distiller.data_sets import DataSet, load
    from training.distiller.observations import read_rows
    from training.distiller.recommend import Recommender, write_pipelines

    loaded = load(DataSet.parse(f"data={args.data}"))
    recommender = Recommender(read_rows(args.rows))
    found = recommender.recommend(loaded.features, args.student, args.top, args.contextual)
    files = write_pipelines(found, args.out)
    for file, one in zip(files, found, strict=True):
        print(f"{file.name}: predicted ratio {one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]", file=sys.stderr)
    nearest = recommender.nearest(loaded.features, args.student)
    for x in nearest:
        won = ", ".join(f"{name} {value}" for name, value in x.pipeline.items())
        print(f"near: {x.data} (distance {x.distance}), where {x.ratio:.3f} was reached with {won}", file=sys.stderr)
    near = [{"data": x.data, "distance": x.distance, "ratio": x.ratio} for x in nearest]
    return {"out": str(args.out), "features": loaded.features, "nearest": near, "pipelines": [x.facts() for x in found]}


def _report(args: argparse.Namespace) -> dict[str, Any]:
    """Write the report. Raises ValueError: neither rows nor published runs, or rows that can't be read."""
    from training.distiller.report import write_report

    if not args.rows and not args.published:
        raise ValueError("report: needs --rows, --published, or both")
    return write_report(args.rows, args.published, args.out)


def _search(args: argparse.Namespace) -> dict[str, Any]:
    """Run one worker. Raises ValueError: data, students, teacher or storage that can't be used."""
    import torch

    from training.distiller.data_sets import DataSet
    from training.distiller.search import SQLITE, Plan, Search, opened, quiet_logs
    from training.distiller.trials import Asked, Student

    data = [DataSet.parse(text) for text in args.data]
    students = [Student.parse(text) for text in args.student or ("xs",)]
    for flag, names in (("--data", [x.name for x in data]), ("--student", [x.name for x in students])):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{flag} {', '.join(twice)}: is given twice; allowed: once")
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    shared = (args.teacher, args.teacher_epochs, args.epochs, args.control_seeds, args.masked_model)
    random = args.trials // 2 if args.random_trials is None else args.random_trials
    plan = Plan(data, students, args.trials, random, args.minutes, args.seed)
    with opened(args.storage or f"{SQLITE}{args.out / 'study.db'}") as storage, quiet_logs():
        return Search(plan, Asked(args.out, *shared), storage).run()


if __name__ == "__main__":
    sys.exit(main())
