"""Train a ladder of students from a recipe, and measure the effect of each factor.

    python -m training.ladder --recipe training/recipes/ladder-small.toml --data MASSIVE --generic GENERIC --out RUNS

The same as `training.study`, for recipes without tasks: RUNS/ladder.md has the scores of the compared runs, one seed
each, and their differences from a baseline on the same utterances. `--report` reports on the finished runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from training import study


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    return study.parser("training.ladder", "Train a ladder of students, and measure the effect of each factor.")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    return study.run(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
