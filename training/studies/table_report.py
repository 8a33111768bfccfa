"""The report of a recipe without tasks: scores of fine-tuned runs, and differences from a baseline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from training.data.files import write_atomically, write_json
from training.data.utterances import Slot, Utterance
from training.evaluation.paired import compare
from training.evaluation.scoring import NOT_MEASURED, SLOTS_NOT_ANNOTATED, PredictedLabels, Scorecard
from training.studies.effects_text import Json, markdown_table
from training.studies.layout import Layout
from training.studies.measures import read_utterances
from training.studies.results import ReportError, reading

METRICS = {
    "exact_match": "exact match",
    "intent_accuracy": "intent accuracy",
    "slot_f1": "slot F1",
    "domain_f1": "domain F1",
}
BY_LOCALE = ("intent_accuracy", "slot_f1", "exact_match")
MAJORITY = "majority class of train"


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
    utterances = read_utterances(layout) if layout.utterances.is_file() else []
    runs: Json = {}
    cards: dict[str, Scorecard] = {}
    for name in [name for name in compared if layout.answers(name).is_file()]:
        with reading(layout.answers(name)) as found:
            answers = [
                PredictedLabels(x, intent, tuple(Slot(*s) for s in slots)) for x, intent, slots in found.pop("answers")
            ]
            cards[name] = Scorecard.of(utterances, answers)
            runs[name] = {**compared[name], **found, **cards[name].report()}
    if not runs:
        raise ReportError(f"{layout.out}: no compared run is done")
    majority = _majority(layout, utterances)
    tables = []
    for comparison in recipe["comparisons"]:
        baseline, names = comparison["baseline"], comparison["encoders"]
        others = [name for name in names if name != baseline and {name, baseline} <= cards.keys()]
        changes = {name: compare(cards[name], cards[baseline])["mean"] for name in others}
        tables.append({"title": comparison["title"], "baseline": baseline, "runs": names, "changes": changes})
    missing = [name for name in compared if name not in runs]
    facts = {**{key: recipe[key] for key in ("title", "data", "partition")}, "plan": recipe.get("plan", {})}
    students: Json = {}
    if layout.students.is_file():
        with reading(layout.students) as found:
            titles = {name: run["title"] for name, run in compared.items()}
            students = {name: {**student, "title": titles.get(name, name)} for name, student in found.items()}
    return {**facts, "runs": runs, "missing": missing, "tables": tables, "majority": majority, "students": students}


def _majority(layout: Layout, utterances: Sequence[Utterance]) -> Json | None:
    """Scores of the most frequent domain and intent, without slots; None in the results of older versions."""
    if not layout.majority.is_file():
        return None
    with reading(layout.majority) as found:
        answer = PredictedLabels(found["domain"], found["intent"], ())
    return Scorecard.of(utterances, [answer] * len(utterances)).report()


def render(content: Json) -> str:
    """The report as Markdown."""
    locales = next(iter(content["runs"].values()))["mean_over"]
    lines = [
        f"# {content['title']}",
        "",
        f"{content['partition']} of {content['data']}, mean of {', '.join(locales)}, in percent, as PyTorch computes "
        "it. The epoch of every run was chosen on dev. In brackets 95 % intervals of the difference, over "
        "utterances; one seed each, so differences of a point may be the seed's.",
        *_plan(content["plan"]),
    ]
    if not any(next(iter(content["runs"].values()))["slots_annotated"].values()):
        lines += ["", f"In this data {SLOTS_NOT_ANNOTATED}."]
    if content["missing"]:
        lines += ["", f"Not done yet: {', '.join(content['missing'])}."]
    for table in (table for table in content["tables"] if table["baseline"] in content["runs"]):
        lines += ["", f"## {table['title']}", "", *_comparison(table, content)]
    lines += _students(content["students"])
    lines += _by_locale(content)
    return "\n".join(lines) + "\n"


def _plan(plan: Json) -> list[str]:
    """What `training.ladder --minutes` has planned."""
    if not {"train_share", "minutes", "expected_minutes"} <= plan.keys():
        return []
    share = plan["train_share"]
    text = f"Planned for {plan['minutes']:g} minutes, {plan['expected_minutes']:g} of them expected to be used."
    if share < 1:
        text += f" For one epoch of all training utterances that is too short: {share:.0%} of them were used."
    return ["", text]


def _comparison(table: Json, content: Json) -> list[str]:
    """A table of runs and their baseline, and the majority class."""
    against = content["runs"][table["baseline"]]["title"]
    rows = []
    for name in (x for x in dict.fromkeys((table["baseline"], *table["runs"])) if x in content["runs"]):
        run, changes = content["runs"][name], table["changes"].get(name)
        difference = changes.get("exact_match") if changes else None
        change = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*difference) if difference else None
        rows.append([run["title"], *_scores(run["mean"]), change, f"{run['steps']:,}"])
    if content["majority"]:
        rows.append([MAJORITY, *_scores(content["majority"]["mean"]), None, None])
    return markdown_table(["", *METRICS.values(), f"exact match against {against}", "steps"], rows)


def _scores(mean: Json) -> list[str | None]:
    """The metrics of a run; None where its heads or the data lack labels."""
    return [f"{mean[metric][0]:.1f}" if mean.get(metric) else None for metric in METRICS]


def _students(students: Json) -> list[str]:
    """The exported students: size, quality as served, latency."""
    rows = []
    for student in students.values():
        shape = f"{student['layers']} x {student['hidden']}, {student['non_embedding_parameters'] / 1e6:.1f} M"
        mean, micro = student["quality"]["mean"], student["microseconds"]
        quality = [None if mean.get(metric) is None else f"{mean[metric]:.1f}" for metric in METRICS]
        size = f"{student['bytes'] / 1e6:.1f} MB"
        rows.append(
            [student["title"], shape, student["precision"], size, *quality, " / ".join(map(str, micro.values()))]
        )
    if not rows:
        return []
    first = next(iter(students.values()))
    return [
        "",
        "## Exported students",
        "",
        f"As served, on {first['partition']}: graph and tokenizer on disk, parameters outside embeddings and heads, "
        f"median microseconds of one run of the graph at {', '.join(first['microseconds'])} tokens, one thread.",
        "",
        *markdown_table(["", "shape", "precision", "on disk", *METRICS.values(), "latency"], rows),
    ]


def _by_locale(content: Json) -> list[str]:
    """Scores of all compared runs by locale."""
    runs = {run["title"]: run["locales"] for run in content["runs"].values()}
    if content["majority"]:
        runs[MAJORITY] = content["majority"]["locales"]
    locales = list(next(iter(runs.values())))

    def cell(scores: Json) -> str:
        return " / ".join(f"{scores[metric][0]:.1f}" if scores.get(metric) else NOT_MEASURED for metric in BY_LOCALE)

    rows = [[title, *(cell(found[locale]) for locale in locales)] for title, found in runs.items()]
    shown = " / ".join(METRICS[metric] for metric in BY_LOCALE)
    return ["", f"## By locale: {shown}", "", *markdown_table(["", *locales], rows)]
