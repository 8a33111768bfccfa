"""The figures of a comparison: accuracy against latency, accuracy by locale, and latency by phase."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.comparison.report import FRONT, LOCALES, PHASES, SHOWN_PHASES
from training.studies.drawing import COLOURS, GRID, MARKERS, STYLE, save

Json = dict[str, Any]

FRONT_COLOUR = "#555555"
AXIS_MARGIN = 1.12  # length of the latency axis over the slowest student's latency
REST = "HTTP, parsing, JSON"


def draw(report: Json, folder: Path) -> dict[str, str]:
    """Draw the figures of a report into `folder`. Returns the SVG of each by file name."""
    metric, students = report["judged_by"], report["students"]
    title = metric.replace("_", " ")
    figures = {
        FRONT: front(students, metric, title),
        LOCALES: locales(students, metric, title),
        PHASES: phases(students),
    }
    files = {name: save(figure, folder / name)[0] for name, figure in figures.items()}
    return {file: (folder / file).read_text(encoding="utf-8") for file in files.values()}


@contextmanager
def _drawing(width: float, height: float, title: str, grid: Literal["both", "x", "y"]) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axis = figure.subplots()
        yield figure, axis
        axis.set_title(title, loc="left")
        axis.grid(axis=grid, color=GRID, linewidth=0.6)


def front(students: Mapping[str, Json], metric: str, title: str) -> Figure:
    """Accuracy against latency, the Pareto front as a line; students off the front are hollow."""
    with _drawing(6.4, 4.0, "Accuracy against latency: up and left is better", "both") as (figure, axis):
        points = {name: (s["cost"]["p50_ms"], s["quality"]["mean"][metric]) for name, s in students.items()}
        on_front = sorted((x, y[0]) for name, (x, y) in points.items() if students[name]["is_on_front"])
        line: Any = {"color": FRONT_COLOUR, "linewidth": 1, "linestyle": "--", "label": "Pareto front", "zorder": 1}
        axis.plot(*zip(*on_front, strict=True), **line)
        for place, (name, (latency, (value, low, high))) in enumerate(points.items()):
            colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
            filled = colour if students[name]["is_on_front"] else "#ffffff"
            bars = [[value - low], [high - value]]
            axis.errorbar(latency, value, bars, color=colour, capsize=3, linewidth=1, zorder=2)
            mark: Any = {"marker": marker, "facecolor": filled, "edgecolor": colour, "linewidth": 1.5, "zorder": 3}
            axis.scatter(latency, value, s=60, **mark)
            beside: Any = {"xytext": (9, -12), "textcoords": "offset points", "color": colour, "weight": "bold"}
            axis.annotate(name, (latency, value), **beside)
        axis.set_xlim(0, AXIS_MARGIN * max(latency for latency, _ in points.values()))
        axis.set_xlabel("latency at one connection, p50 in ms")
        axis.set_ylabel(f"{title}, mean of the locales, % (bars: 95 %)")
        axis.legend(loc="lower right", frameon=False)
    return figure


def locales(students: Mapping[str, Json], metric: str, title: str) -> Figure:
    """Accuracy by locale, one bar per student, with 95 % intervals."""
    names = list(next(iter(students.values()))["quality"]["locales"])
    with _drawing(max(5.0, 1.6 + 0.9 * len(names)), 3.6, f"{title.capitalize()} by locale", "y") as (figure, axis):
        width = 0.8 / len(students)
        for place, (name, student) in enumerate(students.items()):
            scored = [student["quality"]["locales"][locale][metric] or [math.nan] * 3 for locale in names]
            where = [k + (place - (len(students) - 1) / 2) * width for k in range(len(names))]
            heights = [value for value, _, _ in scored]
            lines = [[value - low for value, low, _ in scored], [high - value for value, _, high in scored]]
            axis.bar(where, heights, width * 0.92, color=COLOURS[place % len(COLOURS)], label=name)
            axis.errorbar(where, heights, lines, fmt="none", ecolor="#000000", elinewidth=0.8, capsize=1.5)
        axis.set_xticks(range(len(names)), names)
        axis.tick_params(axis="x", length=0)
        axis.set_ylabel(f"{title}, % (lines: 95 %)")
        figure.legend(loc="outside lower center", ncols=max(1, min(6, len(students))), frameon=False)
    return figure


def phases(students: Mapping[str, Json]) -> Figure:
    """Latency of a request by phase: medians of the service's phases, and the rest of the client's latency."""
    with _drawing(6.4, 1.5 + 0.42 * len(students), "Where the time of a request goes", "x") as (figure, axis):
        names = list(students)
        left = [0.0] * len(names)
        for place, phase in enumerate((*SHOWN_PHASES, REST)):
            widths = [_milliseconds(students[name]["cost"], phase) for name in names]
            axis.barh(names, widths, left=left, height=0.6, color=COLOURS[place], label=phase)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        for place, end in enumerate(left):
            axis.annotate(f"{end:.2f}", (end, place), xytext=(4, 0), textcoords="offset points", va="center")
        axis.set_xlim(0, AXIS_MARGIN * max(left))
        axis.invert_yaxis()
        axis.set_xlabel("ms, medians with one connection")
        figure.legend(loc="outside lower center", ncols=len(SHOWN_PHASES) + 1, frameon=False)
    return figure


def _milliseconds(cost: Json, phase: str) -> float:
    medians = {name: cost["phases"].get(name, {"p50_ms": 0.0})["p50_ms"] for name in SHOWN_PHASES}
    return float(medians[phase] if phase in medians else max(0.0, cost["p50_ms"] - sum(medians.values())))
