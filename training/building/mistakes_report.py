"""Mistakes of one student of a build: mistakes.json, mistakes.md and mistakes.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.building.earlier import change_lines
from training.building.kept import Kept
from training.building.mistakes_page import page
from training.building.served import Answer, served_answers
from training.building.suspects import suspects
from training.data.files import write_atomically, write_json
from training.data.utterances import Utterance
from training.evaluation.mistakes import Json, mistakes_of
from training.studies.effects_text import markdown_table
from training.studies.layout import Layout

SHOWN_LABELS, SHOWN_TEXTS, SHOWN_CHANGES = 20, 100, 50  # in the Markdown; the JSON has all


def write_mistakes(out: Path, run: str, data: Kept, changes: Json | None = None) -> Json:
    """Write the mistakes of an exported student on dev, and its changes against an earlier one where there is one.

    Returns what mistakes.json holds. Raises CheckpointError: the student can't be used.
    """
    rows = [i for i, utterance in enumerate(data.utterances) if utterance.partition == "dev"]
    answers = served_answers(Layout(out).student(run), [data.utterances[i] for i in rows])
    content = {"student": run, **mistakes_report(data, rows, answers), **({"changes": changes} if changes else {})}
    write_json(out / "mistakes.json", content)
    write_atomically(out / "mistakes.md", render(content).encode())
    write_atomically(out / "mistakes.html", page(content).encode())
    return content


def mistakes_report(data: Kept, rows: Sequence[int], answers: Sequence[Answer]) -> Json:
    """Mistakes in answers to rows of the data: `mistakes_of` with places and confidences, and `look_at`."""
    references = [data.utterances[i] for i in rows]
    content = mistakes_of(references, [answer.labels for answer in answers])
    about = {_key(u): (data.places[i], a.confidence) for i, u, a in zip(rows, references, answers, strict=True)}
    for text in content["texts"]:
        text["place"], confidence = about[text["locale"], text["id"]]
        text["confidence"] = None if confidence is None else round(confidence, 3)
    content["look_at"] = suspects(data, rows, answers)
    return content


def render(content: Json) -> str:
    """The mistakes as Markdown."""
    title = f"# Mistakes of {content['student']}"
    lines = [title, "", f"{content['wrong']} of {content['utterances']} utterances have a mistake."]
    head = ["count", "precision", "recall", "F1"]
    if "changes" in content:
        changes = change_lines(content["changes"], content["student"], SHOWN_CHANGES)
        lines += ["", f"## Changes against {content['changes']['from']}", "", "```", *changes, "```"]
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
                text["answered_intent"] if "intent" in text["wrong"] else "the same",
                _values(text["slots"]),
                _values(text["answered_slots"]) if "slots" in text["wrong"] else "the same",
                text["place"],
            ]
            for text in shown
        ]
        lines += ["", f"## Texts{more}", ""]
        lines += markdown_table(["text", "intent", "answered", "slots", "answered slots", "place"], rows)
    return "\n".join(lines) + "\n"


def _key(utterance: Utterance) -> tuple[str, str]:
    return utterance.locale, utterance.id


def _figures(row: Json) -> list[str]:
    return [str(row["count"]), *(f"{row[name]:.1f}" for name in ("precision", "recall", "f1"))]


def _values(slots: list[list[str]]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in slots) or "none"
