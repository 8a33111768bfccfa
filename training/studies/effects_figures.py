"""Figures of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.effects import METRICS
from training.studies.drawing import COLOURS, GRID, MARKERS, STYLE, save
from training.studies.effects_text import (
    SIMILARITIES,
    TASKS,
    Json,
    better_sign,
    coefficient_text,
    figure_name,
    noise_of,
    set_title,
)

MEAN_COLOUR = "#8c8c8c"
PALE = 0.3  # opacity of what is shown but not judged


def draw(report: Json, folder: Path) -> list[str]:
    """Draw what a report holds into `folder`. Returns the names of the files."""
    names = []
    for place, comparison in enumerate(report["comparisons"]):
        for table in comparison["tables"]:
            panels = _panels(table, report)
            if table["metric"]["name"] == METRICS[table["task"]][0].name and panels:
                figure = effect_bars(
                    f"{TASKS[table['task']].capitalize()}: {table['metric']['title']} against {comparison['baseline']}",
                    better_sign(table["metric"]),
                    panels,
                )
                names += save(figure, folder / figure_name(place, table["task"]))
    for encoder in dict.fromkeys(c["encoder"] for c in report["correlations"]):
        shown = [c for c in report["correlations"] if c["encoder"] == encoder and c["points"]]
        if shown:
            title = f"Effect of {encoder} against {shown[0]['baseline']}, by domain and language"
            figure = similarity_scatter(title, [_scatter_panel(c) for c in shown])
            names += save(figure, folder / f"similarity-{encoder}")
    if report["teachers"]:
        noise = {
            name: {text: noise_of(found) for text, found in texts.items()} for name, texts in report["teachers"].items()
        }
        names += save(noise_bars("What the teachers get wrong; lower is better", noise), folder / "noise")
    return names


def _panels(table: Json, report: Json) -> dict[str, dict[str, dict[str, Json | None]]]:
    panels: dict[str, dict[str, dict[str, Json | None]]] = {}
    for cell in table["cells"]:
        size = report["utterances"].get(cell["locale"], {}).get(cell["set"])
        group = panels.setdefault(set_title(cell["set"], report), {}).setdefault(cell["encoder"], {})
        group[cell["locale"]] = cell if cell["change"] is not None and size != 0 else None
    return {name: groups for name, groups in panels.items() if any(any(cells.values()) for cells in groups.values())}


def _scatter_panel(correlation: Json) -> Json:
    metric = correlation["metric"]
    better = "above" if metric["is_higher_better"] else "below"
    found = correlation.get("spearman")
    return {
        "title": f"{TASKS[correlation['task']]}: "
        + (f"Spearman {coefficient_text(found)}" if found else "no correlation"),
        "x_label": SIMILARITIES[correlation["measure"]],
        "y_label": f"{metric['title']}, change in % ({better} 0 is better)",
        "points": [
            {"x": p[correlation["measure"]], "y": p["change"], "locale": p["locale"]} for p in correlation["points"]
        ],
        "is_logarithmic": correlation["measure"] == "pseudo_perplexity",
    }


def effect_bars(title: str, direction: str, panels: Mapping[str, Mapping[str, Mapping[str, Json | None]]]) -> Figure:
    """Relative changes as bars with their intervals, a panel a set, a group an encoder, a bar a locale.

    Args:
        title: of the whole.
        direction: which sign is better, in words.
        panels: set to encoder to locale to {"change", "low", "high", "is_judged", "mark"}, or None where there is
            none; the last locale is the mean.
    """
    with matplotlib.rc_context(STYLE):
        columns = min(2, len(panels))
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(1.0 + 5.2 * columns, 0.9 + 2.7 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        axes = [axis for row in grid for axis in row]
        for axis, (name, groups) in zip(axes, panels.items(), strict=False):
            _bars(axis, groups)
            axis.set_title(name, loc="left")
        for axis in axes[len(panels) :]:
            axis.remove()
        for row in grid:
            row[0].set_ylabel("relative change, %")
        _limit(axes[0], panels)
        cells = [cell for groups in panels.values() for locales in groups.values() for cell in locales.values()]
        is_pale = any(cell and not cell["is_judged"] for cell in cells)
        note = "; pale: too few utterances or seeds to judge" if is_pale else ""
        figure.suptitle(f"{title}\n{direction}; lines: 95 % intervals{note}")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        return figure


def _bars(axis: Axes, groups: Mapping[str, Mapping[str, Json | None]]) -> None:
    locales = list(next(iter(groups.values())))
    width = 0.82 / len(locales)
    for i, locale in enumerate(locales):
        colour = MEAN_COLOUR if i == len(locales) - 1 else COLOURS[i % len(COLOURS)]
        places = [k + (i - (len(locales) - 1) / 2) * width for k in range(len(groups))]
        heights = [_value(cells[locale], "change") for cells in groups.values()]
        below = [_value(c[locale], "change") - _value(c[locale], "low") for c in groups.values()]
        above = [_value(c[locale], "high") - _value(c[locale], "change") for c in groups.values()]
        bars = axis.bar(places, heights, width * 0.9, color=colour, label=locale)
        axis.errorbar(places, heights, [below, above], fmt="none", ecolor="#000000", elinewidth=0.8, capsize=1.5)
        for bar, cells in zip(bars, groups.values(), strict=True):
            cell = cells[locale]
            if cell is not None and not cell["is_judged"]:
                bar.set_alpha(PALE)
    axis.axhline(0, color="#000000", linewidth=0.8)
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.set_xticks(range(len(groups)), [_wrapped(name) for name in groups])
    axis.tick_params(axis="x", length=0)


def _value(cell: Json | None, name: str) -> float:
    return 0.0 if cell is None else float(cell[name])


def _limit(axis: Axes, panels: Mapping[str, Mapping[str, Mapping[str, Json | None]]]) -> None:
    """Scale by the judged cells: the interval of a tiny set would flatten all others."""
    cells = [cell for groups in panels.values() for locales in groups.values() for cell in locales.values() if cell]
    judged = [cell for cell in cells if cell["is_judged"]] or cells
    if judged:
        low, high = min(0.0, *(c["low"] for c in judged)), max(0.0, *(c["high"] for c in judged))
        room = 0.06 * (high - low) or 1.0
        axis.set_ylim(low - room, high + room)


def similarity_scatter(title: str, panels: Sequence[Json]) -> Figure:
    """Effects against similarity, a panel a pair of task and measure of similarity, with the correlation as its title.

    Args:
        title: of the whole.
        panels: {"title", "x_label", "y_label", "points": [{"x", "y", "locale"}], "is_logarithmic"}, in rows of two.
    """
    with matplotlib.rc_context(STYLE):
        columns = min(2, len(panels))
        rows = math.ceil(len(panels) / columns)
        figure = Figure(figsize=(0.6 + 4.6 * columns, 0.9 + 3.4 * rows), layout="constrained")
        axes = [axis for row in figure.subplots(rows, columns, squeeze=False) for axis in row]
        locales = list(dict.fromkeys(point["locale"] for panel in panels for point in panel["points"]))
        for axis, panel in zip(axes, panels, strict=False):
            for i, locale in enumerate(locales):
                own = [point for point in panel["points"] if point["locale"] == locale]
                axis.scatter(
                    [point["x"] for point in own],
                    [point["y"] for point in own],
                    s=22,
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i % len(MARKERS)],
                    alpha=0.85,
                    linewidths=0,
                    label=locale,
                )
            axis.axhline(0, color="#000000", linewidth=0.8)
            axis.grid(color=GRID, linewidth=0.6)
            if panel["is_logarithmic"]:
                axis.set_xscale("log")
                _plain_ticks(axis, [point["x"] for point in panel["points"]])
            axis.set(xlabel=panel["x_label"], ylabel=panel["y_label"])
            axis.set_title(panel["title"], loc="left")
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.suptitle(title)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)), frameon=False)
        return figure


def _plain_ticks(axis: Axes, values: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 of each power of ten: a logarithmic axis over less than a decade would have one or none."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    shown = [tick for tick in ticks if min(values) / 1.5 <= tick <= max(values) * 1.5]
    axis.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axis.minorticks_off()


def noise_bars(title: str, noise: Mapping[str, Mapping[str, float]]) -> Figure:
    """What each teacher gets wrong of the masked words of each text, in percent; a group a text, a bar a teacher."""
    with matplotlib.rc_context(STYLE):
        texts = list(dict.fromkeys(text for values in noise.values() for text in values))
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axis = figure.subplots()
        width = 0.7 / len(noise)
        for i, (teacher, values) in enumerate(noise.items()):
            places = [k + (i - (len(noise) - 1) / 2) * width for k, text in enumerate(texts) if text in values]
            heights = [values[text] for text in texts if text in values]
            bars = axis.bar(places, heights, width * 0.92, color=COLOURS[i % len(COLOURS)], label=teacher)
            axis.bar_label(bars, [f"{height:.1f}" for height in heights], padding=2)
        axis.set_xticks(range(len(texts)), [f"{text} text" for text in texts])
        axis.tick_params(axis="x", length=0)
        axis.set_ylabel("wrong, % of masked words")
        axis.margins(y=0.12)
        axis.grid(axis="y", color=GRID, linewidth=0.6)
        axis.set_title(title, loc="left")
        figure.legend(loc="outside lower center", ncols=len(noise), frameon=False)
        return figure


def _wrapped(name: str, longest: int = 14) -> str:
    """A name in lines of at most `longest` characters, broken at spaces and underscores."""
    lines = [""]
    for word in name.replace("_", "_ ").split():
        glue = "" if not lines[-1] or lines[-1].endswith("_") else " "
        if lines[-1] and len(lines[-1] + glue + word) > longest:
            lines.append(word)
        else:
            lines[-1] += glue + word
    return "\n".join(lines)
