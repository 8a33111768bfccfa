"""The engine of `training.study` and `training.ladder`: run the unfinished stages of a recipe, then report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.runs.tracking import require_tracker
from training.studies import effects_report, table_report
from training.studies.layout import Layout
from training.studies.ledger import Ledger
from training.studies.measures import write_facts
from training.studies.recipe import read_recipe
from training.studies.results import reading
from training.studies.scheduler import Scheduler
from training.studies.stages import StageBuilder, needed_for


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the unfinished stages, and report. Returns the summary.

    Raises RecipeError, StageError: a recipe that can't be used, a stage that failed or was made with other settings;
    ValueError: the tracker's package is missing.
    """
    require_tracker(args.track)
    recipe = read_recipe(args.recipe).with_data(args.data, args.generic, args.partition, args.encoder)
    layout, ledger = Layout(args.out), Ledger(args.out / "made")
    plan = StageBuilder(recipe, layout, args.track).stages()
    if args.until:
        plan = needed_for(plan, args.until)
    todo = ledger.todo(plan)
    write_facts(recipe, layout)
    try:
        Scheduler(plan, ledger, args.out / "logs", args.jobs, recipe.title).run(todo)
    finally:
        write_facts(recipe, layout)  # of the stages finished by now
    summary = {"out": str(args.out), "stages": len(plan), "done_now": len(todo)}
    return summary if args.until else {**summary, **publish(args.out)}


def publish(out: Path) -> dict[str, Any]:
    """Report on the finished stages, from the files in OUT/results alone. Returns the report's part of the summary.

    Raises ReportError: a required result is missing, or one can't be read.
    """
    with reading(Layout(out).recipe) as recipe:
        with_tasks = bool(recipe["tasks"])
    if with_tasks:
        content = effects_report.write_report(out)
        return {"report": str(out / "report.md"), "title": content["title"], "missing": content["missing"]}
    content = table_report.write_report(out)
    found = {name: run["mean"].get("exact_match") for name, run in content["runs"].items()}
    scores = {name: figures and figures[0] for name, figures in found.items()}
    return {"report": str(out / "ladder.md"), "exact_match": scores}
