"""Run a study from a recipe, and report on it.

    python -m training.study --recipe training/recipes/study-demo.toml --out RUNS
    python -m training.study --report --out RUNS

Makes what the recipe asks for (tokenizer, transfer sets, encoders, fine-tuned students, what they answer) and skips
what is done; started again after an interruption, it goes on from where each stage stood. RUNS/logs holds the output of
each stage. The report (`report.md`, `report.json` and figures) is made from the small files in RUNS/results alone;
`--report` makes it again. `training.studies.recipe` says what a recipe holds.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from service.extras import require
from training.data.utterances import PARTITIONS
from training.runs.flags import at_least_one


def parser(
    command: str = "training.study", description: str = "Run a study from a recipe, and report on it."
) -> argparse.ArgumentParser:
    """The flags of this command, and of `training.ladder`."""
    whole = argparse.ArgumentParser(prog=f"python -m {command}", description=description, allow_abbrev=False)
    whole.add_argument(
        "--recipe", type=Path, help="TOML file, some stand in training/recipes (default: none; needed without --report)"
    )
    whole.add_argument("--out", type=Path, required=True, help="folder of the runs; what is done there is skipped")
    whole.add_argument(
        "--data", help="labelled data: folder, tarball, file or hub:NAME (default: what the recipe names)"
    )
    whole.add_argument("--generic", metavar="FOLDER", help="plain sentences by language (default: that of the recipe)")
    whole.add_argument("--partition", choices=PARTITIONS, help="what is scored (default: that of the recipe, or dev)")
    whole.add_argument(
        "--jobs",
        type=at_least_one,
        default=1,
        metavar="N",
        help="stages at once, each with its share of the cores (default: %(default)s)",
    )
    whole.add_argument(
        "--until", default="", metavar="STAGE", help="stop after this stage, or group such as runs (default: none)"
    )
    whole.add_argument("--report", action="store_true", help="run nothing: report on what is done")
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    return run(parser(), argv)


def run(whole: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Run a recipe, or report on one. Returns the exit code."""
    args = whole.parse_args(argv)
    if not args.recipe and not args.report:
        whole.error("--recipe is required (unless --report)")
    require("training")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    from training.runs.start import report  # PyTorch is not needed for --help
    from training.studies import engine

    return report(lambda: engine.publish(args.out) if args.report else engine.run(args))


if __name__ == "__main__":
    sys.exit(main())
