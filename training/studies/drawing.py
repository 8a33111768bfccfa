"""Style of HTML reports, and style and files of figures: SVG and PNG; the same figures give the same bytes.

Colours are those of Okabe and Ito, which are distinguishable with any kind of colour vision.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
PAGE_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --line: #d0d0d0; --soft: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #17181a; --line: #43464a; --soft: #222427; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .texts td { text-align: left; } .texts td { white-space: normal; vertical-align: top; }
thead th { background: var(--soft); }
figure { margin: 1rem 0; background: #fff; border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem; }
figure svg { max-width: 100%; height: auto; display: block; margin: auto; }
code { background: var(--soft); padding: 0.1rem 0.3rem; border-radius: 3px; overflow-wrap: anywhere; }
"""


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


def _drawn(figure: Figure, kind: str, metadata: Any) -> bytes:
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format=kind, metadata=metadata, dpi=DOTS_PER_INCH)
    return stream.getvalue()
