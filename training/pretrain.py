"""Pretrain an encoder by masked language modelling on plain text, from scratch or from another encoder.

    python -m training.pretrain --corpus TEXT --size m --out CKPT                  # Stage 1
    python -m training.pretrain --corpus TASK_TEXT --init CKPT --out ADAPTED       # Stage 2: teacher adaptation

Progress goes to standard error; the last line of standard output is one JSON object. `--resume` continues an
interrupted run exactly. `accelerate launch -m training.pretrain ...` runs it on several devices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from service.extras import require
from training.runs.flags import parser_of
from training.runs.settings import PretrainSettings

COMMAND = "training.pretrain"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    return parser_of(COMMAND, "Masked language modelling.", PretrainSettings)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("training")
    from training.runs.pretraining import pretrain  # PyTorch is not needed for --help
    from training.runs.start import run_command

    return run_command(COMMAND, PretrainSettings, args, pretrain)


if __name__ == "__main__":
    sys.exit(main())
