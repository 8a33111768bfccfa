"""Run a study from a recipe, and report on it.

    python -m training.study --recipe training/recipes/study-demo.toml --out RUNS
    python -m training.study report RUNS

The first command makes what the recipe asks for (tokenizer, transfer sets, encoders, fine-tuned students, what they
answer) and skips what is done; started again after an interruption, it goes on from where each stage stood. What each
stage says stands in RUNS/logs. The second writes `report.md`, `report.json` and the figures from the small files in
RUNS/results alone. `training.studies.recipe` says what a recipe holds.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data.utterances import PARTITIONS
from training.runs.settings import at_least_one
from training.runs.settings import report as finish
from training.studies import report, stages
from training.studies.ledger import Ledger
from training.studies.recipe import read_recipe
from training.studies.scheduler import Scheduler

COMMAND = "training.study"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    argv = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    if argv[:1] == ["report"]:
        parser = argparse.ArgumentParser(prog=f"python -m {COMMAND} report", description="Report on a study.")
        parser.add_argument("runs", type=Path, help="folder of the study")
        runs = parser.parse_args(argv[1:]).runs
        return finish(lambda: {"report": str(runs / "report.md"), **_summary(report.write_report(runs))})
    parser = argparse.ArgumentParser(prog=f"python -m {COMMAND}", description="Run a study.")
    parser.add_argument("--recipe", type=Path, required=True, help="TOML file; some stand in training/recipes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study; what is done there is skipped")
    parser.add_argument("--task", help="labelled data, in place of the recipe's")
    parser.add_argument("--generic", help="folder of plain sentences, in place of the recipe's")
    parser.add_argument("--partition", choices=PARTITIONS, help="what is scored, in place of the recipe's")
    parser.add_argument(
        "--jobs", type=at_least_one, default=1, help="stages at once, each with its share of the cores (%(default)s)"
    )
    parser.add_argument("--until", default="", help="stop when this stage, or group of stages (encoders), is done")
    args = parser.parse_args(argv)
    return finish(lambda: run(args))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do all stages of a study that are not done. Returns the summary.

    Raises:
        RecipeError: the recipe can't be used.
        StageError: a stage failed, or stands there with other settings.
    """
    recipe = read_recipe(args.recipe).with_data(args.task, args.generic, args.partition)
    args.out.mkdir(parents=True, exist_ok=True)
    plan = stages.stages_of(recipe, args.out)
    if args.until:
        plan = stages.needed_for(plan, args.until)
    ledger = Ledger(args.out / "made")
    todo = ledger.todo(plan)
    Scheduler(plan, ledger, args.out / "logs", args.jobs, "study").run(todo)
    return {"runs": str(args.out), "stages": len(plan), "done_now": len(todo)}


def _summary(content: dict[str, Any]) -> dict[str, Any]:
    return {"title": content.get("title"), "missing": content.get("missing", [])}


if __name__ == "__main__":
    sys.exit(main())
