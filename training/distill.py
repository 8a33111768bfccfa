"""Distil a small encoder from a masked-language-model teacher on a transfer set.

    python -m training.distill --teacher CKPT --size s --corpus TRANSFER_SET --out STUDENT

`--chain l` distils through intermediates, each in `OUT/via-SIZE`: teacher -> l -> s. Progress goes to standard error;
the last line of standard output is one JSON object. `--resume` continues an interrupted run exactly. `accelerate launch
-m training.distill ...` runs it on several devices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from service.extras import require
from training.runs.flags import parser_of
from training.runs.settings import DistillSettings

COMMAND = "training.distill"


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    return parser_of(COMMAND, "Distil an encoder on a transfer set.", DistillSettings)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("training")
    from training.runs.distillation import distill  # PyTorch is not needed for --help
    from training.runs.start import run_command

    return run_command(COMMAND, DistillSettings, args, distill)


if __name__ == "__main__":
    sys.exit(main())
