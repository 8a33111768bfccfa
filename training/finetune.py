"""Train a student on labelled utterances.

    python -m training.finetune --data DIR --locales de-DE,fr-FR,it-IT,es-ES,en-US --size s --out CKPT

Progress and a table per epoch go to standard error; the last line of standard output is one JSON object. `--resume`
continues an interrupted run exactly. `--pipeline FILE` takes settings of distillation from a TOML file; a flag that is
given too wins. `accelerate launch -m training.finetune ...` runs it on several devices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from service.extras import require
from training.runs.flags import parser_of
from training.runs.settings import FinetuneSettings

COMMAND = "training.finetune"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    found = parser_of(COMMAND, "Train a student on labelled utterances.", FinetuneSettings)
    pipeline = "TOML file with settings of the distillation; a flag that is given too wins (default: none)"
    found.add_argument("--pipeline", type=Path, metavar="FILE", help=pipeline)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("training")
    from training.runs.finetuning import finetune  # PyTorch is not needed for --help
    from training.runs.pipeline import with_pipeline
    from training.runs.start import begin, report

    return report(lambda: finetune(*begin(COMMAND, FinetuneSettings, with_pipeline(args))))


if __name__ == "__main__":
    sys.exit(main())
