"""The model card of a student, for people."""

from __future__ import annotations

from typing import Any

from export.calibration import BINS, mean_errors
from export.scope import means_by_method
from service.student.manifest import Calibration, Manifest, Scope

_COLUMNS = {
    "domain_f1": "Domain F1",
    "intent_accuracy": "Intent accuracy",
    "slot_f1": "Slot F1",
    "exact_match": "Exact match",
}

_METHODS = {
    "max_softmax": "the confidence of the best {head}",
    "energy": "the energy of the {head} logits",
    "class_means": "the distance of a text's features to those of the nearest {head} in training",
}
_SLOTS = {"minimum": "the least", "product": "the product"}


def render_card(manifest: Manifest, notice: str) -> str:
    """Markdown: what it is, how good, what its confidences mean, how and from what it was trained, where it fails."""
    shape = manifest.architecture
    heads = ", ".join(
        f"{len(getattr(manifest.labels, head))} {'slot tags' if head == 'slots' else head + 's'}"
        for head in manifest.labels.heads
    )
    parts = [
        f"# Student `{manifest.name}`",
        f"Student of size `{manifest.size}` in {manifest.precision} for {', '.join(manifest.locales)}: {heads}.\n\n"
        f"{shape.layers} layers x {shape.hidden}, {shape.attention_heads} attention heads, {shape.activation}; "
        f"{shape.non_embedding_parameters / 1e6:.1f} M parameters outside embeddings and heads, "
        f"{shape.parameters / 1e6:.1f} M in all; "
        f"{shape.vocabulary} pieces; reads up to {manifest.max_length} pieces of a text. "
        f"Digest `{manifest.digest}`. Graph: {manifest.graph.exporter}; {manifest.graph.quantisation}.",
        *_trimming(manifest),
        "## Quality",
        _quality(manifest),
        *(["## Confidence", *_confidence(manifest)] if manifest.calibration else []),
        "## Latency",
        _latency(manifest),
        "## Training",
        _training(manifest),
    ]
    if notice:
        parts += ["## Training data", notice.strip()]
    parts += [
        "## Limits",
        "It knows the domains, intents and slots it was trained on and answers every text with one of them: "
        f"{_doubts(manifest.calibration)}. It has seen short requests to a "
        "voice assistant; other registers, other languages and long texts were not measured. "
        "The figures above were used to choose the epoch, so expect a little less on unseen data.",
    ]
    return "\n\n".join(parts) + "\n"


def _trimming(manifest: Manifest) -> list[str]:
    if not (found := manifest.parity.get("trimming")):
        return []
    same = ", ".join(f"{locale} {share:.1f} %" for locale, share in found["same_answers"].items())
    return [
        f"Trimmed to the pieces that these locales need, {found['pieces']} of {found['pieces_before']}, from a student "
        f"of {', '.join(found['locales_before'])}. Texts below that both answer alike in fp32: {same}."
    ]


def _training(manifest: Manifest) -> str:
    stages: list[str] = []
    stage: dict[str, Any] | None = manifest.training
    while stage:
        given = ((name.replace("_", "-"), value) for name, value in stage["settings"].items() if value != "")
        texts = stage["lines"] if "lines" in stage else stage["utterances"]["train"]
        outcome = "" if "lines" in stage else f"; epoch {stage['best_epoch']} was the best by mean exact match on dev"
        stages.append(
            f"    python -m {stage['command']} {' '.join(f'--{name} {value}' for name, value in given)}\n\n"
            f"{texts:,} texts, {stage['steps']:,} steps, {stage['seconds'] / 60:.0f} minutes{outcome}. "
            f"Source `{stage['commit']}`."
        )
        stage = stage.get("init")
    return "\n\n".join(reversed(stages))


def _quality(manifest: Manifest) -> str:
    served, typed = manifest.accuracy[manifest.precision], manifest.accuracy["typed"]
    names = [name for name in _COLUMNS if name in served["mean"]]
    lines = [
        f"As served ({manifest.precision}), on `{manifest.accuracy['partition']}` of {manifest.accuracy['data']}, "
        "in percent; in brackets on its copy with capitals and punctuation. Slot F1 as MASSIVE scores it; the mean is "
        "that of de, fr, it, es.",
        "",
        "| locale | " + " | ".join(_COLUMNS[name] for name in names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for locale, values in served.items():
        lines.append(f"| {locale} | " + " | ".join(f"{values[n]:.1f} ({typed[locale][n]:.1f})" for n in names) + " |")
    return "\n".join(lines)


def _confidence(manifest: Manifest) -> list[str]:
    calibration = manifest.calibration
    if calibration is None:
        return []
    parts = [_errors(calibration)] if calibration.temperatures else []
    if calibration.scope:
        parts.append(_scope(calibration, calibration.scope))
    if without := [x for x in manifest.locales if not any(x in found for found in calibration.temperatures.values())]:
        parts.append(f"Too little labelled text, so as the logits have it: {', '.join(without)}.")
    return parts


def _errors(calibration: Calibration) -> str:
    errors = calibration.measured["expected_calibration_error"]
    lines = [
        f"Confidences are the softmax of logits divided by a temperature (T), fitted on `{calibration.partition}` of "
        f"{calibration.data} for each task and locale. Expected calibration error in percent ({BINS} equal bins), "
        "before and after; after is measured on each half of the texts with the temperature of the other half.",
        "",
        "| locale | " + " | ".join(errors) + " |",
        "|---|" + "---|" * len(errors),
    ]
    for locale in dict.fromkeys(locale for by_locale in errors.values() for locale in by_locale):
        cells = [
            f"{_change(errors[head][locale])} (T {temperatures[locale]:.2f})" if locale in temperatures else "-"
            for head, temperatures in calibration.temperatures.items()
        ]
        lines.append(f"| {locale} | " + " | ".join(cells) + " |")
    lines.append("| mean | " + " | ".join(_change(error) for error in mean_errors(errors).values()) + " |")
    if "slots" in errors:
        found = calibration.measured["slot_confidence"]
        both = ", ".join(f"{_SLOTS[name]} {100 * error:.1f}" for name, error in found.items())
        lines += [
            "",
            "The confidence of a slot, that name, start and end are right, is "
            f"{_SLOTS[calibration.slot_confidence]} of those of its words (error after: {both}); before is the least.",
        ]
    return "\n".join(lines)


def _change(error: dict[str, float]) -> str:
    return f"{100 * error['before']:.1f} → {100 * error['after']:.1f}"


def _scope(calibration: Calibration, scope: Scope) -> str:
    tables = calibration.measured["scope"]
    means = means_by_method(tables)
    rejected = calibration.measured["false_rejection"]
    shares = ", ".join(f"{x} {100 * r['plain']:.1f} ({100 * r['typed']:.1f})" for x, r in rejected.items())
    lines = [
        f"`in_scope` is judged by {_METHODS[scope.method].format(head=scope.head)}, with a threshold for each locale "
        f"set to reject {100 * scope.false_rejection_rate:g} % of requests. Each half by the threshold of the other, "
        f"it rejects in percent, and in brackets of the copy with capitals and punctuation: {shares}.",
    ]
    if not means:
        return "\n".join([*lines, "", "What it does on text that is no request was not measured."])
    lines += [
        "",
        "Requests against sentences that are none, in lower case and without punctuation: area under the ROC curve, "
        "and the percentage of those sentences that pass as requests. The method of highest mean area is served; "
        f"it lets {_passed(means[scope.method])} pass.",
        "",
        "| locale | sentences | " + " | ".join(means) + " |",
        "|---|---|" + "---|" * len(means),
    ]
    for locale, sources in tables[scope.method].items():
        for source in sources:
            cells = [_told(tables[method][locale][source]) for method in means]
            lines.append(f"| {locale} | {source} | " + " | ".join(cells) + " |")
    lines.append("| mean | | " + " | ".join(_told(figures) for figures in means.values()) + " |")
    return "\n".join(lines)


def _told(figures: dict[str, float]) -> str:
    return f"{figures['auroc']:.2f} / {100 * figures['false_acceptance']:.0f}"


def _passed(figures: dict[str, float]) -> str:
    return f"{100 * figures['false_acceptance']:.0f} %"


def _doubts(calibration: Calibration | None) -> str:
    """What its confidence and `in_scope` are not good for."""
    if calibration is None:
        return "confidences are not calibrated, and text that is no request is not rejected"
    sure = "confidences hold for texts like those it was scored on"
    if calibration.scope is None:
        return f"{sure}, and text that is no request is not rejected"
    if found := means_by_method(calibration.measured["scope"]).get(calibration.scope.method):
        return f"{sure}, and of text that is no request `in_scope` lets {_passed(found)} pass"
    return f"{sure}, and how much text that is no request `in_scope` lets pass was not measured"


def _latency(manifest: Manifest) -> str:
    rows = [(p, manifest.latency[p]) for p in ("fp32", "int8") if p in manifest.latency]
    lengths = list(rows[0][1])
    lines = [
        "Median microseconds of one run of the graph on the exporting machine, one thread, by length in pieces. "
        "Compare the ratios; absolute times depend on the machine.",
        "",
        "| | " + " | ".join(lengths) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    lines += [
        f"| {precision} | " + " | ".join(f"{times[length]:.0f}" for length in lengths) + " |"
        for precision, times in rows
    ]
    return "\n".join(lines)
