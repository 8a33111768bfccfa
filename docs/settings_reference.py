"""Print the reference of all settings, ``docs/configuration.md``; ``make docs`` writes it."""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo

from service.settings import Settings, flag_of, shown_default, variable_of

INTRODUCTION = """\
<!-- Written by `make docs` from service/settings.py: change it there. -->
# Configuration

    python -m service [--port 8000] [--max-batch 16] ...
    NLU_PORT=8000 NLU_MAX_BATCH=16 python -m service

Each setting of the service is a flag and an environment variable. A flag wins over the variable, the variable over the
default. What is unknown, out of range or contradictory refuses to start with one sentence that says what is allowed.

A setting that is on or off takes no value as a flag (`--watch`, `--no-watch`), and `true` or `false` as a variable
(`NLU_WATCH=true`).
"""
HEADER = ("flag", "environment variable", "default", "what it does")


def page() -> str:
    """The page, in Markdown."""
    rows = [HEADER, ("---",) * len(HEADER)]
    rows += [_row(name, field) for name, field in Settings.model_fields.items()]
    return INTRODUCTION + "\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(name: str, field: FieldInfo) -> tuple[str, ...]:
    explained = (field.description or "").replace("|", r"\|")
    default = shown_default(field)
    if default == str(field.default):
        default = f"`{default}`"
    return f"`{flag_of(name)}`", f"`{variable_of(name)}`", default, explained


def main() -> int:
    """Print the page. Returns the exit code."""
    print(page(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
