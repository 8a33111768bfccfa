"""The HTTP reference, made from the OpenAPI document: as a page of the service, and for the documentation.

The cells of its tables are Markdown, of which only code and links to models are used.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TEMPLATE = Path(__file__).parent / "reference.html"
ROUTE_COLUMNS = ("route", "body", "reply", "errors")
FIELD_COLUMNS = ("field", "type", "always there", "meaning")

Document = Mapping[str, Any]
Row = tuple[str, str, str, str]


class Model(NamedTuple):
    """A model of requests or replies: its fields as rows of `FIELD_COLUMNS`, and an example, if it has one."""

    name: str
    description: str
    fields: list[Row]
    example: object


def routes(document: Document) -> list[Row]:
    """The routes as rows of `ROUTE_COLUMNS`."""
    return [
        (
            f"`{method.upper()} {path}`",
            _type_of(_body_of(operation)),
            _type_of(_reply_of(operation)),
            _errors(operation),
        )
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def models(document: Document) -> list[Model]:
    """The models, by name."""
    found = []
    for name, schema in sorted(document["components"]["schemas"].items()):
        required = schema.get("required", ())
        fields = [
            (f"`{field}`", _type_of(kind), "yes" if field in required else "", kind.get("description", ""))
            for field, kind in schema.get("properties", {}).items()
        ]
        description = schema.get("description", "").strip().replace("``", "`")
        found.append(Model(name, description, fields, next(iter(schema.get("examples", ())), None)))
    return found


def render(document: Document) -> str:
    """The page: routes with what they do and their headers, then models."""
    parts = [_table(ROUTE_COLUMNS, routes(document))]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            headers = [(f"`{each['name']}`", each["description"]) for each in operation.get("parameters", ())]
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts += [f"<p>{_inline(text)}</p>" for text in operation["description"].split("\n\n")]
            parts += [_table(("header", "meaning"), headers)] if headers else []
    for name, description, fields, example in models(document):
        parts.append(f'<h2 id="{name.lower()}">{name}</h2><p>{_inline(description)}</p>')
        parts.append(_table(FIELD_COLUMNS, fields))
        if example is not None:
            parts.append(f"<pre>{html.escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>")
    info = document["info"]
    page = TEMPLATE.read_text(encoding="utf-8")
    return page.replace("{description}", _inline(info["description"])).replace("{content}", "\n".join(parts))


def _inline(markdown: str) -> str:
    """Markdown with code and links as HTML."""
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(markdown.replace("``", "`")))
    return re.sub(r"\[(\w+)\]\((#\w+)\)", r'<a href="\2">\1</a>', escaped)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{_inline(cell)}</{tag}>' for cell in cells)}</tr>"

    return "\n".join(["<table>", line(header, "th"), *(line(row, "td") for row in rows), "</table>"])


def _body_of(operation: Document) -> Document:
    schema: Document = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return schema


def _reply_of(operation: Document) -> Document:
    content: Document = operation["responses"]["200"].get("content", {})
    schema: Document = content.get("application/json", {}).get("schema", {})
    return schema if schema or not content else {"type": next(iter(content))}


def _errors(operation: Document) -> str:
    replies = sorted(operation["responses"].items())
    return ", ".join(f"{status} {reply['description']}" for status, reply in replies if status != "200")


def _type_of(schema: Document) -> str:
    """A schema in a few words, with links to models."""
    if not schema:
        return ""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type_of(kind) for kind in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items', {})) or 'any'}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type_of(schema['additionalProperties']) or 'any'}"
    return str(schema.get("type", "any"))
