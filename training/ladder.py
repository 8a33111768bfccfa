"""Train a ladder of students from a recipe, and say what each factor is worth.

    python -m training.ladder --recipe training/recipes/ladder-small.toml --data MASSIVE --generic GENERIC --out RUNS

The same as `training.study` with a recipe without tasks: what is compared are fine-tuned runs, with one seed each.
Writes RUNS/ladder.md and RUNS/ladder.json: scores of each compared run, as PyTorch computes them, and what it changes
against the baseline of its table, on the same utterances. `--report` reports on the runs that are done.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from training import study


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    return study.parser("training.ladder", "Train a ladder of students, and say what each factor is worth.")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    return study.run(parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
