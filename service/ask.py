"""Ask a student folder without a server.

python -m service.ask --locale de-DE "weck mich am freitag um neun uhr auf"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from service.settings import SHIPPED_STUDENTS
from service.student.manifest import StudentError
from service.student.student import Student

SHIPPED = SHIPPED_STUDENTS / "s"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring. Prints one JSON object a text."""
    parser = argparse.ArgumentParser(prog="python -m service.ask", description="Ask a student folder without a server.")
    parser.add_argument("--student", type=Path, default=SHIPPED, help="student folder (the shipped one)")
    parser.add_argument("--locale", required=True, help="locale of the texts, such as de-DE")
    parser.add_argument("texts", nargs="+", metavar="TEXT")
    args = parser.parse_args(argv)
    try:
        student = Student.load(args.student)
    except StudentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.locale not in student.manifest.locales:
        print(
            f"error: --locale {args.locale!r}; this student knows {', '.join(student.manifest.locales)}",
            file=sys.stderr,
        )
        return 2
    for text in args.texts:
        answer = student.predict(text, locale=args.locale)
        shown = {
            "text": text,
            "domain": answer.domain[0]._asdict() if answer.domain else None,
            "intent": answer.intent[0]._asdict() if answer.intent else None,
            "slots": None if answer.slots is None else [slot._asdict() for slot in answer.slots],
            "in_scope": answer.in_scope,
            "milliseconds": round(1000 * sum(answer.phases), 3),
        }
        print(json.dumps(shown, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
