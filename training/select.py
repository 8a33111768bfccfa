"""Choose the texts of a log that are most worth labelling: those that a student is unsure of, unlike each other.

    distilled-nlu select log.txt --student DIR/students/xs --data DIR/data.jsonl --count 100 --out more.jsonl

TEXTS has a text a line (.txt, .log), or is a file of any format of labelled data, whose labels are not used. Copies
are left out, and texts that stand in `--data`. What is chosen is written with the student's answers as labels, to be
corrected, in the format that TEXTS or else `--data` came in (`--to`: another one). Then `distilled-nlu build more.jsonl
--from DIR` continues with them. A student folder and the extra `check` are enough; no PyTorch is needed.

The texts go to standard error; the last line of standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from service.extras import require
from service.student.manifest import StudentError
from service.student.shipped import student_folder
from training.data import datasets
from training.data.files import write_atomically
from training.data.formats.writers import WRITERS
from training.data.options import add_read_options, read_options
from training.data.utterances import DatasetError, Slot, Utterance
from training.runs.flags import at_least_one, listed, new_parser

if TYPE_CHECKING:
    from service.student.student import Student

SHOWN = 10  # texts on the terminal

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    whole = new_parser("training.select", "Choose the texts of a log that are most worth labelling.")
    add = whole.add_argument
    add("texts", metavar="TEXTS", help="texts, one a line (.txt, .log; .gz of each), or a file of any format of data")
    add("--student", required=True, metavar="DIR", help="student folder, or shipped name, that answers")
    add("--data", default="", metavar="DATA", help="labelled data, whose texts are not chosen again (default: none)")
    add("--count", type=at_least_one, default=100, metavar="N", help="number of texts to choose (default: %(default)s)")
    add("--out", type=Path, help="file to write; of rasa a folder (default: only show the first texts)")
    formats = f"format to write: {', '.join(WRITERS)} (default: that of TEXTS, else of --data, else jsonl)"
    add("--to", choices=tuple(WRITERS), default="", metavar="FORMAT", help=formats)
    add("--force", action="store_true", help="overwrite --out")
    locales = "comma-separated locales to read; one alone is also that of texts that name none"
    add("--locales", default="", help=f"{locales} (default: that of the student where it has one, else all)")
    add_read_options(whole)
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser().parse_args(argv)
    require("check", "sklearn")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        summary = _select(args)
    except (DatasetError, StudentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary, ensure_ascii=False))
    return 0


def _select(args: argparse.Namespace) -> dict[str, object]:
    """Read, choose, write. Returns the summary. Raises DatasetError, StudentError, OSError."""
    from service.student.student import Student
    from training.selection.log import candidates, read_log, written_format

    if args.out and args.out.exists() and not args.force:
        raise DatasetError(f"{args.out}: exists already; choose another --out, or --force to overwrite")
    student = Student.load(student_folder(args.student))
    options, served = read_options(args), student.manifest.locales
    locales = listed(args.locales) or (list(served) if len(served) == 1 else None)
    texts = read_log(args.texts, locales, options)
    labelled = datasets.load(args.data, listed(args.locales) or None).utterances if args.data else ()
    if unknown := sorted({u.locale for u in texts} - set(served)):
        log.warning("%s: the student was not trained on %s", args.texts, ", ".join(unknown))
    found = candidates(texts, labelled)
    log.info("%d texts; %d copies and %d that stand in --data are left out", len(texts), found.repeated, found.labelled)
    if not found.texts:
        raise DatasetError(f"{args.texts}: no text is left to choose from")
    chosen, doubts = choose(student, found.texts, [u.text for u in labelled], args.count)
    answers = [answered(student, utterance) for utterance in chosen]
    for utterance, doubt in list(zip(answers, doubts, strict=True))[:SHOWN]:
        log.info("  %.2f  %s  %s", doubt, utterance.intent or utterance.domain or "", utterance.text)
    to = args.to or written_format([args.texts, *([args.data] if args.data else [])], options)
    if args.out:
        for name, content in WRITERS[to](answers).items():
            write_atomically(args.out / name if name else args.out, content)
        log.info("wrote %d texts with the student's answers as labels: correct them, then build --from", len(answers))
    counts = {"texts": len(texts), "repeated": found.repeated, "labelled": found.labelled, "selected": len(answers)}
    return {"out": str(args.out) if args.out else None, "format": to, **counts}


def choose(
    student: Student, texts: Sequence[Utterance], labelled: Sequence[str], count: int
) -> tuple[list[Utterance], list[float]]:
    """The texts most worth labelling, in the order in which they are chosen, and the uncertainty of each, 0 to 1."""
    from tqdm import tqdm

    from training.check.classifier import features_of
    from training.selection.diversity import select
    from training.selection.uncertainty import uncertainty

    doubts = []
    for utterance in tqdm(texts, desc="answering", unit="text", leave=False, disable=None):
        encoded = student.encoder.encode(utterance.text)
        doubts.append(uncertainty(student.logits(encoded), encoded.first_tokens))
    features = features_of([*(u.text for u in texts), *labelled])
    rows = select(doubts, features[: len(texts)], count, features[len(texts) :])
    return [texts[row] for row in rows], [doubts[row] for row in rows]


def answered(student: Student, utterance: Utterance) -> Utterance:
    """The utterance with the student's answer as its labels, to train on."""
    known = utterance.locale in student.manifest.locales
    answer = student.predict(utterance.text, locale=utterance.locale if known else None)
    return replace(
        utterance,
        partition="train",
        domain=answer.domain[0].name if answer.domain else None,
        intent=answer.intent[0].name if answer.intent else None,
        slots=tuple(Slot(slot.name, slot.start, slot.end) for slot in answer.slots or ()),
        slots_annotated=answer.slots is not None,
    )


if __name__ == "__main__":
    sys.exit(main())
