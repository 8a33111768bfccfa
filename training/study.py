"""Run a study from a recipe, and report on it.

    python -m training.study --recipe training/recipes/study-demo.toml --out RUNS

Runs the stages of a recipe (`training.studies.recipe`), skips finished ones and continues interrupted ones. RUNS/logs
holds the output of each stage. `--report --out RUNS` writes the report again, from RUNS/results alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from service.extras import require
from training.data.utterances import PARTITIONS
from training.runs.flags import add_track, at_least_one, new_parser


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = shared_parser("training.study", "Run a study from a recipe.")
    adopted = "encoder that is adopted: folder or hub name (default: what the recipe names)"
    whole.add_argument("--encoder", metavar="NAME", help=adopted)
    return whole


def shared_parser(command: str, about: str) -> argparse.ArgumentParser:
    """The flags of this command, and of `training.ladder`."""
    whole = new_parser(command, about)
    add = whole.add_argument
    add(
        "--recipe",
        type=Path,
        help="TOML file, such as those in training/recipes (default: none; needed unless --report)",
    )
    add("--out", type=Path, required=True, help="folder of the runs; finished stages in it are skipped")
    add("--data", help="labelled data: folder, tarball, file or hub:NAME (default: what the recipe names)")
    add("--generic", metavar="FOLDER", help="plain sentences by language (default: what the recipe names)")
    add("--partition", choices=PARTITIONS, help="what is scored (default: what the recipe names, or dev)")
    jobs = "number of stages at once, each with its share of the cores (default: %(default)s)"
    add("--jobs", type=at_least_one, default=1, metavar="N", help=jobs)
    add("--until", default="", metavar="STAGE", help="stop after this stage, or group such as runs (default: none)")
    add_track(whole)
    add("--report", action="store_true", help="run nothing; report on the finished stages")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    whole = parser()
    return run(whole, whole.parse_args(argv))


def run(whole: argparse.ArgumentParser, args: argparse.Namespace, recipe_of: Callable[[], Path] | None = None) -> int:
    """Run a recipe, that of the arguments or of `recipe_of`, or report on one. Returns the exit code."""
    if not args.recipe and not recipe_of and not args.report:
        whole.error("--recipe is required (unless --report)")
    require("training")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    from training.runs.start import report  # PyTorch is not needed for --help
    from training.studies import engine

    def work() -> dict[str, Any]:
        if args.report:
            return engine.publish(args.out)
        if recipe_of:
            args.recipe = recipe_of()
        return engine.run(args)

    return report(work)


if __name__ == "__main__":
    sys.exit(main())
