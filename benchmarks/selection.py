"""Whether `distilled-nlu select` beats choosing at random, at the same number of labelled utterances.

    python -m benchmarks.selection --data SNIPS --locales en-US --on-error skip [--labelled 100] [--count 100]

In each run, a student learns `--labelled` utterances drawn at random. Then `--count` more are chosen out of a pool of
the others, whose labels it does not see: at random, by uncertainty alone, and as `select` does, without near copies. A
student of each choice learns the labelled and the chosen ones from the same first weights, and is scored on utterances
that are in none of them. Prints a table, and as the last line one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from service.extras import require
from training.data import datasets
from training.data.formats.writers import jsonl
from training.data.utterances import Utterance
from training.evaluation.scoring import MEAN, score_by_locale
from training.runs.flags import at_least_one, listed

if TYPE_CHECKING:
    from training.models.checkpoint import Checkpoint

CHOICES = ("none", "random", "uncertainty", "select")
SHOWN = ("intent_accuracy", "slot_f1", "exact_match")
DEV = 50  # utterances on which the epoch is chosen
SETTINGS = {"batch-size": 32, "learning-rate": 1.5e-3, "dropout": 0.1, "augmented-share": 0.3, "unknown-share": 0.05}


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = argparse.ArgumentParser(
        prog="python -m benchmarks.selection", description="Measure the choice of texts to label.", allow_abbrev=False
    )
    add = flags.add_argument
    add("--data", required=True, help="labelled data: folder, tarball, file or hub:NAME")
    add("--locales", default="", help="comma-separated locales (default: all)")
    add("--on-error", choices=("raise", "skip"), default="raise", help="what a bad row does (default: %(default)s)")
    add(
        "--init",
        default="xs",
        metavar="CKPT",
        help="checkpoint or student with the first weights (default: %(default)s)",
    )
    add("--labelled", type=at_least_one, default=100, metavar="N", help="utterances labelled at first (default: 100)")
    add("--count", type=at_least_one, default=100, metavar="N", help="utterances chosen (default: %(default)s)")
    add("--pool", type=at_least_one, default=2000, metavar="N", help="utterances to choose from (default: %(default)s)")
    add("--scored", type=at_least_one, default=1000, metavar="N", help="utterances to score on (default: %(default)s)")
    add("--runs", type=at_least_one, default=3, metavar="N", help="runs, each with draws of its own (default: 3)")
    add("--epochs", type=at_least_one, default=40, metavar="N", help="epochs of each training (default: %(default)s)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark. Returns the exit code."""
    args = parser().parse_args(argv)
    require("training")
    require("export", "onnx")  # reads the weights of an exported student
    try:
        dataset = datasets.load(args.data, listed(args.locales) or None, args.on_error)
        runs = [run(args, list(dataset.utterances), seed) for seed in range(1, args.runs + 1)]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [name for name in SHOWN if name in runs[0]["none"]]
    means = {c: {m: round(float(np.mean([r[c][m] for r in runs])), 2) for m in names} for c in CHOICES}
    print(f"| chosen by | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for choice, values in means.items():
        each = {m: ", ".join(f"{r[choice][m]:.1f}" for r in runs) for m in names}
        print(f"| {choice} | {' | '.join(f'{values[m]:.1f} ({each[m]})' for m in names)} |")
    settings = {name: getattr(args, name) for name in ("labelled", "count", "pool", "scored", "epochs")}
    print(json.dumps({"data": Path(args.data).name, "init": args.init, **settings, "means": means, "runs": runs}))
    return 0


def run(args: argparse.Namespace, utterances: list[Utterance], seed: int) -> dict[str, dict[str, float]]:
    """The scores of each choice, in percent, with the draws of one seed. Raises ValueError: too little data."""
    sizes = (args.scored, DEV, args.labelled, args.pool)
    texts = list({u.text: u for u in utterances}.values())
    if len(texts) < sum(sizes) or args.count > args.pool:
        raise ValueError(
            f"{args.data}: holds {len(texts)} different texts; needed: {sum(sizes)}, and --count in --pool"
        )
    order = random.Random(seed).sample(texts, sum(sizes))
    ends = np.cumsum(sizes)
    scored, dev, labelled, pool = (order[end - size : end] for end, size in zip(ends, sizes, strict=True))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        first = trained(args, labelled, dev, seed, Path(folder) / "none")
        found["none"] = scores(first, scored)
        for choice in CHOICES[1:]:
            chosen = choose(choice, first, pool, labelled, args.count, seed)
            student = trained(args, [*labelled, *chosen], dev, seed, Path(folder) / choice)
            found[choice] = scores(student, scored)
            print(f"run {seed}, {choice}: {found[choice]}", file=sys.stderr, flush=True)
    return found


def trained(
    args: argparse.Namespace, train: Sequence[Utterance], dev: Sequence[Utterance], seed: int, out: Path
) -> Checkpoint:
    """A student of these utterances, trained by the real command. Raises ValueError: it failed."""
    from training import finetune
    from training.models.checkpoint import load_checkpoint

    file = out.with_suffix(".jsonl")
    rows = [replace(u, id=str(i), partition="train") for i, u in enumerate(train)]
    rows += [replace(u, id=f"dev {i}", partition="dev") for i, u in enumerate(dev)]
    file.write_bytes(jsonl(rows)[""])
    flags = {"data": file, "init": args.init, "epochs": args.epochs, "seed": seed, "out": out, **SETTINGS}
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = finetune.main([part for name, value in flags.items() for part in (f"--{name}", str(value))])
    if code:
        raise ValueError(f"training failed:\n{output.getvalue()[-500:]}")
    return load_checkpoint(out)


def choose(
    choice: str, student: Checkpoint, pool: Sequence[Utterance], labelled: Sequence[Utterance], count: int, seed: int
) -> list[Utterance]:
    """The utterances of the pool that are labelled next."""
    from training.check.classifier import features_of
    from training.selection.diversity import select

    if choice == "random":
        return random.Random(seed).sample(list(pool), count)
    doubts = uncertainties(student, pool)
    if choice == "uncertainty":
        return [pool[i] for i in np.argsort(-np.array(doubts), kind="stable")[:count]]
    features = features_of([u.text for u in (*pool, *labelled)])
    return [pool[i] for i in select(doubts, features[: len(pool)], count, features[len(pool) :])]


def uncertainties(student: Checkpoint, pool: Sequence[Utterance]) -> list[float]:
    """The uncertainty of each utterance, 0 to 1."""
    from training.models.prediction import logits_of_model
    from training.selection.uncertainty import uncertainty

    encoded = [student.encoder.encode(u.text) for u in pool]
    found = [0.0] * len(pool)
    for rows, logits in logits_of_model(student.model, student.encoder, encoded):
        arrays: dict[str, Any] = {head: x.float().cpu().numpy() for head, x in logits.items() if x is not None}
        for row, i in enumerate(rows):
            found[i] = uncertainty({head: x[row] for head, x in arrays.items()}, encoded[i].first_tokens)
    return found


def scores(student: Checkpoint, utterances: Sequence[Utterance]) -> dict[str, float]:
    """The metrics of a student, in percent."""
    from training.models.prediction import answers_of_model

    answers = answers_of_model(student.model, student.encoder, student.labels, utterances)
    mean = score_by_locale(utterances, answers)[MEAN]
    return {name: round(value, 2) for name in SHOWN if (value := mean.get(name)) is not None}


if __name__ == "__main__":
    sys.exit(main())
