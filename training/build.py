"""Build students of your own data with one command: a teacher, students, int8 exports, and a report.

    distilled-nlu build DATA --out DIR

checks the data, fine-tunes a shipped student on it (`--teacher` names a larger one, or an encoder to adopt), distils
students of `--sizes` from it, which start from the shipped ones too, exports them, and scores them on the dev
partition. DIR/data.html is the report of `distilled-nlu data check`; DIR/students can be served; DIR/ladder.md compares
quality, size and latency; DIR/mistakes.md and mistakes.json list weak intents and slots, and the texts that are
answered wrongly. The same command continues an interrupted build.

It is `training.ladder` with settings for small data: DIR/recipe.toml says what is run, and may be edited and run there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.extras import require
from service.student.shipped import student_folder
from training.data import datasets
from training.ladder import RECIPE, minutes_of, sizes_of
from training.runs.flags import listed, new_parser

CHECKED = "data.json"  # in the folder
FEW = 200  # utterances of dev below which scores are rough
RECOMMENDED_WITHIN = 1.0  # points of exact match behind the best student, of the smallest one that is good enough


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = new_parser("training.build", "Build students of your own data.")
    add = whole.add_argument
    add("data", metavar="DATA", help="labelled data: folder, tarball, file or hub:NAME")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to build in; finished stages in it are skipped")
    add("--sizes", type=sizes_of, default=("xs", "s"), metavar="SIZES", help="comma-separated sizes (default: xs,s)")
    teacher = (
        "student or checkpoint to fine-tune as the teacher, or encoder to adopt, a folder or hub name (default: s)"
    )
    add("--teacher", default="s", metavar="NAME", help=teacher)
    minutes = "time for everything, from which the epochs follow (default: %(default)s)"
    add("--minutes", type=minutes_of, default=20.0, metavar="N", help=minutes)
    add("--no-check", action="store_true", help="do not check the data, which takes minutes where it is large")
    add("--locales", default="", metavar="LOCALES", help="comma-separated locales (default: all of DATA)")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("export")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    from training.runs.start import report  # PyTorch is not needed for --help

    return report(lambda: _build(args))


def _build(args: argparse.Namespace) -> dict[str, Any]:
    """Write the recipe, run it, report. Raises ValueError: data, teacher, sizes or minutes that can't be used."""
    from training.studies import engine
    from training.studies.ladder_recipe import Asked, ladder_recipe
    from training.studies.mistakes_report import write_mistakes
    from training.studies.scheduler import threads_of

    if not args.no_check and not (args.out / CHECKED).exists():
        _check(args)
        logging.getLogger(datasets.__name__).setLevel(logging.ERROR)  # what it says of the data has been said
    asked = Asked(args.teacher, args.data, args.sizes, args.minutes, locales=args.locales, from_shipped=True)
    recipe = ladder_recipe(asked, args.out / RECIPE, threads_of(1))
    of_engine = {"data": None, "generic": None, "partition": None, "jobs": 1, "until": "", "track": "", "report": False}
    engine.run(argparse.Namespace(recipe=recipe, out=args.out, **of_engine))
    students = exported(args.out)
    best = recommended(students)
    mistakes = write_mistakes(args.out, best)
    folder = args.out / "students"
    log = logging.getLogger(__name__).info
    if (scored := mistakes["utterances"]) < FEW:
        log("Scores rest on %d utterances of dev: one of them is %.1f points.", scored, 100 / scored)
    log("%s is the smallest student within a point of exact match of the best one.", best)
    log("Its mistakes, weak intents and slots: %s", args.out / "mistakes.md")
    log("Serve it:      distilled-nlu serve --students %s", folder)
    log("Ask it:        distilled-nlu ask --student %s TEXT", folder / best)
    return {"out": str(args.out), "students": students, "recommended": best}


def _check(args: argparse.Namespace) -> None:
    """Write the report on the data, and say how many serious findings it has. Raises DatasetError: no data."""
    from training.check.findings import KINDS
    from training.check.page import page
    from training.check.progress import progress, shortened
    from training.check.report import Settings, check
    from training.data.files import write_atomically, write_json

    dataset = datasets.load(args.data, listed(args.locales) or None)
    with progress() as show:
        report = check(dataset.utterances, shortened(dataset), Settings(student_folder("s")), show)
    write_atomically(args.out / "data.html", page(report, Path(args.data).name).encode())
    write_json(args.out / CHECKED, {"data": Path(args.data).name, **report.as_json()})
    serious = [kind for kind, found in report.findings.items() if found and KINDS[kind].level != "note"]
    said = ", ".join(f"{kind.replace('_', ' ')} {len(report.findings[kind])}" for kind in serious)
    logging.getLogger(__name__).info("checked the data: %s; read %s", said or "no findings", args.out / "data.html")


def exported(out: Path) -> dict[str, dict[str, Any]]:
    """Exact match and intent accuracy as served, in percent, megabytes and microseconds of each exported student."""
    from training.data.files import read_json
    from training.studies.layout import Layout

    found = {}
    for name, facts in read_json(Layout(out).students).items():
        mean = facts["quality"]["mean"]
        names = ("exact_match", "intent_accuracy")
        quality = {name: round(mean[name], 1) for name in names if mean.get(name) is not None}
        times = {"microseconds": facts["microseconds"]}
        found[name] = {**quality, "megabytes": round(facts["bytes"] / 1e6, 1), **times}
    return found


def recommended(students: dict[str, dict[str, Any]]) -> str:
    """The smallest student whose quality is close to that of the best one."""

    def quality(name: str) -> float:
        return float(students[name].get("exact_match", students[name].get("intent_accuracy", 0.0)))

    enough = max(map(quality, students)) - RECOMMENDED_WITHIN
    return min((x for x in students if quality(x) >= enough), key=lambda x: float(students[x]["megabytes"]))


if __name__ == "__main__":
    sys.exit(main())
