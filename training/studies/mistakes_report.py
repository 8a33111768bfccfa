"""Mistakes of one student of a build: mistakes.json and mistakes.md."""

from __future__ import annotations

from pathlib import Path

from training.data.files import write_atomically, write_json
from training.data.utterances import Slot
from training.evaluation.mistakes import Json, mistakes_of
from training.evaluation.scoring import PredictedLabels
from training.studies.effects_text import markdown_table
from training.studies.layout import Layout
from training.studies.measures import read_utterances
from training.studies.results import reading

SHOWN_LABELS, SHOWN_TEXTS = 20, 100  # in the Markdown; the JSON has all


def write_mistakes(out: Path, run: str) -> Json:
    """Write the mistakes of a run's answers. Returns what mistakes.json holds."""
    layout = Layout(out)
    with reading(layout.answers(run)) as found:
        answers = [PredictedLabels(x, intent, tuple(Slot(*s) for s in slots)) for x, intent, slots in found["answers"]]
    content = {"student": run, **mistakes_of(read_utterances(layout), answers)}
    write_json(out / "mistakes.json", content)
    write_atomically(out / "mistakes.md", render(run, content).encode())
    return content


def render(run: str, content: Json) -> str:
    """The mistakes as Markdown."""
    lines = [f"# Mistakes of {run}", "", f"{content['wrong']} of {content['utterances']} utterances have a mistake."]
    head = ["count", "precision", "recall", "F1"]
    if content["intents"]:
        rows = [
            [row["intent"], *_figures(row), ", ".join(f"{name} ({n})" for name, n in row["taken_for"].items())]
            for row in content["intents"][:SHOWN_LABELS]
        ]
        lines += ["", "## Weakest intents", "", *markdown_table(["intent", *head, "taken for"], rows)]
    if content["slots"]:
        rows = [[row["slot"], *_figures(row)] for row in content["slots"][:SHOWN_LABELS]]
        lines += ["", "## Weakest slots", "", *markdown_table(["slot", *head], rows)]
    if content["texts"]:
        shown = content["texts"][:SHOWN_TEXTS]
        more = "" if len(shown) == len(content["texts"]) else f" (the first {len(shown)}; mistakes.json has all)"
        rows = [
            [
                text["text"],
                text["intent"],
                text["answered_intent"] if text["answered_intent"] != text["intent"] else "the same",
                _values(text["slots"]),
                _values(text["answered_slots"]) if text["answered_slots"] != text["slots"] else "the same",
            ]
            for text in shown
        ]
        lines += ["", f"## Texts{more}", ""]
        lines += markdown_table(["text", "intent", "answered", "slots", "answered slots"], rows)
    return "\n".join(lines) + "\n"


def _figures(row: Json) -> list[str]:
    return [str(row["count"]), *(f"{row[name]:.1f}" for name in ("precision", "recall", "f1"))]


def _values(slots: list[list[str]]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in slots) or "none"
