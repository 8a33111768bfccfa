"""The report of a recipe without tasks: scores of fine-tuned runs, and differences from a baseline."""

from __future__ import annotations

import sys
from pathlib import Path

from training.data.files import write_atomically, write_json
from training.data.utterances import Slot
from training.evaluation.paired import compare
from training.evaluation.scoring import PredictedLabels, Scorecard
from training.studies.effects_text import Json, markdown_table
from training.studies.layout import Layout
from training.studies.measures import read_utterances
from training.studies.results import ReportError, reading

METRICS = {"exact_match": "exact match", "intent_accuracy": "intent accuracy", "slot_f1": "slot F1"}


def write_report(out: Path) -> Json:
    """Write ladder.md and ladder.json into `out`, and show the former. Returns what ladder.json holds.

    Raises ReportError: no compared run is done, or a result can't be read.
    """
    content = report_of(Layout(out))
    text = render(content)
    write_json(out / "ladder.json", content)
    write_atomically(out / "ladder.md", text.encode())
    print(text, file=sys.stderr)
    return content


def report_of(layout: Layout) -> Json:
    """What the compared runs that are done score, and what each changes in its tables.

    Raises ReportError: see `write_report`.
    """
    with reading(layout.recipe) as recipe:
        compared: Json = dict(recipe["runs"])
    runs: Json = {}
    cards: dict[str, Scorecard] = {}
    for name in [name for name in compared if layout.answers(name).is_file()]:
        with reading(layout.answers(name)) as found:
            answers = [
                PredictedLabels(x, intent, tuple(Slot(*s) for s in slots)) for x, intent, slots in found.pop("answers")
            ]
            cards[name] = Scorecard.of(read_utterances(layout), answers)
            runs[name] = {**compared[name], **found, **cards[name].report()}
    if not runs:
        raise ReportError(f"{layout.out}: no compared run is done")
    tables = []
    for comparison in recipe["comparisons"]:
        baseline, names = comparison["baseline"], comparison["encoders"]
        others = [name for name in names if name != baseline and {name, baseline} <= cards.keys()]
        changes = {name: compare(cards[name], cards[baseline])["mean"] for name in others}
        tables.append({"title": comparison["title"], "baseline": baseline, "runs": names, "changes": changes})
    missing = [name for name in compared if name not in runs]
    facts = {key: recipe[key] for key in ("title", "data", "partition")}
    return {**facts, "runs": runs, "missing": missing, "tables": tables}


def render(content: Json) -> str:
    """The report as Markdown."""
    locales = next(iter(content["runs"].values()))["mean_over"]
    lines = [
        f"# {content['title']}",
        "",
        f"{content['partition']} of {content['data']}, mean of {', '.join(locales)}, in percent, as PyTorch computes "
        "it. The epoch of every run was chosen on dev. In brackets 95 % intervals of the difference, over "
        "utterances; one seed each, so differences of a point may be the seed's.",
    ]
    if content["missing"]:
        lines += ["", f"Not done yet: {', '.join(content['missing'])}."]
    for table in (table for table in content["tables"] if table["baseline"] in content["runs"]):
        against = content["runs"][table["baseline"]]["title"]
        rows = []
        for name in (x for x in dict.fromkeys((table["baseline"], *table["runs"])) if x in content["runs"]):
            run, changes = content["runs"][name], table["changes"].get(name)
            scores = [f"{run['mean'][metric][0]:.1f}" for metric in METRICS]
            change = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*changes["exact_match"]) if changes else None
            rows.append([run["title"], *scores, change, f"{run['steps']:,}"])
        head = ["", *METRICS.values(), f"exact match against {against}", "steps"]
        lines += ["", f"## {table['title']}", "", *markdown_table(head, rows)]
    return "\n".join(lines) + "\n"
