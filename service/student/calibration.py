"""Apply a student's calibration: temperatures by locale, and the decision whether a text is in scope.

The parameters are fitted at export (`manifest.Calibration`). The export measures with the functions of this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from service.student.decoding import FloatArray
from service.student.manifest import Calibration, Scope

MIN_CONFIDENCE = 1e-12  # lower bound of a confidence of which the logarithm is taken


class LocaleCalibration(NamedTuple):
    """The factor of each head's logits in one locale, and the lowest score that is in scope (None: no scope)."""

    domain: float = 1.0
    intent: float = 1.0
    slots: float = 1.0
    threshold: float | None = None


UNCALIBRATED: Final = LocaleCalibration()
COMBINE: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {"minimum": min, "product": math.prod}


def by_locale(calibration: Calibration | None) -> dict[str, LocaleCalibration]:
    """The calibration of each fitted locale; all other locales are `UNCALIBRATED`."""
    if calibration is None:
        return {}
    thresholds = calibration.scope.thresholds if calibration.scope else {}
    scales: dict[str, dict[str, float]] = {locale: {} for locale in thresholds}
    for head, temperatures in calibration.temperatures.items():
        for locale, temperature in temperatures.items():
            scales.setdefault(locale, {})[head] = 1 / temperature
    return {locale: LocaleCalibration(**heads, threshold=thresholds.get(locale)) for locale, heads in scales.items()}


def scope_score(method: str, logits: FloatArray, scale: float, confidence: float) -> float:
    """The score of a text from its logits [labels], by "max_softmax" or "energy" of `Scope`; higher is more in scope.

    `confidence` is that of the best label of ``softmax(logits * scale)``. The energy is the scaled logit of the best
    label minus the logarithm of its confidence.
    """
    if method == "max_softmax":
        return confidence
    return float(logits.max()) * scale - math.log(max(confidence, MIN_CONFIDENCE))


def is_in_scope(
    scope: Scope, calibration: LocaleCalibration, logits: Mapping[str, Any], confidence: float
) -> bool | None:
    """Whether a text is in scope; None in a locale without a threshold.

    Args:
        scope: the method and its head.
        calibration: the calibration of the text's locale.
        logits: the graph's outputs, as `Predictor.logits` returns them.
        confidence: confidence of the best label of the scope's head, before any filter.
    """
    if calibration.threshold is None:
        return None
    if scope.method == "class_means":
        return -float(logits["distance"]) >= calibration.threshold
    scale = calibration.intent if scope.head == "intent" else calibration.domain
    return scope_score(scope.method, logits[scope.head], scale, confidence) >= calibration.threshold
