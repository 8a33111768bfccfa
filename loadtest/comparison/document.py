"""A report as a list of blocks, rendered as Markdown and as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from loadtest.load.tables import Table

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d0d0d0; --soft: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #17181a; --line: #43464a; --soft: #222427; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .texts td { text-align: left; } .texts td { white-space: normal; vertical-align: top; }
thead th { background: var(--soft); }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem; }
figure svg { max-width: 100%; height: auto; display: block; margin: auto; }
code { background: var(--soft); padding: 0.1rem 0.3rem; border-radius: 3px; overflow-wrap: anywhere; }
"""


class Heading(NamedTuple):
    """A section's title."""

    text: str


class Paragraph(NamedTuple):
    """A paragraph; `is_code` for a command."""

    text: str
    is_code: bool = False


class Bullets(NamedTuple):
    """A list."""

    items: Sequence[str]


class Picture(NamedTuple):
    """An SVG file beside the report."""

    file: str
    title: str


Block = Heading | Paragraph | Bullets | Table | Picture


def markdown(title: str, blocks: Iterable[Block]) -> str:
    """The report as Markdown; figures are links to their files."""
    return "\n\n".join([f"# {title}", *map(_markdown, blocks)]) + "\n"


def html(title: str, blocks: Iterable[Block], pictures: Mapping[str, str]) -> str:
    """The report as an HTML page with embedded figures, {file: SVG}."""
    body = "\n".join(_html(block, pictures) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n{body}\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text, is_code):
            return f"    {text}" if is_code else text
        case Bullets(items):
            return "\n".join(f"- {item}" for item in items)
        case Table():
            return block.markdown()
        case Picture(file, title):
            return f"![{title}]({file})"


def _html(block: Block, pictures: Mapping[str, str]) -> str:
    match block:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Paragraph(text, is_code):
            return f"<p><code>{escape(text)}</code></p>" if is_code else f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(header, rows, is_text):
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
            body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            kind = ' class="texts"' if is_text else ""
            return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        case Picture(file, title):
            return f'<figure role="img" aria-label="{escape(title)}">{_without_prologue(pictures[file])}</figure>'


def _without_prologue(svg: str) -> str:
    return svg[svg.index("<svg") :]
