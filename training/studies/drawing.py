"""Style and files of figures: SVG and PNG; the same figures give the same bytes.

Colours are those of Okabe and Ito, which are distinguishable with any kind of colour vision.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.data.files import write_atomically

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
MARKERS = "os^Dv<>"
GRID = "#dddddd"
DOTS_PER_INCH = 110
STYLE: Any = {
    "svg.hashsalt": "distilled-nlu",  # ids inside the file would be random
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "figure.titlesize": 11.0,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

SVG_METADATA: Any = {"Date": None, "Creator": None}


def save(figure: Figure, path: Path) -> list[str]:
    """Write `path` with the endings .svg and .png. Returns the names of both."""
    names = []
    for kind, metadata in (("svg", SVG_METADATA), ("png", {"Software": None})):
        file = path.with_name(f"{path.name}.{kind}")
        write_atomically(file, _drawn(figure, kind, metadata))
        names.append(file.name)
    return names


def svg_of(figure: Figure) -> str:
    """The figure as an SVG element, to stand in a page."""
    svg = _drawn(figure, "svg", SVG_METADATA).decode()
    return svg[svg.index("<svg") :]


def heat_map(counts: NDArray[np.int64], names: Sequence[str], columns: str) -> Figure:
    """Counts [labels, labels] as a heat map: a row a label, a column a label that is `columns`, such as "predicted"."""
    side, top = 2.6 + 0.3 * len(names), max(1, int(counts.max()))
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    axis.imshow(counts, cmap="Oranges", vmin=0, vmax=top)
    for i, j in zip(*np.nonzero(counts), strict=True):
        colour = "#ffffff" if counts[i, j] > 0.6 * top else "#1b1b1b"
        axis.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    axis.set_yticks(range(len(names)), names, fontsize=7.5)
    axis.tick_params(length=0)
    axis.set_xlabel(columns)
    axis.set_ylabel("labelled")
    return figure


def _drawn(figure: Figure, kind: str, metadata: Any) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format=kind, metadata=metadata, dpi=DOTS_PER_INCH)
    return stream.getvalue()
