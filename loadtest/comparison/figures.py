"""The pictures of a comparison: accuracy against latency, accuracy by locale, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.comparison.report import FRONT, LOCALES, PHASES, SHOWN_PHASES
from training.studies.drawing import COLOURS, GRID, MARKERS, STYLE, save

Json = dict[str, Any]

FRONT_COLOUR = "#555555"
ROOM = 1.12  # of the latency axis beyond the slowest student
REST = "HTTP, parsing, JSON"


def draw(report: Json, folder: Path) -> dict[str, str]:
    """Draw a report into `folder`. Returns the SVG of each picture by the name of its file."""
    metric, title = report["judged_by"], report["judged_by"].replace("_", " ")
    students = report["students"]
    figures = {
        FRONT: front(students, metric, title),
        LOCALES: locales(students, metric, title),
        PHASES: phases(students),
    }
    pictures = {}
    for name, figure in figures.items():
        file, _ = save(figure, folder / name)
        pictures[file] = (folder / file).read_text(encoding="utf-8")
    return pictures


def front(students: Mapping[str, Json], metric: str, title: str) -> Figure:
    """Accuracy against latency, the Pareto front as a line; students off the front are hollow."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axis = figure.subplots()
        on_front = sorted(
            (s["cost"]["p50_ms"], s["quality"]["mean"][metric][0]) for s in students.values() if s["is_on_front"]
        )
        axis.plot(
            *zip(*on_front, strict=True),
            color=FRONT_COLOUR,
            linewidth=1,
            linestyle="--",
            label="Pareto front",
            zorder=1,
        )
        for place, (name, student) in enumerate(students.items()):
            value, low, high = student["quality"]["mean"][metric]
            latency, colour = student["cost"]["p50_ms"], COLOURS[place % len(COLOURS)]
            axis.errorbar(
                latency, value, [[value - low], [high - value]], color=colour, capsize=3, linewidth=1, zorder=2
            )
            marker, filled = MARKERS[place % len(MARKERS)], colour if student["is_on_front"] else "#ffffff"
            axis.scatter(
                latency, value, s=60, marker=marker, facecolor=filled, edgecolor=colour, linewidth=1.5, zorder=3
            )
            axis.annotate(
                name, (latency, value), xytext=(9, -12), textcoords="offset points", color=colour, weight="bold"
            )
        axis.set(
            xlabel="latency at one connection, p50 in ms",
            ylabel=f"{title}, mean of the locales, % (bars: 95 %)",
            xlim=(0, ROOM * max(s["cost"]["p50_ms"] for s in students.values())),
        )
        axis.set_title("Accuracy against latency: up and left is better", loc="left")
        axis.grid(color=GRID, linewidth=0.6)
        axis.legend(loc="lower right", frameon=False)
        return figure


def locales(students: Mapping[str, Json], metric: str, title: str) -> Figure:
    """Accuracy by locale, a group a locale, a bar a student, with 95 % intervals."""
    with matplotlib.rc_context(STYLE):
        names = list(next(iter(students.values()))["quality"]["locales"])
        figure = Figure(figsize=(max(5.0, 1.6 + 0.9 * len(names)), 3.6), layout="constrained")
        axis = figure.subplots()
        width = 0.8 / len(students)
        for place, (name, student) in enumerate(students.items()):
            scored = [student["quality"]["locales"][locale][metric] for locale in names]
            where = [k + (place - (len(students) - 1) / 2) * width for k in range(len(names))]
            heights = [value for value, _, _ in scored]
            lines = [[value - low for value, low, _ in scored], [high - value for value, _, high in scored]]
            axis.bar(where, heights, width * 0.92, color=COLOURS[place % len(COLOURS)], label=name)
            axis.errorbar(where, heights, lines, fmt="none", ecolor="#000000", elinewidth=0.8, capsize=1.5)
        axis.set_xticks(range(len(names)), names)
        axis.tick_params(axis="x", length=0)
        axis.set_ylabel(f"{title}, % (lines: 95 %)")
        axis.set_title(f"{title.capitalize()} by locale", loc="left")
        axis.grid(axis="y", color=GRID, linewidth=0.6)
        figure.legend(loc="outside lower center", ncols=max(1, min(6, len(students))), frameon=False)
        return figure


def phases(students: Mapping[str, Json]) -> Figure:
    """Where the time of a request goes: medians of the phases that the service tells, and the rest to the client's."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 1.5 + 0.42 * len(students)), layout="constrained")
        axis = figure.subplots()
        names = list(students)
        left = [0.0] * len(names)
        for place, phase in enumerate((*SHOWN_PHASES, REST)):
            widths = [_milliseconds(students[name]["cost"], phase) for name in names]
            axis.barh(names, widths, left=left, height=0.6, color=COLOURS[place], label=phase)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        _say_totals(axis, left)
        axis.invert_yaxis()
        axis.set_xlabel("ms, medians with one connection")
        axis.set_title("Where the time of a request goes", loc="left")
        axis.grid(axis="x", color=GRID, linewidth=0.6)
        figure.legend(loc="outside lower center", ncols=len(SHOWN_PHASES) + 1, frameon=False)
        return figure


def _milliseconds(cost: Json, phase: str) -> float:
    told = {name: cost["phases"].get(name, {"p50_ms": 0.0})["p50_ms"] for name in SHOWN_PHASES}
    return float(told[phase] if phase in told else max(0.0, cost["p50_ms"] - sum(told.values())))


def _say_totals(axis: Axes, ends: list[float]) -> None:
    for place, end in enumerate(ends):
        axis.annotate(f"{end:.2f}", (end, place), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set_xlim(0, ROOM * max(ends))
