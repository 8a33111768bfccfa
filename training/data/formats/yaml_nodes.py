"""YAML as nodes with their lines: every scalar stays the text that was written ("yes", "no", "1.0" too)."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, NamedTuple

from training.data.formats.base import Content
from training.data.utterances import DatasetError


class Entry(NamedTuple):
    """A value of a mapping or a list, with the line on which it begins (from 1)."""

    value: Any
    line: int


def documents(content: Content) -> list[Any]:
    """The YAML documents of a file; mappings and lists hold `Entry`, scalars are text, null is None.

    Raises DatasetError: it is no YAML, a key stands twice, or PyYAML is not installed.
    """
    try:
        yaml = import_module("yaml")
    except ImportError as error:
        raise DatasetError(f"{content.place}: YAML needs the extra: pip install 'distilled-nlu[training]'") from error
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return [_plain(node, content.place, yaml) for node in yaml.compose_all(content.text, Loader=loader) if node]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise DatasetError(f"{content.place}{line}: row: is no YAML ({problem})") from None


def _plain(node: Any, place: str, yaml: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Entry] = {}
        for key, value in node.value:
            if key.value in found:
                line = key.start_mark.line + 1
                raise DatasetError(f"{place}:{line}: row: the key {key.value!r} stands twice; allowed: each key once")
            found[key.value] = Entry(_plain(value, place, yaml), _line(value))
        return found
    if isinstance(node, yaml.SequenceNode):
        return [Entry(_plain(item, place, yaml), _line(item)) for item in node.value]
    return None if node.tag.endswith(":null") and not node.style else node.value


def _line(node: Any) -> int:
    """A literal block begins on the line after its "|"."""
    return int(node.start_mark.line) + 1 + (node.style in ("|", ">") if hasattr(node, "style") else 0)


def looks_like_yaml(content: Content, *keys: str) -> bool:
    """Whether one of the keys stands at the beginning of a line."""
    return any(line.startswith(tuple(f"{key}:" for key in keys)) for line in content.lines)


def text_of(entry: Entry | None) -> str | None:
    """The text of an entry; None where it is absent or no text."""
    return entry.value if entry is not None and isinstance(entry.value, str) else None


def items_of(entry: Entry | None) -> Iterator[Entry]:
    """The items of a list; none where the entry is absent or no list."""
    if entry is not None and isinstance(entry.value, list):
        yield from entry.value
