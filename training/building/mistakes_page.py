"""The mistakes of a student as one HTML page, mistakes.html; nothing is loaded from elsewhere.

A script in the page filters the table of texts. Without scripts, the table has all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import matplotlib
import numpy as np

from training.building.earlier import label
from training.evaluation.mistakes import Json
from training.studies.drawing import STYLE as FIGURE_STYLE
from training.studies.drawing import heat_map, svg_of
from training.studies.page_style import PAGE_STYLE

MAX_CONFUSED = 20  # intents in the heat map
MAX_LABELS = 30  # in the tables of intents and slots
PERFECT = 100.0  # F1 in percent
STYLE = """
.left td, .left th { text-align: left; white-space: normal; vertical-align: top; overflow-wrap: break-word; }
.left td { max-width: 22rem; }
.place, .soft { color: var(--soft-ink); font-size: 0.8rem; } .wrong { color: var(--error); }
:root { --soft-ink: #666; --error: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --soft-ink: #a0a0a0; --error: #ff8a80; } }
form { display: flex; flex-wrap: wrap; gap: 0.6rem; margin: 0.8rem 0; align-items: center; }
input, select { font: inherit; padding: 0.25rem 0.5rem; border: 1px solid var(--line); border-radius: 4px;
  background: var(--soft); color: var(--ink); max-width: 20rem; }
"""
SCRIPT = """
const form = document.getElementById("filter"), rows = [...document.querySelectorAll("#texts tbody tr")];
const shown = document.getElementById("shown");
function filter() {
  const words = form.search.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = words.every((word) => text.includes(word))
      && (!form.intent.value || row.dataset.intent === form.intent.value)
      && (!form.answered.value || row.dataset.answered === form.answered.value)
      && (!form.kind.value || row.dataset.kind.split(" ").includes(form.kind.value));
    row.hidden = !fits;
    count += fits;
  }
  shown.textContent = `${count} of ${rows.length}`;
}
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();
"""


def page(content: Json) -> str:
    """The whole page, of what mistakes.json holds."""
    title = f"Mistakes of {content['student']}"
    share = 100 * content["wrong"] / content["utterances"]
    body = [
        f"<p>{content['wrong']:,} of {content['utterances']:,} utterances of dev have a mistake ({share:.1f} %).</p>"
    ]
    if "changes" in content:
        body.append(_changes(content["changes"], content["student"]))
    body += [_look_at(content["look_at"]), _confusions(content["confusions"])]
    body += [_intents(content["intents"]), _slots(content["slots"]), _texts(content["texts"])]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}{STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(part for part in body if part)
        + "\n</html>\n"
    )


def _changes(found: Json, best: str) -> str:
    """Counts of each student, and the utterances whose answers have changed of the recommended one."""
    counts = [
        [escape(size), *(str(len(of_size[kind])) for kind in ("mended", "broken")), str(of_size["otherwise_wrong"])]
        for size, of_size in found["students"].items()
    ]
    head = ["student", "wrong before, right now", "right before, wrong now", "wrong otherwise than before"]
    parts = [f"<h2>Changes against {escape(found['from'])}</h2>", _table(head, counts)]
    of_best = found["students"].get(best, {"broken": [], "mended": []})
    for kind, title in (("broken", "Right before, wrong now"), ("mended", "Wrong before, right now")):
        rows = [[_text(one), *(escape(label(x)) for x in (one, one["before"], one["now"]))] for one in of_best[kind]]
        if rows:
            table = _table(["text", "label", "before", "now"], rows, "left")
            parts.append(f"<details open><summary>{title}: {len(rows)} of {escape(best)}</summary>{table}</details>")
    return "\n".join(parts)


def _look_at(rows: Sequence[Json]) -> str:
    if not rows:
        return ""
    about = (
        "Texts that get another intent than their label with the highest confidence, and the training texts of that "
        "intent that are most like them. One of the labels is wrong, or the two intents overlap, or the training data "
        "has too few texts like it."
    )
    cells = []
    for row in rows:
        similar = "<br>".join(
            f'{escape(other["text"])} <span class="place">{escape(other["place"])}</span>' for other in row["similar"]
        )
        answered = f'<span class="wrong">{escape(row["answered_intent"])}</span> {row["confidence"]:.2f}'
        cells.append([_text(row), escape(row["intent"]), answered, similar or "none"])
    head = ["text", "label", "answered, with confidence", "training texts with the answered intent"]
    return f"<h2>Look at these rows first</h2>\n<p>{about}</p>\n{_table(head, cells, 'left')}"


def _confusions(confusions: Sequence[Json]) -> str:
    """The heat map of the intents that take part in most confusions."""
    if not confusions:
        return ""
    counts: dict[str, int] = {}
    for pair in confusions:
        for name in (pair["intent"], pair["answered"]):
            counts[name] = counts.get(name, 0) + pair["count"]
    names = sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MAX_CONFUSED])
    index = {name: place for place, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)), np.int64)
    for pair in confusions:
        if pair["intent"] in index and pair["answered"] in index:
            matrix[index[pair["intent"]], index[pair["answered"]]] = pair["count"]
    more = f" The {len(names)} of {len(counts)} intents with most." if len(names) < len(counts) else ""
    with matplotlib.rc_context(FIGURE_STYLE):
        svg = svg_of(heat_map(matrix, names, "answered"))
    about = f"<p>How many utterances with one intent are answered with another.{more}</p>"
    return f'<h2>Confusions</h2>\n{about}\n<figure role="img" aria-label="Confusions of intents">{svg}</figure>'


def _intents(intents: Sequence[Json]) -> str:
    weak = [row for row in intents if row["f1"] < PERFECT]
    rows = [
        [
            escape(row["intent"]),
            *_figures(row),
            escape(", ".join(f"{name} ({count})" for name, count in row["taken_for"].items())),
        ]
        for row in weak[:MAX_LABELS]
    ]
    return _section("Weakest intents", ["intent", *_HEAD, "taken for"], rows, len(intents))


def _slots(slots: Sequence[Json]) -> str:
    weak = [row for row in slots if row["f1"] < PERFECT]
    rows = [[escape(row["slot"]), *_figures(row)] for row in weak[:MAX_LABELS]]
    return _section("Weakest slots", ["slot", *_HEAD], rows, len(slots))


_HEAD = ("count", "precision", "recall", "F1")


def _figures(row: Json) -> list[str]:
    return [str(row["count"]), *(f"{row[name]:.1f}" for name in ("precision", "recall", "f1"))]


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], total: int) -> str:
    if not rows:
        return ""
    more = f"<p>{len(rows)} of {total}; the others are better.</p>\n" if len(rows) < total else ""
    return f"<h2>{title}</h2>\n{more}{_table(head, rows)}"


def _texts(texts: Sequence[Json]) -> str:
    if not texts:
        return ""
    rows = []
    for text in texts:
        intent, answered = text["intent"] or "", text["answered_intent"] or ""
        cells = [
            _text(text),
            escape(intent),
            _answered(escape(answered), "intent" in text["wrong"]),
            _values(text["slots"]),
            _answered(_values(text["answered_slots"]), "slots" in text["wrong"]),
        ]
        data = (
            f'data-intent="{escape(intent)}" data-answered="{escape(answered)}" data-kind="{" ".join(text["wrong"])}"'
        )
        rows.append(f"<tr {data}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("text", "label", "answered", "slots", "answered slots"))
    return (
        f"<h2>Texts with a mistake</h2>\n{_filter(texts)}\n"
        f'<div class="wide"><table class="left" id="texts"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>\n<script>{SCRIPT}</script>"
    )


def _filter(texts: Sequence[Json]) -> str:
    intents = sorted({text["intent"] for text in texts if text["intent"]})
    answered = sorted({text["answered_intent"] for text in texts if text["answered_intent"]})
    selects = [
        _select("intent", "every label", [(name, name) for name in intents]),
        _select("answered", "every answer", [(name, name) for name in answered]),
        _select("kind", "every mistake", [("intent", "wrong intent"), ("slots", "wrong slots")]),
    ]
    search = '<input type="search" name="search" placeholder="words" aria-label="words">'
    return f'<form id="filter" hidden>{search}{"".join(selects)}<span id="shown" class="soft"></span></form>'


def _select(name: str, every: str, options: Iterable[tuple[str, str]]) -> str:
    shown = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return f'<select name="{name}" aria-label="{name}"><option value="">{every}</option>{shown}</select>'


def _text(row: Json) -> str:
    about = f"{row['place']} · {row['locale']}"
    return f'{escape(row["text"])}<br><span class="place">{escape(about)}</span>'


def _answered(shown: str, wrong: bool) -> str:
    return f'<span class="wrong">{shown or "none"}</span>' if wrong else '<span class="soft">the same</span>'


def _values(slots: Sequence[Sequence[str]]) -> str:
    return "<br>".join(escape(f"{name}: {value}") for name, value in slots) or "none"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of cells in HTML."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    styled = f' class="{kind}"' if kind else ""
    return f'<div class="wide"><table{styled}><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>'
