"""Figures of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.effects import METRICS
from training.studies import effects_text
from training.studies.drawing import COLOURS, GRID, MARKERS, STYLE, save
from training.studies.effects_text import Json

MEAN_COLOUR = "#8c8c8c"
PALE = 0.3  # opacity of changes that are shown but not judged

Groups = Mapping[str, Mapping[str, Json | None]]  # encoder to locale to cell or None; the mean is last


def draw(report: Json, folder: Path) -> list[str]:
    """Draw the figures of a report into `folder`. Returns the names of the files."""
    names = []
    with matplotlib.rc_context(STYLE):
        for place, comparison in enumerate(report["comparisons"]):
            for table in comparison["tables"]:
                panels = _panels(table, report)
                if table["metric"]["name"] == METRICS[table["task"]][0].name and panels:
                    title = f"{effects_text.TASKS[table['task']].capitalize()}: {table['metric']['title']}"
                    figure = effect_bars(f"{title} against {comparison['baseline']}", table, panels)
                    names += save(figure, folder / effects_text.figure_name(place, table["task"]))
        if report["slopes"]:
            names += save(distance_scatter(report["slopes"]), folder / "similarity")
        if any(seed["curve"] for found in report["encoders"].values() for seed in found["seeds"].values()):
            names += save(learning_curves(report["encoders"], report["min_nats"]), folder / "curves")
        if report["teachers"]:
            names += save(noise_bars(report["teachers"]), folder / "noise")
    return names


def _panels(table: Json, report: Json) -> dict[str, Groups]:
    """The cells of a table by set, without sets that have none."""
    panels: dict[str, dict[str, dict[str, Json | None]]] = {}
    for cell in table["cells"]:
        size = report["utterances"].get(cell["locale"], {}).get(cell["set"])
        group = panels.setdefault(effects_text.set_title(cell["set"], report), {}).setdefault(cell["encoder"], {})
        group[cell["locale"]] = cell if cell["change"] is not None and size != 0 else None
    return {name: groups for name, groups in panels.items() if _cells(groups)}


def _cells(groups: Groups) -> list[Json]:
    return [cell for cells in groups.values() for cell in cells.values() if cell]


def _grid(count: int, width: float, height: float, left: float, share_y: bool) -> tuple[Figure, list[list[Axes]]]:
    """A figure with rows of one or two panels; those beyond `count` are removed."""
    columns = min(2, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(left + width * columns, 0.9 + height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    for axis in [axis for row in grid for axis in row][count:]:
        axis.remove()
    return figure, [list(row) for row in grid]


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)), frameon=False)


def effect_bars(title: str, table: Json, panels: Mapping[str, Groups]) -> Figure:
    """Relative changes as bars with their intervals: a panel a set, a group an encoder, a bar a locale."""
    figure, grid = _grid(len(panels), width=5.2, height=2.7, left=1.0, share_y=True)
    axes = [axis for row in grid for axis in row]
    for axis, (name, groups) in zip(axes, panels.items(), strict=False):
        _bars(axis, groups)
        axis.set_title(name, loc="left")
    for row in grid:
        row[0].set_ylabel("relative change, %")
    cells = [cell for groups in panels.values() for cell in _cells(groups)]
    # Scaled to the judged cells, as the interval of a tiny set would flatten all others
    judged = [cell for cell in cells if cell["is_judged"]] or cells
    low, high = min(0.0, *(c["low"] for c in judged)), max(0.0, *(c["high"] for c in judged))
    room = 0.06 * (high - low) or 1.0
    axes[0].set_ylim(low - room, high + room)
    note = "; pale: too few utterances or seeds to judge" if any(not cell["is_judged"] for cell in cells) else ""
    figure.suptitle(f"{title}\n{effects_text.better_sign(table['metric'])}; lines: 95 % intervals{note}")
    _legend(figure, axes[0])
    return figure


def _bars(axis: Axes, groups: Groups) -> None:
    locales = list(next(iter(groups.values())))
    width = 0.82 / len(locales)
    nothing = {"change": 0.0, "low": 0.0, "high": 0.0, "is_judged": True}
    for i, locale in enumerate(locales):
        cells = [group[locale] or nothing for group in groups.values()]
        colour = MEAN_COLOUR if i == len(locales) - 1 else COLOURS[i % len(COLOURS)]
        places = [k + (i - (len(locales) - 1) / 2) * width for k in range(len(groups))]
        heights = [cell["change"] for cell in cells]
        ends = [[cell["change"] - cell["low"] for cell in cells], [cell["high"] - cell["change"] for cell in cells]]
        bars = axis.bar(places, heights, width * 0.9, color=colour, label=locale)
        axis.errorbar(places, heights, ends, fmt="none", ecolor="#000000", elinewidth=0.8, capsize=1.5)
        for bar, cell in zip(bars, cells, strict=True):
            if not cell["is_judged"]:
                bar.set_alpha(PALE)
    axis.axhline(0, color="#000000", linewidth=0.8)
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.set_xticks(range(len(groups)), [_wrapped(name) for name in groups])
    axis.tick_params(axis="x", length=0)


def distance_scatter(slopes: Sequence[Json]) -> Figure:
    """Scores against the distance of the transfer set, a panel a task, with the fitted line of each language."""
    figure, grid = _grid(len(slopes), width=4.6, height=3.4, left=0.6, share_y=False)
    axes = [axis for row in grid for axis in row]
    for axis, found in zip(axes, slopes, strict=False):
        for i, locale in enumerate(dict.fromkeys(point["locale"] for point in found["points"])):
            own = [point for point in found["points"] if point["locale"] == locale]
            x, y = [point["divergence"] for point in own], [point["value"] for point in own]
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            axis.scatter(x, y, s=30, color=colour, marker=marker, linewidths=0, label=locale)
            middle = (sum(x) / len(x), sum(y) / len(y))
            axis.plot(x, [middle[1] + found["change"] * (one - middle[0]) for one in x], color=colour, linewidth=0.8)
            for point in own:
                place = (point["divergence"], point["value"])
                axis.annotate(point["encoder"], place, xytext=(4, 3), textcoords="offset points", fontsize=7)
        axis.grid(color=GRID, linewidth=0.6)
        metric = found["metric"]
        better = "higher" if metric["is_higher_better"] else "lower"
        axis.set(xlabel=effects_text.DIVERGENCE, ylabel=f"{metric['title']}, % ({better} is better)")
        axis.set_title(effects_text.TASKS[found["task"]].capitalize(), loc="left")
    _legend(figure, axes[0])
    return figure


def learning_curves(encoders: Mapping[str, Json], min_nats: float) -> Figure:
    """Nats below the unigram entropy of the held-out text by step, a line a seed, and the bar to reach."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axis = figure.subplots()
    for i, (name, found) in enumerate(encoders.items()):
        for k, seed in enumerate(found["seeds"].values()):
            points = [x for x in seed["curve"] if "unigram_entropy" in x]
            steps, below = [x["step"] for x in points], [x["unigram_entropy"] - x["held_out_loss"] for x in points]
            style = "-" if i < len(COLOURS) else "--"
            colour, label = COLOURS[i % len(COLOURS)], name if k == 0 else None
            axis.plot(
                steps, below, style, color=colour, linewidth=1.0, label=label, marker="." if len(steps) < 2 else ""
            )
    axis.axhline(min_nats, color="#000000", linewidth=0.8, linestyle=":")
    axis.grid(color=GRID, linewidth=0.6)
    axis.set(xlabel="steps", ylabel="held-out loss, nats below the unigram entropy")
    axis.set_title(f"Learning on held-out text; dotted: the bar of {min_nats} nats", loc="left")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def noise_bars(teachers: Mapping[str, Mapping[str, Json]]) -> Figure:
    """Share of masked words that each teacher predicts wrong, in percent; a group a text, a bar a teacher."""
    texts = list(dict.fromkeys(text for found in teachers.values() for text in found))
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = figure.subplots()
    width = 0.7 / len(teachers)
    for i, (teacher, found) in enumerate(teachers.items()):
        places = [k + (i - (len(teachers) - 1) / 2) * width for k, text in enumerate(texts) if text in found]
        heights = [effects_text.noise_of(found[text]) for text in texts if text in found]
        bars = axis.bar(places, heights, width * 0.92, color=COLOURS[i % len(COLOURS)], label=teacher)
        axis.bar_label(bars, [f"{height:.1f}" for height in heights], padding=2)
    axis.set_xticks(range(len(texts)), [f"{text} text" for text in texts])
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel("wrong, % of masked words")
    axis.margins(y=0.12)
    axis.grid(axis="y", color=GRID, linewidth=0.6)
    axis.set_title("Masked words predicted wrong; lower is better", loc="left")
    _legend(figure, axis)
    return figure


def _wrapped(name: str, width: int = 14) -> str:
    """A name in lines of at most `width` characters, broken at spaces and underscores."""
    lines = [""]
    for word in name.replace("_", "_ ").split():
        glue = "" if not lines[-1] or lines[-1].endswith("_") else " "
        if lines[-1] and len(lines[-1] + glue + word) > width:
            lines.append(word)
        else:
            lines[-1] += glue + word
    return "\n".join(lines)
