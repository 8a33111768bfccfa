"""Train a ladder: a teacher from a pretrained encoder, and students of several sizes from it, exported and compared.

    python -m training.ladder --encoder intfloat/multilingual-e5-small --data MASSIVE --sizes xs,s,m,l --minutes 240 \
        --out RUNS

writes RUNS/recipe.toml, with the epochs that fit into the minutes on this machine, and runs it. Any other recipe is run
by

    python -m training.ladder --recipe training/recipes/ladder-small.toml --data MASSIVE --generic GENERIC --out RUNS

The same as `training.study`, for recipes without tasks: RUNS/ladder.md has the scores of the compared runs, one seed
each, their differences from a baseline on the same utterances, and the exported students, which stand in RUNS/students.
The same command continues an interrupted ladder. `--report` reports on the finished runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from service.extras import require
from training import study
from training.models.sizes import SIZES
from training.runs.flags import listed

RECIPE = "recipe.toml"
NEEDED = ("data", "sizes", "minutes")  # beside --encoder


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = study.shared_parser("training.ladder", "Train a ladder of students, and measure the effect of each factor.")
    add = whole.add_argument_group("a new recipe, OUT/recipe.toml, instead of --recipe").add_argument
    add(
        "--encoder",
        default="",
        metavar="NAME",
        help="encoder to adopt as the teacher: folder or hub name (default: none)",
    )
    add("--revision", default="", metavar="SHA", help="commit, branch or tag on the hub (default: the newest)")
    sizes = f"comma-separated: {', '.join(SIZES)}; that of the encoder is the teacher, exported too (default: none)"
    add("--sizes", type=sizes_of, default=(), metavar="SIZES", help=sizes)
    minutes = "time for everything, from which epochs follow; where it is short, fewer utterances too (default: none)"
    add("--minutes", type=minutes_of, metavar="N", help=minutes)
    add("--locales", default="", metavar="LOCALES", help="comma-separated locales (default: all of --data)")
    add("--tokens", type=int, default=16_000, metavar="TOKENS", help="vocabulary; 0: all (default: %(default)s)")
    texts = "plain text in which --tokens are counted beside --data: files, or sources of --generic (default: none)"
    add("--texts", default="", metavar="FILES", help=texts)
    controls = "also train each student from random weights, without the teacher, and both"
    add("--controls", action="store_true", help=controls)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    flags = parser()
    args = flags.parse_args(argv)
    if not args.encoder:
        if given := [name for name in ("sizes", "minutes", "texts", "controls") if getattr(args, name)]:
            flags.error(f"--{given[0]}: needs --encoder; a recipe says it itself")
        return study.run(flags, args)
    if args.recipe:
        flags.error("--recipe and --encoder exclude each other")
    if missing := [f"--{name}" for name in NEEDED if not getattr(args, name)]:
        flags.error(f"--encoder: needs {', '.join(missing)}")
    if args.texts and not args.tokens:
        flags.error("--texts: needs --tokens, which are counted in it")
    require("export")
    return study.run(flags, args, partial(_recipe, args))


def _recipe(args: argparse.Namespace) -> Path:
    """Write the recipe, or find the one of the interrupted ladder. Raises ValueError: see `ladder_recipe`."""
    from training.studies.ladder_recipe import Asked, ladder_recipe
    from training.studies.scheduler import threads_of

    names = ("encoder", "revision", "data", "sizes", "minutes", "locales", "texts", "tokens", "controls")
    asked = Asked(**{name: getattr(args, name) for name in names}, generic=args.generic or "")
    recipe = ladder_recipe(asked, args.out / RECIPE, threads_of(args.jobs))
    args.data = args.generic = args.encoder = None  # the recipe has them
    return recipe


def sizes_of(text: str) -> tuple[str, ...]:
    """The value of --sizes."""
    found = tuple(dict.fromkeys(listed(text)))
    if unknown := [size for size in found if size not in SIZES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}; allowed: {', '.join(SIZES)}")
    return found


def minutes_of(text: str) -> float:
    """The value of --minutes."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is out of range; allowed: more than 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
