"""A student's calibration by locale: the factors of its logits and the threshold of its scope.

The parameters are fitted at export (`manifest.Calibration`). `service.student.decoding` applies them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from service.student.manifest import Calibration


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
