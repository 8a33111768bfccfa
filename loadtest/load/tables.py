"""Tables for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """A table of figures or of texts. The first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_text: bool = False

    def plain(self) -> str:
        """For a terminal: figures right-aligned; row names and columns without a heading left-aligned."""
        columns = []
        for place, column in enumerate(zip(self.header, *self.rows, strict=True)):
            width = max(map(len, column))
            is_figure = place and column[0]
            columns.append([cell.rjust(width) if is_figure else cell.ljust(width) for cell in column])
        return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))

    def markdown(self) -> str:
        """In Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(map(_escaped, line)) + " |" for line in lines)


def _escaped(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
