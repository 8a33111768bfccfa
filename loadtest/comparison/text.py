"""The text of a report of ``python -m loadtest.compare``: paragraphs, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadtest.comparison.document import Block, Bullets, Heading, Paragraph, Picture
from loadtest.comparison.report import FRONT, LOCALES, PHASES, SHOWN_PHASES, TITLES, signed
from loadtest.load.tables import Table
from training.evaluation.requirements import verdict_of
from training.evaluation.scoring import NOT_MEASURED, SLOTS_NOT_ANNOTATED

Json = dict[str, Any]

TITLE = "Which student is good enough?"


def blocks_of(report: Json) -> list[Block]:
    """The report as blocks."""
    metric = report["judged_by"]
    blocks: list[Block] = [Paragraph(report["recommendation"])]
    if report["required"]:
        blocks += [Paragraph(verdict_of(report["required"]))]
    blocks += [
        _accuracy(report),
        _cost(report),
        Picture(f"{FRONT}.svg", "Accuracy against latency, with the Pareto front"),
        Heading("By locale"),
        _by_locale(report),
        Picture(f"{LOCALES}.svg", f"{TITLES[metric].capitalize()} by locale"),
        Heading("Where the time goes"),
        _phases(report),
        Picture(f"{PHASES}.svg", "Medians of the phases of a request"),
    ]
    for comparison in report["comparisons"]:
        blocks += _differences(comparison)
    return [*blocks, *_how(report)]


def table_of(report: Json) -> str:
    """The tables of accuracy and cost for a terminal."""
    return "\n\n".join(table.plain() for table in (_accuracy(report), _cost(report)))


def _accuracy(report: Json) -> Table:
    shown = _shown(report)
    rows = [
        [_marked(name, student), f"{student['cost']['disk_mb']:.1f} MB"]
        + [_with_margin(student["quality"]["mean"][metric]) for metric in shown]
        for name, student in report["students"].items()
    ]
    return Table(["student", "on disk", *(TITLES[metric] for metric in shown)], rows)


def _cost(report: Json) -> Table:
    bound = f"texts/s, p99 ≤ {report['measured']['bound_ms']:g} ms"
    header = ["student", "p50", "p99", bound, "texts/s, 32 connections", "memory", "start"]
    forms = {
        "p50_ms": "{:.2f} ms",
        "p99_ms": "{:.2f} ms",
        "sustained_per_second": "{:.0f}",
        "throughput_per_second": "{:.0f}",
        "memory_mb": "{:.0f} MB",
        "start_seconds": "{:.2f} s",
    }
    rows = [
        [_marked(name, student), *(_beside(student, figure, form) for figure, form in forms.items())]
        for name, student in report["students"].items()
    ]
    return Table(header, rows)


def _marked(name: str, student: Json) -> str:
    return name + (" *" if student["is_on_front"] else "")


def _beside(student: Json, figure: str, form: str) -> str:
    value, ratio = student["cost"][figure], student["to_first"][figure]
    if value is None:
        return "none" if figure == "sustained_per_second" else "-"
    return form.format(value) + (f" (x {ratio:.2f})" if ratio else "")


def _shown(report: Json) -> list[str]:
    means = [student["quality"]["mean"] for student in report["students"].values()]
    return [metric for metric in TITLES if all(metric in mean for mean in means)]


def _figure(score: Sequence[float] | None) -> str:
    return NOT_MEASURED if score is None else f"{score[0]:.1f}"


def _with_margin(score: Sequence[float] | None) -> str:
    if score is None:
        return NOT_MEASURED
    value, low, high = score
    return f"{value:.1f} ± {(high - low) / 2:.1f}"


def _by_locale(report: Json) -> Table:
    students, shown = report["students"].values(), _shown(report)
    rows = [
        [
            locale,
            *(" / ".join(_figure(s["quality"]["locales"][locale][metric]) for s in students) for metric in shown),
        ]
        for locale in report["utterances"]
    ]
    means = [" / ".join(_figure(s["quality"]["mean"][metric]) for s in students) for metric in shown]
    header = [" / ".join(report["students"]), *(TITLES[metric] for metric in shown)]
    return Table(header, [*rows, [f"mean of {', '.join(report['mean_over'])}", *means]])


def _phases(report: Json) -> Table:
    students = report["students"]
    rows = []
    for phase in (*SHOWN_PHASES, "total"):
        costs = [student["cost"]["phases"].get(phase) for student in students.values()]
        rows.append([phase, *("-" if one is None else _percentiles(one) for one in costs)])
    rows.append(["the client", *(_percentiles(student["cost"]) for student in students.values())])
    return Table(["p50 / p95 / p99 in ms", *students], rows)


def _percentiles(figures: Json) -> str:
    return " / ".join(f"{figures[f'p{percent}_ms']:.3f}" for percent in (50, 95, 99))


def _differences(comparison: Json) -> list[Block]:
    name, baseline = comparison["student"], comparison["baseline"]
    rows = []
    for locale, differences in {**comparison["locales"], "mean": comparison["mean"]}.items():
        pairs = comparison["exact_match"].get(locale)
        test = f"+{pairs['gained']} -{pairs['lost']}, p = {pairs['p_value']:.2g}" if pairs else ""
        rows.append([locale, *(signed(differences[metric]) for metric in TITLES if metric in differences), test])
    header = ["", *(TITLES[metric] for metric in TITLES if metric in comparison["mean"]), "exact match, utterances"]
    blocks: list[Block] = [
        Heading(f"{name} against {baseline}"),
        Paragraph(
            "Differences in points with 95 % intervals on the same utterances; utterances that only one of the two "
            "answers correctly, with McNemar's exact test."
        ),
        Table(header, rows),
        Paragraph(
            f"{comparison['changed']} of {comparison['utterances']} answers changed"
            + (f"; {comparison['file']} lists all." if comparison["changed"] and comparison["file"] else ".")
        ),
    ]
    if comparison["examples"]:
        texts = [
            [one["locale"], one["text"], *(_answer(one[which]) for which in ("expected", "before", "now"))]
            for one in comparison["examples"]
        ]
        blocks.append(Table(["locale", "text", "expected", baseline, name], texts, is_text=True))
    return blocks


def _answer(answer: Json) -> str:
    labels = " / ".join(label for label in (answer["domain"], answer["intent"]) if label)
    return "; ".join([*([labels] if labels else ()), *(answer["slots"] or ())]) or "-"


def _how(report: Json) -> list[Block]:
    measured, machine = report["measured"], report["machine"]
    size, over = sum(report["utterances"].values()), ", ".join(report["mean_over"])
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    first = next(iter(report["students"]))
    items = [
        f"{report['date']}, {machine['cpu']}, {machine['cores']} cores; {versions}.",
        f"Accuracy: {size} utterances, {report['partition']} of {report['data']}, sent through HTTP; slot F1 as "
        f"MASSIVE scores it; ± is half of a 95 % interval. The mean is that of {over}.",
        f"Latency: {measured['rounds']} rounds in which the students take turns, each behind a service of its own (one "
        f"worker on one core, no answer cache), {measured['seconds']:g} s per measurement; medians of the rounds, with "
        f"one connection. In brackets the ratio to {first}, taken within each round.",
        f"texts/s: requests with one text each and random arrival times; the highest rate with a p99 within "
        f"{measured['bound_ms']:g} ms, by bisection.",
        "* is on the Pareto front: no other student is both as accurate and as fast.",
    ]
    counts = report.get("slots_annotated")  # reports of older versions lack it
    if counts and not any(counts.values()):
        items.append(f"In this data {SLOTS_NOT_ANNOTATED}.")
    if report["left_out"]:
        items.append(f"Not compared, as not all students support them: {', '.join(report['left_out'])}.")
    if report["warning"]:
        items.append(report["warning"])
    return [Heading("How it was measured"), Paragraph(report["command"], is_code=True), Bullets(items)]
