"""The page of `benchmarks.few_shot`: a table for each data set, made of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from training.data.files import write_atomically

TITLES = {
    "snips": "SNIPS (English, 7 intents, slots)",
    "clinc150": "CLINC150 (English, 150 intents)",
    "fb_multilingual": "Facebook multilingual (Spanish, 12 intents, slots)",
}
METHODS = {
    "tfidf": "TF-IDF + logistic regression",
    "probe": "linear probe on multilingual-e5-small",
    "xs": "`xs`, built",
    "s": "`s`, built",
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

Row = dict[str, Any]


def write_report(rows: Sequence[Row], page: Path) -> None:
    """Replace the measured section of a page, or write one."""
    section = f"{BEGIN}\n\n{render(rows)}\n{END}"
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Little data\n\n{section}\n"
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    write_atomically(page, f"{before}{section}{after}".encode())


def render(rows: Sequence[Row]) -> str:
    """The tables, as Markdown."""
    parts = []
    for name, title in TITLES.items():
        of_set = [row for row in rows if row["set"] == name]
        if of_set:
            parts.append(f"### {title}, {of_set[0]['scored']:,} texts scored\n\n{_table(of_set)}")
    return "\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    counts = sorted({row["per_intent"] for row in rows}, key=lambda count: count or float("inf"))
    slots = any(row.get("slot_f1") is not None for row in rows)
    heads = [f"{count or 'all'}" for count in counts]
    columns = [f"accuracy, {head}" for head in heads]
    columns += [f"slot F1, {head}" for head in heads] if slots else []
    columns += [f"CPU minutes, {head}" for head in heads] + ["µs", "MB"]
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method, title in METHODS.items():
        of_method = [row for row in rows if row["method"] == method]
        if not of_method:
            continue
        by_count = [[row for row in of_method if row["per_intent"] == count] for count in counts]
        cells = [_mean(found, "accuracy") for found in by_count]
        cells += [_mean(found, "slot_f1") for found in by_count] if slots else []
        cells += [f"{fmean(row['minutes'] for row in found):.1f}" if found else "" for found in by_count]
        cells += [f"{median(row['microseconds'] for row in of_method):,.0f}"]
        cells += [f"{max(row['megabytes'] for row in of_method):.1f}"]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(rows: Sequence[Row], name: str) -> str:
    """Mean and standard deviation over the seeds."""
    values = [float(row[name]) for row in rows if row.get(name) is not None]
    if len(values) > 1:
        return f"{fmean(values):.1f} ± {stdev(values):.1f}"
    return f"{values[0]:.1f}" if values else ""
