"""How a student's logits are read in a locale: temperatures, and whether a text is a request at all.

Fitted at export (`manifest.Calibration`); the export uses the functions here, so that what was measured is what is
served.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from service.student.decoding import FloatArray
from service.student.manifest import Manifest, Scope

ENERGY_FLOOR = 1e-12  # of a confidence, whose logarithm is taken


class Reading(NamedTuple):
    """How one locale is read: what the logits of each head are multiplied by, and the least score within scope.

    `threshold` is None where scope is not judged.
    """

    domain: float = 1.0
    intent: float = 1.0
    slots: float = 1.0
    threshold: float | None = None


PLAIN: Final = Reading()
COMBINE: Final[Mapping[str, Callable[[Iterable[float]], float]]] = {"minimum": min, "product": math.prod}


def readings_of(manifest: Manifest) -> dict[str, Reading]:
    """The readings of the locales that a student is calibrated for; any other is read `PLAIN`."""
    calibration = manifest.calibration
    if calibration is None:
        return {}
    thresholds = calibration.scope.thresholds if calibration.scope else {}
    readings = {}
    for locale in manifest.locales:
        scales: dict[str, float] = {
            head: 1 / by_locale[locale] for head, by_locale in calibration.temperatures.items() if locale in by_locale
        }
        readings[locale] = Reading(**scales, threshold=thresholds.get(locale))
    return readings


def scope_score(method: str, logits: FloatArray, scale: float, confidence: float) -> float:
    """The score of a text by a method of `Scope` that reads logits [labels]; more is more like a request.

    `confidence` is that of the best label of ``softmax(logits * scale)``, which both methods start from: the energy is
    the best label's logit less the logarithm of its confidence.
    """
    if method == "max_softmax":
        return confidence
    return float(logits.max()) * scale - math.log(max(confidence, ENERGY_FLOOR))


def distance_score(distance: float) -> float:
    """The score of a text by the method ``class_means``, from the graph's output ``distance``."""
    return -distance


def is_in_scope(scope: Scope, reading: Reading, logits: Mapping[str, Any], confidence: float) -> bool | None:
    """Whether a text is a request that the student may know; None in a locale without a threshold.

    Args:
        scope: what the manifest says of it.
        reading: of the text's locale.
        logits: the graph's outputs, as `Student.logits` returns them.
        confidence: of the best label of the scope's head, before any filter.
    """
    if reading.threshold is None:
        return None
    if scope.method == "class_means":
        return distance_score(float(logits["distance"][0])) >= reading.threshold
    scale = reading.intent if scope.head == "intent" else reading.domain
    return scope_score(scope.method, logits[scope.head][0], scale, confidence) >= reading.threshold
