"""What an export says when it is done: a table for people, one JSON object for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.calibration import mean_errors
from export.gate import Loss
from export.scope import means_by_method
from service.student.manifest import Calibration, Manifest


def render(manifest: Manifest) -> str:
    """The comparison as a table for people."""
    accuracy_, same = manifest.accuracy, manifest.parity["agreement_with_fp32"]
    served = accuracy_[manifest.precision]
    names = [n for n in ("intent_accuracy", "slot_f1", "exact_match") if n in served["mean"]]
    shown = [("fp32", accuracy_["fp32"]), (manifest.precision, served), ("typed", accuracy_["typed"])]
    lines = [f"{accuracy_['partition']} of {accuracy_['data']}: fp32 / {manifest.precision} / its typed copy"]
    lines.append(f"{'':9}" + "".join(f"{n:>24}" for n in names) + f"{'labels as fp32':>24}")
    for locale in served:
        cells = [" / ".join(f"{scores[locale][n]:.1f}" for _, scores in shown) for n in names]
        alike = " / ".join(f"{value:.1f}" for value in same.get(locale, {}).values())
        lines.append(f"{locale:9}" + "".join(f"{cell:>24}" for cell in cells) + f"{alike:>24}")
    for precision in ("fp32", "int8"):
        cells = [f"{pieces} pieces: {time:.0f} µs" for pieces, time in manifest.latency.get(precision, {}).items()]
        lines += [f"{precision:9}" + "".join(f"{cell:>24}" for cell in cells)] if cells else []
    if gate := accuracy_.get("gate"):
        worst = Loss(**{name: value for name, value in gate["worst"].items() if name != "points"})
        kept = f"{len(gate['kept_in_fp32'])} nodes in fp32"
        lines.append(f"gate of {gate['max_drop']:g} points: passed; loses at most {worst}; {kept}")
    if manifest.calibration:
        lines += _calibration_lines(calibration_summary(manifest.calibration))
    return "\n".join(lines)


def _calibration_lines(found: dict[str, Any]) -> list[str]:
    errors = found["expected_calibration_error"].items()
    changes = [f"{head} {100 * e['before']:.1f} -> {100 * e['after']:.1f} %" for head, e in errors]
    lines = [f"calibration error: {', '.join(changes)} (slots by {found['slot_confidence']})"] if changes else []
    for method, figures in found["methods"].items():
        kept = ", kept" if method == found["scope"] else ""
        passed = f"{100 * figures['false_acceptance']:.1f} % of other text passes"
        lines.append(f"scope by {method}: AUROC {figures['auroc']:.3f}, {passed}{kept}")
    return lines


def summary(out: Path, manifest: Manifest) -> dict[str, Any]:
    """The machine-readable last line."""
    return {
        "student": str(out),
        "precision": manifest.precision,
        "digest": manifest.digest,
        "megabytes": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 2),
        "accuracy": {p: manifest.accuracy[p]["mean"] for p in ("fp32", "int8", "typed") if p in manifest.accuracy},
        "latency": manifest.latency,
        "fp32_max_abs_logit_difference": max(manifest.parity["fp32_max_abs_logit_difference"].values()),
        "trimming": manifest.parity.get("trimming"),
        "calibration": calibration_summary(manifest.calibration) if manifest.calibration else None,
    }


def calibration_summary(calibration: Calibration) -> dict[str, Any]:
    """Calibration errors as means over the locales, and how well scope is told, as means over locales and sources."""
    return {
        "expected_calibration_error": mean_errors(calibration.measured["expected_calibration_error"]),
        "slot_confidence": calibration.slot_confidence,
        "scope": calibration.scope.method if calibration.scope else None,
        "methods": means_by_method(calibration.measured.get("scope", {})),
    }
