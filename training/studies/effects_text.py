"""The report of a study as Markdown, and the labels that it shares with the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.evaluation.effects import METRICS, MIN_UTTERANCES
from training.evaluation.scoring import MEAN

Json = dict[str, Any]

TASKS = {"dc": "domain classification", "icner": "intents and slots"}
TAILS = {"tail_test": "rare text", "tail_unseen_value": "unseen value", "tail_unseen_word": "unseen word"}
DIVERGENCE = "Jensen-Shannon divergence from the task's text, bits"
COVERAGE = (91, 99)  # percent of simulated studies whose interval covers the true value, see test_effects.py
BUDGET = ("command", "size", "corpus", "replay", "teacher", "init", "parameters", "steps", "tokens", "passes")


def render(report: Json) -> str:
    """The report as Markdown."""
    sections = [
        _introduction(report),
        _contrast_table(report),
        _summary(report),
        _encoder_table(report),
        _text_table(report),
        _curves(report),
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
        f"seeds of fine-tuning: {listed(report['seeds'])}. The mean is that of {listed(report['mean_over'])}."
        + _selection(report),
        "",
        *[f"- **{c['title']}**: {listed(c['encoders'])} against {c['baseline']}" for c in report["comparisons"]],
    ]
    if report["notes"]:
        lines += ["", *map(str, report["notes"])]
    if report["unlearned"]:
        named = [f"{x['encoder']}, seed {x['seed']} ({x['nats_below']:.2f} nats below)" for x in report["unlearned"]]
        bar = f"{report['min_nats']} nats below the unigram entropy of their held-out text"
        lines += [
            "",
            f"**Encoders that did not learn enough**, less than {bar}; they stay in all tables: {listed(named)}.",
        ]
    if report["missing"]:
        lines += ["", "Missing:", "", *[f"- {line}" for line in report["missing"]]]
    sizes = [[x, *[report["utterances"][x][name] for name in report["sets"]]] for x in locales]
    head = ["utterances", *[set_title(name, report) for name in report["sets"]]]
    return [*lines, "", *markdown_table(head, sizes)]


def _selection(report: Json) -> str:
    if report["partition"] != "dev" or report["selection_share"] == 1:
        return ""
    share = 100 * report["selection_share"]
    return f" Epochs were chosen on {share:.0f} % of dev by id; the scores are those of the rest."


def _contrast_table(report: Json) -> list[str]:
    """The contrasts named beforehand, with p values corrected for all of them."""
    if not report["contrasts"]:
        return []
    rows = []
    for found in report["contrasts"]:
        metric = found["metric"]
        name = f"{TASKS[found['task']]}, {metric['title']} ({better_sign(metric)})"
        sides = f"{' and '.join(found['runs'])} against {' and '.join(found['baseline'])}"
        numbers: list[str | None] = [None, None, None]
        if found["change"] is not None:
            numbers = [
                f"{_change_text(found)} {found['mark']}".rstrip(),
                f"{found['p_value']:.4f}",
                f"{found['p_holm']:.4f}",
            ]
        rows.append([found["title"], sides, name, *numbers, found["verdict"]])
    head = ["contrast", "encoders", "task", "change in % [95 %]", "p", f"p, Holm of {len(rows)}", "verdict"]
    note = "Named in the recipe before the first run. `*`: significant after correction for all of them."
    return ["## Contrasts", "", note, "", *markdown_table(head, rows), "", "**All that follows is exploratory.**"]


def _text_table(report: Json) -> list[str]:
    """How often each corpus holds its lines; with the passes of a run, how often it reads them."""
    rows = [
        [name, found.get("ratio"), _number(found.get("tokens")), _number(found.get("lines")), found.get("spoken_share")]
        + [_repeats(found, kind) for kind in (("generic", "spoken", "written"), ("task",))]
        for name, found in report["corpora"].items()
    ]
    head = ["corpus", "ratio", "tokens", "lines", "spoken share", "copies of a generic line", "copies of a task line"]
    return ["## Text", "", *markdown_table(head, rows)] if rows else []


def _repeats(corpus: Json, kinds: Sequence[str]) -> str | None:
    found = [group["repeats"] for group in corpus.get("groups", ()) if group["kind"] in kinds]
    return f"{min(found):.1f} to {max(found):.1f}" if found else None


def _curves(report: Json) -> list[str]:
    """Loss on held-out text beside its unigram entropy, of each encoder and seed."""
    rows = []
    for name, found in report["encoders"].items():
        for seed, scores in found["seeds"].items():
            entropy, loss = scores.get("unigram_entropy"), scores.get("held_out_loss")
            below = None if entropy is None or loss is None else entropy - loss
            cells = [_number(x) for x in (entropy, loss, below, scores.get("held_out_accuracy"), scores["minutes"])]
            rows.append([name + (" (control)" if name in report["controls"] else ""), seed, *cells])
    if not rows:
        return []
    head = ["encoder", "seed", "unigram entropy", "held-out loss", "nats below", "masked tokens right, %", "minutes"]
    figure = ["![Held-out loss below the unigram entropy](curves.svg)", ""] if "curves.svg" in report["figures"] else []
    return ["## Learning, on held-out text", "", *figure, *markdown_table(head, rows)]


def _summary(report: Json) -> list[str]:
    """A sentence for each comparison: the mean over the locales on the whole partition."""
    lines = [
        _sentence(cell, table, comparison["baseline"])
        for comparison in report["comparisons"]
        for table in comparison["tables"]
        for cell in table["cells"]
        if cell["locale"] == MEAN and cell["set"] == report["partition"]
    ]
    lines += [_slope_sentence(found) for found in report["slopes"]]
    head = ["## Comparisons", "", f"Mean of the languages, on all of `{report['partition']}`:", ""]
    return [*head, *(lines or ["- nothing: no two encoders of a comparison have results"])]


def _sentence(cell: Json, table: Json, baseline: str) -> str:
    verdict, encoder = cell["verdict"], cell["encoder"]
    result = f"{encoder} is {verdict} {'against' if verdict == 'not judged' else 'than'} {baseline}"
    if verdict == "no difference shown":
        result = f"no difference shown between {encoder} and {baseline}"
    numbers = "" if cell["change"] is None else f": {_change_text(cell, ' %')}"
    rest = ""
    if verdict == "not judged":
        rest = ", with a single seed" if cell.get("seeds") == 1 else ", with too few utterances or a baseline of 0"
    return f"- {TASKS[table['task']]}, {table['metric']['title']}: {result}{numbers}{rest}"


def _change_text(cell: Json, unit: str = "") -> str:
    return f"{cell['change']:+.1f}{unit} [{cell['low']:+.1f}, {cell['high']:+.1f}]"


def _slope_sentence(found: Json) -> str:
    metric = found["metric"]
    value = (
        f"{found['change'] / 10:+.2f} [{found['low'] / 10:+.2f}, {found['high'] / 10:+.2f}] points for each 0.1 bits"
    )
    return f"- {TASKS[found['task']]}, {metric['title']} against the distance of the transfer set: {value}"


def _encoder_table(report: Json) -> list[str]:
    if not report["encoders"]:
        return []
    rows = []
    for name, found in report["encoders"].items():
        cells = [_number(found.get(key)) for key in BUDGET]
        rows.append([name, found.get("title"), *cells, listed(list(found["seeds"]))])
    head = ["encoder", "title", *[key.replace("_", " ") for key in BUDGET], "seeds"]
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
    if not report["slopes"]:
        return []
    locales = list(dict.fromkeys(x for values in report["similarity"].values() for x in values))
    rows = [
        [name, *[_similarity_cell(x.get(locale)) for locale in locales]] for name, x in report["similarity"].items()
    ]
    figure = "![Scores against the distance of the transfer set](similarity.svg)"
    return [
        "## Distance of the transfer set from the task's text",
        "",
        f"{DIVERGENCE} (0 to 1; higher is less similar), and tokens. The slope is that of least squares, with a level "
        "of its own for each language; its interval is over utterances and encoder seeds.",
        "",
        *markdown_table(["encoder", *locales], rows),
        "",
        *map(_slope_sentence, report["slopes"]),
        *(["", figure] if "similarity.svg" in report["figures"] else []),
    ]


def _similarity_cell(value: Json | None) -> str:
    return "-" if value is None else f"{value['divergence']:.3f} ({value['tokens']:,})"


def _method(report: Json) -> list[str]:
    pairing = "The languages hold different sentences and are resampled independently."
    if report["is_parallel"]:
        pairing = "The languages hold the same sentences; a resample draws a sentence in all of them or in none."
    return [
        "## Intervals",
        "",
        "A change is the difference of the means over the seeds, in % of the baseline; in the column of the mean it is "
        f"that of the mean metric. Its 95 % interval comes from {report['resamples']} bootstrap resamples of "
        "utterances and seeds, the same ones for both sides. Where encoders were made with several seeds, these are "
        f"what is drawn, each with all of its fine-tunings; else those of fine-tuning are. {pairing} As a bootstrap "
        "underestimates the variance "
        "between few seeds, their deviations are scaled to the sample variance, less the part due to the choice of "
        "utterances, and the ends of the percentile interval are widened by t / z, with degrees of freedom after "
        f"Satterthwaite. In simulations with 3 or 5 seeds, {COVERAGE[0]} to {COVERAGE[1]} % of such intervals covered "
        "the true value.",
        "",
        f"`*`: the interval excludes 0. †: fewer than {MIN_UTTERANCES} utterances, not judged. ‡: a single seed, or "
        "sides of which one alone has encoder seeds, so that the interval does not cover them; not judged. Only the "
        "contrasts are corrected for their number. Cells of a table share runs and sentences, so none is independent.",
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


def listed(values: Sequence[Any]) -> str:
    """Values with commas between them."""
    return ", ".join(map(str, values))
