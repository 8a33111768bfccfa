"""Report what is wrong with labelled data: contradictions, leaks, probable label errors, confused intents and more.

    python -m training.check DATA --json report.json --html report.html --fail-on contradictions,leaks

The report goes to standard output, the most serious first; its last line is one JSON object with the number of findings
of each kind. Exit code: 0 if there are no findings of the kinds in --fail-on, 1 if there are, 2 if the data or the
command line cannot be used.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from service.extras import require
from service.student.manifest import StudentError
from service.student.shipped import student_folder
from training.check.findings import KINDS
from training.check.progress import progress, shortened
from training.data import datasets
from training.data.files import write_atomically, write_json
from training.data.options import add_read_options, read_options
from training.runs.flags import at_least_one, listed, new_parser

NEVER_FAIL = ("outliers",)  # a fixed share of the texts, however good the data is


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = new_parser("training.check", "Report what is wrong with labelled data.")
    add = whole.add_argument
    add("data", metavar="DATA", help="labelled data: folder, tarball, file or hub:NAME")
    add("--locales", default="", help="comma-separated locales (default: all)")
    add(
        "--on-error",
        choices=get_args(datasets.OnError),
        default="raise",
        help="what to do with a bad row (default: %(default)s)",
    )
    allowed = ", ".join(kind for kind in KINDS if kind not in NEVER_FAIL)
    fail = f"exit with code 1 if there are findings of these kinds, comma-separated, of {allowed} (default: none)"
    add("--fail-on", type=_kinds, default=(), metavar="KINDS", help=fail)
    rare = "training utterances of an intent in a locale below which it is rare (default: %(default)s)"
    add("--rare", type=at_least_one, default=10, metavar="N", help=rare)
    student = "student folder, or shipped name, whose tokenizer counts tokens (default: %(default)s)"
    add("--student", default="s", metavar="DIR", help=student)
    add("--seed", type=int, default=0, help="seed of the cross-validation's folds (default: %(default)s)")
    shown = "number of findings of each kind on the terminal (default: %(default)s)"
    add("--examples", type=at_least_one, default=5, metavar="N", help=shown)
    add("--json", type=Path, metavar="FILE", help="also write the whole report as JSON (default: none)")
    add("--html", type=Path, metavar="FILE", help="also write the report as one HTML page (default: none)")
    add_read_options(whole)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("check")
    from training.check.report import Settings, check  # needs scikit-learn, which --help does not
    from training.check.text import render

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        dataset = datasets.load(args.data, listed(args.locales) or None, args.on_error, read_options(args))
        settings = Settings(student_folder(args.student), args.seed, args.rare)
        with progress() as show:
            report = check(dataset.utterances, shortened(dataset), settings, show)
    except (datasets.DatasetError, StudentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = [kind for kind in args.fail_on if report.findings[kind]]
    try:
        if args.json:
            write_json(
                args.json, {"data": Path(args.data).name, "seed": args.seed, "failed": failed, **report.as_json()}
            )
        if args.html:
            from training.check.page import page  # needs matplotlib

            write_atomically(args.html, page(report, Path(args.data).name).encode())
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render(report, args.data, args.examples))
    if failed:
        print(f"--fail-on: there are findings of {', '.join(failed)}", file=sys.stderr)
    found = {kind: len(findings) for kind, findings in report.findings.items()}
    print(json.dumps({"utterances": len(report.utterances), "findings": found, "failed": failed}))
    return 1 if failed else 0


def _kinds(text: str) -> tuple[str, ...]:
    allowed = [kind for kind in KINDS if kind not in NEVER_FAIL]
    if unknown := [kind for kind in listed(text) if kind not in allowed]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; allowed: {', '.join(allowed)}")
    return tuple(listed(text))


if __name__ == "__main__":
    sys.exit(main())
