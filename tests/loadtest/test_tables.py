"""Tables for a terminal and in Markdown."""

from __future__ import annotations

from loadtest.load.tables import Table

TABLE = Table(["", "p50", "note"], [["service", "0.5", ""], ["x", "12.25", "a|b"]])


def test_numbers_stand_below_each_other_in_a_terminal() -> None:
    assert TABLE.plain().splitlines() == [
        "           p50  note",
        "service    0.5",
        "x        12.25   a|b",
    ]


def test_cells_are_escaped_in_markdown() -> None:
    assert TABLE.markdown().splitlines()[1:] == ["| --- | --- | --- |", "| service | 0.5 |  |", "| x | 12.25 | a\\|b |"]
