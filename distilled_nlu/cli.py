"""The command ``distilled-nlu``: the project's commands under one name.

Each subcommand, of one word or two, is the ``main(argv)`` of a module, which is imported when its command is run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

UNUSABLE = 2  # exit code of a command line that cannot be used


class Command(NamedTuple):
    """A subcommand: the module whose `main` it runs, and what it does."""

    module: str
    summary: str


COMMANDS = {
    "serve": Command("service.__main__", "start the HTTP service"),
    "ask": Command("service.ask", "ask a student without a server"),
    "wyoming": Command("service.wyoming", "answer intents for Home Assistant, by the Wyoming protocol"),
    "build": Command("training.build", "build students of your own data: train, distil, export, report"),
    "train": Command("training.finetune", "train a student on labelled utterances"),
    "convert": Command("training.convert", "read labelled data of any known format, write JSONL, CSV, Rasa or CLU"),
    "adopt": Command("training.adopt", "start from a pretrained encoder of the Hugging Face hub"),
    "pretrain": Command("training.pretrain", "pretrain an encoder on plain text"),
    "distill": Command("training.distill", "distil an encoder from a teacher on a transfer set"),
    "evaluate": Command("training.evaluate", "score a checkpoint or a student on labelled utterances"),
    "export": Command("export.onnx", "convert a checkpoint to a quantised student folder"),
    "migrate": Command("export.migrate", "rewrite a student folder of an older release"),
    "push": Command("export.push", "publish a student folder on the Hugging Face hub"),
    "compare": Command("loadtest.compare", "compare students as served: quality, latency, memory"),
    "loadtest": Command("loadtest.__main__", "load a service with locust and print its latencies"),
    "experiment": Command("loadtest.experiment", "analyse an A/B experiment on live traffic"),
    "data check": Command("training.check.__main__", "report what is wrong with labelled data"),
    "select": Command("training.select", "choose the texts of a log that are most worth labelling"),
    "corpus": Command("training.corpus", "build a transfer set of plain text"),
    "tokenizer": Command("training.tokenizer", "train a tokenizer"),
    "ladder": Command("training.ladder", "train a teacher and students of several sizes, export and compare them"),
    "distiller": Command("training.distiller.__main__", "search for the parts of distillation that help on which data"),
    "study": Command("training.study", "run a study from a recipe and report on it"),
}


def usage() -> str:
    """The help text."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            "usage: distilled-nlu COMMAND [OPTION ...]",
            "",
            "Train, export, serve and compare small multilingual NLU students.",
            "",
            "commands:",
            *(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()),
            "",
            "distilled-nlu COMMAND --help lists the options of a command; distilled-nlu --version prints the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns its exit code; 2 if there is no such command, or an extra that it needs is missing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else UNUSABLE
    taken = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, options = " ".join(arguments[:taken]), arguments[taken:]
    if name == "--version":
        from importlib.metadata import version  # takes longer to import than all the rest

        print(f"distilled-nlu {version('distilled-nlu')}")
        return 0
    if name not in COMMANDS:
        similar = [c for c in COMMANDS if c.startswith(f"{name} ")] or get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {' or '.join(similar)}?" if similar else f"; allowed: {', '.join(COMMANDS)}"
        print(f"error: unknown command {name!r}{hint}", file=sys.stderr)
        return UNUSABLE
    from service.extras import MissingExtra

    try:
        code: int = import_module(COMMANDS[name].module).main(options)
    except MissingExtra as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    return code
