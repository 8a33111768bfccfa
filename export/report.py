"""The reports of an export: model card, table and JSON object."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from export.calibration import BINS, mean_errors
from export.scope import means_by_method
from service.student.manifest import MODEL_FILE, TOKENIZER_FILE, Calibration, Manifest, QualityGate, Scope
from training.evaluation.scoring import NOT_MEASURED, SLOTS_NOT_ANNOTATED

PARTS = {  # of a graph's file, and the modules with their weights
    "embeddings": ("token_embeddings", "positions"),
    "encoder": ("blocks", "norm"),
    "heads": ("domain", "intent", "slots"),
}
_SHOWN = ("domain_f1", "intent_accuracy", "slot_f1", "exact_match")
WORST_DROPS = 5  # ways of typing in card and table
_METHODS = {
    "max_softmax": "the confidence of the best {head}",
    "energy": "the energy of the {head} logits",
}
_COMBINATIONS = {"minimum": "the minimum", "product": "the product"}


def render_card(manifest: Manifest, notice: str) -> str:
    """The model card: description, quality, confidence, latency, training and limits."""
    shape, calibration = manifest.architecture, manifest.calibration
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
        f"{shape.vocabulary} tokens; reads up to {manifest.max_length} tokens of a text. "
        f"Digest `{manifest.digest}`. Graph: {manifest.graph.exporter}; {manifest.graph.quantisation}.",
    ]
    if found := manifest.parity.get("trimming"):
        same = ", ".join(f"{locale} {share:.1f} %" for locale, share in found["same_answers"].items())
        parts.append(
            f"Vocabulary trimmed for these locales to {found['pieces']} of {found['pieces_before']} tokens of a "
            f"student of {', '.join(found['locales_before'])}. Texts below with the same answer in fp32: {same}."
        )
    parts += [
        "## Quality",
        f"On `{manifest.accuracy['partition']}` of {manifest.accuracy['data']}, in percent; typed is the served graph "
        "on a copy with capitals and punctuation. Slot F1 is that of MASSIVE; the mean is over de, fr, it, es.",
        _quality(manifest),
        *_slots_not_annotated(manifest),
        *([_gate(manifest.quality_gate)] if manifest.quality_gate else []),
        *_typed_drops(manifest),
    ]
    if calibration:
        parts += ["## Confidence", *_confidence(calibration, manifest.locales)]
    parts += [
        "## Latency",
        "Median microseconds of one run of the graph on the exporting machine, one thread, by number of tokens. "
        "Compare the ratios; absolute times depend on the machine.",
        _latency(manifest),
        "## Training",
        _training(manifest.training),
        *(["## Training data", notice.strip()] if notice else []),
        "## Limits",
        "The student predicts one of its domains and intents for every text: "
        f"{_limits_of_confidence(calibration)}. It was trained on short requests to a voice assistant; other "
        "registers, other languages and long texts were not measured. The figures above were used to choose the epoch, "
        "so expect slightly lower ones on unseen data.",
    ]
    return "\n\n".join(parts) + "\n"


def render_table(manifest: Manifest, sizes: dict[str, int]) -> str:
    """Quality, latency, calibration and `sizes`, the bytes of each part, as text."""
    lines = [f"{manifest.accuracy['partition']} of {manifest.accuracy['data']}", _quality(manifest), _latency(manifest)]
    lines += [*_slots_not_annotated(manifest), *_typed_drops(manifest)]
    if manifest.quality_gate:
        lines.append(_gate(manifest.quality_gate))
    if manifest.calibration:
        found = calibration_summary(manifest.calibration)
        errors = found["expected_calibration_error"].items()
        changes = ", ".join(f"{head} {100 * e['before']:.1f} -> {100 * e['after']:.1f} %" for head, e in errors)
        lines += [f"calibration error: {changes} (slots by {found['slot_confidence']})"] if changes else []
        for method, figures in found["methods"].items():
            chosen = ", chosen" if method == found["scope"] else ""
            accepted = f"accepts {_percent(figures, 1)} of out-of-scope text{chosen}"
            lines.append(f"scope by {method}: AUROC {figures['auroc']:.3f}, {accepted}")
    lines.append("kB on disk: " + ", ".join(f"{part} {size / 1e3:.0f}" for part, size in sizes.items()))
    return "\n".join(lines)


def part_sizes(folder: Path) -> dict[str, int]:
    """The bytes of a student by part: embeddings, encoder, heads, the graph itself and the tokenizer."""
    path = folder / MODEL_FILE
    model = onnx.load(str(path))
    bytes_of = {tensor.name: len(numpy_helper.to_array(tensor).tobytes()) for tensor in model.graph.initializer}
    sizes = dict.fromkeys(PARTS, 0)
    for node in model.graph.node:
        module = node.name.strip("/").split("/")[0].split(".")[0]
        if part := next((part for part, modules in PARTS.items() if module in modules), None):
            sizes[part] += sum(bytes_of.pop(name, 0) for name in node.input)
    graph, tokenizer = path.stat().st_size - sum(sizes.values()), (folder / TOKENIZER_FILE).stat().st_size
    return {**sizes, "graph": graph, "tokenizer": tokenizer}


def summary(out: Path, manifest: Manifest, sizes: dict[str, int]) -> dict[str, Any]:
    """The JSON object of the last line of standard output."""
    gate = manifest.quality_gate
    return {
        "student": str(out),
        "precision": manifest.precision,
        "digest": manifest.digest,
        "megabytes": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 2),
        "accuracy": {p: manifest.accuracy[p]["mean"] for p in ("fp32", "int8", "typed") if p in manifest.accuracy},
        "quality_gate": gate and gate.model_dump(mode="json", include={"max_drop", "passed", "kept_fp32"}),
        "latency": manifest.latency,
        "fp32_max_abs_logit_difference": max(manifest.parity["fp32_max_abs_logit_difference"].values()),
        "trimming": manifest.parity.get("trimming"),
        "calibration": calibration_summary(manifest.calibration) if manifest.calibration else None,
        "bytes": sizes,
    }


def calibration_summary(calibration: Calibration) -> dict[str, Any]:
    """Calibration errors as means over locales, and metrics of scope methods as means over locales and sources."""
    return {
        "expected_calibration_error": mean_errors(calibration.measured["expected_calibration_error"]),
        "slot_confidence": calibration.slot_confidence,
        "scope": calibration.scope.method if calibration.scope else None,
        "methods": means_by_method(calibration.measured.get("scope", {})),
    }


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(f"| {' | '.join(map(str.ljust, cells, widths))} |" for cells in lines)


def _quality(manifest: Manifest) -> str:
    measured, same = manifest.accuracy, manifest.parity["agreement_with_fp32"]
    shown = dict.fromkeys(("fp32", manifest.precision, "typed"))
    names = [name for name in _SHOWN if name in measured["fp32"]["mean"]]
    rows = [
        [
            locale,
            *(" / ".join(_figure(measured[x][locale][name]) for x in shown) for name in names),
            " / ".join(f"{share:.1f}" for share in same.get(locale, {}).values()),
        ]
        for locale in measured["fp32"]
    ]
    return _table(
        [" / ".join(shown), *(name.replace("_", " ").replace("f1", "F1") for name in names), "labels as in fp32"], rows
    )


def _figure(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1f}"


def _slots_not_annotated(manifest: Manifest) -> list[str]:
    """A sentence where the data has no slots; nothing for students exported before this was measured."""
    found = manifest.accuracy.get("slots_annotated", {})
    said = f"In this data {SLOTS_NOT_ANNOTATED}."
    return [said] if found and not any(found.values()) else []


def _typed_drops(manifest: Manifest) -> list[str]:
    """The ways of typing that cost most, and what they cost; nothing for students exported before this was measured."""
    found = manifest.accuracy.get("typed_drops", {})
    if not found.get("drops"):
        return []
    worst = [f"{name} {drop:.1f} ({low:.1f} to {high:.1f})" for name, (drop, low, high) in found["drops"].items()]
    return [
        f"Ways of typing that cost most, in points of {found['metric'].replace('_', ' ')} against the same texts as "
        f"they are, with 95 % intervals: {', '.join(worst[:WORST_DROPS])}."
    ]


def _gate(gate: QualityGate) -> str:
    """What int8 loses against fp32, by how much the quality gate allows it to, and which nodes stay in fp32."""
    drops = [(figures, metric, locale) for metric, found in gate.drops.items() for locale, figures in found.items()]
    worst, metric, locale = max(drops, key=lambda drop: (drop[0].low, drop[0].drop))
    budget = "off" if gate.max_drop is None else f"{gate.max_drop:g} points"
    outcome = "passed" if gate.passed else "the loss is too large"
    text = (
        f"Quality gate of int8 against fp32 ({budget}): {outcome}. The largest loss is {worst.drop:.2f} points of "
        f"{metric.replace('_', ' ')} in {locale} (95 % interval {worst.low:.2f} to {worst.high:.2f})."
    )
    if unlabelled := sorted({locale for _, metric, locale in drops if metric.endswith("_agreement")}):
        text += f" Without labels only the agreement with fp32 was measured for some heads in {', '.join(unlabelled)}."
    if kept := gate.kept_fp32:
        text += f" Kept in fp32 to pass: {', '.join(kept)}."
    return text


def _latency(manifest: Manifest) -> str:
    times = {precision: manifest.latency[precision] for precision in ("fp32", "int8") if precision in manifest.latency}
    rows = [[precision, *(f"{time:.0f} µs" for time in found.values())] for precision, found in times.items()]
    return _table(["", *(f"{length} tokens" for length in times["fp32"])], rows)


def _confidence(calibration: Calibration, locales: Sequence[str]) -> list[str]:
    parts = _errors(calibration) if calibration.temperatures else []
    if calibration.scope:
        parts += _scope(calibration, calibration.scope)
    if without := [x for x in locales if not any(x in found for found in calibration.temperatures.values())]:
        parts.append(f"Not calibrated for lack of labelled text: {', '.join(without)}.")
    return parts


def _errors(calibration: Calibration) -> list[str]:
    errors = calibration.measured["expected_calibration_error"]

    def change(error: dict[str, float], temperature: str = "") -> str:
        return f"{100 * error['before']:.1f} → {100 * error['after']:.1f}{temperature}"

    rows = []
    for locale in dict.fromkeys(locale for found in errors.values() for locale in found):
        cells = [
            change(errors[head][locale], f" (T {found[locale]:.2f})") if locale in found else "-"
            for head, found in calibration.temperatures.items()
        ]
        rows.append([locale, *cells])
    rows.append(["mean", *(change(error) for error in mean_errors(errors).values())])
    parts = [
        f"Confidences are the softmax of logits divided by a temperature (T), fitted on `{calibration.partition}` of "
        f"{calibration.data} for each task and locale. Expected calibration error in percent ({BINS} equal bins), "
        "before and after; after is measured on each half of the texts with the temperature of the other half.",
        _table(["locale", *errors], rows),
    ]
    if "slots" in errors:
        found = calibration.measured["slot_confidence"]
        both = ", ".join(f"{_COMBINATIONS[name]} {100 * error:.1f}" for name, error in found.items())
        parts.append(
            "The confidence of a slot refers to its name, start and end. It is "
            f"{_COMBINATIONS[calibration.slot_confidence]} of the confidences of its words (error after: {both}); "
            "before is the minimum."
        )
    return parts


def _scope(calibration: Calibration, scope: Scope) -> list[str]:
    tables = calibration.measured["scope"]
    means = means_by_method(tables)
    rejected = calibration.measured["false_rejection"]
    shares = ", ".join(f"{x} {100 * r['plain']:.1f} ({100 * r['typed']:.1f})" for x, r in rejected.items())
    parts = [
        f"`in_scope` compares {_METHODS[scope.method].format(head=scope.head)} with a threshold for each locale that "
        f"rejects {100 * scope.false_rejection_rate:g} % of requests. Rejected requests in percent, each half with the "
        f"threshold of the other, in brackets those of the copy with capitals and punctuation: {shares}."
    ]
    if not means:
        return [*parts, "The acceptance of out-of-scope text was not measured."]

    def cells(figures: Iterable[dict[str, float]]) -> list[str]:
        return [f"{found['auroc']:.2f} / {_percent(found)}" for found in figures]

    rows = [
        [locale, source, *cells(tables[method][locale][source] for method in means)]
        for locale, sources in tables[scope.method].items()
        for source in sources
    ]
    return [
        *parts,
        "Requests against out-of-scope sentences, in lower case and without punctuation: area under the ROC curve and "
        "percentage of accepted sentences. The method that accepts the fewest is served; it accepts "
        f"{_percent(means[scope.method])} of the sentences.",
        _table(["locale", "sentences", *means], [*rows, ["mean", "", *cells(means.values())]]),
    ]


def _percent(figures: dict[str, float], digits: int = 0) -> str:
    return f"{100 * figures['false_acceptance']:.{digits}f} %"


def _limits_of_confidence(calibration: Calibration | None) -> str:
    if calibration is None:
        return "confidences are not calibrated, and out-of-scope text is not rejected"
    scope = "`in_scope` accepts some out-of-scope text (above)" if calibration.scope else "there is no `in_scope`"
    return f"confidences hold for texts like those it was scored on, and {scope}"


def _training(training: dict[str, Any]) -> str:
    stages: list[str] = []
    stage: dict[str, Any] | None = training
    while stage:
        flags = ((name.replace("_", "-"), value) for name, value in stage["settings"].items() if value != "")
        command = f"    python -m {stage['command']} {' '.join(f'--{name} {value}' for name, value in flags)}"
        stages.append(f"{command}\n\n{_outcome(stage)} Source `{stage['commit']}`.")
        stage = stage.get("init")
    return "\n\n".join(reversed(stages))


def _outcome(stage: dict[str, Any]) -> str:
    """What a stage of training did, in a sentence."""
    if "steps" not in stage:  # an encoder was adopted
        return f"{stage['tokens']:,} of the {stage['tokens_before']:,} tokens of {stage['encoder']}."
    texts = stage["lines"] if "lines" in stage else stage["utterances"]["train"]
    best = "" if "lines" in stage else f"; epoch {stage['best_epoch']} was best by mean exact match on dev"
    return f"{texts:,} texts, {stage['steps']:,} steps, {stage['seconds'] / 60:.0f} minutes{best}."
