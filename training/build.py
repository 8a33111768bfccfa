"""Build students of your own data with one command: a teacher, students, int8 exports, and a report.

    distilled-nlu build DATA --out DIR

reads the data once (DIR/data.jsonl), checks it, fine-tunes a shipped student on it (`--teacher` names a larger one, or
an encoder to adopt), distils students of `--sizes` from it, which start from the shipped ones too, exports them, and
scores them on the dev partition. DIR/data.html is the report of `distilled-nlu data check`; DIR/students can be served;
DIR/ladder.md compares quality, size and latency; DIR/mistakes.html, mistakes.md and mistakes.json list weak intents and
slots, and the texts that are answered wrongly. The same command continues an interrupted build.

`--require "exact_match>=80"` recommends the smallest student that meets the requirements; the exit code is 1 where none
does. `--from DIR` continues from the data, the teacher and the students of an earlier build, and says which answers
have changed since.

It is `training.ladder` with settings for small data: DIR/recipe.toml says what is run, and may be edited and run there.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from service.extras import require
from service.student.shipped import student_folder
from training.data import datasets
from training.data.options import add_read_options, read_options
from training.ladder import RECIPE, minutes_of, sizes_of
from training.runs.flags import listed, new_parser

if TYPE_CHECKING:
    from training.building.earlier import Earlier
    from training.building.kept import Kept
    from training.studies.recipe import Recipe

CHECKED = "data.json"  # in the folder
FEW = 200  # utterances of dev below which scores are rough
SHOWN_CHANGES = 5  # utterances of each kind on the terminal
SIZES, TEACHER = ("xs", "s"), "s"
SUMMED_UP = ("exact_match", "intent_accuracy")
FAILED = 1  # exit code: no student meets the requirements

Json = dict[str, Any]

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = new_parser("training.build", "Build students of your own data.")
    add = whole.add_argument
    add("data", metavar="DATA", help="labelled data: folder, tarball, file or hub:NAME")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to build in; finished stages in it are skipped")
    sizes = f"comma-separated sizes (default: {','.join(SIZES)}; with --from, those of that build)"
    add("--sizes", type=sizes_of, default=(), metavar="SIZES", help=sizes)
    teacher = "student or checkpoint to fine-tune as the teacher, or encoder to adopt, a folder or hub name"
    add("--teacher", default="", metavar="NAME", help=f"{teacher} (default: {TEACHER}; with --from, that of the build)")
    minutes = "time for everything, from which the epochs follow (default: %(default)s)"
    add("--minutes", type=minutes_of, default=20.0, metavar="N", help=minutes)
    about = "requirement, such as 'exact_match>=80', 'slot_f1@de-DE>=70', 'disk_mb<=10' or 'graph_ms<=0.5'; repeatable"
    add("--require", action="append", default=[], metavar="BOUND", help=f"{about} (default: none)")
    earlier = "continue from an earlier build: its data, to which DATA is added, its teacher, its students"
    add("--from", dest="earlier", type=Path, metavar="DIR", help=f"{earlier} (default: none)")
    add("--only-new", action="store_true", help="with --from: train on DATA alone, as it is complete")
    add("--plan-only", action="store_true", help="read and check the data, write the recipe, show the plan, and stop")
    add("--no-check", action="store_true", help="do not check the data, which takes minutes where it is large")
    locales = "comma-separated locales to read; one alone is also that of rows that name none (default: all)"
    add("--locales", default="", metavar="LOCALES", help=locales)
    on_error = "what a bad row does (default: %(default)s)"
    add("--on-error", choices=get_args(datasets.OnError), default="raise", help=on_error)
    add_read_options(whole)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    flags = parser()
    args = flags.parse_args(argv)
    if args.only_new and not args.earlier:
        flags.error("--only-new: needs --from")
    require("export")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    from training.runs.start import report  # PyTorch is not needed for --help

    missed: list[str] = []
    return report(lambda: _build(args, missed)) or (FAILED if missed else 0)


def _build(args: argparse.Namespace, missed: list[str]) -> Json:
    """Write the recipe, run it, report; `missed` gets the requirements where no student meets them.

    Raises ValueError: data, teacher, sizes, minutes or requirements that can't be used.
    """
    from training.building.choice import check_measurable, requirements_of
    from training.building.earlier import read_earlier
    from training.building.kept import keep
    from training.building.plan_text import plan_text
    from training.studies import engine
    from training.studies.recipe import read_recipe

    required = requirements_of(args.require)
    earlier = read_earlier(args.earlier) if args.earlier else None
    if earlier and args.out.resolve() == args.earlier.resolve():
        raise ValueError(
            f"--out {args.out}: is the folder of --from; choose another one, so that the two can be compared"
        )
    data = _read(args, earlier)
    check_measurable(required, data)
    file = keep(args.out, data)
    if not args.no_check and not (args.out / CHECKED).exists():
        _check(args, data)
    logging.getLogger(datasets.__name__).setLevel(logging.ERROR)  # what it says of the data has been said
    recipe = _recipe(args, earlier, file)
    log.info("%s", plan_text(data, read_recipe(recipe)))
    if args.plan_only:
        return {"out": str(args.out), "plan": read_recipe(recipe).plan}
    none = dict.fromkeys(("data", "generic", "partition", "encoder"))  # the recipe has them
    of_engine = {**none, "jobs": 1, "until": "", "track": "", "report": False}
    engine.run(argparse.Namespace(recipe=recipe, out=args.out, **of_engine))
    return _report(args, read_recipe(recipe), data, required, missed)


def _read(args: argparse.Namespace, earlier: Earlier | None) -> Kept:
    """The data to train on, with that of an earlier build. Raises DatasetError: it can't be read."""
    from training.building.earlier import joined
    from training.building.kept import Kept
    from training.check.progress import shortened

    dataset = datasets.load(args.data, listed(args.locales) or None, args.on_error, read_options(args))
    read = Kept(dataset.utterances, tuple(shortened(dataset)))
    return joined(read, earlier.data, args.only_new) if earlier else read


def _recipe(args: argparse.Namespace, earlier: Earlier | None, data: Path) -> Path:
    """Write the recipe, or find that of the interrupted build. Raises ValueError: see `ladder_recipe`."""
    from training.building.earlier import first_weights
    from training.studies.ladder_recipe import Asked, ladder_recipe
    from training.studies.scheduler import threads_of

    teacher, sizes = args.teacher or TEACHER, args.sizes or SIZES
    starts: dict[str, str] = {}
    if earlier:
        sizes = args.sizes or earlier.sizes or SIZES
        teacher = args.teacher or first_weights(earlier.out, earlier.teacher)
        starts = {size: weights for size in sizes if (weights := first_weights(earlier.out, size))}
    asked = Asked(teacher, str(data), sizes, args.minutes, from_shipped=True, starts=starts)
    return ladder_recipe(asked, args.out / RECIPE, threads_of(1))


def _check(args: argparse.Namespace, data: Kept) -> None:
    """Write the report on the data, and say how many serious findings it has."""
    from training.check.findings import KINDS
    from training.check.page import page
    from training.check.progress import progress
    from training.check.report import Settings, check
    from training.data.files import write_atomically, write_json

    with progress() as show:
        report = check(data.utterances, data.places, Settings(student_folder("s")), show)
    write_atomically(args.out / "data.html", page(report, Path(args.data).name).encode())
    write_json(args.out / CHECKED, {"data": Path(args.data).name, **report.as_json()})
    serious = [kind for kind, found in report.findings.items() if found and KINDS[kind].level != "note"]
    said = ", ".join(f"{kind.replace('_', ' ')} {len(report.findings[kind])}" for kind in serious)
    log.info("checked the data: %s; read %s", said or "no findings", args.out / "data.html")


def _report(args: argparse.Namespace, recipe: Recipe, data: Kept, required: Sequence[Any], missed: list[str]) -> Json:
    """Choose a student, write its mistakes and what has changed, and say how to go on. Returns the summary."""
    from training.building.choice import choice, recommended
    from training.building.earlier import change_lines, changes
    from training.building.mistakes_report import write_mistakes
    from training.data.files import read_json
    from training.evaluation.requirements import verdict_of
    from training.studies.layout import Layout

    facts = read_json(Layout(args.out).students)
    verdict = choice(facts, required) if required else None
    best = str(verdict["fits"]) if verdict and verdict["fits"] else recommended(facts)
    found = changes(args.earlier, args.out, recipe.export.runs, data) if args.earlier else None
    mistakes = write_mistakes(args.out, best, data, found)
    if (scored := mistakes["utterances"]) < FEW:
        log.info("Scores rest on %d utterances of dev: one of them is %.1f points.", scored, 100 / scored)
    if verdict:
        log.info("%s", verdict_of(verdict))
        missed += [] if verdict["fits"] else verdict["requirements"]
    else:
        log.info("%s is the smallest student within a point of exact match of the best one.", best)
    for line in change_lines(found, best, SHOWN_CHANGES) if found else ():
        log.info("%s", line)
    log.info("Its mistakes, weak intents and slots: %s", args.out / "mistakes.html")
    log.info("Serve it:      distilled-nlu serve --students %s", args.out / "students")
    log.info("Ask it:        distilled-nlu ask --student %s TEXT", args.out / "students" / best)
    summary = {"out": str(args.out), "students": {name: _figures(one) for name, one in facts.items()}}
    counts = {
        size: {kind: len(of_size[kind]) for kind in ("mended", "broken")}
        for size, of_size in (found["students"] if found else {}).items()
    }
    recommendation = verdict["fits"] if verdict else best
    extra = {**({"required": verdict} if verdict else {}), **({"changed": counts} if found else {})}
    return {**summary, "recommended": recommendation, **extra}


def _figures(facts: Json) -> Json:
    """Exact match and intent accuracy as served, in percent, megabytes and microseconds of an exported student."""
    mean = facts["quality"]["mean"]
    quality = {metric: round(mean[metric], 1) for metric in SUMMED_UP if mean.get(metric) is not None}
    return {**quality, "megabytes": round(facts["bytes"] / 1e6, 1), "microseconds": facts["microseconds"]}


if __name__ == "__main__":
    sys.exit(main())
