"""Ask a student without a server.

python -m service.ask --locale de-DE "weck mich am freitag um neun uhr auf"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from service.student.manifest import StudentError
from service.student.shipped import student_folder
from service.student.student import Student


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m service.ask", description="Ask a student without a server.", allow_abbrev=False
    )
    parser.add_argument(
        "--student",
        default="s",
        metavar="DIR",
        help="student folder, name of a shipped student, s or xs, or hub:OWNER/NAME@REVISION (default: %(default)s)",
    )
    parser.add_argument("--locale", required=True, help="locale of the texts, such as de-DE")
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="texts to understand")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Prints one JSON object for each text."""
    args = parser().parse_args(argv)
    try:
        student = Student.load(student_folder(args.student))
    except StudentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    locales = student.manifest.locales
    if args.locale not in locales:
        print(
            f"error: --locale {args.locale!r} is unknown to the student; known: {', '.join(locales)}", file=sys.stderr
        )
        return 2
    for text in args.texts:
        answer = student.predict(text, locale=args.locale)
        line = {
            "text": text,
            "domain": answer.domain[0]._asdict() if answer.domain else None,
            "intent": answer.intent[0]._asdict() if answer.intent else None,
            "slots": None if answer.slots is None else [slot._asdict() for slot in answer.slots],
            "in_scope": answer.in_scope,
            "milliseconds": round(1000 * sum(answer.phases), 3),
        }
        print(json.dumps(line, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
