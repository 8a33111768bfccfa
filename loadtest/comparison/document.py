"""A report as a list of blocks, rendered as Markdown and as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from loadtest.load.tables import Table
from training.studies.drawing import PAGE_STYLE


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
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}</style>\n<h1>{escape(title)}</h1>\n{body}\n</html>\n"
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
