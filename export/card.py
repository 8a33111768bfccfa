"""The model card of a student, for people."""

from __future__ import annotations

from typing import Any

from service.manifest import Manifest

_COLUMNS = {
    "domain_f1": "Domain F1",
    "intent_accuracy": "Intent accuracy",
    "slot_f1": "Slot F1",
    "exact_match": "Exact match",
}


def render_card(manifest: Manifest, notice: str) -> str:
    """Markdown: what it is, how good, how it was trained, from what data, where it fails."""
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
        "## Quality",
        _quality(manifest),
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
        "confidences are not calibrated, and text that is no request is not rejected. It has seen short requests to a "
        "voice assistant; other registers, other languages and long texts were not measured. "
        "The figures above were used to choose the epoch, so expect a little less on unseen data.",
    ]
    return "\n\n".join(parts) + "\n"


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


def _latency(manifest: Manifest) -> str:
    rows = [(precision, times) for precision, times in manifest.latency.items() if isinstance(times, dict)]
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
