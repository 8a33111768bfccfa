"""The report of a study as Markdown, and the labels that it shares with the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.evaluation.effects import METRICS, MIN_UTTERANCES
from training.evaluation.scoring import MEAN

Json = dict[str, Any]

TASKS = {"dc": "domain classification", "icner": "intents and slots"}
TAILS = {"tail_test": "rare text", "tail_unseen_value": "unseen value", "tail_unseen_word": "unseen word"}
DIVERGENCE, PERPLEXITY = "Jensen-Shannon divergence, bits", "pseudo-perplexity of the teacher"
SIMILARITIES = {"divergence": DIVERGENCE, "pseudo_perplexity": PERPLEXITY}
COVERAGE = (91, 99)  # percent of simulated studies whose interval covers the true value, see test_effects.py
BUDGET = ("command", "size", "corpus", "teacher", "init", "parameters", "steps", "pieces", "minutes", "held_out_loss")


def render(report: Json) -> str:
    """The report as Markdown."""
    sections = [
        _introduction(report),
        _summary(report),
        _encoder_table(report),
        *[_comparison(place, comparison, report) for place, comparison in enumerate(report["comparisons"])],
        _absolute_tables(report),
        _teacher_table(report),
        _similarity_section(report),
        _method(report),
    ]
    return "\n".join(line for section in sections if section for line in (*section, ""))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a table; None becomes a dash."""
    cells = [["-" if x is None else str(x).replace("|", "\\|") for x in row] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]


def _introduction(report: Json) -> list[str]:
    locales = list(report["utterances"])
    lines = [
        f"# {report['title']}",
        "",
        f"Scored on `{report['partition']}` in {listed(locales)}; "
        f"tasks: {listed([TASKS[task] for task in report['tasks']])}; "
        f"seeds of fine-tuning: {listed(report['seeds'])}. The mean is that of {listed(report['mean_over'])}.",
        "",
        *[f"- **{c['title']}**: {listed(c['encoders'])} against {c['baseline']}" for c in report["comparisons"]],
    ]
    if report["notes"]:
        lines += ["", *map(str, report["notes"])]
    if report["missing"]:
        lines += ["", "Missing:", "", *[f"- {line}" for line in report["missing"]]]
    sizes = [[x, *[report["utterances"][x][name] for name in report["sets"]]] for x in locales]
    head = ["utterances", *[set_title(name, report) for name in report["sets"]]]
    return [*lines, "", *markdown_table(head, sizes)]


def _summary(report: Json) -> list[str]:
    """A sentence for each comparison: the mean over the locales on the whole partition."""
    lines = [
        _sentence(cell, table, comparison["baseline"])
        for comparison in report["comparisons"]
        for table in comparison["tables"]
        for cell in table["cells"]
        if cell["locale"] == MEAN and cell["set"] == report["partition"]
    ]
    lines += [_correlation_sentence(found) for found in report["correlations"]]
    head = ["## Summary", "", f"Mean of the languages, on all of `{report['partition']}`:", ""]
    return [*head, *(lines or ["- nothing: no two encoders of a comparison have results"])]


def _sentence(cell: Json, table: Json, baseline: str) -> str:
    verdict, encoder = cell["verdict"], cell["encoder"]
    result = f"{encoder} is {verdict} {'against' if verdict == 'not judged' else 'than'} {baseline}"
    if verdict == "no difference shown":
        result = f"no difference shown between {encoder} and {baseline}"
    numbers = "" if cell["change"] is None else f": {_change_text(cell, ' %')}"
    rest = ", not significant after correction for all cells of its table" if cell["mark"] == "*" else ""
    if verdict == "not judged":
        rest = ", with a single seed" if cell.get("seeds") == 1 else ", with too few utterances or a baseline of 0"
    return f"- {TASKS[table['task']]}, {table['metric']['title']}: {result}{numbers}{rest}"


def _change_text(cell: Json, unit: str = "") -> str:
    return f"{cell['change']:+.1f}{unit} [{cell['low']:+.1f}, {cell['high']:+.1f}]"


def _correlation_sentence(found: Json) -> str:
    change = f"the change from {found['baseline']} to {found['encoder']}"
    name = f"{TASKS[found['task']]}, {found['metric']['title']}: {change}"
    measure, spearman = SIMILARITIES[found["measure"]].split(",")[0], found.get("spearman")
    if not spearman or spearman["low"] is None:
        return f"- {name} has no correlation with the {measure}: too few domains"
    if spearman["low"] <= 0 <= spearman["high"]:
        trend = "shows no relation with"
    else:
        trend = "rises with" if spearman["value"] > 0 else "falls with"
    return f"- {name} {trend} the {measure}: Spearman {coefficient_text(spearman)} ({better_sign(found['metric'])})"


def _encoder_table(report: Json) -> list[str]:
    if not report["encoders"]:
        return []
    rows = []
    for name, found in report["encoders"].items():
        corpus = report["corpora"].get(found.get("corpus")) or {}
        cells = [_number(found.get(key)) for key in BUDGET]
        sizes = [_number(corpus.get(key)) for key in ("tokens", "lines")]
        rows.append([name, found.get("title"), *cells, corpus.get("ratio"), *sizes])
    head = ["encoder", "title", *[key.replace("_", " ") for key in BUDGET], "ratio", "tokens in corpus", "lines"]
    return ["## Encoders", "", *markdown_table(head, rows)]


def _number(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}" if isinstance(value, float) else value


def _comparison(place: int, comparison: Json, report: Json) -> list[str]:
    lines = [f"## {comparison['title']}: against {comparison['baseline']}"]
    if not comparison["tables"]:
        return [*lines, "", "No results to compare."]
    for table in comparison["tables"]:
        metric, task = table["metric"], table["task"]
        title = f"{TASKS[task].capitalize()}: {metric['title']}, relative change in % ({better_sign(metric)})"
        lines += ["", f"### {title}", ""]
        name = f"{figure_name(place, task)}.svg"
        if name in report["figures"] and metric["name"] == METRICS[task][0].name:
            lines += [f"![{metric['title']} against {comparison['baseline']}]({name})", ""]
        rows: dict[tuple[str, str], list[str]] = {}
        for cell in table["cells"]:
            rows.setdefault((cell["encoder"], cell["set"]), []).append(_cell(cell))
        shown = [[encoder, set_title(name, report), *cells] for (encoder, name), cells in rows.items()]
        lines += markdown_table(["encoder", "set", *report["utterances"], MEAN], shown)
    return lines


def _cell(cell: Json) -> str:
    if cell["change"] is None:
        return "-"
    flags = ("†" if cell["is_small"] else "") + ("‡" if cell["seeds"] == 1 else "")
    return f"{_change_text(cell)} {cell['mark'] or flags}".rstrip()


def _absolute_tables(report: Json) -> list[str]:
    lines = ["## Absolute values, in %: mean over the seeds ± standard deviation"]
    columns = [*report["utterances"], MEAN, "seeds"]
    for task, metric in [(name, metric) for name in report["tasks"] for metric in METRICS[name]]:
        rows: dict[tuple[str, str], dict[str, str]] = {}
        for row in [row for row in report["absolute"] if (row["task"], row["metric"]) == (task, metric.name)]:
            cells = rows.setdefault((row["set"], row["encoder"]), {"seeds": str(len(row["seeds"]))})
            cells[row["locale"]] = f"{row['mean']:.1f}" + ("" if row["sd"] is None else f" ± {row['sd']:.1f}")
        shown = [
            [encoder, set_title(name, report), *[cells.get(column, "-") for column in columns]]
            for (name, encoder), cells in sorted(rows.items(), key=lambda x: report["sets"].index(x[0][0]))
        ]
        if shown:
            higher = "higher" if metric.is_higher_better else "lower"
            lines += ["", f"### {TASKS[task].capitalize()}: {metric.title} ({higher} is better)", ""]
            lines += markdown_table(["encoder", "set", *columns], shown)
    return lines if len(lines) > 1 else []


def _teacher_table(report: Json) -> list[str]:
    if not report["teachers"]:
        return []
    rows = [
        [teacher, text, f"{100 * found['accuracy']:.1f}", f"{noise_of(found):.1f}", _number(found.get("positions"))]
        for teacher, texts in report["teachers"].items()
        for text, found in texts.items()
    ]
    head = ["## Noise of the teachers: masked words predicted wrong", "", "![Noise of the teachers](noise.svg)", ""]
    return [*head, *markdown_table(["teacher", "text", "right, %", "wrong, %", "masked words"], rows)]


def _similarity_section(report: Json) -> list[str]:
    if not report["similarity"]:
        return []
    similarity: Json = report["similarity"]["locales"]
    domains = list(dict.fromkeys(domain for values in similarity.values() for domain in values))
    rows = [[domain, *[_similarity_cell(values.get(domain)) for values in similarity.values()]] for domain in domains]
    lines = [
        "## Similarity of task text and generic text",
        "",
        f"Jensen-Shannon divergence from {report['similarity'].get('reference', 'the reference')} in bits (0 to 1) / "
        "pseudo-perplexity of the teacher; higher is less similar.",
        "",
        *markdown_table(["domain", *similarity], rows),
    ]
    for encoder in dict.fromkeys(found["encoder"] for found in report["correlations"]):
        if f"similarity-{encoder}.svg" in report["figures"]:
            lines += ["", f"![Effect of {encoder} against similarity](similarity-{encoder}.svg)"]
    if report["correlations"]:
        head = ["encoder", "task", "measure", "Pearson", "Spearman", "points", "domains", "left out"]
        lines += ["", "Correlation with the relative change of a domain in a language, 95 % interval:", ""]
        lines += markdown_table(head, [_correlation_row(found) for found in report["correlations"]])
    return lines


def _similarity_cell(value: Json | None) -> str:
    return "-" if value is None else f"{value['divergence']:.2f} / {value['pseudo_perplexity']:.1f}"


def _correlation_row(found: Json) -> list[Any]:
    coefficients = [coefficient_text(found[name]) if name in found else None for name in ("pearson", "spearman")]
    left_out = f"{found['too_few_utterances']} with few utterances, {found['undefined']} with a baseline of 0"
    about = [found["encoder"], f"{TASKS[found['task']]}, {found['metric']['title']}", SIMILARITIES[found["measure"]]]
    return [*about, *coefficients, len(found["points"]), found["domains"], left_out]


def _method(report: Json) -> list[str]:
    pairing = "The languages hold different sentences and are resampled independently."
    if report["is_parallel"]:
        pairing = "The languages hold the same sentences; a resample draws a sentence in all of them or in none."
    return [
        "## Intervals",
        "",
        "A change is the difference of the means over the seeds, in % of the baseline; in the column of the mean it is "
        f"that of the mean metric. Its 95 % interval comes from {report['resamples']} bootstrap resamples of "
        f"utterances and seeds, the same ones for both sides. {pairing} As a bootstrap underestimates the variance "
        "between few seeds, their deviations are scaled to the sample variance, less the part due to the choice of "
        "utterances, and the ends of the percentile interval are widened by t / z, with degrees of freedom after "
        f"Satterthwaite. In simulations with 3 or 5 seeds, {COVERAGE[0]} to {COVERAGE[1]} % of such intervals covered "
        "the true value.",
        "",
        "`*`: the interval excludes 0. `**`: also significant after correction for all cells of the table (Holm 1979). "
        f"†: fewer than {MIN_UTTERANCES} utterances, not judged. ‡: a single seed, so that the interval covers the "
        "choice of utterances only; not judged. Cells of a table share runs and sentences, so none is independent.",
        "",
        "Intervals of correlations resample whole domains, as the points of one domain in several languages are not "
        f"independent; domains with fewer than {report['fewest_point_utterances']} utterances in a language are "
        "left out.",
    ]


def figure_name(place: int, task: str) -> str:
    """The file name, without suffix, of the effects on a task in the comparison at `place` (from 0)."""
    return f"effects-{place + 1}-{task}"


def noise_of(found: Json) -> float:
    """The share of masked words that a teacher gets wrong, in percent."""
    return 100 * (1 - float(found["accuracy"]))


def better_sign(metric: Json) -> str:
    """Which sign of a change is better, in words."""
    return f"{'above' if metric['is_higher_better'] else 'below'} 0 is better"


def set_title(name: str, report: Json) -> str:
    """The title of a set of utterances."""
    if name == report["partition"]:
        return f"all of {name}"
    return f"tail: {TAILS[name]}" if name in TAILS else name


def coefficient_text(found: Json) -> str:
    """A correlation with its interval, if it has one."""
    if found["low"] is None:
        return f"{found['value']:+.2f}"
    return f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def listed(values: Sequence[Any]) -> str:
    """Values with commas between them."""
    return ", ".join(map(str, values))
