"""Write the reference pages that the code knows best: ``python docs/generate.py``, or ``make docs``.

| page | made from |
|---|---|
| ``configuration.md`` | `service.settings.Settings` |
| ``reference/cli.md`` | the parser of each command of ``distilled-nlu`` |
| ``reference/http.md`` | the OpenAPI document of the service |
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from pydantic.fields import FieldInfo

from distilled_nlu.cli import COMMANDS
from service.app import create_app
from service.page.reference import FIELD_COLUMNS, ROUTE_COLUMNS, models, routes
from service.settings import Settings, flag_of, shown_default, variable_of

DOCS = Path(__file__).parent

SETTINGS = """\
<!-- Written by `make docs` from service/settings.py: change it there. -->
# Settings

    distilled-nlu serve [--port 8000] [--max-batch 16] ...
    NLU_PORT=8000 NLU_MAX_BATCH=16 distilled-nlu serve

Each setting of the service is a flag and an environment variable. A flag wins over the variable, the variable over the
default. What is unknown, out of range or contradictory refuses to start with one sentence that says what is allowed.

A setting that is on or off takes no value as a flag (`--watch`, `--no-watch`), and `true` or `false` as a variable
(`NLU_WATCH=true`).
"""
COMMAND_LINE = """\
<!-- Written by `make docs` from the parsers of the commands: change it there. -->
# Command line

    distilled-nlu COMMAND [OPTION ...]

Progress and tables go to standard error; the last line of standard output of a command that measures or trains is one
JSON object. Exit code 0 means done, 1 that it failed or a stated target was missed, 2 that the command line, data or
environment cannot be used.
"""
HTTP = """\
<!-- Written by `make docs` from the models in service/http: change it there. -->
# HTTP reference

Requests and replies are JSON. Unknown fields are refused. [API](../api.md) explains what the fields mean; a running
service serves this as OpenAPI at `/openapi.json`, and as a page at `/docs`. Every error has the shape of
[`ErrorReply`](#errorreply); those of [Rasa's API and the V2 protocol](../clients.md) have [`RasaError`](#rasaerror) and
[`InferenceError`](#inferenceerror).
"""


def pages() -> dict[Path, str]:
    """Each page with its content."""
    return {
        DOCS / "configuration.md": settings_page(),
        DOCS / "reference" / "cli.md": command_line_page(),
        DOCS / "reference" / "http.md": http_page(),
    }


def settings_page() -> str:
    """All settings of the service."""
    header = ("flag", "environment variable", "default", "what it does")
    rows = [
        (f"`{flag_of(name)}`", f"`{variable_of(name)}`", _default_of(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return SETTINGS + "\n" + _table(header, rows)


def command_line_page() -> str:
    """The options of each command."""
    parts = [COMMAND_LINE]
    for name, command in COMMANDS.items():
        parts.append(f"## {name}\n\n{command.summary[0].upper()}{command.summary[1:]}: `{_typed(command.module)}`.\n")
        if name == "serve":
            parts.append("Its options are the [settings](../configuration.md).\n")
        else:
            parser: argparse.ArgumentParser = import_module(command.module).parser()
            parts.append("".join(_options_of(parser)))
    return "\n".join(parts)


def http_page() -> str:
    """Endpoints and models of the service."""
    document = create_app(Settings()).app.openapi()
    parts = [HTTP, _table(ROUTE_COLUMNS, routes(document))]
    for name, description, fields, _ in models(document):
        parts += [f"## {name}\n\n{description}\n", _table(FIELD_COLUMNS, fields)]
    return "\n".join(parts)


def main() -> int:
    """Write the pages that have changed. Returns the exit code."""
    for page, content in pages().items():
        page.parent.mkdir(exist_ok=True)
        if not page.is_file() or page.read_text(encoding="utf-8") != content:
            page.write_text(content, encoding="utf-8")
            print(f"written: {page.relative_to(DOCS.parent)}", file=sys.stderr)
    return 0


def _options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser, and those of its subcommands."""
    rows = []
    for action in parser._actions:  # argparse has no public list
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield f"### {parser.prog.split('.')[-1]} {name}\n\n"
                yield from _options_of(below)
        elif action.dest != "help" and action.help != argparse.SUPPRESS:
            shown = ", ".join(f"`{flag}`" for flag in action.option_strings) or f"`{action.metavar or action.dest}`"
            rows.append((shown, "yes" if action.required else "", parser._get_formatter()._expand_help(action)))
    if rows:
        yield _table(("option", "required", "meaning"), rows)


def _typed(module: str) -> str:
    return f"python -m {module.removesuffix('.__main__')}"


def _default_of(field: FieldInfo) -> str:
    shown = shown_default(field)
    return f"`{shown}`" if shown == str(field.default) else shown


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"

    return line(header) + line(["---"] * len(header)) + "".join(line(row) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
